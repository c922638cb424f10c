//! Disk images: filled with known content before a run, compared after it.

use super::scenario::Scenario;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes; the size of a disk is a multiple of it.
pub(crate) const SECTOR: usize = 512;

const MEBIBYTE: usize = 1 << 20;

/// Where the image of a drive is.
pub(crate) fn image(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.img"))
}

/// Creates the image of every drive, each with its own pseudo-random content.
pub(crate) fn create_all(scenario: &Scenario, folder: &Path) -> Result<()> {
    for device in &scenario.devices {
        if let Some(mebibytes) = device.kind.disk() {
            let seed = device.name.bytes().fold(1_u64, |s, b| (s << 8) ^ u64::from(b));
            fill(&image(folder, &device.name), seed, mebibytes)?;
        }
    }
    Ok(())
}

/// An empty image through which dom0 hands out its logs.
pub(crate) fn create_results(path: &Path) -> Result<()> {
    File::create(path)?.set_len(32 << 20)?;
    Ok(())
}

fn fill(path: &Path, seed: u64, mebibytes: usize) -> Result<()> {
    let mut file = File::create(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    let mut numbers = XorShift(seed);
    for _ in 0..mebibytes {
        let block: Vec<u8> = (0..MEBIBYTE / 8).flat_map(|_| numbers.next()).collect();
        file.write_all(&block)?;
    }
    Ok(())
}

/// Marsaglia's xorshift64: no two drives and no two places look alike.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> [u8; 8] {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_le_bytes()
    }
}

/// What a guest's report of one begins with.
const REGION: &str = "@@REGION ";

/// A part of a drive, as a guest saw it last.
#[derive(Debug, PartialEq, Eq)]
struct Region {
    disk: String,
    offset: u64,
    length: u64,
    sha256: String,
}

impl Region {
    /// Reads `@@REGION DISK OFFSET LENGTH SHA256` anywhere in a line of a guest's log.
    fn parse(line: &str) -> Option<Self> {
        let (_, text) = line.split_once(REGION)?;
        let mut words = text.split_whitespace();
        let region = Self {
            disk: words.next()?.to_owned(),
            offset: words.next()?.parse().ok()?,
            length: words.next()?.parse().ok()?,
            sha256: words.next()?.to_owned(),
        };
        (region.sha256.len() == 64).then_some(region)
    }
}

/// Compares what guests reported in their logs with the images, and counts it.
///
/// Returns one line per region compared.
pub(crate) fn compare(
    scenario: &Scenario,
    folder: &Path,
    logs: &Path,
) -> Result<Vec<String>> {
    let regions = last_regions(logs)?;
    for (disk, wanted) in &scenario.regions {
        let seen = regions.iter().filter(|region| region.disk == *disk).count();
        ensure!(
            seen >= *wanted,
            "guests reported {seen} regions of {disk}, expected {wanted} or more"
        );
    }
    let mut report = Vec::new();
    for region in &regions {
        let Region { disk, offset, length, sha256 } = region;
        let on_disk = hash(&image(folder, disk), *offset, *length)?;
        if on_disk != *sha256 {
            bail!(
                "{disk} at {offset}, {length} bytes: the guest saw {sha256}, \
                 the image has {on_disk}"
            );
        }
        report.push(format!("{disk}: {length} bytes at {offset} are {sha256}"));
    }
    Ok(report)
}

/// The last report for each place, since a guest may write a place again. (Different
/// guests must use different places: their logs do not tell who came first.)
fn last_regions(logs: &Path) -> Result<Vec<Region>> {
    let mut regions: Vec<Region> = Vec::new();
    for entry in
        fs::read_dir(logs).with_context(|| format!("cannot read {}", logs.display()))?
    {
        let bytes = fs::read(entry?.path())?;
        let text = String::from_utf8_lossy(&bytes);
        for line in text.lines().filter(|line| line.contains(REGION)) {
            let region = Region::parse(line).with_context(|| {
                format!("a guest reported a region that is none: {line}")
            })?;
            regions.retain(|r| {
                (&r.disk, r.offset, r.length)
                    != (&region.disk, region.offset, region.length)
            });
            regions.push(region);
        }
    }
    Ok(regions)
}

fn hash(path: &Path, offset: u64, length: u64) -> Result<String> {
    let mut file =
        File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start sha256sum")?;
    child.stdin.take().context("no pipe to sha256sum")?.write_all(&bytes)?;
    let output = String::from_utf8(child.wait_with_output()?.stdout)?;
    let word = output.split_whitespace().next().context("sha256sum said nothing")?;
    Ok(word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_report_of_a_region_counts_and_must_match() {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("logs");
        fs::create_dir(&logs).unwrap();
        fill(&image(folder.path(), "disk0"), 7, 2).unwrap();
        let right = hash(&image(folder.path(), "disk0"), 4096, 8192).unwrap();
        let wrong = "0".repeat(64);
        let text = format!(
            "x\r\n@@REGION disk0 4096 8192 {wrong}\r\n@@REGION disk0 4096 8192 {right}\r\n"
        );
        fs::write(logs.join("guest-g1.log"), text).unwrap();
        let regions = last_regions(&logs).unwrap();
        assert_eq!(regions.len(), 1);
        assert_eq!(regions[0].sha256, right);
    }

    #[test]
    fn a_damaged_report_is_named() {
        let logs = tempfile::tempdir().unwrap();
        let sum = "0".repeat(64);
        for damaged in ["disk0 1 2 abc", "disk0 one 2", &format!(" 1 2 {sum}")] {
            let line = format!("@@REGION {damaged}");
            fs::write(logs.path().join("guest-g1.log"), format!("nothing\n{line}\n"))
                .unwrap();
            let error = last_regions(logs.path()).unwrap_err().to_string();
            assert!(error.contains(&line), "{error}");
        }
    }
}

//! Config spaces that a guest has read and written, compared with the register table.
//!
//! dom0 leaves a folder of dumps (`od -An -v -tx1`): `NAME.before`, the hardware before the
//! guest wrote; `NAME.guest`, what the guest read then; `NAME.after-PATTERN`, the hardware
//! after the guest had written that pattern everywhere; `NAME.options`, how it was lent.

use crate::policy;
use anyhow::{Context, Result, ensure};
use pciback::policy::expect::Line;
use std::fs;
use std::path::Path;

/// How many patterns must have been written everywhere: all ones, all zeros, and each bit both
/// ways beside its neighbour's opposite.
const LEAST_PATTERNS: usize = 4;

/// The same of a device whose writes all reach the hardware, which takes much longer: the latter
/// two. Without its options it has seen all four.
const LEAST_PERMISSIVE: usize = 2;

/// Compares all dumps of the folder; a line for each device.
///
/// # Errors
///
/// The first difference that the table does not explain, or fewer devices than `wanted`.
pub(crate) fn compare(folder: &Path, wanted: usize) -> Result<Vec<String>> {
    if wanted == 0 {
        return Ok(Vec::new());
    }
    let mut report = Vec::new();
    for (name, _) in files(folder, ".before")? {
        report.push(compare_one(folder, &name).with_context(|| name)?);
    }
    ensure!(
        report.len() == wanted,
        "config spaces of {} devices, expected {wanted}",
        report.len()
    );
    Ok(report)
}

fn compare_one(folder: &Path, name: &str) -> Result<String> {
    let read = |what: &str| bytes(&folder.join(format!("{name}.{what}")));
    let before = read("before")?;
    let options = fs::read_to_string(folder.join(format!("{name}.options")))?;
    let permissive = options.contains("permissive=1");
    let wanted = if permissive { LEAST_PERMISSIVE } else { LEAST_PATTERNS };
    let lines = policy::lines(&before, &[], permissive)?;
    let guest = read("guest")?;
    let (mut shown, mut hidden) = (0, 0);
    for line in &lines {
        let (raw, seen) = (word(&before, line)?, word(&guest, line)?);
        let told = line.shown(raw);
        ensure!(
            (seen ^ told) & !line.free == 0,
            "at {:#05x} the guest reads {seen:#010x}, the table says {told:#010x} \
             (free {:#010x}, hardware {raw:#010x})",
            line.offset,
            line.free
        );
        shown += 1;
        hidden += usize::from(told != raw);
    }
    ensure!(
        guest.len() == before.len() || guest.len() >= 256,
        "the guest's dump is short"
    );
    let afters = files(folder, ".after-")?;
    let mine = afters.into_iter().filter(|(of, _)| of == name);
    let (mut patterns, mut changed) = (0_usize, 0_u32);
    for (_, pattern) in mine {
        let after = read(&format!("after-{pattern}"))?;
        for line in &lines {
            let difference = word(&before, line)? ^ word(&after, line)?;
            let beyond = difference & !(line.write | line.clear);
            ensure!(
                beyond == 0,
                "at {:#05x}, after {pattern} everywhere, {beyond:#010x} has changed in the \
                 hardware; the table allows {:#010x} to be written, {:#010x} to be cleared",
                line.offset,
                line.write,
                line.clear
            );
            changed |= difference;
        }
        patterns += 1;
    }
    ensure!(patterns >= wanted, "only {patterns} of {wanted} patterns were written");
    Ok(format!(
        "{name}: {shown} double words as the table says, {hidden} of them not as the hardware \
         has them; {patterns} patterns changed nothing else{}",
        if changed == 0 { ", and nothing at all" } else { "" }
    ))
}

/// The files whose names have `middle`: what is before and after it.
fn files(folder: &Path, middle: &str) -> Result<Vec<(String, String)>> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("no dumps: {}", folder.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some((before, after)) = name.split_once(middle) {
            found.push((before.to_owned(), after.to_owned()));
        }
    }
    found.sort();
    Ok(found)
}

/// What `od` printed.
fn bytes(path: &Path) -> Result<Vec<u8>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut bytes = Vec::new();
    for line in text.lines() {
        for word in line.split_whitespace() {
            let byte = u8::from_str_radix(word, 16)
                .with_context(|| format!("{} is no dump: {line:?}", path.display()))?;
            bytes.push(byte);
        }
    }
    ensure!(bytes.len() >= 256, "{} is only {} bytes", path.display(), bytes.len());
    Ok(bytes)
}

fn word(dump: &[u8], line: &Line) -> Result<u32> {
    let at = usize::from(line.offset);
    let bytes = dump.get(at..).and_then(|rest| rest.first_chunk());
    let bytes = bytes.with_context(|| format!("no dump of {at:#05x}"))?;
    Ok(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::compare;
    use std::fmt::Write;
    use std::fs;
    use std::path::Path;

    /// PM at 0x40 and nothing else.
    fn raw() -> Vec<u8> {
        let mut raw = vec![0; 256];
        raw[..8].copy_from_slice(&[0xec, 0x10, 0x39, 0x81, 3, 0, 0x10, 0]);
        raw[0x34] = 0x40;
        raw[0x40..0x46].copy_from_slice(&[1, 0, 3, 0, 8, 0]);
        raw
    }

    fn save(folder: &Path, name: &str, dump: &[u8]) {
        let mut text = String::new();
        for byte in dump {
            write!(text, " {byte:02x}").unwrap();
        }
        fs::write(folder.join(name), text).unwrap();
    }

    fn folder(guest: &[u8], after: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), "nic.before", &raw());
        save(folder.path(), "nic.guest", guest);
        for pattern in ["00", "55", "aa", "ff"] {
            save(folder.path(), &format!("nic.after-{pattern}"), after);
        }
        fs::write(folder.path().join("nic.options"), "\n").unwrap();
        folder
    }

    /// What a guest reads of that: decode looks off until it turns it on.
    fn shown() -> Vec<u8> {
        let mut shown = raw();
        shown[4] = 0;
        shown
    }

    #[test]
    fn what_the_table_explains_passes() {
        let folder = folder(&shown(), &raw());
        let report = compare(folder.path(), 1).unwrap();
        assert!(report[0].starts_with("nic: 64 double words"), "{report:?}");
        assert!(compare(folder.path(), 2).is_err());
    }

    #[test]
    fn a_byte_that_the_guest_must_not_see_is_found() {
        let mut guest = shown();
        guest[0x80] = 1;
        let folder = folder(&guest, &raw());
        let error = format!("{:#}", compare(folder.path(), 1).unwrap_err());
        assert!(error.contains("at 0x080 the guest reads"), "{error}");
    }

    #[test]
    fn a_byte_that_the_guest_must_not_change_is_found() {
        let mut after = raw();
        after[0x0d] = 0x40;
        let folder = folder(&shown(), &after);
        let error = format!("{:#}", compare(folder.path(), 1).unwrap_err());
        assert!(error.contains("at 0x00c, after 00 everywhere"), "{error}");
    }

    #[test]
    fn what_was_not_written_everywhere_is_no_sweep() {
        let folder = folder(&shown(), &raw());
        fs::remove_file(folder.path().join("nic.after-ff")).unwrap();
        let error = format!("{:#}", compare(folder.path(), 1).unwrap_err());
        assert!(error.contains("only 3 of 4 patterns"), "{error}");
        fs::remove_file(folder.path().join("nic.after-00")).unwrap();
        fs::write(folder.path().join("nic.options"), ",permissive=1\n").unwrap();
        // The table for that shows the same of this device.
        compare(folder.path(), 1).unwrap();
        fs::remove_file(folder.path().join("nic.after-55")).unwrap();
        let error = format!("{:#}", compare(folder.path(), 1).unwrap_err());
        assert!(error.contains("only 1 of 2 patterns"), "{error}");
    }
}

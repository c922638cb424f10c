//! `cargo xtask demo`: the main job, with what each party saw.

use crate::bed::{Alone, Bed, Options, scenario::Scenario, verdict::Verdict};
use crate::workspace::Workspace;
use crate::{dist, packages, progress};
use anyhow::Result;
use std::fs;
use std::path::Path;

/// What the guest marks for people, and the heading for it.
const GUEST_BLOCKS: &[(&str, &str)] = &[
    ("lspci", "what the guest saw: lspci"),
    ("interrupts", "what the guest saw: /proc/interrupts"),
    ("checksums", "what the guest saw: checksums of what it wrote and read back"),
];

/// Builds everything, runs the demo scenario, and prints its outcome.
pub(crate) fn run(workspace: &Workspace, suite: &str) -> Result<bool> {
    let scenario = Scenario::load(workspace, "demo")?;
    packages::ensure(workspace)?;
    dist::build(workspace)?;
    let bed = Bed::build(workspace, suite)?;
    let run = bed.run(&Alone::wait()?, &scenario, &Options::default())?;
    progress::heading("pcidom's serial log");
    print!("{}", read(&run.folder.join("com2.log")));
    let guest = read(&run.folder.join("files/console/guest-g1.log"));
    for (name, heading) in GUEST_BLOCKS {
        progress::heading(heading);
        block(&guest, name).for_each(|line| println!("{line}"));
    }
    progress::heading("result");
    println!("{}", run.verdict.word());
    Ok(run.verdict == Verdict::Success)
}

fn read(path: &Path) -> String {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).replace('\r', ""),
        Err(error) => format!("(no {}: {error})\n", path.display()),
    }
}

/// The lines between `@@BEGIN name` and `@@END name`, of all such blocks.
fn block<'a>(log: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let mut inside = false;
    log.lines().filter(move |line| match line.trim().split_once(' ') {
        Some(("@@BEGIN", begun)) if begun == name => {
            inside = true;
            false
        }
        Some(("@@END", ended)) if ended == name => {
            inside = false;
            false
        }
        _ => inside,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_blocks() {
        let log = "a\n@@BEGIN lspci\n00:00.0 x\n@@END lspci\nb\n@@BEGIN other\nc\n";
        assert_eq!(block(log, "lspci").collect::<Vec<_>>(), ["00:00.0 x"]);
        assert_eq!(block(log, "none").count(), 0);
    }
}

//! `cargo xtask bench`: pcidom beside dom0's pciback, measured in one boot.

mod sim;
mod table;

use crate::bed::{Alone, Bed, Options, scenario::Scenario, verdict::Verdict};
use crate::workspace::Workspace;
use crate::{dist, packages, progress};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use table::Measurements;

/// How to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// How often everything is measured; the table has the medians.
    pub(crate) rounds: u64,
    /// Use what is in `target/dist/`.
    pub(crate) no_build: bool,
    /// Leave out the host benchmark on the simulator.
    pub(crate) no_sim: bool,
}

/// Measures, prints the table and writes it to `target/bench/`.
pub(crate) fn run(workspace: &Workspace, suite: &str, plan: Plan) -> Result<bool> {
    let scenario = Scenario::load(workspace, "bench")?;
    packages::ensure(workspace)?;
    if !plan.no_build {
        dist::build(workspace)?;
    }
    let bed = Bed::build(workspace, suite)?;
    let load_before = load();
    let options =
        Options { variables: vec![("ROUNDS", plan.rounds)], ..Options::default() };
    let run = bed.run(&Alone::wait()?, &scenario, &options)?;
    let path = run.folder.join("files/bench.txt");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("no measurements: {}", path.display()))?;
    let mut report = format!(
        "pcidom bench on {suite}, {} rounds; every time below is emulated and only the \
         ratios mean something\nhost load (1, 5, 15 minutes): {load_before} before, {} after\n",
        plan.rounds,
        load()
    );
    report.push_str(&Measurements::parse(&text).table());
    report.push_str(&image_size(&workspace.dist().join("pcidom"))?);
    if !plan.no_sim {
        report.push_str(&sim::run(workspace)?);
    }
    let to = file(workspace, suite)?;
    fs::write(&to, &report).with_context(|| format!("cannot write {}", to.display()))?;
    println!("\n{report}");
    progress::say(format_args!("written to {}", to.display()));
    Ok(run.verdict == Verdict::Success)
}

/// Where a table is written.
pub(crate) fn file(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let folder = workspace.target().join("bench");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{name}.txt")))
}

/// The host's load: other work makes everything slower, and unevenly.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn image_size(image: &Path) -> Result<String> {
    let bytes = fs::metadata(image)
        .with_context(|| format!("cannot read {}", image.display()))?
        .len();
    Ok(format!("image size: {bytes} bytes ({} KiB)\n", bytes.div_ceil(1024)))
}

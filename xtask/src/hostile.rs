//! `cargo xtask soak --hostile`: a guest that attacks, and figures of the guest beside it.

use crate::bed::{Alone, Bed, Options, scenario::Scenario, verdict::Verdict};
use crate::workspace::Workspace;
use crate::{bench, dist, packages, progress};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;
use std::time::Duration;

/// All controls and attacks once take some 100 s in emulation.
const ROUNDS_IN_FIVE_MINUTES: u64 = 3;

/// Without a wish.
const MINUTES: u32 = 5;

/// What a person asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// About so many minutes.
    pub(crate) minutes: Option<u32>,
    /// Use what is in `target/dist/`.
    pub(crate) no_build: bool,
}

/// Runs the scenario, and writes the figures to `target/bench/`.
pub(crate) fn run(workspace: &Workspace, suite: &str, wish: Wish) -> Result<bool> {
    let mut scenario = Scenario::load(workspace, "hostile")?;
    packages::ensure(workspace)?;
    if !wish.no_build {
        dist::build(workspace)?;
        dist::build_for(workspace, &scenario)?;
    }
    let bed = Bed::build(workspace, suite)?;
    let minutes = wish.minutes.unwrap_or(MINUTES);
    let rounds = rounds(minutes);
    // What it has by itself is for the slice, and for a slow host.
    scenario.timeout += Duration::from_secs(u64::from(minutes).saturating_mul(60));
    let options = Options { variables: vec![("ROUNDS", rounds)], ..Options::default() };
    let before = bench::load();
    let run = bed.run(&Alone::wait()?, &scenario, &options)?;
    let path = run.folder.join("files/hostile.txt");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("no figures: {}", path.display()))?;
    let mut report = format!(
        "a guest beside one that attacks, on {suite}, {rounds} rounds; host load (1, 5, 15 \
         minutes): {before} before, {} after\n",
        bench::load()
    );
    report.push_str(&table(&text));
    let to = bench::file(workspace, &format!("{suite}-hostile"))?;
    fs::write(&to, &report).with_context(|| format!("cannot write {}", to.display()))?;
    println!("\n{report}");
    progress::say(format_args!("written to {}", to.display()));
    Ok(run.verdict == Verdict::Success)
}

fn rounds(minutes: u32) -> u64 {
    u64::from(minutes).saturating_mul(ROUNDS_IN_FIVE_MINUTES).div_ceil(5).max(1)
}

/// Rows `ATTACK METRIC ALONE BESIDE PERCENT` as one line for each attack.
fn table(rows: &str) -> String {
    let mut table = format!(
        "{:10} {:>24} {:>24} {:>24}\n{:10} {:>24} {:>24} {:>24}\n",
        "",
        "config read, us",
        "config write, us",
        "drive, reads/s",
        "",
        "alone, beside",
        "alone, beside",
        "alone, beside"
    );
    let rows: Vec<Vec<&str>> =
        rows.lines().map(|row| row.split_whitespace().collect()).collect();
    let mut attacks: Vec<&str> =
        rows.iter().filter_map(|row| row.first().copied()).collect();
    attacks.dedup();
    for attack in attacks {
        let cell = |metric: &str, divide: f64| {
            let row = rows.iter().find(|row| row.starts_with(&[attack, metric]));
            let number = |at: usize| {
                let text = row.and_then(|row| row.get(at));
                text.and_then(|text| text.parse::<f64>().ok()).unwrap_or(f64::NAN)
            };
            let (alone, beside) = (number(2), number(3));
            format!(
                "{:.0} {:.0} ({:.2}x)",
                alone / divide,
                beside / divide,
                beside / alone
            )
        };
        let _ = writeln!(
            table,
            "{attack:10} {:>24} {:>24} {:>24}",
            cell("read", 1000.0),
            cell("write", 1000.0),
            cell("iops", 1.0)
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{rounds, table};

    #[test]
    fn each_attack_has_a_line() {
        let text = table(
            "spin write 100000 200000 200\nspin read 1000 2500 250\nspin iops 100 90 90\n\
             port write 100000 150000 150\nport read 1000 1000 100\n",
        );
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("1 2 (2.50x)") && lines[0].contains("100 90 (0.90x)"));
        assert!(
            lines[1].contains("100 150 (1.50x)") && lines[1].contains("NaN"),
            "{text}"
        );
    }

    #[test]
    fn five_minutes_are_three_rounds() {
        assert_eq!((rounds(5), rounds(1), rounds(0)), (3, 1, 1));
    }
}

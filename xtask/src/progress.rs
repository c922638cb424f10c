//! What a person sees while it runs: steps with times, and the count at the end.

use anyhow::Result;
use std::cell::RefCell;
use std::fmt::Display;
use std::time::Instant;

thread_local! {
    /// What this thread's lines begin with.
    static LANE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From now on lines of this thread begin with the name: others print at the same time.
pub(crate) fn lane(name: &str) {
    LANE.set(format!("{name:8} | "));
}

/// Prints one line.
pub(crate) fn line(text: impl Display) {
    LANE.with_borrow(|lane| println!("{lane}{text}"));
}

/// Prints one line of progress.
pub(crate) fn say(text: impl Display) {
    line(format_args!("==> {text}"));
}

/// Prints a heading above a block of output.
pub(crate) fn heading(text: impl Display) {
    line("");
    line(format_args!("---- {text} ----"));
}

/// Counts what passed and what failed.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u32,
    failures: Vec<String>,
}

impl Tally {
    /// Runs one step and counts it.
    pub(crate) fn step<T>(
        &mut self,
        name: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Option<T> {
        say(name);
        let start = Instant::now();
        match work() {
            Ok(value) => {
                self.passed(&format!("{name} ({:.0?})", start.elapsed()));
                Some(value)
            }
            Err(error) => {
                self.failed(name, &format!("{error:#}"));
                None
            }
        }
    }

    /// Counts a pass.
    pub(crate) fn passed(&mut self, name: &str) {
        say(format_args!("ok: {name}"));
        self.passed = self.passed.saturating_add(1);
    }

    /// Counts a failure. What is below the first line of `why` is told at the end.
    pub(crate) fn failed(&mut self, name: &str, why: &str) {
        let first = why.lines().next().unwrap_or_default();
        say(format_args!("FAILED: {name}: {first}"));
        self.failures.push(format!("{name}: {why}"));
    }

    /// Counts what another has counted.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed = self.passed.saturating_add(other.passed);
        self.failures.extend(other.failures);
    }

    /// Whether nothing failed.
    pub(crate) fn all_passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// Prints the result; the count is the last line, alone.
    pub(crate) fn print(&self) {
        println!();
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{}", self.summary());
    }

    fn summary(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failures.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_steps() {
        let mut tally = Tally::default();
        assert_eq!(tally.step("good", || Ok(7)), Some(7));
        assert_eq!(tally.step("bad", || anyhow::bail!("no") as Result<()>), None);
        assert_eq!(tally.summary(), "1 passed, 1 failed");
        let mut all = Tally::default();
        all.passed("another");
        all.add(tally);
        assert_eq!(all.summary(), "2 passed, 1 failed");
        let tally = all;
        assert!(!tally.all_passed());
    }
}

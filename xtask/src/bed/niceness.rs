//! Which emulated CPUs take what the others leave of the host's.
//!
//! An emulated CPU is a thread of the host. Where there are more of them than the host has
//! CPUs, a guest that has one for itself still takes time from all others; by their niceness the
//! ones that are not measured take it last.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, setpriority_process};
use std::fs;

/// The lowest that the kernel knows: setpriority(2).
const NICEST: u8 = 19;

/// One emulated CPU and how nice its thread is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Niceness {
    cpu: u8,
    level: u8,
}

impl Niceness {
    /// Reads `CPU LEVEL`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (cpu, level) = text.split_once(' ').context("expected `CPU LEVEL`")?;
        let niceness = Self { cpu: cpu.parse()?, level: level.trim().parse()? };
        ensure!(niceness.level <= NICEST, "at most {NICEST}");
        Ok(niceness)
    }

    /// Which CPU it is about.
    pub(crate) const fn cpu(self) -> u8 {
        self.cpu
    }

    /// Tells the kernel. Of a QEMU that has shown something on its console, and so has started
    /// its CPUs.
    pub(crate) fn apply(self, qemu: u32) -> Result<()> {
        let name = format!("CPU {}/TCG", self.cpu);
        let folder = format!("/proc/{qemu}/task");
        for thread in
            fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?
        {
            let thread = thread?;
            // Another thread may have ended by now.
            let comm = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            if comm.trim_end() == name {
                let number = thread.file_name().to_string_lossy().parse()?;
                let number = Pid::from_raw(number).context("thread 0")?;
                return setpriority_process(Some(number), i32::from(self.level))
                    .with_context(|| format!("the kernel refuses niceness for {name}"));
            }
        }
        anyhow::bail!("QEMU has no thread {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::Niceness;

    #[test]
    fn reads_a_cpu_and_a_level() {
        assert_eq!(Niceness::parse("3 10").unwrap(), Niceness { cpu: 3, level: 10 });
        for text in ["3", "3 20", "3 -1", "x 1", ""] {
            assert!(Niceness::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn says_which_thread_is_missing() {
        let niceness = Niceness::parse("3 10").unwrap();
        let error = niceness.apply(std::process::id()).unwrap_err();
        assert_eq!(error.to_string(), "QEMU has no thread CPU 3/TCG");
    }
}

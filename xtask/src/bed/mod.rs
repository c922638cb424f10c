//! The bed: real Xen, dom0 and guests inside QEMU, from Debian's packages.

mod alone;
mod bzimage;
mod cache;
mod config;
mod console;
mod cpio;
mod debian;
pub(crate) mod device;
mod disk;
mod elf;
mod emulator;
mod failures;
mod machine;
mod modules;
mod niceness;
mod overlay;
mod recipe;
mod rootfs;
mod run;
pub(crate) mod scenario;
pub(crate) mod suite;
pub(crate) mod verdict;

use crate::dist;
use crate::progress;
use crate::workspace::Workspace;
pub(crate) use alone::Alone;
use anyhow::{Context, Result};
use emulator::Emulator;
use machine::{BootFiles, Console};
use recipe::Base;
use scenario::Scenario;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use suite::Suite;
use verdict::Verdict;

/// How often a scenario is begun. QEMU's threads may race when one CPU resets a device while another
/// is at its registers: 7.2 crashed in a third of the runs of `pcidom-ends`, 10.0 in one of ten,
/// 11.1 not yet. That says nothing of what is tested; a crash of Xen or of dom0 leaves QEMU
/// alive, and is never tried again.
const MAX_TRIES: u32 = 3;

/// A suite that is ready to boot.
#[derive(Debug)]
pub(crate) struct Bed {
    workspace: Workspace,
    suite: &'static str,
    folder: PathBuf,
    base: Base,
    emulator: Emulator,
}

/// How to run a scenario.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Show the serial console.
    pub(crate) verbose: bool,
    /// A pcidom image to boot instead of the built one.
    pub(crate) image: Option<PathBuf>,
    /// Shell variables that the scenario finds set.
    pub(crate) variables: Vec<(&'static str, u64)>,
}

/// What is left of a run.
#[derive(Debug)]
pub(crate) struct Run {
    /// How it ended.
    pub(crate) verdict: Verdict,
    /// What failed and what that printed, if something did and said so.
    pub(crate) why: String,
    /// Its logs.
    pub(crate) folder: PathBuf,
}

impl Bed {
    /// Makes the suite's cached parts if they are not there yet.
    pub(crate) fn build(workspace: &Workspace, suite: &str) -> Result<Self> {
        let suite = Suite::find(suite)?;
        let folder = workspace.bed(suite.name);
        let emulator = Emulator::get(&workspace.emulator())?;
        let base = Base::get(suite, &folder)?;
        dist::build_probe(workspace)?;
        Ok(Self {
            workspace: workspace.clone(),
            suite: suite.name,
            folder,
            base,
            emulator,
        })
    }

    /// Runs one scenario and judges it; again if the emulator dies of a mistake of its own.
    pub(crate) fn run(
        &self,
        _: &Alone,
        scenario: &Scenario,
        options: &Options,
    ) -> Result<Run> {
        let folder = self.folder.join("runs").join(&scenario.name);
        let mut tries = MAX_TRIES;
        loop {
            let files = self.prepare(scenario, options, &folder, false)?;
            let command = self.machine(scenario, &files, &folder, Console::Piped);
            let ended = run::run(scenario, command, &files, &folder, options.verbose)?;
            tries -= 1;
            if !ended.emulator_died || tries == 0 {
                let (verdict, why) = (ended.verdict, ended.why);
                return Ok(Run { verdict, why, folder });
            }
            progress::say(format_args!("{}: {}, once more", scenario.name, ended.why));
        }
    }

    /// Boots a scenario's machine for a person.
    pub(crate) fn shell(
        &self,
        _: &Alone,
        scenario: &Scenario,
        options: &Options,
    ) -> Result<()> {
        let folder = self.folder.join("runs").join("shell");
        let files = self.prepare(scenario, options, &folder, true)?;
        let mut command = self.machine(scenario, &files, &folder, Console::Terminal);
        command.status().context("cannot start QEMU")?;
        Ok(())
    }

    fn machine(
        &self,
        scenario: &Scenario,
        files: &BootFiles,
        folder: &Path,
        console: Console,
    ) -> Command {
        let mut command = self.emulator.command();
        machine::describe(&mut command, &self.base, files, scenario, folder, console);
        command
    }

    fn prepare(
        &self,
        scenario: &Scenario,
        options: &Options,
        folder: &Path,
        shell: bool,
    ) -> Result<BootFiles> {
        if folder.exists() {
            fs::remove_dir_all(folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::create_dir_all(folder)?;
        let files = BootFiles {
            initramfs: folder.join("dom0.initrd"),
            com2: folder.join("com2.log"),
            typist: format!("pcidom-bed-{}-{}", std::process::id(), self.suite),
            results: folder.join("results.img"),
            guest_initramfs: folder.join("guest.initrd"),
        };
        disk::create_all(scenario, folder)?;
        disk::create_results(&files.results)?;
        let contents = overlay::Contents {
            workspace: &self.workspace,
            scenario,
            image: options.image.as_deref(),
            variables: &options.variables,
            shell,
        };
        overlay::write(&self.base, &contents, &files.initramfs)?;
        overlay::write_guest(&self.base, &contents, &files.guest_initramfs)?;
        Ok(files)
    }
}

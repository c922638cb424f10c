//! The command line: one variant per command, and the order of work behind each.

use crate::bed::{Alone, Bed, Options, scenario::Scenario, verdict::Verdict};
use crate::{
    bench, demo, dist, fuzz, hostile, packages, policy, soak, suites,
    workspace::Workspace,
};
use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Build, test and demo commands of pcidom.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build everything a Xen host needs into target/dist/.
    Dist,
    /// Run every test: the scenarios on real Xen, and host checks beside them.
    Test {
        /// Host checks only, no Xen.
        #[arg(long)]
        quick: bool,
        /// One Debian release only: `bookworm` (Xen 4.17) or `trixie` (Xen 4.20).
        #[arg(long)]
        suite: Option<String>,
        /// One machine after the other, instead of one for each release at the same time.
        #[arg(long)]
        in_turn: bool,
        /// Run only these scenarios (and no host checks).
        scenarios: Vec<String>,
    },
    /// Show the main job: lend an NVMe drive to a Linux guest through pcidom.
    Demo(SuiteArg),
    /// Measure pcidom beside dom0's own backend, and print a table.
    Bench {
        #[command(flatten)]
        suite: SuiteArg,
        /// How often everything is measured.
        #[arg(long, default_value_t = 5)]
        rounds: u64,
        /// Use what is in target/dist/ as it is, without building.
        #[arg(long)]
        no_build: bool,
        /// Leave out the host benchmark on the simulator.
        #[arg(long)]
        no_sim: bool,
    },
    /// Lend and take back at random, then look whether anything is left of it.
    Soak {
        #[command(flatten)]
        suite: SuiteArg,
        /// Stop after so many minutes.
        #[arg(long)]
        minutes: Option<u32>,
        /// Stop after so many rounds.
        #[arg(long)]
        rounds: Option<u32>,
        /// Decides what happens; printed, so that a run can be repeated.
        #[arg(long)]
        seed: Option<u64>,
        /// Instead: let a guest attack pcidom beside an honest one, and measure that one.
        #[arg(long, conflicts_with_all = ["rounds", "seed"])]
        hostile: bool,
        /// Use what is in target/dist/ as it is, without building.
        #[arg(long)]
        no_build: bool,
    },
    /// Show what the register table makes of a device's config space.
    Policy(policy::Wish),
    /// Let libFuzzer look for inputs that pcidom or the daemon do not stand.
    Fuzz {
        /// For so long, all targets together.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Only these targets: folders of fuzz/corpus/.
        targets: Vec<String>,
    },
    /// Work with the bed directly.
    Bed {
        #[command(subcommand)]
        command: BedCommand,
    },
    /// Empty the bed's caches.
    Clean,
}

#[derive(Debug, Subcommand)]
enum BedCommand {
    /// Boot Xen and dom0 and give a dom0 shell (Ctrl-A x ends it).
    Shell {
        #[command(flatten)]
        suite: SuiteArg,
        #[command(flatten)]
        image: ImageArgs,
        /// Take devices and guest scripts of this scenario.
        #[arg(default_value = "demo")]
        scenario: String,
    },
    /// Run one scenario.
    Run {
        #[command(flatten)]
        suite: SuiteArg,
        #[command(flatten)]
        image: ImageArgs,
        /// Show the serial console while it runs.
        #[arg(short, long)]
        verbose: bool,
        /// How often a scenario that repeats something does it, if not as often as usual.
        #[arg(long)]
        rounds: Option<u64>,
        /// The scenario's folder name.
        scenario: String,
    },
    /// Name the scenarios.
    List,
}

#[derive(Debug, Args)]
struct SuiteArg {
    /// The Debian release that dom0, Xen and the guests come from.
    #[arg(long, default_value = "bookworm")]
    suite: String,
}

#[derive(Debug, Args)]
struct ImageArgs {
    /// Boot this pcidom image instead of building one.
    #[arg(long)]
    image: Option<PathBuf>,
    /// Use what is in target/dist/ as it is, without building.
    #[arg(long)]
    no_build: bool,
}

impl Cli {
    /// Runs the command. `Ok(false)` means that something that was tested failed.
    pub(crate) fn run(self) -> Result<bool> {
        let workspace = Workspace::find()?;
        match self.command {
            Command::Dist => {
                dist::build(&workspace)?;
                Ok(true)
            }
            Command::Test { quick: true, .. } => suites::quick(&workspace),
            Command::Test { suite, in_turn, scenarios, .. } => {
                let wish = suites::Wish { suite, in_turn, scenarios };
                suites::test(&workspace, &wish)
            }
            Command::Demo(suite) => demo::run(&workspace, &suite.suite),
            Command::Bench { suite, rounds, no_build, no_sim } => {
                let plan = bench::Plan { rounds, no_build, no_sim };
                bench::run(&workspace, &suite.suite, plan)
            }
            Command::Soak { suite, minutes, hostile: true, no_build, .. } => {
                let wish = hostile::Wish { minutes, no_build };
                hostile::run(&workspace, &suite.suite, wish)
            }
            Command::Soak { suite, minutes, rounds, seed, no_build, .. } => {
                let wish = soak::Wish { minutes, rounds, seed, no_build };
                soak::run(&workspace, &suite.suite, wish)
            }
            Command::Policy(wish) => policy::run(&workspace, &wish).map(|()| true),
            Command::Fuzz { seconds, targets } => {
                packages::ensure(&workspace)?;
                let time = Duration::from_secs(seconds);
                let wish = fuzz::Wish { time, targets, learns: true, patient: false };
                fuzz::run(&workspace, &wish)
            }
            Command::Bed { command } => command.run(&workspace),
            Command::Clean => {
                workspace.remove_bed()?;
                Ok(true)
            }
        }
    }
}

impl BedCommand {
    fn run(self, workspace: &Workspace) -> Result<bool> {
        match self {
            Self::Shell { suite, image, scenario } => {
                let (bed, scenario, options) =
                    prepare(workspace, &suite.suite, image, true, &scenario)?;
                bed.shell(&Alone::wait()?, &scenario, &options)?;
                Ok(true)
            }
            Self::Run { suite, image, verbose, rounds, scenario } => {
                let (bed, scenario, mut options) =
                    prepare(workspace, &suite.suite, image, verbose, &scenario)?;
                options.variables.extend(rounds.map(|rounds| ("ROUNDS", rounds)));
                let run = bed.run(&Alone::wait()?, &scenario, &options)?;
                Ok(run.verdict == Verdict::Success)
            }
            Self::List => {
                for scenario in Scenario::load_all(workspace)? {
                    println!("{:20} {}", scenario.name, scenario.about);
                }
                Ok(true)
            }
        }
    }
}

fn prepare(
    workspace: &Workspace,
    suite: &str,
    image: ImageArgs,
    verbose: bool,
    scenario: &str,
) -> Result<(Bed, Scenario, Options)> {
    let scenario = Scenario::load(workspace, scenario)?;
    packages::ensure(workspace)?;
    let bed = Bed::build(workspace, suite)?;
    let build = scenario.needs_pcidom && image.image.is_none() && !image.no_build;
    if build {
        dist::build(workspace)?;
    }
    if !image.no_build {
        dist::build_for(workspace, &scenario)?;
    }
    Ok((bed, scenario, Options { verbose, image: image.image, ..Options::default() }))
}

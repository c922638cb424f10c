//! `cargo xtask`: builds, tests and shows pcidom, on real Xen inside QEMU.

mod bed;
mod bench;
mod commands;
mod demo;
mod dist;
mod fuzz;
mod host_tests;
mod hostile;
mod packages;
mod policy;
mod process;
mod progress;
mod soak;
mod suites;
mod workspace;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match commands::Cli::parse().run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

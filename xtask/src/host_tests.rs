//! The tests that need no Xen: formatting, lints, unit and simulation tests.

use crate::dist::IMAGE_FEATURE;
use crate::process;
use crate::progress::Tally;
use crate::workspace::Workspace;
use anyhow::Result;
use std::process::Command;

/// Runs all of them, each counted on its own.
pub(crate) fn run(workspace: &Workspace, tally: &mut Tally) {
    each(workspace, tally, process::run);
}

/// The same in the time that others leave of the CPUs, and without showing what went well.
pub(crate) fn run_beside(workspace: &Workspace, tally: &mut Tally) {
    each(workspace, tally, |cargo| process::quiet(&mut process::patient(cargo)));
}

fn each(
    workspace: &Workspace,
    tally: &mut Tally,
    run: impl Fn(&mut Command) -> Result<()>,
) {
    let steps: [(&str, &[&str]); 4] = [
        ("cargo fmt", &["fmt", "--all", "--check"]),
        (
            "cargo clippy",
            &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
        ),
        // As they are shipped, since only those profiles don't unwind, which they can't.
        (
            "cargo clippy, images",
            &[
                "clippy",
                "--release",
                "-p",
                "pcidom-kernel",
                "-p",
                "bed-front",
                "--bins",
                "--features",
                IMAGE_FEATURE,
                "--",
                "-D",
                "warnings",
            ],
        ),
        ("cargo test", &["test", "--workspace"]),
    ];
    for (name, arguments) in steps {
        tally.step(name, || run(&mut workspace.cargo(arguments)));
    }
}

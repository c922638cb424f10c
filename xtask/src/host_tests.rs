//! The tests that need no Xen: formatting, lints, unit and simulation tests.

use crate::dist::IMAGE_FEATURE;
use crate::process;
use crate::progress::Tally;
use crate::workspace::Workspace;

/// Runs all of them, each counted on its own.
pub(crate) fn run(workspace: &Workspace, tally: &mut Tally) {
    let steps: [(&str, &[&str]); 5] = [
        ("cargo fmt", &["fmt", "--all", "--check"]),
        (
            "cargo clippy",
            &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
        ),
        (
            "cargo clippy, image",
            &[
                "clippy",
                "-p",
                "pcidom-kernel",
                "--bins",
                "--features",
                IMAGE_FEATURE,
                "--",
                "-D",
                "warnings",
            ],
        ),
        (
            "cargo clippy, bed-front",
            &[
                "clippy",
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
        tally.step(name, || process::run(&mut workspace.cargo(arguments)));
    }
}

//! The host benchmark: what the event loop costs per operation, on the simulator.

use crate::process;
use crate::workspace::Workspace;
use anyhow::Result;

/// Runs it; it prints its own lines.
pub(super) fn run(workspace: &Workspace) -> Result<String> {
    process::text(&mut workspace.cargo(&[
        "run",
        "--quiet",
        "--release",
        "-p",
        "pcidom-sim",
        "--example",
        "cost_per_op",
    ]))
}

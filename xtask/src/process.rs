//! Running other programs, with errors that name the command.

use anyhow::{Context, Result, bail, ensure};
use std::process::{Command, Stdio};

/// Runs the command with its output shown; a non-zero exit is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = describe(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{name}`"))?;
    ensure!(status.success(), "`{name}` failed: {status}");
    Ok(())
}

/// Runs the command; what it has said is shown only if it fails.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    let name = describe(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{name}`"))?;
    if !output.status.success() {
        for said in [&output.stdout, &output.stderr] {
            println!("{}", String::from_utf8_lossy(said));
        }
        bail!("`{name}` failed: {}, see above", output.status);
    }
    Ok(())
}

/// Runs the command quietly and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = describe(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{name}`"))?;
    ensure!(
        output.status.success(),
        "`{name}` failed: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// The same, as text.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    String::from_utf8(output(command)?).context("the program's output is not UTF-8")
}

/// The same command in the class of processes that only run when no other wants to.
pub(crate) fn patient(command: &Command) -> Command {
    let mut patient = Command::new("chrt");
    patient.args(["--idle", "0"]).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        patient.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => patient.env(name, value),
            None => patient.env_remove(name),
        };
    }
    patient
}

/// The first two words of a command line: enough to say what failed.
fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().take(3).map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

//! `pcidomctl`: lends PCI devices of a pcidom to guests.

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};
use pcidom_toolstack::spec::{BadSpec, Spec};
use pcidom_toolstack::verb::{Bdf, Bus, Reply, ResetMethod, Verb};
use pcidom_toolstack::{client, print, serve};

/// xl's code for a command that makes no sense.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("pcidomctl: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn complain(text: &str) {
    // Where there is no stderr, there is nobody to tell.
    let _ = writeln!(io::stderr(), "{text}");
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Attach { share_line, bus, wait, owner, guest, spec, pcidom } => {
            Ok(with_spec("attach", &spec, |spec| {
                let Spec { device, slot, lax, wish } = spec;
                let (device, bus, wait) = (Bdf(device), bus.map(Bus), Some(wait));
                let verb = Verb::Attach {
                    guest,
                    owner,
                    device,
                    slot,
                    bus,
                    share_line,
                    lax,
                    wait,
                    wish,
                    pcidom,
                };
                ask("attach", &verb)
            }))
        }
        Command::Detach { force, guest, spec, pcidom } => {
            Ok(with_spec("detach", &spec, |Spec { device, .. }| {
                ask("detach", &Verb::Detach { guest, device: Bdf(device), force, pcidom })
            }))
        }
        Command::Reset { method, force, device, pcidom } => {
            let Ok(device) = device.parse() else {
                complain(&format!("reset: {}", BadSpec::Malformed(device)));
                return Ok(ExitCode::from(USAGE));
            };
            let (device, method) = (Bdf(device), method.map(ResetMethod));
            Ok(ask("reset", &Verb::Reset { device, method, force, pcidom }))
        }
        Command::List { guest, pcidom } => {
            let with_guest = guest.is_none();
            show("list", &Verb::List { guest, pcidom }, |reply| match reply {
                Reply::List { lines } => Ok(print::list(&lines, with_guest)),
                other => Err(other),
            })
        }
        Command::Status { json, pcidom } => {
            show("status", &Verb::Status { pcidom }, |reply| match reply {
                Reply::Status { status } if json => {
                    Ok(serde_json::to_string_pretty(&status).unwrap_or_default() + "\n")
                }
                Reply::Status { status } => Ok(print::status(&status)),
                other => Err(other),
            })
        }
        Command::Daemon { pcidom, allow_no_intremap } => {
            let filter = env_logger::Env::default().default_filter_or("info");
            env_logger::Builder::from_env(filter).format_timestamp_millis().init();
            serve::run(pcidom, allow_no_intremap).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn with_spec(verb: &str, text: &str, then: impl FnOnce(Spec) -> ExitCode) -> ExitCode {
    match Spec::parse(text) {
        Ok(spec) => then(spec),
        Err(error) => {
            complain(&format!("{verb}: {error}"));
            match error {
                BadSpec::Malformed(_) => ExitCode::from(USAGE),
                BadSpec::Unsupported { .. } => ExitCode::FAILURE,
            }
        }
    }
}

/// Asks for something to be done.
fn ask(name: &str, verb: &Verb) -> ExitCode {
    let result = show(name, verb, |reply| match reply {
        Reply::Done { text } if text.is_empty() => Ok(text),
        Reply::Done { text } => Ok(text + "\n"),
        other => Err(other),
    });
    result.unwrap_or_else(|error| {
        complain(&format!("{name}: {error:#}"));
        ExitCode::FAILURE
    })
}

/// Asks, and prints what `text` makes of the reply.
fn show(
    name: &str,
    verb: &Verb,
    text: impl FnOnce(Reply) -> Result<String, Reply>,
) -> anyhow::Result<ExitCode> {
    // Not part of what was asked for, so not on stdout.
    match text(client::ask(verb, &mut complain)?) {
        Ok(text) => {
            io::stdout().write_all(text.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(Reply::Failed { text }) => {
            complain(&format!("{name}: {text}"));
            Ok(ExitCode::FAILURE)
        }
        Err(_) => anyhow::bail!("the daemon answered something else: restart it"),
    }
}

//! A stopwatch for the bed, and a reader of consoles and of XenStore, linked statically so that it
//! runs in dom0 and in guests.
//!
//! It measures in one process what a shell could only measure together with the start of
//! programs, and waits for events that a shell could only poll for. Each result is a line
//! `@@BENCH METRIC NUMBER`; times are nanoseconds.
#![deny(unsafe_code)]

mod config;
mod console;
mod crash;
mod drive;
mod follow;
mod nodes;
mod privcmd;
mod reaction;
mod series;
mod wait;
mod wakes;
mod xenlog;
mod xenstore;

use std::env;
use std::process::ExitCode;

/// Anything that went wrong, with what it was.
type Failure = Box<dyn std::error::Error>;

/// The probe itself has failed; a guest's own commands end with less.
const FAILED: u8 = 126;

const USAGE: &str = "\
bed-probe config FILE ROUNDS            latency of each kind of access to a config space
bed-probe sweep FILE PATTERN             writes a byte everywhere in a config space, in each width
bed-probe access FILE ROUNDS            latency of a read, and of a write that reaches hardware
bed-probe late FILE ROUNDS              the time of the slowest of a hundred accesses to it
bed-probe drive DEVICE SECONDS THREADS  4 KiB random reads, past the page cache
bed-probe until FILE TEXT SECONDS COMMAND...
                                        from the start of COMMAND until FILE has new TEXT
bed-probe present PATH SECONDS          waits until something is in the folder PATH
bed-probe answer LOG NUMBER SECONDS OUT what a guest answered to a command, printed and in the
                                        file OUT; 125: nothing in time, 126: an error
bed-probe shows LOG REGEX SECONDS       waits until a console shows something
bed-probe follow LOG NAME               copies a console's lines, each marked with the name
bed-probe nodes PATH...                 XenStore below these paths, like xenstore-ls -fp; a * in
                                        one is any name
bed-probe gone PATH SECONDS             waits until XenStore has no such node
bed-probe keys KEYS MARK                presses Xen's debug keys, and prints what its log has that
                                        was not taken before
bed-probe crash DOMID                   ends the domain as if it had crashed
bed-probe wakes TRACE DOMID             how often xentrace saw the domain wake";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bed-probe: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(words: &[&str]) -> Result<ExitCode, Failure> {
    match words {
        ["answer", log, number, seconds, out] => {
            return console::answer(log, number.parse()?, seconds.parse()?, out);
        }
        ["shows", log, regex, seconds] => {
            return console::shows(log, regex, seconds.parse()?);
        }
        ["sweep", file, pattern] => config::sweep(file, u8::from_str_radix(pattern, 16)?),
        ["config", file, rounds] => config::measure(file, rounds.parse()?),
        ["access", file, rounds] => config::measure_access(file, rounds.parse()?),
        ["late", file, rounds] => config::measure_late(file, rounds.parse()?),
        ["drive", device, seconds, threads] => {
            drive::measure(device, seconds.parse()?, threads.parse()?)
        }
        ["until", file, text, seconds, command @ ..] => {
            reaction::until(file, text, seconds.parse()?, command)
        }
        ["follow", log, name] => follow::follow(log, name),
        ["nodes", paths @ ..] => nodes::print(paths),
        ["gone", path, seconds] => nodes::gone(path, seconds.parse()?),
        ["present", folder, seconds] => reaction::present(folder, seconds.parse()?),
        ["keys", keys, mark] => xenlog::print(keys, mark),
        ["crash", domain] => crash::crash(domain.parse()?),
        ["wakes", trace, domain] => wakes::count(trace, domain.parse()?),
        _ => Err(USAGE.into()),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Prints one result.
fn result(metric: &str, value: impl std::fmt::Display) {
    println!("@@BENCH {metric} {value}");
}

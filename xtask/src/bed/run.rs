//! One run: watches the console, ends the machine, collects and judges.

use super::config;
use super::console::Event;
use super::disk;
use super::failures::Failures;
use super::machine::{BootFiles, Machine};
use super::scenario::Scenario;
use super::verdict::Verdict;
use crate::{process, progress};
use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// A panic is explained by the lines after it, so those are still read.
const AFTER_PANIC: Duration = Duration::from_secs(2);

/// dom0 notices its own time-out first and saves its logs; this is for when it can't.
const GRACE: Duration = Duration::from_secs(30);

/// Three times Ctrl-A makes Xen read the keyboard itself; then its debug keys: run
/// queues, domains, CPUs' registers, timers.
const ASK_XEN: &[u8] = b"\x01\x01\x01rqda";

/// How long Xen's answer to that is read.
const ANSWER: Duration = Duration::from_secs(5);

/// How much of the console a failure shows.
const SHOWN_LINES: usize = 60;

/// How a run of the machine ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The final verdict.
    pub(crate) verdict: Verdict,
    /// What led to it: what failed, and what that printed.
    pub(crate) why: String,
    /// QEMU was ended by a signal that its own mistakes cause: nothing has been judged.
    pub(crate) emulator_died: bool,
}

/// A failed assertion, and an access to memory that is not there.
const OWN_MISTAKES: [i32; 2] = [6, 11];

/// Runs the machine until the scenario ends.
pub(crate) fn run(
    scenario: &Scenario,
    qemu: Command,
    files: &BootFiles,
    folder: &Path,
    verbose: bool,
) -> Result<Ended> {
    progress::say(format_args!("scenario {}: {}", scenario.name, scenario.about));
    let start = Instant::now();
    let (mut machine, console) = Machine::start(qemu)?;
    let (process, nice) = (machine.id(), scenario.nice.clone());
    let (wrong, mistakes) = mpsc::channel();
    let when_it_runs = move || {
        for error in nice.into_iter().filter_map(|nice| nice.apply(process).err()) {
            // Who would read it has gone only with the run.
            wrong.send(error).ok();
        }
    };
    let mut watch = Watch {
        lines: read_lines(console, when_it_runs),
        log: File::create(folder.join("serial.log"))?,
        tail: VecDeque::new(),
        verbose,
        failures: Failures::default(),
        closed: false,
        deadline: start + scenario.timeout + GRACE,
        start,
    };
    let mut verdict = watch.until_end()?;
    if verdict == Verdict::Timeout && Instant::now() >= watch.deadline {
        // dom0 did not even end the scenario itself, so ask the one below it.
        machine.send(ASK_XEN).ok();
        watch.deadline = Instant::now() + ANSWER;
        watch.until_end()?;
    }
    let mut emulator_died = false;
    let mut why = None;
    if watch.closed {
        let status = machine.ended()?;
        emulator_died = status.signal().is_some_and(|s| OWN_MISTAKES.contains(&s));
        let text = format!("QEMU ended by itself: {status}");
        progress::line(format_args!("    {text}"));
        why = Some(text);
    }
    drop(machine);
    // What was measured on another machine than was asked for has not passed.
    if let Ok(error) = mistakes.try_recv() {
        let text = format!("{error:#}");
        progress::line(format_args!("    FAILED: {text}"));
        why = Some(text);
        verdict = Verdict::Failure;
    }
    fs::remove_file(&files.initramfs).ok();
    fs::remove_file(&files.guest_initramfs).ok();
    let logs = folder.join("files");
    match unpack(&files.results, &logs) {
        Ok(()) => fs::remove_file(&files.results)?,
        Err(error) => progress::say(format_args!("no files from dom0: {error:#}")),
    }
    if verdict == Verdict::Success {
        let disks = disk::compare(scenario, folder, &logs.join("console"));
        let spaces = config::compare(&logs.join("config"), scenario.config);
        match disks.and_then(|disks| Ok([disks, spaces?].concat())) {
            Ok(report) => {
                for line in report {
                    progress::line(format_args!("    ok: on the host, {line}"));
                }
            }
            Err(error) => {
                let text = format!("on the host, {error:#}");
                progress::line(format_args!("    FAILED: {text}"));
                why = Some(text);
                verdict = Verdict::Failure;
            }
        }
    }
    if verdict == Verdict::Success {
        for device in &scenario.devices {
            fs::remove_file(disk::image(folder, &device.name)).ok();
        }
    } else {
        watch.show_tail();
        progress::line(format_args!(
            "    logs and disks are kept in {}",
            folder.display()
        ));
    }
    let seconds = start.elapsed().as_secs();
    progress::say(format_args!(
        "scenario {}: {} after {seconds} s",
        scenario.name,
        verdict.word()
    ));
    let why = why.unwrap_or_else(|| watch.failures.into_text());
    Ok(Ended { verdict, why, emulator_died })
}

/// The console as it comes in.
struct Watch {
    lines: Receiver<String>,
    log: File,
    tail: VecDeque<String>,
    verbose: bool,
    failures: Failures,
    /// The console is closed: QEMU is gone.
    closed: bool,
    deadline: Instant,
    start: Instant,
}

impl Watch {
    fn until_end(&mut self) -> Result<Verdict> {
        let mut panicked = false;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(_) if panicked => return Ok(Verdict::Crash),
                Err(RecvTimeoutError::Timeout) => return Ok(Verdict::Timeout),
                // No verdict was seen.
                Err(RecvTimeoutError::Disconnected) => {
                    self.closed = true;
                    return Ok(Verdict::Crash);
                }
            };
            self.record(&line)?;
            let event = Event::parse(&line);
            self.failures.hear(&line, event.as_ref());
            match event {
                Some(Event::End(verdict)) => return Ok(verdict),
                Some(Event::Panic) if !panicked => {
                    panicked = true;
                    self.deadline = Instant::now() + AFTER_PANIC;
                }
                Some(event) if !self.verbose => self.show(&event),
                _ => {}
            }
        }
    }

    fn record(&mut self, line: &str) -> Result<()> {
        writeln!(self.log, "{line}").context("cannot write the serial log")?;
        if self.verbose {
            progress::line(line);
        }
        self.tail.push_back(line.to_owned());
        if self.tail.len() > SHOWN_LINES {
            self.tail.pop_front();
        }
        Ok(())
    }

    fn show(&self, event: &Event<'_>) {
        let seconds = self.start.elapsed().as_secs();
        match event {
            Event::Step(text) => {
                progress::line(format_args!("  {seconds:4} s  {text}"));
            }
            Event::Check { passed: true, what } => {
                progress::line(format_args!("          ok: {what}"));
            }
            Event::Check { passed: false, what } => {
                progress::line(format_args!("          FAILED: {what}"));
            }
            Event::Note(text) => progress::line(format_args!("          {text}")),
            Event::End(_) | Event::Panic => {}
        }
    }

    fn show_tail(&self) {
        if !self.verbose {
            progress::heading("end of the serial console");
            for line in &self.tail {
                progress::line(line);
            }
            progress::line("----");
        }
    }
}

/// Reads lines in a thread, so that waiting for the next one can be bounded. With the first
/// one the machine runs.
fn read_lines(
    console: impl Read + Send + 'static,
    when_it_runs: impl FnOnce() + Send + 'static,
) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(console);
        let mut line = Vec::new();
        let mut when_it_runs = Some(when_it_runs);
        loop {
            line.clear();
            match reader.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    if let Some(act) = when_it_runs.take() {
                        act();
                    }
                    let text = String::from_utf8_lossy(&line);
                    if sender.send(text.trim_end().to_owned()).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

/// dom0 wrote a plain tar archive straight to the results disk.
fn unpack(results: &Path, to: &Path) -> Result<()> {
    let mut magic = [0_u8; 262];
    File::open(results)?.read_exact(&mut magic)?;
    anyhow::ensure!(
        magic.ends_with(b"ustar"),
        "dom0 wrote none: {} starts with {:02x?}",
        results.display(),
        &magic[..16]
    );
    fs::create_dir_all(to)?;
    process::output(
        Command::new("tar")
            .args(["--extract", "--no-same-owner", "--file"])
            .arg(results)
            .arg("--directory")
            .arg(to),
    )?;
    Ok(())
}

//! A domain's console, in the log that xenconsoled writes: waits until it says something.

use crate::Failure;
use crate::wait::readable;
use regex_lite::Regex;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// No answer in time. A guest's own commands end with less, by convention of shells.
const NO_ANSWER: u8 = 125;

/// A log that grows.
pub(crate) struct Log {
    path: PathBuf,
    /// Not before the domain has written something.
    file: Option<File>,
    /// Tells of changes in the log's folder.
    changes: OwnedFd,
    deadline: Instant,
    /// All of it, or what has come since it was opened.
    pub(crate) text: String,
}

impl Log {
    /// From its beginning.
    pub(crate) fn open(path: &str, seconds: u64) -> Result<Self, Failure> {
        let path = PathBuf::from(path);
        let folder = path.parent().unwrap_or(Path::new("/"));
        let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // Before the first look, so that nothing comes in between.
        inotify::add_watch(&changes, folder, WatchFlags::CREATE | WatchFlags::MODIFY)?;
        let deadline = Instant::now() + Duration::from_secs(seconds);
        Ok(Self { path, file: None, changes, deadline, text: String::new() })
    }

    /// Only what comes from now on.
    pub(crate) fn open_at_end(path: &str, seconds: u64) -> Result<Self, Failure> {
        let mut log = Self::open(path, seconds)?;
        if let Ok(mut file) = File::open(path) {
            file.seek(SeekFrom::End(0))?;
            log.file = Some(file);
        }
        Ok(log)
    }

    /// Takes what is there; false if nothing has come until the deadline.
    pub(crate) fn grow(&mut self) -> Result<bool, Failure> {
        loop {
            if self.file.is_none() {
                match File::open(&self.path) {
                    Ok(file) => self.file = Some(file),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let mut bytes = Vec::new();
            if let Some(file) = &mut self.file {
                file.read_to_end(&mut bytes)?;
            }
            if !bytes.is_empty() {
                bytes.retain(|byte| *byte != b'\r');
                self.text.push_str(&String::from_utf8_lossy(&bytes));
                return Ok(true);
            }
            if !readable(&self.changes, self.deadline)? {
                return Ok(false);
            }
            let mut events = [0; 4096];
            while rustix::io::read(&self.changes, &mut events).is_ok_and(|n| n > 0) {}
        }
    }
}

/// Prints what the guest answered to the command of this number, and keeps it in the file `out`;
/// the command's exit status is ours.
pub(crate) fn answer(
    path: &str,
    number: u64,
    seconds: u64,
    out: &str,
) -> Result<ExitCode, Failure> {
    let mut log = Log::open(path, seconds)?;
    loop {
        if let Some((output, status)) = answered(&log.text, number) {
            fs::write(out, output)?;
            std::io::stdout().write_all(output.as_bytes())?;
            return Ok(ExitCode::from(status));
        }
        if !log.grow()? {
            fs::write(out, "")?;
            return Ok(ExitCode::from(NO_ANSWER));
        }
    }
}

/// The output of the command of this number, and its exit status, if the log has all of it.
fn answered(log: &str, number: u64) -> Option<(&str, u8)> {
    let (before, rest) = log.rsplit_once(&format!("@@DONE {number} "))?;
    let (status, _) = rest.split_once('@')?;
    let (_, output) = before.rsplit_once(&format!("@@BEGIN {number}\n"))?;
    Some((output, status.trim().parse().ok()?))
}

/// Waits until the console shows what the expression describes.
pub(crate) fn shows(path: &str, regex: &str, seconds: u64) -> Result<ExitCode, Failure> {
    let mut log = Log::open(path, seconds)?;
    let regex = Regex::new(&format!("(?m){regex}"))?;
    while !regex.is_match(&log.text) {
        if !log.grow()? {
            return Err(format!("{path} does not show {regex} after {seconds} s").into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::answered;

    #[test]
    fn an_answer_is_taken_once_all_of_it_is_there() {
        let log = "@@BEGIN 1\n1\n@@DONE 1 0@\n@@BEGIN 11\neleven\n@@DONE 11 3@\n";
        assert_eq!(answered(log, 1), Some(("1\n", 0)));
        assert_eq!(answered(log, 11), Some(("eleven\n", 3)));
        assert_eq!(answered(log, 2), None);
        // Of what is only partly there nothing, wherever it ends.
        let end = log.len() - 1;
        for cut in 30..end {
            assert_eq!(answered(&log[..cut], 11), None, "{cut}");
        }
        assert!(answered(&log[..end], 11).is_some());
    }
}

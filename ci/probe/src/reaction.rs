//! How long something takes to show an effect.

use crate::{Failure, result};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How often it is looked. There is nothing to wait on in a log or in sysfs.
const LOOK: Duration = Duration::from_millis(2);

/// Starts the command and reports when it has ended and when the file has the text, in
/// what was written since.
pub(crate) fn until(
    path: &str,
    text: &str,
    seconds: u64,
    command: &[&str],
) -> Result<(), Failure> {
    let (program, arguments) = command.split_first().ok_or("no command")?;
    // The file may not be there yet.
    let old = fs::metadata(path).map_or(0, |file| file.len());
    let start = Instant::now();
    let mut child = Command::new(program).args(arguments).spawn()?;
    let (mut ended, mut seen) = (None, None);
    while ended.is_none() || seen.is_none() {
        if start.elapsed() > Duration::from_secs(seconds) {
            child.kill().ok();
            return Err(format!("{path} has no {text} after {seconds} s").into());
        }
        if seen.is_none() && has(path, old, text) {
            seen = Some(start.elapsed());
        }
        if ended.is_none()
            && let Some(status) = child.try_wait()?
        {
            if !status.success() {
                return Err(format!("{program} failed: {status}").into());
            }
            ended = Some(start.elapsed());
        }
        thread::sleep(LOOK);
    }
    for (metric, time) in [("returned", ended), ("seen", seen)] {
        result(metric, time.unwrap_or_default().as_nanos());
    }
    Ok(())
}

fn has(path: &str, from: u64, text: &str) -> bool {
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    read().is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
}

/// Waits until the folder has something in it.
pub(crate) fn present(folder: &str, seconds: u64) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(seconds) {
            return Err(format!("{folder} is empty after {seconds} s").into());
        }
        thread::sleep(LOOK);
    }
}

//! Copies a domain's console line by line, each marked with the domain's name.

use crate::Failure;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Until the log is removed; one that is not there yet is waited for. Blocks without a limit: whoever
/// follows a console is ended with the machine.
pub(crate) fn follow(path: &str, name: &str) -> Result<(), Failure> {
    let path = Path::new(path);
    let mut file = open(path)?;
    let changes = inotify::init(CreateFlags::CLOEXEC)?;
    // Before the first look, so that nothing comes in between.
    inotify::add_watch(&changes, path, WatchFlags::MODIFY | WatchFlags::ATTRIB)?;
    let mut lines = Lines::default();
    loop {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let marked = lines.take(&bytes, name);
        if !marked.is_empty() {
            std::io::stdout().write_all(&marked)?;
        }
        // Another domain of that name has a log of its own.
        if file.metadata()?.nlink() == 0 {
            return Ok(());
        }
        wait(&changes)?;
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    let changes = inotify::init(CreateFlags::CLOEXEC)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    inotify::add_watch(&changes, folder, WatchFlags::CREATE)?;
    loop {
        match File::open(path) {
            Ok(file) => return Ok(file),
            Err(error) if error.kind() == ErrorKind::NotFound => wait(&changes)?,
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait(changes: &OwnedFd) -> Result<(), Failure> {
    rustix::io::read(changes, &mut [0_u8; 4096])?;
    Ok(())
}

/// What has come of a line that has not ended.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// The lines that have ended, marked.
    fn take(&mut self, bytes: &[u8], name: &str) -> Vec<u8> {
        let mut marked = Vec::new();
        for byte in bytes {
            match byte {
                b'\r' => {}
                b'\n' => {
                    marked.extend_from_slice(name.as_bytes());
                    marked.extend_from_slice(b"| ");
                    marked.append(&mut self.0);
                    marked.push(b'\n');
                }
                byte => self.0.push(*byte),
            }
        }
        marked
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn lines_are_marked_when_they_have_ended() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"one\r\ntw", "g1"), b"g1| one\n");
        assert_eq!(lines.take(b"", "g1"), b"");
        assert_eq!(lines.take(b"o\n\nthree", "g1"), b"g1| two\ng1| \n");
    }
}

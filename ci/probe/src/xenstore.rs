//! XenStore over its socket in dom0: many questions at once, since each wake-up of xenstored
//! costs more than its answer.

use crate::Failure;
use crate::wait::readable;
use pcidom_xenbus::wire::{self, HEADER, Kind, Message};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const SOCKET: &str = "/run/xenstored/socket";
/// Questions on the way. Less than a socket holds of short ones: xenstored reads none while
/// its answers are not taken.
const AT_ONCE: usize = 32;
/// A hang guard.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection.
pub(crate) struct XenStore {
    socket: UnixStream,
    input: Vec<u8>,
}

impl XenStore {
    pub(crate) fn open() -> Result<Self, Failure> {
        Ok(Self { socket: UnixStream::connect(SOCKET)?, input: Vec::new() })
    }

    /// The answers, in the order of the questions; none to one about a node that isn't there.
    pub(crate) fn ask(
        &mut self,
        questions: &[(Kind, &str)],
    ) -> Result<Vec<Option<Message>>, Failure> {
        let mut answers = Vec::new();
        for some in questions.chunks(AT_ONCE) {
            let mut bytes = Vec::new();
            for (kind, path) in some {
                let parts = [path.as_bytes(), b"\0"];
                bytes.extend(wire::encode(*kind, 0, 0, &parts).ok_or("too long")?);
            }
            self.socket.write_all(&bytes)?;
            for (kind, path) in some {
                answers.push(self.answer(*kind, path)?);
            }
        }
        Ok(answers)
    }

    /// Watches a node: the first event comes at once.
    pub(crate) fn watch(&mut self, path: &str) -> Result<(), Failure> {
        let parts = [path.as_bytes(), b"\0gone\0"];
        let bytes = wire::encode(Kind::Watch, 0, 0, &parts).ok_or("too long")?;
        Ok(self.socket.write_all(&bytes)?)
    }

    /// Waits for the next event of a watch; false if none came until the deadline.
    pub(crate) fn event(&mut self, deadline: Instant) -> Result<bool, Failure> {
        while let Some(message) = self.message(deadline)? {
            match message.kind {
                Some(Kind::WatchEvent) => return Ok(true),
                Some(Kind::Error) => return Err(refused("watch", "it", &message)),
                _ => {}
            }
        }
        Ok(false)
    }

    fn answer(&mut self, kind: Kind, path: &str) -> Result<Option<Message>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.message(deadline)?.ok_or("XenStore does not answer")?;
            match message.kind {
                Some(answer) if answer == kind => return Ok(Some(message)),
                // Older than the answer, which says at least as much.
                Some(Kind::WatchEvent) => {}
                _ if message.strings() == ["ENOENT"] => return Ok(None),
                _ => return Err(refused(&format!("{kind:?}"), path, &message)),
            }
        }
    }

    fn message(&mut self, deadline: Instant) -> Result<Option<Message>, Failure> {
        loop {
            if let Some(header) = self.input.first_chunk::<HEADER>() {
                let length = wire::message_length(header)?;
                if let Some(bytes) = self.input.get(..length) {
                    let message = Message::decode(bytes);
                    self.input.drain(..length);
                    return Ok(message);
                }
            }
            if !readable(&self.socket, deadline)? {
                return Ok(None);
            }
            let mut buffer = [0; 4096];
            let length = self.socket.read(&mut buffer)?;
            if length == 0 {
                return Err("XenStore closed the connection".into());
            }
            self.input.extend(buffer.iter().take(length));
        }
    }
}

fn refused(what: &str, path: &str, message: &Message) -> Failure {
    format!("XenStore, {what} of {path}: {}", message.strings().join(" ")).into()
}

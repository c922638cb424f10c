//! The daemon's socket: one line in, one line out, nobody waited for.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::umask;

use crate::daemon::Client;
use crate::verb::{MAX_REQUEST, Reply, Request, Verb};

/// Where it is. Root only.
pub const SOCKET: &str = "/run/xen/pcidom.sock";

/// Verbs at one time: each may wait for a guest, and a script may start many.
const MAX_CLIENTS: usize = 64;

#[derive(Debug)]
struct Conversation {
    stream: UnixStream,
    input: Vec<u8>,
    asked: bool,
    output: Vec<u8>,
    answered: bool,
}

/// The listening end.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    clients: BTreeMap<Client, Conversation>,
    next: u64,
}

impl Server {
    /// Listens at `path`. A socket left over by an earlier daemon is replaced: the caller
    /// holds the lock, so nobody listens there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Closed to others from its first moment on.
        let before = umask(Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: BTreeMap::new(), next: 0 })
    }

    /// What to wait for: each descriptor, and whether it waits to be written to.
    pub fn descriptors(&self) -> Vec<(BorrowedFd<'_>, bool)> {
        let clients = self.clients.values();
        let clients = clients.map(|c| (c.stream.as_fd(), !c.output.is_empty()));
        [(self.listener.as_fd(), false)].into_iter().chain(clients).collect()
    }

    /// Takes in what has arrived and hands out verbs. Bad requests are answered here.
    pub fn take_verbs(&mut self) -> Vec<(Client, Verb)> {
        self.accept();
        let mut verbs = Vec::new();
        let mut bad = Vec::new();
        let mut gone = Vec::new();
        for (client, conversation) in &mut self.clients {
            match conversation.read_line() {
                Ok(None) => {}
                Ok(Some(line)) => match Request::parse(&line) {
                    Ok(request) => verbs.push((*client, request.verb)),
                    Err(reply) => bad.push((*client, reply)),
                },
                Err(_) => gone.push(*client),
            }
        }
        for client in gone {
            self.clients.remove(&client);
        }
        for (client, reply) in bad {
            self.reply(client, &reply);
        }
        verbs
    }

    /// Sends a reply, if the client still waits for it. Progress leaves it waiting.
    pub fn reply(&mut self, client: Client, reply: &Reply) {
        let Some(conversation) = self.clients.get_mut(&client) else { return };
        match serde_json::to_vec(reply) {
            Ok(bytes) => conversation.output.extend(bytes),
            Err(error) => log::error!("a reply that can't be written: {error}"),
        }
        conversation.output.push(b'\n');
        conversation.answered = !matches!(reply, Reply::Progress { .. });
        self.flush();
    }

    /// Sends what can be sent, and parts with those who have their reply.
    pub fn flush(&mut self) {
        self.clients.retain(|_, conversation| {
            let alive = conversation.write().is_ok();
            alive && !(conversation.answered && conversation.output.is_empty())
        });
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() >= MAX_CLIENTS || stream.set_nonblocking(true).is_err()
            {
                log::warn!("more than {MAX_CLIENTS} verbs at one time: one is refused");
                continue;
            }
            let conversation = Conversation {
                stream,
                input: Vec::new(),
                asked: false,
                output: Vec::new(),
                answered: false,
            };
            self.clients.insert(Client(self.next), conversation);
            self.next += 1;
        }
    }
}

impl Conversation {
    /// The request, once it is whole. One only; an error means that the client is gone.
    fn read_line(&mut self) -> io::Result<Option<String>> {
        let mut buffer = [0; 1024];
        loop {
            let length = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.input.extend(buffer.iter().take(length));
            if self.input.len() > MAX_REQUEST {
                return Err(ErrorKind::InvalidData.into());
            }
        }
        let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        if std::mem::replace(&mut self.asked, true) {
            return Ok(None);
        }
        let line = self.input.get(..end).unwrap_or_default();
        Ok(Some(String::from_utf8_lossy(line).into_owned()))
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(length) => drop(self.output.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::{MAX_CLIENTS, Server};
    use crate::client;
    use crate::verb::{MAX_REQUEST, Reply, Verb};

    #[test]
    fn a_verb_arrives_and_its_reply_goes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let mut server = Server::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let asking = std::thread::spawn(move || {
            let mut heard = Vec::new();
            let mut hear = |text: &str| heard.push(text.to_owned());
            let reply =
                client::ask_at(&path, &Verb::Status { pcidom: None }, &mut hear).unwrap();
            (heard, reply)
        });
        let (client, verb) = loop {
            if let Some(verb) = server.take_verbs().pop() {
                break verb;
            }
        };
        assert_eq!(verb, Verb::Status { pcidom: None });
        for text in ["begun", "going on"] {
            server.reply(client, &Reply::Progress { text: text.into() });
        }
        // Longer than a socket's buffer: sent as far as it goes, and on.
        let reply = Reply::Done { text: "x".repeat(1 << 20) };
        server.reply(client, &reply);
        while !asking.is_finished() {
            server.flush();
        }
        let (heard, answer) = asking.join().unwrap();
        assert_eq!((heard, answer), (vec!["begun".into(), "going on".into()], reply));
    }

    #[test]
    fn so_many_may_wait_and_one_more_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let mut server = Server::bind(&path).unwrap();
        let connect = |_| UnixStream::connect(&path).unwrap();
        let mut waiting: Vec<_> = (0..MAX_CLIENTS).map(connect).collect();
        assert!(server.take_verbs().is_empty());
        let mut refused = connect(0);
        refused.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        assert!(server.take_verbs().is_empty());
        assert_eq!(refused.read(&mut [0]).ok(), Some(0));
        let last = waiting.last_mut().unwrap();
        last.write_all(b"fly\n").unwrap();
        assert!(server.take_verbs().is_empty());
        let mut answer = String::new();
        last.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("not a request"), "{answer}");
    }

    #[test]
    fn nonsense_is_answered_and_a_flood_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let mut server = Server::bind(&path).unwrap();
        let mut nonsense = UnixStream::connect(&path).unwrap();
        nonsense.write_all(b"fly\n").unwrap();
        let mut flood = UnixStream::connect(&path).unwrap();
        flood.write_all(&[b'x'; MAX_REQUEST + 1]).unwrap();
        assert!(server.take_verbs().is_empty());
        let mut answer = String::new();
        nonsense.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("not a request"), "{answer}");
        assert!(matches!(flood.read(&mut [0]), Ok(0) | Err(_)));
    }
}

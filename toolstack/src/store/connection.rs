//! XenStore over its socket in dom0, or over the kernel's device.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use pcidom_xenbus::wire::{self, HEADER, Kind, Message};

use super::{Body, Fired, MAX_TRIES, Nodes, Permissions, Store, StoreError};

/// Where xenstored listens.
const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
/// The kernel's own connection, for a XenStore in a domain of its own.
const DEVICE: &str = "/dev/xen/xenbus";

/// Most events that wait, each once: a domain may have 1000 nodes by XenStore's usual quota, but
/// makes and removes any number of names below a directory of its own.
pub const MAX_FIRED: usize = 1024;

#[derive(Debug)]
enum Channel {
    Socket(UnixStream),
    Device(File),
}

impl Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.read(buffer),
            Self::Device(file) => file.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.write_all(bytes),
            Self::Device(file) => file.write_all(bytes),
        }
    }
}

/// A connection to XenStore. A failed read or write breaks it for good: the owner ends, and
/// starts again from the record.
#[derive(Debug)]
pub struct Connection {
    channel: Channel,
    input: Vec<u8>,
    /// However often a node is written meanwhile, it waits here once.
    fired: BTreeSet<Fired>,
    /// What is watched: where to look when too much has happened to keep each place.
    watches: BTreeSet<Fired>,
    request: u32,
    transaction: u32,
    broken: Option<String>,
}

impl Connection {
    /// Connects.
    pub fn open() -> io::Result<Self> {
        for path in SOCKETS {
            if let Ok(socket) = UnixStream::connect(path) {
                return Ok(Self::over(Channel::Socket(socket)));
            }
        }
        let device = OpenOptions::new().read(true).write(true).open(DEVICE);
        device.map(|file| Self::over(Channel::Device(file))).map_err(|error| {
            let tried = SOCKETS.join(", ");
            io::Error::new(error.kind(), format!("tried {tried} and {DEVICE}: {error}"))
        })
    }

    /// Talks over a socket that is connected already.
    pub fn over_socket(socket: UnixStream) -> Self {
        Self::over(Channel::Socket(socket))
    }

    const fn over(channel: Channel) -> Self {
        Self {
            channel,
            input: Vec::new(),
            fired: BTreeSet::new(),
            watches: BTreeSet::new(),
            request: 0,
            transaction: 0,
            broken: None,
        }
    }

    /// Whether events wait that were read together with an answer.
    pub fn has_fired(&self) -> bool {
        !self.fired.is_empty()
    }

    /// The events so far. With `readable`, takes in first what has arrived.
    pub fn take_fired(&mut self, readable: bool) -> io::Result<BTreeSet<Fired>> {
        if readable {
            self.receive()?;
            while let Some(message) = self.next_message()? {
                self.sort_in(message);
            }
        }
        match &self.broken {
            Some(reason) => Err(io::Error::other(reason.clone())),
            None => Ok(std::mem::take(&mut self.fired)),
        }
    }

    /// The events of all that happened before this call: `XenStore` sends them and its answers
    /// in order, so whatever comes after an answer is younger than the question.
    pub fn catch_up(&mut self) -> io::Result<BTreeSet<Fired>> {
        // A failure breaks the connection, and is told there; what is read doesn't matter.
        let _ = self.ask(Kind::Read, &[b"/tool\0"]);
        self.take_fired(false)
    }

    /// Reads once; blocks if nothing has arrived.
    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; HEADER + wire::MAX_PAYLOAD];
        let length = loop {
            match self.channel.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if length == 0 {
            return Err(io::Error::other("XenStore closed the connection"));
        }
        self.input.extend(buffer.iter().take(length));
        Ok(())
    }

    /// Takes one whole message out of what was read.
    fn next_message(&mut self) -> io::Result<Option<Message>> {
        let Some(header) = self.input.first_chunk::<HEADER>() else { return Ok(None) };
        let length = wire::message_length(header).map_err(io::Error::other)?;
        let Some(bytes) = self.input.get(..length) else { return Ok(None) };
        let message = Message::decode(bytes);
        self.input.drain(..length);
        Ok(message)
    }

    fn sort_in(&mut self, message: Message) -> Option<Message> {
        if message.kind != Some(Kind::WatchEvent) {
            return Some(message);
        }
        let mut strings = message.strings().into_iter();
        if let (Some(path), Some(token)) = (strings.next(), strings.next()) {
            self.keep(Fired { path, token });
        }
        None
    }

    /// Keeps an event. Where too many wait, what its watch is on is looked at as a whole, as if
    /// the watch were new: that says at least as much.
    fn keep(&mut self, fired: Fired) {
        if self.fired.len() < MAX_FIRED {
            self.fired.insert(fired);
            return;
        }
        let same = self.watches.iter().filter(|watch| watch.token == fired.token);
        self.fired.extend(same.cloned());
    }

    /// Sends requests of one kind, and waits for the answers to all of them. None if a request is
    /// too long.
    fn exchange(
        &mut self,
        kind: Kind,
        requests: &[&[&[u8]]],
    ) -> io::Result<Option<Vec<Message>>> {
        let first = self.request.wrapping_add(1);
        for parts in requests {
            self.request = self.request.wrapping_add(1);
            let Some(bytes) = wire::encode(kind, self.request, self.transaction, parts)
            else {
                return Ok(None);
            };
            self.channel.write_all(&bytes)?;
        }
        let mut answers = vec![None; requests.len()];
        while answers.contains(&None) {
            self.receive()?;
            // All of it: an event behind the answer is read already, and whoever waits
            // for more to read would not see it until something else happens.
            while let Some(message) = self.next_message()? {
                let Some(message) = self.sort_in(message) else { continue };
                // An answer to a request that was given up has another number.
                let place = usize::try_from(message.request.wrapping_sub(first));
                if let Some(answer) = place.ok().and_then(|n| answers.get_mut(n)) {
                    answer.get_or_insert(message);
                }
            }
        }
        Ok(Some(answers.into_iter().flatten().collect()))
    }

    fn ask(&mut self, kind: Kind, parts: &[&[u8]]) -> Result<Message, StoreError> {
        self.ask_all(kind, &[parts])?.pop().unwrap_or(Err(StoreError::BadAnswer))
    }

    /// Asks for all this at once. An error of its own means that nothing was answered.
    fn ask_all(
        &mut self,
        kind: Kind,
        requests: &[&[&[u8]]],
    ) -> Result<Vec<Result<Message, StoreError>>, StoreError> {
        if let Some(reason) = &self.broken {
            return Err(StoreError::Other(reason.clone()));
        }
        match self.exchange(kind, requests) {
            Ok(Some(answers)) => Ok(answers.into_iter().map(checked).collect()),
            Ok(None) => Err(StoreError::TooLong),
            Err(error) => {
                let reason = format!("the connection to XenStore failed: {error}");
                self.broken = Some(reason.clone());
                Err(StoreError::Other(reason))
            }
        }
    }

    fn end_transaction(&mut self, commit: bool) -> Result<(), StoreError> {
        let verdict: &[u8] = if commit { b"T\0" } else { b"F\0" };
        let result = self.ask(Kind::TransactionEnd, &[verdict]);
        self.transaction = 0;
        result.map(drop)
    }
}

/// An answer that is not the word of an error.
fn checked(answer: Message) -> Result<Message, StoreError> {
    if answer.kind == Some(Kind::Error) {
        let word = answer.strings().into_iter().next().unwrap_or_default();
        return Err(StoreError::from_word(&word));
    }
    Ok(answer)
}

fn value(answer: Result<Message, StoreError>) -> Result<Option<String>, StoreError> {
    match answer {
        Ok(message) => Ok(Some(String::from_utf8_lossy(&message.payload).into_owned())),
        Err(StoreError::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Nodes for Connection {
    fn read(&mut self, path: &str) -> Result<Option<String>, StoreError> {
        value(self.ask(Kind::Read, &[path.as_bytes(), b"\0"]))
    }

    fn read_all(&mut self, paths: &[&str]) -> Result<Vec<Option<String>>, StoreError> {
        let requests: Vec<[&[u8]; 2]> =
            paths.iter().map(|path| [path.as_bytes(), b"\0"]).collect();
        let requests: Vec<&[&[u8]]> = requests.iter().map(|parts| &parts[..]).collect();
        self.ask_all(Kind::Read, &requests)?.into_iter().map(value).collect()
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, StoreError> {
        match self.ask(Kind::Directory, &[path.as_bytes(), b"\0"]) {
            Ok(message) => Ok(message.strings()),
            Err(StoreError::Gone) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, path: &str, value: &str) -> Result<(), StoreError> {
        self.ask(Kind::Write, &[path.as_bytes(), b"\0", value.as_bytes()]).map(drop)
    }

    fn remove(&mut self, path: &str) -> Result<(), StoreError> {
        match self.ask(Kind::Remove, &[path.as_bytes(), b"\0"]) {
            Ok(_) | Err(StoreError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn set_permissions(
        &mut self,
        path: &str,
        permissions: Permissions,
    ) -> Result<(), StoreError> {
        // The first entry names the owner and what everybody else may: nothing.
        let owner = format!("n{}\0", permissions.owner);
        let reader = permissions.reader.map(|id| format!("r{id}\0")).unwrap_or_default();
        let parts = [path.as_bytes(), b"\0", owner.as_bytes(), reader.as_bytes()];
        self.ask(Kind::SetPerms, &parts).map(drop)
    }
}

impl Store for Connection {
    fn transaction(&mut self, body: &mut Body<'_>) -> Result<(), StoreError> {
        for _ in 0..MAX_TRIES {
            let begun = self.ask(Kind::TransactionStart, &[b"\0"])?;
            let id = begun.strings().first().and_then(|id| id.parse().ok());
            self.transaction = id.ok_or(StoreError::BadAnswer)?;
            let result = body(self);
            match (self.end_transaction(result.is_ok()), result) {
                (Ok(()), Err(StoreError::Again)) | (Err(StoreError::Again), _) => {}
                (Ok(()), result) => return result,
                // The reason why it was to be dropped says more than that dropping failed.
                (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(error),
            }
        }
        Err(StoreError::Again)
    }

    fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        self.watches.insert(Fired { path: path.into(), token: token.into() });
        match self.ask(Kind::Watch, &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"]) {
            // Set already, with this token: it fires, which is all we want.
            Err(StoreError::Other(word)) if word == "EEXIST" => Ok(()),
            result => result.map(drop),
        }
    }

    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        self.watches.remove(&Fired { path: path.into(), token: token.into() });
        match self.ask(Kind::Unwatch, &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"])
        {
            Ok(_) | Err(StoreError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.channel {
            Channel::Socket(socket) => socket.as_fd(),
            Channel::Device(file) => file.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;

    use pcidom_xenbus::wire::{Kind, encode};

    use super::{Connection, MAX_FIRED};
    use crate::store::{Fired, MAX_TRIES, Nodes, Store, StoreError};

    /// Answers each request with the messages that `script` makes of its number.
    fn serve(script: impl Fn(u32) -> Vec<u8> + Send + 'static) -> Connection {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while theirs.read(&mut buffer).is_ok_and(|length| length >= 16) {
                let number = u32::from_le_bytes(buffer[4..8].try_into().unwrap());
                // In pieces: a stream has no messages.
                for piece in script(number).chunks(7) {
                    theirs.write_all(piece).unwrap();
                }
            }
        });
        Connection::over_socket(ours)
    }

    #[test]
    fn what_is_asked_together_is_answered_in_order() {
        // All three come at once, and the answers with an event between them.
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let xenstored = thread::spawn(move || {
            let one = encode(Kind::Read, 0, 0, &[b"a\0"]).unwrap().len();
            let mut questions = vec![0; 3 * one];
            theirs.read_exact(&mut questions).unwrap();
            let answer = |kind, number, text| encode(kind, number, 0, &[text]).unwrap();
            let answers = [
                answer(Kind::Read, 1, b"first".as_slice()),
                answer(Kind::WatchEvent, 0, b"x\0y\0"),
                answer(Kind::Error, 2, b"ENOENT\0"),
                answer(Kind::Read, 3, b""),
            ];
            theirs.write_all(&answers.concat()).unwrap();
            theirs
        });
        let mut store = Connection::over_socket(ours);
        let values = store.read_all(&["a", "b", "c"]).unwrap();
        assert_eq!(values, [Some("first".into()), None, Some(String::new())]);
        assert!(store.has_fired());
        drop(xenstored.join().unwrap());
    }

    #[test]
    fn events_between_question_and_answer_are_kept() {
        let mut store = serve(|number| {
            let event = encode(Kind::WatchEvent, 0, 0, &[b"a/b\0token\0"]).unwrap();
            let answer = encode(Kind::Read, number, 0, &[b"value"]).unwrap();
            [event, answer].concat()
        });
        assert_eq!(store.read("x"), Ok(Some("value".into())));
        assert!(store.has_fired());
        let fired = Fired { path: "a/b".into(), token: "token".into() };
        assert_eq!(store.take_fired(false).unwrap(), [fired].into());
    }

    #[test]
    fn what_happened_before_is_caught_up_with() {
        let mut store = serve(|number| {
            let event = encode(Kind::WatchEvent, 0, 0, &[b"a/b\0token\0"]).unwrap();
            let answer = encode(Kind::Error, number, 0, &[b"ENOENT\0"]).unwrap();
            [event, answer].concat()
        });
        let fired = Fired { path: "a/b".into(), token: "token".into() };
        assert_eq!(store.catch_up().unwrap(), [fired].into());
    }

    #[test]
    fn a_node_that_is_written_a_hundred_thousand_times_waits_once() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let flood = thread::spawn(move || {
            let event = encode(Kind::WatchEvent, 0, 0, &[b"a/b\0token\0"]).unwrap();
            let thousand = event.repeat(1000);
            for _ in 0..100 {
                theirs.write_all(&thousand).unwrap();
            }
            let answer = encode(Kind::Read, 1, 0, &[b"value"]).unwrap();
            theirs.write_all(&answer).unwrap();
            theirs
        });
        let mut store = Connection::over_socket(ours);
        assert_eq!(store.read("x"), Ok(Some("value".into())));
        drop(flood.join().unwrap());
        assert_eq!(store.fired.len(), 1);
    }

    #[test]
    fn a_transaction_that_always_meets_another_one_is_given_up() {
        let mut store = serve(|number| match number % 3 {
            1 => encode(Kind::TransactionStart, number, 0, &[b"9\0"]).unwrap(),
            0 => encode(Kind::Error, number, 0, &[b"EAGAIN\0"]).unwrap(),
            _ => encode(Kind::Write, number, 0, &[b"OK\0"]).unwrap(),
        });
        let mut runs = 0;
        let result = store.transaction(&mut |nodes| {
            runs += 1;
            nodes.write("x", "y")
        });
        assert_eq!((result, runs), (Err(StoreError::Again), MAX_TRIES));
    }

    #[test]
    fn any_number_of_names_is_no_more_than_a_look_at_the_whole() {
        let mut store = serve(|number| {
            let answer = encode(Kind::Watch, number, 0, &[b"OK\0"]).unwrap();
            let junk = |n| format!("home/said/{n}\0said/1\0");
            let flood = (0..2 * MAX_FIRED).flat_map(|n| {
                encode(Kind::WatchEvent, 0, 0, &[junk(n).as_bytes()]).unwrap()
            });
            // The second question brings the flood, and something of another watch behind it.
            let other = encode(Kind::WatchEvent, 0, 0, &[b"link/state\0link/2\0"]);
            let flood = flood.chain(other.unwrap()).filter(|_| number > 2);
            flood.chain(answer).collect()
        });
        for (path, token) in [("home/said", "said/1"), ("link", "link/2"), ("x", "y")] {
            store.watch(path, token).unwrap();
        }
        let fired = store.take_fired(false).unwrap();
        let whole =
            |path: &str, token: &str| Fired { path: path.into(), token: token.into() };
        assert_eq!(fired.len(), MAX_FIRED + 2);
        assert!(fired.contains(&whole("home/said", "said/1")));
        assert!(fired.contains(&whole("link", "link/2")), "nobody else's word is lost");
    }

    #[test]
    fn what_is_not_utf_8_is_replaced_and_no_message() {
        let mut store = serve(|number| {
            encode(Kind::Read, number, 0, &[b"gen=1 seq=1 unmap\xff\xfe"]).unwrap()
        });
        let text = store.read("x").unwrap().unwrap();
        assert_eq!(text, "gen=1 seq=1 unmap\u{fffd}\u{fffd}");
        assert!(text.parse::<pcidom_loan::LeaseRequest>().is_err());
        assert!(text.parse::<pcidom_loan::LoanReport>().is_err());
    }

    #[test]
    fn an_event_that_was_read_with_the_answer_is_not_waited_for() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        // There before the question, so that one read brings both.
        let event = encode(Kind::WatchEvent, 0, 0, &[b"a/b\0token\0"]).unwrap();
        let answer = encode(Kind::Read, 1, 0, &[b"value"]).unwrap();
        theirs.write_all(&[answer, event].concat()).unwrap();
        let mut store = Connection::over_socket(ours);
        assert_eq!(store.read("x"), Ok(Some("value".into())));
        assert!(store.has_fired());
    }

    #[test]
    fn a_dead_guests_path_is_not_there() {
        let mut store =
            serve(|number| encode(Kind::Error, number, 0, &[b"EACCES\0"]).unwrap());
        assert_eq!(store.read("x"), Ok(None));
        assert_eq!(store.list("x"), Ok(vec![]));
        assert_eq!(store.write("x", "y"), Err(StoreError::Gone));
    }

    #[test]
    fn a_broken_connection_stays_broken() {
        let mut store = serve(|_| b"nonsense that is no message".to_vec());
        assert!(store.read("x").is_err());
        assert!(store.read("x").is_err());
        assert!(store.take_fired(false).is_err());
    }

    #[test]
    fn a_transaction_that_met_another_one_runs_again() {
        let mut store = serve(|number| match number {
            1 | 4 => encode(Kind::TransactionStart, number, 0, &[b"9\0"]).unwrap(),
            3 => encode(Kind::Error, number, 0, &[b"EAGAIN\0"]).unwrap(),
            _ => encode(Kind::Write, number, 0, &[b"OK\0"]).unwrap(),
        });
        let mut runs = 0;
        let result = store.transaction(&mut |nodes| {
            runs += 1;
            nodes.write("x", "y")
        });
        assert_eq!((result, runs), (Ok(()), 2));
    }
}

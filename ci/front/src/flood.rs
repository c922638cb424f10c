//! A flood of XenStore: requests of all kinds, as fast as the ring takes them, and how many
//! were answered:
//!
//! ```text
//! @@FRONT flood requests=ANSWERED refused=REFUSED events=FIRED
//! @@FRONT flood done requests=ANSWERED refused=REFUSED events=FIRED
//! ```
//!
//! Nothing is waited for: while there is no room the answers are taken, and the CPU is left
//! to whoever makes room. What XenStore refuses is as much work for it as what it does.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use pcidom_xenbus::wire::{Kind, Message, encode};

use crate::say::say;
use crate::xen::{Xen, give_way, now};

/// How often the count is printed.
const PAUSE: Duration = Duration::from_secs(1);

/// Directories that are written: the domain's own, and the PCI link's, if it has one.
const PLACES: [&str; 2] = ["data", "device/pci/0"];

/// Nodes that are made in each: few, so that no quota ends the flood.
const NODES: u32 = 16;

/// Transactions that are open at one time: XenStore allows a domain 10.
const MAX_OPEN: usize = 8;

/// The longest value: a request with it fits into the ring (1024 bytes) beside small ones.
const LONG: &str = concat!(
    "................................................................",
    "................................................................",
    "................................................................",
    "................................................................",
    "................................................................",
    "................................................................",
    "................................................................",
    "................................................................",
);

/// One request of a round.
#[derive(Clone, Copy)]
enum Ask {
    Watch,
    Unwatch,
    List,
    Read,
    Write(&'static str),
    Remove,
    /// The frontend's state; the numbers are those of io/xenbus.h.
    State(&'static str),
    /// A transaction, which is aborted after a write in it.
    Transaction,
}

/// A round, in one of the places.
const ROUND: [Ask; 12] = [
    Ask::Watch,
    Ask::Write("1"),
    Ask::State("4"),
    Ask::Transaction,
    Ask::Write(LONG),
    Ask::List,
    Ask::State("8"),
    Ask::Read,
    Ask::Transaction,
    Ask::Write("2"),
    Ask::Remove,
    Ask::Unwatch,
];

/// What the answer to a request means for a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Begin,
    End,
}

/// What was answered so far.
#[derive(Default)]
struct Count {
    requests: u64,
    refused: u64,
    events: u64,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, refused, events } = self;
        write!(f, "requests={requests} refused={refused} events={events}")
    }
}

#[derive(Default)]
struct Flood {
    count: Count,
    /// Requests made so far.
    made: usize,
    /// Requests that go first, and what they mean for a transaction: at most two for each
    /// that is open, and one that found no room.
    first: VecDeque<Vec<u8>>,
    /// Begins and ends that are not answered yet, by their numbers: at most one for each
    /// transaction.
    steps: Vec<(u32, Step)>,
    /// Transactions that are begun and have not ended.
    open: usize,
}

/// Floods XenStore for that time.
pub(crate) fn flood(xen: &mut Xen, time: Duration) {
    let mut flood = Flood::default();
    let begun = now();
    let (end, mut next) = (begun.after(time), begun.after(PAUSE));
    loop {
        let mut moved = false;
        if let Some(bytes) = xen.store.receive() {
            flood.came(xen, &bytes);
            moved = true;
        }
        moved |= flood.send(xen);
        let now = now();
        if now >= end {
            return say!("@@FRONT flood done {}", flood.count);
        }
        if now >= next {
            next = now.after(PAUSE);
            say!("@@FRONT flood {}", flood.count);
        }
        if !moved {
            give_way();
        }
    }
}

impl Flood {
    /// Puts the next request, if there is room.
    fn send(&mut self, xen: &mut Xen) -> bool {
        let Some(message) = self.first.pop_front().or_else(|| self.make(xen)) else {
            return false;
        };
        let sent = xen.store.send(&message);
        if !sent {
            self.first.push_front(message);
        }
        sent
    }

    /// The next request of the round.
    fn make(&mut self, xen: &mut Xen) -> Option<Vec<u8>> {
        let round = self.made / ROUND.len();
        let ask = *ROUND.get(self.made % ROUND.len())?;
        let place = PLACES.get(round % PLACES.len())?;
        self.made = self.made.wrapping_add(1);
        let number = u32::try_from(round).unwrap_or_default() % NODES;
        let node = format!("{place}/flood-{number}");
        let (node, place) = (node.as_bytes(), place.as_bytes());
        let request = |kind, parts: &[&[u8]]| (kind, parts.concat());
        let (kind, payload) = match ask {
            Ask::Watch => request(Kind::Watch, &[place, b"\0flood\0"]),
            Ask::Unwatch => request(Kind::Unwatch, &[place, b"\0flood\0"]),
            Ask::List => request(Kind::Directory, &[place, b"\0"]),
            Ask::Read => request(Kind::Read, &[node, b"\0"]),
            Ask::Write(value) => request(Kind::Write, &[node, b"\0", value.as_bytes()]),
            Ask::Remove => request(Kind::Remove, &[node, b"\0"]),
            Ask::State(state) => {
                request(Kind::Write, &[place, b"/state\0", state.as_bytes()])
            }
            Ask::Transaction if self.open < MAX_OPEN => {
                request(Kind::TransactionStart, &[b"\0"])
            }
            Ask::Transaction => request(Kind::Read, &[b"domid\0"]),
        };
        let number = next_number(xen);
        if kind == Kind::TransactionStart {
            self.open += 1;
            self.steps.push((number, Step::Begin));
        }
        encode(kind, number, 0, &[&payload])
    }

    /// Takes in what XenStore sent.
    fn came(&mut self, xen: &mut Xen, bytes: &[u8]) {
        let Some(answer) = Message::decode(bytes) else { return };
        if answer.kind == Some(Kind::WatchEvent) {
            self.count.events += 1;
            return;
        }
        self.count.requests += 1;
        let refused = answer.kind == Some(Kind::Error);
        self.count.refused += u64::from(refused);
        let mut steps = self.steps.iter();
        let Some(at) = steps.position(|(number, _)| *number == answer.request) else {
            return;
        };
        let (_, step) = self.steps.swap_remove(at);
        let begun = answer.strings().first().and_then(|id| id.parse().ok());
        match begun.filter(|_| step == Step::Begin && !refused) {
            Some(transaction) => self.abort(xen, transaction),
            None => self.open = self.open.saturating_sub(1),
        }
    }

    /// Writes in a transaction and aborts it.
    fn abort(&mut self, xen: &mut Xen, transaction: u32) {
        let (write, end) = (next_number(xen), next_number(xen));
        self.steps.push((end, Step::End));
        let node: &[u8] = b"data/flood-transaction\0";
        self.first.extend(encode(Kind::Write, write, transaction, &[node, b"1"]));
        self.first.extend(encode(Kind::TransactionEnd, end, transaction, &[b"F\0"]));
    }
}

fn next_number(xen: &mut Xen) -> u32 {
    xen.requests = xen.requests.wrapping_add(1);
    xen.requests
}

/// The time that the command line gives: `flood=SECONDS`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| format!("flood={text} is no number"))?;
    Ok(Duration::from_secs(seconds))
}

//! A XenStore client without a connection: jobs in, messages out, messages in, events out.
//!
//! A job is an async procedure over a [`Store`]; many run at the same time, each with one
//! request in flight. Watch events are coalesced by token, so a peer that rewrites a node a
//! hundred thousand times costs one pending token.
//!
//! Request ids carry the client's generation in their top byte: after a restart in place,
//! replies to the generation before are recognised and dropped.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::future::Future;

use pcidom_script::{Progress, Script};
use vecmap::{VecMap, VecSet};

use crate::store::{Reply, Request, Store, StoreError};
use crate::wire::{self, Kind, Message};

/// Requests in flight at one time. XenStore holds 20 for an unprivileged domain
/// (`quota-max-outstanding`); the rest waits here, in order.
pub const MAX_IN_FLIGHT: usize = 16;

/// Transactions open at one time. XenStore allows a domain 10 (`quota-transactions`) and
/// refuses the next; one that waits here begins when another one ends.
pub const MAX_TRANSACTIONS: usize = 8;

/// Longest request that is sent: header and payload fit the 1024 bytes of a ring whole.
pub const MAX_REQUEST: usize = 1024;

const SEQUENCE_BITS: u32 = 24;

type Job<T> = Script<Request, Reply, T>;

/// The client. `T` is what jobs result in: one type for all jobs of a program.
pub struct Client<T> {
    generation: u8,
    sequence: u32,
    waiting: VecDeque<(Request, Job<T>)>,
    in_flight: VecMap<u32, (Kind, Job<T>)>,
    /// Begun, or about to be.
    transactions: usize,
    done: VecDeque<T>,
    fired: VecSet<String>,
}

impl<T> fmt::Debug for Client<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("waiting", &self.waiting.len())
            .field("in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}

impl<T: 'static> Client<T> {
    /// A client whose requests are marked with `generation`.
    pub const fn new(generation: u8) -> Self {
        Self {
            generation,
            sequence: 0,
            waiting: VecDeque::new(),
            in_flight: VecMap::new(),
            transactions: 0,
            done: VecDeque::new(),
            fired: VecSet::new(),
        }
    }

    /// Starts a job; its result comes out of [`Client::next_done`].
    pub fn run<F, Fut>(&mut self, job: F)
    where
        F: FnOnce(Store) -> Fut,
        Fut: Future<Output = T> + 'static,
    {
        self.advance(Script::start(|asker| job(Store::new(asker))));
    }

    /// No job runs.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    /// Gives back the memory that more requests at a time once needed.
    pub fn give_back_room(&mut self) {
        self.waiting.shrink_to_fit();
        self.in_flight.shrink_to_fit();
        self.done.shrink_to_fit();
        self.fired.shrink_to_fit();
    }

    /// The next message to send, whole. Call it again until it has none, and hand back
    /// with [`Client::unsend`] what could not be sent.
    pub fn next_message(&mut self) -> Option<(u32, Vec<u8>)> {
        while self.in_flight.len() < MAX_IN_FLIGHT {
            let (request, job) = self.next_waiting()?;
            let id = self.next_id();
            let bytes =
                wire::encode(request.kind, id, request.transaction, &[&request.payload]);
            match bytes.filter(|bytes| bytes.len() <= MAX_REQUEST) {
                Some(bytes) => {
                    self.in_flight.insert(id, (request.kind, job));
                    self.transactions +=
                        usize::from(request.kind == Kind::TransactionStart);
                    return Some((id, bytes));
                }
                None => self.advance(job.resume(Err(StoreError::TooLong))),
            }
        }
        None
    }

    /// Takes a message back that found no room: it is the next one again.
    pub fn unsend(&mut self, id: u32, bytes: &[u8]) {
        let Some((kind, job)) = self.in_flight.remove(&id) else { return };
        self.transactions -= usize::from(kind == Kind::TransactionStart);
        if let Some(Message { kind: Some(kind), transaction, payload, .. }) =
            Message::decode(bytes)
        {
            self.waiting.push_front((Request { kind, transaction, payload }, job));
        }
    }

    /// Takes in a whole message that has arrived.
    pub fn receive(&mut self, bytes: &[u8]) {
        let Some(message) = Message::decode(bytes) else { return };
        if message.kind == Some(Kind::WatchEvent) {
            // The token alone says what to look at; the path may be anything below.
            if let Some(token) = message.strings().into_iter().nth(1) {
                self.fired.insert(token);
            }
            return;
        }
        // Not one of ours: of an earlier generation, or already given up.
        let Some((asked, job)) = self.in_flight.remove(&message.request) else { return };
        let failed = message.kind == Some(Kind::Error);
        // An end that fails is an end as well.
        if asked == Kind::TransactionEnd || asked == Kind::TransactionStart && failed {
            self.transactions -= 1;
        }
        let reply = if failed {
            let word = message.strings().into_iter().next().unwrap_or_default();
            Err(StoreError::from_word(&word))
        } else {
            Ok(message.payload)
        };
        self.advance(job.resume(reply));
    }

    /// The result of a job that has ended.
    pub fn next_done(&mut self) -> Option<T> {
        self.done.pop_front()
    }

    /// The token of a watch that has fired, however often it did.
    pub fn next_fired(&mut self) -> Option<String> {
        self.fired.pop()
    }

    /// The first request that may be sent now.
    fn next_waiting(&mut self) -> Option<(Request, Job<T>)> {
        let full = self.transactions >= MAX_TRANSACTIONS;
        let may = |request: &Request| !full || request.kind != Kind::TransactionStart;
        let at = self.waiting.iter().position(|(request, _)| may(request))?;
        self.waiting.remove(at)
    }

    fn advance(&mut self, progress: Progress<Request, Reply, T>) {
        match progress {
            Progress::Asks(request, job) => self.waiting.push_back((request, job)),
            Progress::Done(result) => self.done.push_back(result),
        }
    }

    fn next_id(&mut self) -> u32 {
        loop {
            self.sequence = (self.sequence + 1) % (1 << SEQUENCE_BITS);
            let id = u32::from(self.generation) << SEQUENCE_BITS | self.sequence;
            if !self.in_flight.contains_key(&id) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Client, MAX_IN_FLIGHT, MAX_TRANSACTIONS};
    use crate::store::{Snapshot, StoreError};
    use crate::wire::{Kind, Message, encode};

    /// Answers what the client sends out of `nodes` until nothing is left to send.
    fn serve<T: 'static>(client: &mut Client<T>, nodes: &mut BTreeMap<String, String>) {
        while let Some((id, bytes)) = client.next_message() {
            let message = Message::decode(&bytes).unwrap();
            let strings = message.strings();
            let kind = message.kind.unwrap();
            let answer = match kind {
                Kind::Read => nodes.get(&strings[0]).cloned().ok_or("ENOENT"),
                Kind::Write => {
                    nodes.insert(strings[0].clone(), strings[1].clone());
                    Ok("OK\0".into())
                }
                Kind::Directory => {
                    let prefix = format!("{}/", strings[0]);
                    let names =
                        nodes.keys().filter_map(|path| path.strip_prefix(&prefix));
                    Ok(names.map(|name| format!("{name}\0")).collect())
                }
                Kind::TransactionStart => Ok("5\0".into()),
                Kind::TransactionEnd => Ok("OK\0".into()),
                other => panic!("{other:?}"),
            };
            let reply = match answer {
                Ok(text) => encode(kind, id, 0, &[text.as_bytes()]),
                Err(word) => encode(Kind::Error, id, 0, &[word.as_bytes(), b"\0"]),
            };
            client.receive(&reply.unwrap());
        }
    }

    #[test]
    fn jobs_read_write_and_take_snapshots() {
        let mut client: Client<Result<Snapshot, StoreError>> = Client::new(1);
        let mut nodes = BTreeMap::new();
        client.run(async |store| {
            store.write("dir/a", "1").await?;
            store.write_all(None, &[("dir/b".into(), "2".into())]).await?;
            // Beside what is not as expected nothing is written.
            for (b, expected) in [("3", Err(StoreError::Gone)), ("2", Ok(()))] {
                let mark = ("dir/b".into(), b.into());
                let nodes = [("dir/a".into(), b.into())];
                assert_eq!(store.write_all(Some(&mark), &nodes).await, expected);
            }
            store.write("dir/c", "4").await?;
            store.snapshot("dir", |name| name != "c", 10).await
        });
        serve(&mut client, &mut nodes);
        let snapshot = client.next_done().unwrap().unwrap();
        assert_eq!(snapshot, [("a".into(), "2".into()), ("b".into(), "2".into())].into());
    }

    #[test]
    fn no_more_transactions_are_open_than_xenstore_allows() {
        let mut client: Client<bool> = Client::new(1);
        for _ in 0..30 {
            client.run(async |store| store.snapshot("dir", |_| true, 1).await.is_ok());
        }
        let mut open: usize = 0;
        while let Some((id, bytes)) = client.next_message() {
            let kind = Message::decode(&bytes).unwrap().kind.unwrap();
            // Every other one does not begin: that is not held against it.
            let fails = kind == Kind::TransactionStart && id % 2 == 0;
            match kind {
                Kind::TransactionStart => open += usize::from(!fails),
                Kind::TransactionEnd => open -= 1,
                _ => {}
            }
            assert!(open <= MAX_TRANSACTIONS);
            let reply = match fails {
                true => encode(Kind::Error, id, 0, &[b"ENOSPC\0"]),
                false => encode(kind, id, 0, &[b"5\0"]),
            };
            client.receive(&reply.unwrap());
        }
        assert_eq!(core::iter::from_fn(|| client.next_done()).count(), 30);
    }

    #[test]
    fn a_watch_that_fires_often_is_one_event() {
        let mut client: Client<()> = Client::new(1);
        for _ in 0..100_000 {
            client.receive(&encode(Kind::WatchEvent, 0, 0, &[b"a/b\0token\0"]).unwrap());
        }
        assert_eq!(client.next_fired().as_deref(), Some("token"));
        assert_eq!(client.next_fired(), None);
    }

    #[test]
    fn replies_to_an_earlier_generation_are_dropped() {
        let mut before: Client<bool> = Client::new(1);
        before.run(async |store| store.read("x").await.is_ok());
        let (old, _) = before.next_message().unwrap();
        let mut after: Client<bool> = Client::new(2);
        after.run(async |store| store.read("x").await.is_ok());
        let (new, _) = after.next_message().unwrap();
        after.receive(&encode(Kind::Read, old, 0, &[b"old"]).unwrap());
        assert_eq!(after.next_done(), None);
        after.receive(&encode(Kind::Read, new, 0, &[b"new"]).unwrap());
        assert_eq!(after.next_done(), Some(true));
    }

    #[test]
    fn no_more_than_the_quota_is_in_flight_and_a_full_ring_loses_nothing() {
        let mut client: Client<String> = Client::new(1);
        for n in 0..100 {
            client.run(async move |store| store.read(&n.to_string()).await.unwrap());
        }
        let (id, bytes) = client.next_message().unwrap();
        client.unsend(id, &bytes);
        let mut sent = Vec::new();
        while let Some(message) = client.next_message() {
            sent.push(message);
        }
        assert_eq!(sent.len(), MAX_IN_FLIGHT);
        assert_eq!(Message::decode(&sent[0].1).unwrap().strings(), ["0"]);
    }
}

//! XenStore over a domain's ring (io/xs_wire.h): 1024 bytes each way, whole messages in,
//! replies in pieces if they have to be.

use std::collections::VecDeque;

use pcidom_xenbus::DomId;
use pcidom_xenbus::wire::{self, HEADER, Kind, Message};

use super::tree::Operation;
use super::{Change, ConnectionId, Errno, Permissions, Rights, XenStore, absolute};
use crate::agenda::Happening;

/// Bytes of the ring, each way (`XENSTORE_RING_SIZE`).
pub(super) const RING_SIZE: usize = 1024;
/// Replies that a domain may leave lying before XenStore stops reading its requests
/// (`quota-max-outstanding`).
const MAX_OUTSTANDING: usize = 20;

/// What XenStore holds for a domain that speaks over a ring.
#[derive(Debug, Default)]
pub(super) struct Ring {
    requests: VecDeque<u8>,
    replies: VecDeque<u8>,
    /// Replies and events that found no room in the ring yet.
    backlog: VecDeque<Vec<u8>>,
    /// A request is being served.
    serving: bool,
    /// A header made no sense: XenStore ignores this domain from here on.
    broken: bool,
}

impl Ring {
    pub(super) fn post_event(&mut self, path: &str, token: &str) {
        let parts = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        self.backlog.extend(wire::encode(Kind::WatchEvent, 0, 0, &parts));
    }

    /// Takes a whole request out of the ring.
    fn take_request(&mut self) -> Option<Vec<u8>> {
        let header: Vec<u8> = self.requests.iter().take(HEADER).copied().collect();
        let header = header.first_chunk::<HEADER>()?;
        let Ok(length) = wire::message_length(header) else {
            self.broken = true;
            return None;
        };
        // A request longer than the ring comes in pieces; nobody here sends one.
        (self.requests.len() >= length).then(|| self.requests.drain(..length).collect())
    }

    fn accepts(&self) -> bool {
        !self.broken && self.backlog.len() < MAX_OUTSTANDING
    }
}

impl XenStore {
    /// Connects a domain by its ring.
    pub(crate) fn connect_ring(&self, domain: DomId) -> RingEnd {
        let id = self.add_client(domain, Some(Ring::default()));
        RingEnd { store: self.clone(), id, domain, partial: Vec::new() }
    }

    /// Serves one request of a domain's ring: XenStore's time for it is over.
    pub(crate) fn serve(&self, domain: DomId) {
        let Some(id) = self.ring_of(domain) else { return };
        let request = self.with_ring(id, |ring| {
            ring.serving = false;
            ring.take_request()
        });
        let Some(request) = request.flatten() else { return };
        if let Some(message) = Message::decode(&request) {
            let reply = self.answer(id, domain, &message);
            self.with_ring(id, |ring| ring.backlog.extend(reply));
        }
        // Room was made, in any case.
        self.xen.raise_store_event(domain);
        self.push_replies(id);
        self.serve_next(id, domain);
    }

    /// Lets the next request be served after XenStore's time for one.
    fn serve_next(&self, id: ConnectionId, domain: DomId) {
        let next = self.with_ring(id, |ring| {
            let next = !ring.serving && !ring.requests.is_empty() && ring.accepts();
            ring.serving |= next;
            next
        });
        if next == Some(true) {
            let delay = self.xen.delays().store;
            self.xen.agenda().within(&delay, Happening::StoreServes(domain));
        }
    }

    /// Moves into the ring what has room there.
    pub(super) fn push_replies(&self, id: ConnectionId) {
        let domain = self.state.borrow().clients.get(&id).map(|client| client.domain);
        let moved = self.with_ring(id, |ring| {
            let mut moved = false;
            while ring.replies.len() < RING_SIZE {
                let Some(first) = ring.backlog.front_mut() else { break };
                let room = (RING_SIZE - ring.replies.len()).min(first.len());
                ring.replies.extend(first.drain(..room));
                if first.is_empty() {
                    ring.backlog.pop_front();
                }
                moved = true;
            }
            moved
        });
        if let (Some(domain), Some(true)) = (domain, moved) {
            self.xen.raise_store_event(domain);
        }
    }

    fn ring_of(&self, domain: DomId) -> Option<ConnectionId> {
        let state = self.state.borrow();
        let mut clients = state.clients.iter();
        let own = clients.find(|(_, c)| c.domain == domain && c.ring.is_some());
        own.map(|(id, _)| *id)
    }

    fn with_ring<T>(
        &self,
        id: ConnectionId,
        act: impl FnOnce(&mut Ring) -> T,
    ) -> Option<T> {
        let mut state = self.state.borrow_mut();
        state.clients.get_mut(&id)?.ring.as_mut().map(act)
    }

    fn answer(&self, id: ConnectionId, who: DomId, message: &Message) -> Option<Vec<u8>> {
        let result = message.kind.ok_or(Errno::Enosys).and_then(|kind| {
            self.perform(id, who, kind, message).map(|reply| (kind, reply))
        });
        let (request, transaction) = (message.request, message.transaction);
        match result {
            Ok((kind, payload)) if payload.len() <= wire::MAX_PAYLOAD => {
                wire::encode(kind, request, transaction, &[&payload])
            }
            Ok(_) => wire::encode(Kind::Error, request, transaction, &[b"E2BIG\0"]),
            Err(errno) => {
                let parts = [errno.word().as_bytes(), b"\0"];
                wire::encode(Kind::Error, request, transaction, &parts)
            }
        }
    }

    fn perform(
        &self,
        id: ConnectionId,
        who: DomId,
        kind: Kind,
        message: &Message,
    ) -> Result<Vec<u8>, Errno> {
        let strings = message.strings();
        let first = strings.first().ok_or(Errno::Einval);
        let second = strings.get(1).ok_or(Errno::Einval);
        let done = || b"OK\0".to_vec();
        let path = || absolute(who, first.map(String::as_str)?, false);
        match kind {
            Kind::TransactionStart => Ok(format!("{}\0", self.begin(id)?).into_bytes()),
            Kind::TransactionEnd => {
                let commit = match first?.as_str() {
                    "T" => true,
                    "F" => false,
                    _ => return Err(Errno::Einval),
                };
                self.end(id, message.transaction, commit).map(|()| done())
            }
            Kind::Watch => self.watch(id, first?, second?).map(|()| done()),
            Kind::Unwatch => self.unwatch(id, first?, second?).map(|()| done()),
            _ => {
                let path = path()?;
                self.operate(id, message.transaction, |op| {
                    node_request(op, kind, &path, &message.payload, &strings)
                })
            }
        }
    }
}

/// A request that reads or changes one node.
fn node_request(
    op: &mut Operation<'_>,
    kind: Kind,
    path: &str,
    payload: &[u8],
    strings: &[String],
) -> Result<(Vec<u8>, Vec<Change>), Errno> {
    let done = |changes| Ok((b"OK\0".to_vec(), changes));
    match kind {
        Kind::Read => Ok((op.read(path)?, vec![])),
        Kind::Directory => {
            let names = op.directory(path)?.into_iter();
            let text: String = names.map(|name| format!("{name}\0")).collect();
            Ok((text.into_bytes(), vec![]))
        }
        Kind::GetPerms => {
            let permissions = op.permissions(path)?;
            Ok((permissions_text(&permissions).into_bytes(), vec![]))
        }
        Kind::Write => {
            let value = payload.iter().position(|byte| *byte == 0).map(|end| end + 1);
            let value =
                value.and_then(|start| payload.get(start..)).ok_or(Errno::Einval)?;
            done(vec![op.write(path, value)?])
        }
        Kind::Mkdir => done(op.mkdir(path)?.into_iter().collect()),
        Kind::Remove => done(op.remove(path)?),
        Kind::SetPerms => {
            let entries = strings.get(1..).ok_or(Errno::Einval)?;
            done(vec![op.set_permissions(path, parse_permissions(entries)?)?])
        }
        _ => Err(Errno::Enosys),
    }
}

fn permissions_text(permissions: &Permissions) -> String {
    let letter = |rights: Rights| match (rights.read, rights.write) {
        (false, false) => 'n',
        (true, false) => 'r',
        (false, true) => 'w',
        (true, true) => 'b',
    };
    let owner = (permissions.owner, permissions.others);
    let entries = [owner].into_iter().chain(permissions.named.iter().copied());
    entries.map(|(domain, rights)| format!("{}{domain}\0", letter(rights))).collect()
}

fn parse_permissions(entries: &[String]) -> Result<Permissions, Errno> {
    let parse = |entry: &String| {
        let mut chars = entry.chars();
        let rights = match chars.next() {
            Some('n') => Rights::NONE,
            Some('r') => Rights::READ,
            Some('w') => Rights { read: false, write: true },
            Some('b') => Rights::BOTH,
            _ => return Err(Errno::Einval),
        };
        let domain = chars.as_str().parse().map_err(|_| Errno::Einval)?;
        Ok((domain, rights))
    };
    let mut entries = entries.iter().map(parse);
    let (owner, others) = entries.next().ok_or(Errno::Einval)??;
    Ok(Permissions { owner, others, named: entries.collect::<Result<_, _>>()? })
}

/// The domain's end of its ring.
#[derive(Debug)]
pub(crate) struct RingEnd {
    store: XenStore,
    id: ConnectionId,
    domain: DomId,
    /// The start of a reply whose rest is still to come.
    partial: Vec<u8>,
}

impl RingEnd {
    /// Puts a whole message into the ring, or nothing if there is no room now.
    pub(crate) fn send(&self, message: &[u8]) -> bool {
        let sent = self.store.with_ring(self.id, |ring| {
            let fits = ring.requests.len() + message.len() <= RING_SIZE;
            if fits {
                ring.requests.extend(message);
            }
            fits
        });
        self.store.serve_next(self.id, self.domain);
        sent.unwrap_or(false)
    }

    /// Takes a whole message out of the ring, if one is there. What came of the next one
    /// is kept.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(header) = self.partial.first_chunk::<HEADER>()
                && let Ok(length) = wire::message_length(header)
                && self.partial.len() >= length
            {
                return Some(self.partial.drain(..length).collect());
            }
            let bytes =
                self.store.with_ring(self.id, |ring| ring.replies.split_off(0))?;
            if bytes.is_empty() {
                return None;
            }
            self.partial.extend(bytes);
            // Room for what waits; that raises the event again if something comes.
            self.store.push_replies(self.id);
            self.store.serve_next(self.id, self.domain);
        }
    }
}

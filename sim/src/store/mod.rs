//! XenStore: nodes with permissions, watches, transactions, quotas, connections.
//!
//! Code in dom0 and peers use a [`Connection`] and get answers at once; watch events reach
//! them as mail that wakes their domain. The domain under test speaks messages over its
//! ring ([`ring`]), with the ring's size and XenStore's time for each request.

mod connection;
mod history;
mod ring;
mod transactions;
mod tree;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;

use pcidom_xenbus::DomId;

pub use connection::Connection;
pub use history::Seen;
pub use tree::{Errno, Permissions, Rights};

use crate::xen::Xen;
use history::History;
use ring::Ring;
pub(crate) use ring::RingEnd;
use transactions::{Inside, Transaction};
use tree::{Change, Operation, Tree};

/// Watches of one domain, by default (`quota-watches`).
const MAX_WATCHES: usize = 128;
/// Transactions a domain has open (`quota-transactions`).
const MAX_TRANSACTIONS: usize = 10;
/// Bytes of an absolute path (`XENSTORE_ABS_PATH_MAX`).
const MAX_ABSOLUTE: usize = 3072;
/// Bytes of a relative path (`XENSTORE_REL_PATH_MAX`).
const MAX_RELATIVE: usize = 2048;

/// Told of domains that appear.
pub const INTRODUCE: &str = "@introduceDomain";
/// Told of domains that disappear.
pub const RELEASE: &str = "@releaseDomain";

/// One end that XenStore serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ConnectionId(u32);

#[derive(Debug)]
struct Watch {
    /// As the caller wrote it; events below it are told in the same way.
    given: String,
    absolute: String,
    token: String,
}

#[derive(Debug)]
struct Client {
    domain: DomId,
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
    mail: VecDeque<(String, String)>,
    ring: Option<Ring>,
}

struct State {
    tree: Tree,
    clients: BTreeMap<ConnectionId, Client>,
    next_client: u32,
    requests: u64,
    history: History,
    max_watches: usize,
}

/// The store. Clones are the same one.
#[derive(Clone)]
pub struct XenStore {
    xen: Xen,
    state: Rc<RefCell<State>>,
}

impl fmt::Debug for XenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("XenStore")
    }
}

impl XenStore {
    /// An empty store.
    pub fn new(xen: &Xen) -> Self {
        let state = State {
            tree: Tree::new(),
            clients: BTreeMap::new(),
            next_client: 0,
            requests: 0,
            history: History::default(),
            max_watches: MAX_WATCHES,
        };
        Self { xen: xen.clone(), state: Rc::new(RefCell::new(state)) }
    }

    /// A connection of code in `domain`, as over dom0's socket or a kernel's own ring.
    pub fn connect(&self, domain: DomId) -> Connection {
        Connection::new(self.clone(), self.add_client(domain, None))
    }

    /// As if it had been started with other quotas for each domain.
    pub fn set_quotas(&self, watches: usize, nodes: usize) {
        let mut state = self.state.borrow_mut();
        state.max_watches = watches;
        state.tree.max_nodes = nodes;
    }

    /// Requests served so far, of everybody.
    pub fn requests(&self) -> u64 {
        self.state.borrow().requests
    }

    /// Tells who watches [`INTRODUCE`].
    pub fn introduce_domain(&self, domain: DomId) {
        log::debug!("store: domain {domain} introduced");
        self.fire_special(INTRODUCE);
    }

    /// Forgets a dead domain: its connections, watches and nodes (as of 4.17, advisory
    /// 419), and tells who watches [`RELEASE`].
    pub fn release_domain(&self, domain: DomId) {
        let paths = {
            let mut state = self.state.borrow_mut();
            state.clients.retain(|_, client| client.domain != domain);
            state.tree.owned_paths(domain)
        };
        let dom0 = self.connect(DomId::DOM0);
        for path in paths {
            // Gone with a parent already, perhaps.
            let _: Result<(), Errno> = dom0.remove(&path);
        }
        self.fire_special(RELEASE);
    }

    fn add_client(&self, domain: DomId, ring: Option<Ring>) -> ConnectionId {
        let mut state = self.state.borrow_mut();
        let id = ConnectionId(state.next_client);
        state.next_client += 1;
        let client = Client {
            domain,
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
            mail: VecDeque::new(),
            ring,
        };
        state.clients.insert(id, client);
        id
    }

    /// Does one operation on the tree or in a transaction of a client.
    fn operate<T>(
        &self,
        id: ConnectionId,
        transaction: u32,
        act: impl FnOnce(&mut Operation<'_>) -> Result<(T, Vec<Change>), Errno>,
    ) -> Result<T, Errno> {
        let (result, changes) = {
            let mut state = self.state.borrow_mut();
            let State { tree, clients, requests, history, .. } = &mut *state;
            *requests += 1;
            let client = clients.get_mut(&id).ok_or(Errno::Einval)?;
            let who = client.domain;
            *history.requests.entry(who).or_default() += 1;
            if transaction == 0 {
                act(&mut Operation { view: tree, who })?
            } else {
                let open = client.transactions.get_mut(&transaction);
                let transaction = open.ok_or(Errno::Enoent)?;
                let mut inside = Inside { tree, transaction };
                let done = act(&mut Operation { view: &mut inside, who });
                let (result, changes) = done?;
                inside.transaction.changes.extend(changes);
                (result, Vec::new())
            }
        };
        self.fire(&changes);
        Ok(result)
    }

    fn begin(&self, id: ConnectionId) -> Result<u32, Errno> {
        let mut state = self.state.borrow_mut();
        let client = state.clients.get_mut(&id).ok_or(Errno::Einval)?;
        let full = client.transactions.len() >= MAX_TRANSACTIONS;
        if full && client.domain != DomId::DOM0 {
            return Err(Errno::Enospc);
        }
        let number = client.next_transaction;
        client.next_transaction += 1;
        client.transactions.insert(number, Transaction::default());
        Ok(number)
    }

    fn end(&self, id: ConnectionId, number: u32, commit: bool) -> Result<(), Errno> {
        let changes = {
            let mut state = self.state.borrow_mut();
            let State { tree, clients, .. } = &mut *state;
            let client = clients.get_mut(&id).ok_or(Errno::Einval)?;
            let ended = client.transactions.remove(&number).ok_or(Errno::Enoent)?;
            if commit { ended.commit(tree)? } else { Vec::new() }
        };
        self.fire(&changes);
        Ok(())
    }

    fn watch(&self, id: ConnectionId, path: &str, token: &str) -> Result<(), Errno> {
        {
            let mut state = self.state.borrow_mut();
            let max = state.max_watches;
            let client = state.clients.get_mut(&id).ok_or(Errno::Einval)?;
            let absolute = absolute(client.domain, path, true)?;
            let same = |watch: &Watch| watch.absolute == absolute && watch.token == token;
            if client.watches.iter().any(same) {
                return Err(Errno::Eexist);
            }
            let full = client.watches.len() >= max;
            if full && client.domain != DomId::DOM0 {
                return Err(Errno::E2big);
            }
            let watch = Watch { given: path.into(), absolute, token: token.into() };
            client.watches.push(watch);
        }
        self.post(id, path, token);
        Ok(())
    }

    fn unwatch(&self, id: ConnectionId, path: &str, token: &str) -> Result<(), Errno> {
        let mut state = self.state.borrow_mut();
        let client = state.clients.get_mut(&id).ok_or(Errno::Einval)?;
        let absolute = absolute(client.domain, path, true)?;
        let same = |watch: &Watch| watch.absolute == absolute && watch.token == token;
        let at = client.watches.iter().position(same).ok_or(Errno::Enoent)?;
        client.watches.remove(at);
        Ok(())
    }

    /// Tells everybody who watches what has changed and may know of it.
    fn fire(&self, changes: &[Change]) {
        self.take_down(changes);
        for change in changes {
            let told: Vec<_> = {
                let state = self.state.borrow();
                let clients = state.clients.iter().filter(|(_, client)| {
                    change.readable.iter().any(|may| may.of(client.domain).read)
                });
                let watches = clients.flat_map(|(id, client)| {
                    let told = client.watches.iter().filter_map(|watch| {
                        Some((event_path(watch, change)?, watch.token.clone()))
                    });
                    told.map(|(path, token)| (*id, path, token)).collect::<Vec<_>>()
                });
                watches.collect()
            };
            for (id, path, token) in told {
                self.post(id, &path, &token);
            }
        }
    }

    fn fire_special(&self, name: &str) {
        let told: Vec<_> = {
            let state = self.state.borrow();
            let dom0 = state.clients.iter().filter(|(_, c)| c.domain == DomId::DOM0);
            let watches = dom0.flat_map(|(id, client)| {
                let watches = client.watches.iter().filter(|w| w.absolute == name);
                watches.map(|watch| (*id, watch.token.clone())).collect::<Vec<_>>()
            });
            watches.collect()
        };
        for (id, token) in told {
            self.post(id, name, &token);
        }
    }

    fn post(&self, id: ConnectionId, path: &str, token: &str) {
        let (domain, by_ring) = {
            let mut state = self.state.borrow_mut();
            let Some(client) = state.clients.get_mut(&id) else { return };
            if let Some(ring) = &mut client.ring {
                ring.post_event(path, token);
            } else {
                client.mail.push_back((path.into(), token.into()));
            }
            (client.domain, client.ring.is_some())
        };
        if by_ring {
            self.push_replies(id);
        } else {
            self.xen.wake(domain);
        }
    }
}

/// The path that an event of `watch` for `change` carries.
fn event_path(watch: &Watch, change: &Change) -> Option<String> {
    if change.exact {
        return (change.path == watch.absolute).then(|| watch.given.clone());
    }
    let below = change.path.strip_prefix(watch.absolute.as_str())?;
    let inside = below.is_empty() || below.starts_with('/') || watch.absolute == "/";
    inside.then(|| format!("{}{below}", watch.given))
}

/// The full path of what a domain calls `path`, if it may be one.
fn absolute(domain: DomId, path: &str, watch: bool) -> Result<String, Errno> {
    if watch && matches!(path, INTRODUCE | RELEASE) {
        return Ok(path.into());
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
    let relative = !path.starts_with('/');
    let limit = if relative { MAX_RELATIVE } else { MAX_ABSOLUTE };
    let valid = !path.is_empty()
        && path.len() <= limit
        && path.bytes().all(legal)
        && !path.contains("//")
        && (path == "/" || !path.ends_with('/'));
    match (valid, relative) {
        (false, _) => Err(Errno::Einval),
        (true, true) => Ok(format!("/local/domain/{domain}/{path}")),
        (true, false) => Ok(path.into()),
    }
}

#[cfg(test)]
mod tests;

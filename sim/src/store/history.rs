//! What some nodes said, one after the other: a handshake is more than where it ends.

use std::collections::BTreeMap;

use pcidom_script::Instant;
use pcidom_xenbus::DomId;

use super::XenStore;
use super::tree::{Change, View};

/// A value that a node got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// The node.
    pub path: String,
    /// The value; `None` if it was removed.
    pub value: Option<String>,
}

/// What is followed, and who asked how much.
#[derive(Debug, Default)]
pub(super) struct History {
    followed: Vec<String>,
    seen: Vec<Seen>,
    pub(super) requests: BTreeMap<DomId, u64>,
}

impl XenStore {
    /// Takes down every value that this node gets from now on.
    pub fn follow(&self, path: &str) {
        self.state.borrow_mut().history.followed.push(path.into());
    }

    /// What was taken down since the last call.
    pub fn take_history(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.borrow_mut().history.seen)
    }

    /// Requests of one domain served so far.
    pub fn requests_of(&self, domain: DomId) -> u64 {
        self.state.borrow().history.requests.get(&domain).copied().unwrap_or(0)
    }

    pub(super) fn take_down(&self, changes: &[Change]) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        for change in changes {
            if state.history.followed.contains(&change.path) {
                let node = state.tree.get(&change.path);
                let value =
                    node.map(|node| String::from_utf8_lossy(&node.value).into_owned());
                let (at, path) = (self.xen.now(), change.path.clone());
                state.history.seen.push(Seen { at, path, value });
            }
        }
    }
}

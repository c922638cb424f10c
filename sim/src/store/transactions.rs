//! Transactions: a private view of the tree that is applied as a whole, or not at all.
//!
//! As in C xenstored, a transaction fails if any node that it read or wrote was changed by
//! somebody else since. A node's list of children is part of the node.

use std::collections::BTreeMap;

use pcidom_xenbus::DomId;

use super::tree::{Change, Errno, Node, Tree, View};

/// What a transaction has seen and done.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    seen: BTreeMap<String, Option<u64>>,
    changed: BTreeMap<String, Option<Node>>,
    pub(super) changes: Vec<Change>,
}

/// A transaction together with the tree below it.
pub(super) struct Inside<'a> {
    pub(super) tree: &'a mut Tree,
    pub(super) transaction: &'a mut Transaction,
}

impl View for Inside<'_> {
    fn get(&mut self, path: &str) -> Option<Node> {
        let seen = self.tree.generation_of(path);
        self.transaction.seen.entry(path.into()).or_insert(seen);
        match self.transaction.changed.get(path) {
            Some(node) => node.clone(),
            None => self.tree.get(path),
        }
    }

    fn put(&mut self, path: &str, node: Option<Node>) {
        self.transaction.changed.insert(path.into(), node);
    }

    fn is_full(&self, owner: DomId) -> bool {
        let made = self.transaction.changed.iter().filter(|(path, node)| {
            let own = node.as_ref().is_some_and(|node| node.permissions.owner == owner);
            own && self.tree.generation_of(path).is_none()
        });
        self.tree.is_full_with(owner, made.count())
    }
}

impl Transaction {
    /// Applies it. What watches hear of comes back.
    pub(super) fn commit(self, tree: &mut Tree) -> Result<Vec<Change>, Errno> {
        let stale =
            |(path, seen): (&String, &Option<u64>)| tree.generation_of(path) != *seen;
        if self.seen.iter().any(stale) {
            return Err(Errno::Eagain);
        }
        for (path, node) in self.changed {
            tree.put(&path, node);
        }
        Ok(self.changes)
    }
}

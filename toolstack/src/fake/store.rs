//! A XenStore in memory: a tree, permissions that children inherit, watches, transactions.

use std::collections::{BTreeMap, VecDeque};

use pcidom_xenbus::DomId;

use crate::store::{Body, Fired, MAX_TRIES, Nodes, Permissions, Store, StoreError};

type Tree = BTreeMap<String, (String, Permissions)>;

/// XenStore.
#[derive(Clone, Debug, Default)]
pub struct FakeStore {
    tree: Tree,
    watches: Vec<(String, String)>,
    fired: VecDeque<Fired>,
    changed: Vec<String>,
    depth: u32,
    /// Writes (counted down to 0) until one fails for good: the daemon dies there.
    pub fault: Option<u32>,
    /// Writes (counted down to 0) until the daemon is killed in the middle of one.
    pub death: Option<u32>,
    /// The tree as it was before the transaction that is open.
    before: Option<(Tree, Vec<String>)>,
    /// Transactions that meet another one first.
    pub conflicts: u32,
    /// What was read.
    pub reads: Vec<String>,
}

fn below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl FakeStore {
    /// A watch that has fired and was not taken yet.
    pub fn next_fired(&mut self) -> Option<Fired> {
        self.fired.pop_front()
    }

    /// Fires a special watch such as `@releaseDomain`.
    pub fn fire(&mut self, path: &str) {
        self.changed.push(path.into());
        self.deliver();
    }

    /// What a node holds; for tests.
    pub fn get(&self, path: &str) -> Option<&str> {
        self.tree.get(path).map(|(value, _)| value.as_str())
    }

    /// A node's permissions; for tests.
    pub fn permissions(&self, path: &str) -> Option<Permissions> {
        self.tree.get(path).map(|(_, permissions)| *permissions)
    }

    /// All nodes below `directory` with their values; for tests.
    pub fn below(&self, directory: &str) -> Vec<(String, String)> {
        let nodes = self.tree.iter().filter(|(path, _)| below(path, directory));
        nodes.map(|(path, (value, _))| (path.clone(), value.clone())).collect()
    }

    /// The watches that are set; for tests.
    pub fn watches(&self) -> &[(String, String)] {
        &self.watches
    }

    /// The connection of a daemon that died: its watches and its open transaction are
    /// gone, the tree is not.
    pub fn disconnect(&mut self) {
        if let Some(before) = self.before.take() {
            (self.tree, self.changed) = before;
        }
        self.death = None;
        self.watches.clear();
        self.fired.clear();
        self.depth = 0;
        self.fault = None;
    }

    fn fault(&mut self) -> Result<(), StoreError> {
        super::die_at(&mut self.death);
        match &mut self.fault {
            Some(0) => Err(StoreError::Other("EIO".into())),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn inherited(&self, path: &str) -> Permissions {
        let mut parent = path;
        while let Some((rest, _)) = parent.rsplit_once('/') {
            if let Some((_, permissions)) = self.tree.get(rest) {
                return *permissions;
            }
            parent = rest;
        }
        Permissions::private(DomId::DOM0)
    }

    fn deliver(&mut self) {
        if self.depth > 0 {
            return;
        }
        for path in std::mem::take(&mut self.changed) {
            for (watched, token) in &self.watches {
                if below(&path, watched) {
                    let (path, token) = (path.clone(), token.clone());
                    self.fired.push_back(Fired { path, token });
                }
            }
        }
    }
}

impl Nodes for FakeStore {
    fn read(&mut self, path: &str) -> Result<Option<String>, StoreError> {
        self.reads.push(path.into());
        Ok(self.tree.get(path).map(|(value, _)| value.clone()))
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, StoreError> {
        let prefix = format!("{path}/");
        let names = self.tree.keys().filter_map(|node| node.strip_prefix(&prefix));
        let mut names: Vec<String> =
            names.filter_map(|rest| rest.split('/').next()).map(Into::into).collect();
        names.dedup();
        Ok(names)
    }

    fn write(&mut self, path: &str, value: &str) -> Result<(), StoreError> {
        self.fault()?;
        let permissions = self.permissions(path).unwrap_or_else(|| self.inherited(path));
        // Parents come into being with it.
        let mut parent = path;
        while let Some((rest, _)) = parent.rsplit_once('/') {
            if rest.is_empty() || self.tree.contains_key(rest) {
                break;
            }
            self.tree.insert(rest.into(), (String::new(), permissions));
            parent = rest;
        }
        self.tree.insert(path.into(), (value.into(), permissions));
        self.changed.push(path.into());
        self.deliver();
        Ok(())
    }

    fn remove(&mut self, path: &str) -> Result<(), StoreError> {
        self.fault()?;
        let gone: Vec<String> =
            self.tree.keys().filter(|node| below(node, path)).cloned().collect();
        for node in gone {
            self.tree.remove(&node);
            self.changed.push(node);
        }
        self.deliver();
        Ok(())
    }

    fn set_permissions(
        &mut self,
        path: &str,
        permissions: Permissions,
    ) -> Result<(), StoreError> {
        let node = self.tree.get_mut(path).ok_or(StoreError::Gone)?;
        node.1 = permissions;
        Ok(())
    }
}

impl Store for FakeStore {
    fn transaction(&mut self, body: &mut Body<'_>) -> Result<(), StoreError> {
        for _ in 0..MAX_TRIES {
            let before = (self.tree.clone(), self.changed.clone());
            self.before = Some(before.clone());
            self.depth += 1;
            let result = body(self);
            self.depth -= 1;
            self.before = None;
            let conflict = self.conflicts > 0;
            self.conflicts = self.conflicts.saturating_sub(1);
            if result.is_err() || conflict {
                (self.tree, self.changed) = before;
            }
            if result.is_err() || !conflict {
                self.deliver();
                return result;
            }
        }
        Err(StoreError::Again)
    }

    fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        let watch = (path.to_owned(), token.to_owned());
        if !self.watches.contains(&watch) {
            self.watches.push(watch);
        }
        self.fired.push_back(Fired { path: path.into(), token: token.into() });
        Ok(())
    }

    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        self.watches.retain(|(p, t)| (p.as_str(), t.as_str()) != (path, token));
        Ok(())
    }
}

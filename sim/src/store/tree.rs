//! The nodes of XenStore, who may touch them, and views that a transaction works on.
//!
//! Follows C xenstored (tools/xenstored/core.c): a node inherits its parent's permissions,
//! an unprivileged domain owns what it makes, and an error says `EACCES` where the caller
//! may not even know whether the node is there.

use std::collections::{BTreeMap, BTreeSet};

use pcidom_xenbus::DomId;

/// XenStore's error words (io/xs_wire.h, `xsd_errors`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// Makes no sense.
    Einval,
    /// Not permitted, or nothing the caller may know of.
    Eacces,
    /// There already.
    Eexist,
    /// Not there.
    Enoent,
    /// A quota is used up, or the value is too long.
    Enospc,
    /// Too many or too long.
    E2big,
    /// The transaction met another one.
    Eagain,
    /// No such request.
    Enosys,
}

impl Errno {
    /// As it is sent.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Einval => "EINVAL",
            Self::Eacces => "EACCES",
            Self::Eexist => "EEXIST",
            Self::Enoent => "ENOENT",
            Self::Enospc => "ENOSPC",
            Self::E2big => "E2BIG",
            Self::Eagain => "EAGAIN",
            Self::Enosys => "ENOSYS",
        }
    }
}

/// What an entry of a permission list allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// May read.
    pub read: bool,
    /// May write.
    pub write: bool,
}

impl Rights {
    /// Neither.
    pub const NONE: Self = Self { read: false, write: false };
    /// Read only.
    pub const READ: Self = Self { read: true, write: false };
    /// Both.
    pub const BOTH: Self = Self { read: true, write: true };

    const fn allow(self, wanted: Self) -> bool {
        (self.read || !wanted.read) && (self.write || !wanted.write)
    }
}

const WRITE: Rights = Rights { read: false, write: true };

/// Permissions of a node: its owner, what everybody may, and exceptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// May do everything.
    pub owner: DomId,
    /// What domains that are not named may do.
    pub others: Rights,
    /// Named domains.
    pub named: Vec<(DomId, Rights)>,
}

impl Permissions {
    /// Owned by `owner`, nothing for others.
    pub const fn private(owner: DomId) -> Self {
        Self { owner, others: Rights::NONE, named: Vec::new() }
    }

    /// Owned by `owner`, readable for `reader`: what libxl gives a device directory.
    pub fn shared(owner: DomId, reader: DomId) -> Self {
        Self { owner, others: Rights::NONE, named: vec![(reader, Rights::READ)] }
    }

    /// What `who` may do.
    pub fn of(&self, who: DomId) -> Rights {
        if who == DomId::DOM0 || who == self.owner {
            return Rights::BOTH;
        }
        let named = self.named.iter().find(|(domain, _)| *domain == who);
        named.map_or(self.others, |(_, rights)| *rights)
    }
}

/// One node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Vec<u8>,
    pub(super) permissions: Permissions,
    pub(super) children: BTreeSet<String>,
    /// Counts changes of this node; what transactions compare.
    pub(super) generation: u64,
}

/// Where operations read and write nodes: the tree, or a transaction over it.
pub(super) trait View {
    fn get(&mut self, path: &str) -> Option<Node>;
    fn put(&mut self, path: &str, node: Option<Node>);
    /// Whether `owner` has as many nodes as it may have.
    fn is_full(&self, owner: DomId) -> bool;
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
    owned: BTreeMap<DomId, usize>,
    generation: u64,
    pub(super) max_nodes: usize,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node {
            value: Vec::new(),
            // `manual_node` of C xenstored: nothing for others.
            permissions: Permissions::private(DomId::DOM0),
            children: BTreeSet::new(),
            generation: 0,
        };
        Self {
            nodes: BTreeMap::from([("/".into(), root)]),
            owned: BTreeMap::new(),
            generation: 0,
            max_nodes: MAX_NODES,
        }
    }

    fn owned_by(&self, owner: DomId) -> usize {
        self.owned.get(&owner).copied().unwrap_or(0)
    }

    /// Whether `owner` is full with so many more nodes.
    pub(super) fn is_full_with(&self, owner: DomId, more: usize) -> bool {
        self.owned_by(owner) + more >= self.max_nodes
    }

    pub(super) fn generation_of(&self, path: &str) -> Option<u64> {
        self.nodes.get(path).map(|node| node.generation)
    }

    pub(super) fn owned_paths(&self, owner: DomId) -> Vec<String> {
        let owned = self.nodes.iter().filter(|(_, node)| node.permissions.owner == owner);
        owned.map(|(path, _)| path.clone()).collect()
    }
}

impl View for Tree {
    fn get(&mut self, path: &str) -> Option<Node> {
        self.nodes.get(path).cloned()
    }

    fn put(&mut self, path: &str, node: Option<Node>) {
        if let Some(old) = self.nodes.remove(path)
            && let Some(count) = self.owned.get_mut(&old.permissions.owner)
        {
            *count -= 1;
        }
        if let Some(mut node) = node {
            self.generation += 1;
            node.generation = self.generation;
            *self.owned.entry(node.permissions.owner).or_default() += 1;
            self.nodes.insert(path.into(), node);
        }
    }

    fn is_full(&self, owner: DomId) -> bool {
        self.is_full_with(owner, 0)
    }
}

/// A change that watches hear of.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) path: String,
    /// Only watches on exactly this path: it went with its parent.
    pub(super) exact: bool,
    /// Permissions before and after, of the node and its parent: who may hear of it.
    pub(super) readable: Vec<Permissions>,
}

/// Bytes of one value (`quota-max-size`).
pub(super) const MAX_VALUE: usize = 2048;
/// Nodes of one domain, by default (`quota-nodes`).
const MAX_NODES: usize = 1000;
/// Named entries of a permission list (`quota-max-perms`).
pub(super) const MAX_PERMISSIONS: usize = 5;

/// The path of the node above; the root's is the root.
pub(super) fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

/// One operation on a view, on behalf of a domain.
pub(super) struct Operation<'a> {
    pub(super) view: &'a mut dyn View,
    pub(super) who: DomId,
}

impl Operation<'_> {
    pub(super) fn read(&mut self, path: &str) -> Result<Vec<u8>, Errno> {
        self.find(path, Rights::READ).map(|node| node.value)
    }

    pub(super) fn directory(&mut self, path: &str) -> Result<Vec<String>, Errno> {
        let node = self.find(path, Rights::READ)?;
        Ok(node.children.into_iter().collect())
    }

    pub(super) fn permissions(&mut self, path: &str) -> Result<Permissions, Errno> {
        self.find(path, Rights::READ).map(|node| node.permissions)
    }

    pub(super) fn write(&mut self, path: &str, value: &[u8]) -> Result<Change, Errno> {
        if value.len() > MAX_VALUE && self.who != DomId::DOM0 {
            return Err(Errno::Enospc);
        }
        let mut node = match self.find(path, WRITE) {
            Ok(node) => node,
            Err(Errno::Enoent) => self.create(path)?,
            Err(error) => return Err(error),
        };
        node.value = value.to_vec();
        let change = self.change(path, &node.permissions);
        self.view.put(path, Some(node));
        Ok(change)
    }

    pub(super) fn mkdir(&mut self, path: &str) -> Result<Option<Change>, Errno> {
        match self.find(path, WRITE) {
            Ok(_) => Ok(None),
            Err(Errno::Enoent) => {
                let node = self.create(path)?;
                let change = self.change(path, &node.permissions);
                self.view.put(path, Some(node));
                Ok(Some(change))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn remove(&mut self, path: &str) -> Result<Vec<Change>, Errno> {
        if path == "/" {
            return Err(Errno::Einval);
        }
        match self.find(path, WRITE) {
            Ok(node) => {
                let mut changes = vec![self.change(path, &node.permissions)];
                self.remove_tree(path, &node, &mut changes);
                self.unlink(path);
                Ok(changes)
            }
            // What isn't there is removed, if there is a place where it could be.
            Err(Errno::Enoent) if self.view.get(parent(path)).is_some() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn set_permissions(
        &mut self,
        path: &str,
        permissions: Permissions,
    ) -> Result<Change, Errno> {
        let mut node = self.find(path, Rights::BOTH)?;
        let may = self.who == DomId::DOM0
            || (self.who == node.permissions.owner && self.who == permissions.owner);
        if !may {
            return Err(Errno::Eacces);
        }
        if permissions.named.len() > MAX_PERMISSIONS && self.who != DomId::DOM0 {
            return Err(Errno::Enospc);
        }
        let mut change = self.change(path, &node.permissions);
        change.readable.push(permissions.clone());
        node.permissions = permissions;
        self.view.put(path, Some(node));
        Ok(change)
    }

    fn find(&mut self, path: &str, wanted: Rights) -> Result<Node, Errno> {
        match self.view.get(path) {
            Some(node) if node.permissions.of(self.who).allow(wanted) => Ok(node),
            Some(_) => Err(self.hide(path, Errno::Eacces, wanted)),
            None => Err(self.hide(path, Errno::Enoent, wanted)),
        }
    }

    /// `errno_from_parents`: only who may do the same to the nearest ancestor that is there
    /// learns the true reason.
    fn hide(&mut self, path: &str, errno: Errno, wanted: Rights) -> Errno {
        let mut above = parent(path);
        loop {
            if let Some(node) = self.view.get(above) {
                let may = node.permissions.of(self.who).allow(wanted);
                return if may { errno } else { Errno::Eacces };
            }
            above = parent(above);
        }
    }

    /// Makes the node and what is missing above it; the caller puts it.
    fn create(&mut self, path: &str) -> Result<Node, Errno> {
        let above = parent(path).to_owned();
        let mut into = match self.view.get(&above) {
            Some(node) => node,
            None => self.create(&above)?,
        };
        let mut permissions = into.permissions.clone();
        if self.who != DomId::DOM0 {
            if self.view.is_full(self.who) {
                return Err(Errno::Enospc);
            }
            permissions.owner = self.who;
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        into.children.insert(name.into());
        self.view.put(&above, Some(into));
        Ok(Node {
            value: Vec::new(),
            permissions,
            children: BTreeSet::new(),
            generation: 0,
        })
    }

    fn remove_tree(&mut self, path: &str, node: &Node, changes: &mut Vec<Change>) {
        for name in &node.children {
            let below = format!("{path}/{name}");
            if let Some(child) = self.view.get(&below) {
                let readable = vec![child.permissions.clone(), node.permissions.clone()];
                changes.push(Change { path: below.clone(), exact: true, readable });
                self.remove_tree(&below, &child, changes);
            }
        }
        self.view.put(path, None);
    }

    fn unlink(&mut self, path: &str) {
        let above = parent(path).to_owned();
        if let Some(mut node) = self.view.get(&above) {
            node.children.remove(path.rsplit('/').next().unwrap_or_default());
            self.view.put(&above, Some(node));
        }
    }

    fn change(&mut self, path: &str, own: &Permissions) -> Change {
        let above = self.view.get(parent(path)).map(|node| node.permissions);
        let readable = above.into_iter().chain([own.clone()]).collect();
        Change { path: path.into(), exact: false, readable }
    }
}

//! XenStore as the daemon sees it: blocking, since dom0's own XenStore answers in a moment
//! or the whole host stands still.

pub mod connection;

use pcidom_xenbus::DomId;
pub use pcidom_xenbus::store::StoreError;

/// What a domain that isn't the owner may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// The domain that owns the node, and may do anything.
    pub owner: DomId,
    /// Another one that may read it. All the rest may nothing.
    pub reader: Option<DomId>,
}

impl Permissions {
    /// Owned by `owner`, closed to all but dom0.
    pub const fn private(owner: DomId) -> Self {
        Self { owner, reader: None }
    }

    /// Owned by `owner`, readable by `reader`.
    pub const fn shared(owner: DomId, reader: DomId) -> Self {
        Self { owner, reader: Some(reader) }
    }
}

/// The nodes, as one transaction or the bare store shows them.
pub trait Nodes {
    /// The value of a node, `None` if it is not there. What is not UTF-8 is replaced.
    fn read(&mut self, path: &str) -> Result<Option<String>, StoreError>;
    /// The values of a few nodes, which are asked for together: to be woken for each answer takes
    /// longer than the answer. They need not be of one moment.
    fn read_all(&mut self, paths: &[&str]) -> Result<Vec<Option<String>>, StoreError> {
        paths.iter().map(|path| self.read(path)).collect()
    }
    /// The names below a node; none if it is not there.
    fn list(&mut self, path: &str) -> Result<Vec<String>, StoreError>;
    /// Writes a node. One that is new has the permissions of its parent.
    fn write(&mut self, path: &str, value: &str) -> Result<(), StoreError>;
    /// Removes a node and all below it, if it is there.
    fn remove(&mut self, path: &str) -> Result<(), StoreError>;
    /// Sets a node's permissions; the node must be there.
    fn set_permissions(
        &mut self,
        path: &str,
        permissions: Permissions,
    ) -> Result<(), StoreError>;
}

/// What runs inside a transaction. It may run several times.
pub type Body<'a> = dyn FnMut(&mut dyn Nodes) -> Result<(), StoreError> + 'a;

/// A watch has fired.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fired {
    /// The node that changed.
    pub path: String,
    /// The token the watch was set with.
    pub token: String,
}

/// XenStore.
pub trait Store: Nodes {
    /// Runs `body` as one transaction, again if it met another one: all or nothing.
    fn transaction(&mut self, body: &mut Body<'_>) -> Result<(), StoreError>;
    /// Asks for an event with `token` for each change at and below `path`, and one now.
    fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError>;
    /// Ends a watch, if it is there.
    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError>;
}

/// Tries of a transaction before it is given up. Each failed try means that somebody else's
/// succeeded, so only a storm of writes to the same nodes gets here.
pub const MAX_TRIES: u32 = 64;

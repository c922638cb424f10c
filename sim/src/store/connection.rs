//! XenStore for code of the simulator: calls that answer at once, and mail.

use pcidom_xenbus::DomId;

use super::tree::Operation;
use super::{ConnectionId, Errno, Permissions, XenStore, absolute};

/// A connection of one domain, or one of its transactions.
#[derive(Clone, Debug)]
pub struct Connection {
    store: XenStore,
    id: ConnectionId,
    transaction: u32,
}

impl Connection {
    pub(super) const fn new(store: XenStore, id: ConnectionId) -> Self {
        Self { store, id, transaction: 0 }
    }

    /// Reads a node. What is not UTF-8 is replaced.
    pub fn read(&self, path: &str) -> Result<String, Errno> {
        let path = self.absolute(path)?;
        self.operate(|op| Ok((op.read(&path)?, vec![])))
            .map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    /// Reads a node as what it should be; `None` if it is not there or is something else.
    pub fn get<T: core::str::FromStr>(&self, path: &str) -> Option<T> {
        self.read(path).ok()?.trim().parse().ok()
    }

    /// Writes a node.
    pub fn write(&self, path: &str, value: &str) -> Result<(), Errno> {
        let path = self.absolute(path)?;
        self.operate(|op| Ok(((), vec![op.write(&path, value.as_bytes())?])))
    }

    /// Makes a node, if it isn't there.
    pub fn mkdir(&self, path: &str) -> Result<(), Errno> {
        let path = self.absolute(path)?;
        self.operate(|op| Ok(((), op.mkdir(&path)?.into_iter().collect())))
    }

    /// Removes a node and all below it.
    pub fn remove(&self, path: &str) -> Result<(), Errno> {
        let path = self.absolute(path)?;
        self.operate(|op| Ok(((), op.remove(&path)?)))
    }

    /// The names below a node.
    pub fn directory(&self, path: &str) -> Result<Vec<String>, Errno> {
        let path = self.absolute(path)?;
        self.operate(|op| Ok((op.directory(&path)?, vec![])))
    }

    /// A node's permissions.
    pub fn permissions(&self, path: &str) -> Result<Permissions, Errno> {
        let path = self.absolute(path)?;
        self.operate(|op| Ok((op.permissions(&path)?, vec![])))
    }

    /// Sets a node's permissions.
    pub fn set_permissions(&self, path: &str, to: Permissions) -> Result<(), Errno> {
        let path = self.absolute(path)?;
        self.operate(|op| Ok(((), vec![op.set_permissions(&path, to)?])))
    }

    /// Makes a node with permissions of its own.
    pub fn make(&self, path: &str, value: &str, to: Permissions) -> Result<(), Errno> {
        self.write(path, value)?;
        self.set_permissions(path, to)
    }

    /// Asks for mail about every change at and below `path`, and one now.
    pub fn watch(&self, path: &str, token: &str) -> Result<(), Errno> {
        self.store.watch(self.id, path, token)
    }

    /// Ends a watch.
    pub fn unwatch(&self, path: &str, token: &str) -> Result<(), Errno> {
        self.store.unwatch(self.id, path, token)
    }

    /// A watch that has fired: path and token.
    pub fn next_mail(&self) -> Option<(String, String)> {
        self.store.state.borrow_mut().clients.get_mut(&self.id)?.mail.pop_front()
    }

    /// Runs `body` as one transaction, and again as long as it meets another one.
    ///
    /// Nothing else runs meanwhile in the simulator, so twice is enough unless `body`
    /// itself writes past its transaction.
    pub fn transaction<T>(
        &self,
        mut body: impl FnMut(&Self) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        for _ in 0..2 {
            let inside = self.begin()?;
            let result = body(&inside);
            match inside.end(result.is_ok()) {
                Ok(()) => return result,
                Err(Errno::Eagain) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::Eagain)
    }

    /// Starts a transaction.
    pub fn begin(&self) -> Result<Self, Errno> {
        let transaction = self.store.begin(self.id)?;
        Ok(Self { store: self.store.clone(), id: self.id, transaction })
    }

    /// Ends this transaction.
    pub fn end(self, commit: bool) -> Result<(), Errno> {
        self.store.end(self.id, self.transaction, commit)
    }

    /// Closes the connection: its watches are gone.
    pub fn close(self) {
        self.store.state.borrow_mut().clients.remove(&self.id);
    }

    fn absolute(&self, path: &str) -> Result<String, Errno> {
        let state = self.store.state.borrow();
        let domain = state.clients.get(&self.id).map(|client| client.domain);
        drop(state);
        absolute(domain.unwrap_or(DomId::DOM0), path, false)
    }

    fn operate<T>(
        &self,
        act: impl FnOnce(&mut Operation<'_>) -> Result<(T, Vec<super::Change>), Errno>,
    ) -> Result<T, Errno> {
        self.store.operate(self.id, self.transaction, act)
    }
}

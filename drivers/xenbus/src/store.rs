//! XenStore as a script sees it: one request, one answer, and what is built of them.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use pcidom_script::{Asker, Mapped, Waiting};
use vecmap::VecMap;

use crate::wire::{self, Kind};

/// What XenStore says when it does not do something: its own word, such as `ENOENT`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The node is not there. A dead domain's nodes read so, or as `EACCES` once their
    /// parents are gone too: both are this.
    #[error("not there")]
    Gone,
    /// The transaction met another one: start again.
    #[error("the transaction has to be repeated")]
    Again,
    /// Any other error word.
    #[error("XenStore said {0}")]
    Other(String),
    /// The request does not fit a message.
    #[error("the request is too long")]
    TooLong,
    /// The answer is not what was asked for.
    #[error("an answer that makes no sense")]
    BadAnswer,
}

impl StoreError {
    /// From the payload of an error message, which ends with a NUL.
    pub fn from_word(word: &str) -> Self {
        match word {
            "ENOENT" | "EACCES" => Self::Gone,
            "EAGAIN" => Self::Again,
            other => Self::Other(other.chars().take(32).collect()),
        }
    }
}

/// One request as it goes to XenStore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub kind: Kind,
    /// In which transaction, 0 for none.
    pub transaction: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// The payload of the answer.
pub type Reply = Result<Vec<u8>, StoreError>;

/// Tries of a transaction before it is given up. Each failed try means that somebody
/// else's succeeded, so only a storm of writes to the same nodes gets here.
const MAX_TRIES: u32 = 16;

/// XenStore, for use inside a script.
#[derive(Clone, Debug)]
pub struct Store {
    asker: Asker<Request, Reply>,
    transaction: u32,
}

/// A request that was made; awaiting it gives the result.
pub type Asked<'a, T> = Mapped<'a, Request, Reply, Result<T, StoreError>>;

/// The children of a directory and their values, as they were at one moment.
pub type Snapshot = VecMap<String, String>;

impl Store {
    /// A store that asks through `asker`.
    pub const fn new(asker: Asker<Request, Reply>) -> Self {
        Self { asker, transaction: 0 }
    }

    /// Reads a node as text. What isn't UTF-8 is replaced: no node we read may hold it.
    pub fn read(&self, path: &str) -> Asked<'_, String> {
        self.ask(Kind::Read, &[path.as_bytes(), b"\0"]).map(text)
    }

    /// Reads a node that need not be there.
    pub fn find(&self, path: &str) -> Asked<'_, Option<String>> {
        self.ask(Kind::Read, &[path.as_bytes(), b"\0"]).map(|reply| match text(reply) {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::Gone) => Ok(None),
            Err(error) => Err(error),
        })
    }

    /// Writes a node, made if it is not there.
    pub fn write(&self, path: &str, value: &str) -> Asked<'_, ()> {
        self.ask(Kind::Write, &[path.as_bytes(), b"\0", value.as_bytes()]).map(done)
    }

    /// Removes a node and all below it. One that is not there is no error.
    pub fn remove(&self, path: &str) -> Asked<'_, ()> {
        self.ask(Kind::Remove, &[path.as_bytes(), b"\0"]).map(gone)
    }

    /// The names below a node.
    pub fn directory(&self, path: &str) -> Asked<'_, Vec<String>> {
        self.ask(Kind::Directory, &[path.as_bytes(), b"\0"]).map(|reply| {
            let names = reply?;
            let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
            Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
        })
    }

    /// Asks to be told of every change at and below `path` as an event with `token`.
    pub fn watch(&self, path: &str, token: &str) -> Asked<'_, ()> {
        let parts = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        self.ask(Kind::Watch, &parts).map(done)
    }

    /// Ends a watch. One that is not there is no error.
    pub fn unwatch(&self, path: &str, token: &str) -> Asked<'_, ()> {
        let parts = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        self.ask(Kind::Unwatch, &parts).map(gone)
    }

    /// Reads the values directly below `path` whose names are `wanted`, in one transaction. No
    /// more than `limit` are read, since the peer may own the directory.
    pub async fn snapshot(
        &self,
        path: &str,
        wanted: fn(&str) -> bool,
        limit: usize,
    ) -> Result<Snapshot, StoreError> {
        for _ in 0..MAX_TRIES {
            let inside = self.begin().await?;
            let result = inside.read_all(path, wanted, limit).await;
            match (inside.end(result.is_ok()).await, result) {
                (Ok(()), result) => return result,
                (Err(StoreError::Again), _) => {}
                (Err(error), _) => return Err(error),
            }
        }
        Err(StoreError::Again)
    }

    /// Writes all `(path, value)` pairs in one transaction, but nothing if `beside`, another
    /// one, is not in XenStore as it says: then what was to be written to is
    /// [`StoreError::Gone`].
    pub async fn write_all(
        &self,
        beside: Option<&(String, String)>,
        nodes: &[(String, String)],
    ) -> Result<(), StoreError> {
        for _ in 0..MAX_TRIES {
            let inside = self.begin().await?;
            let mut result = Ok(());
            if let Some((path, value)) = beside
                && inside.read(path).await.as_ref() != Ok(value)
            {
                result = Err(StoreError::Gone);
            }
            for (path, value) in nodes {
                if result.is_ok() {
                    result = inside.write(path, value).await;
                }
            }
            match (inside.end(result.is_ok()).await, result) {
                (Ok(()), result) => return result,
                (Err(StoreError::Again), _) => {}
                (Err(error), _) => return Err(error),
            }
        }
        Err(StoreError::Again)
    }

    async fn read_all(
        &self,
        path: &str,
        wanted: fn(&str) -> bool,
        limit: usize,
    ) -> Result<Snapshot, StoreError> {
        let mut values = Snapshot::new();
        let names = self.directory(path).await?.into_iter();
        for name in names.filter(|name| wanted(name)).take(limit) {
            if let Some(value) =
                self.find(&format_args!("{path}/{name}").to_string()).await?
            {
                values.insert(name, value);
            }
        }
        Ok(values)
    }

    async fn begin(&self) -> Result<Self, StoreError> {
        let id = self.ask(Kind::TransactionStart, &[b"\0"]).await?;
        let id = core::str::from_utf8(&id)
            .ok()
            .and_then(|id| id.trim_end_matches('\0').parse().ok());
        let transaction = id.ok_or(StoreError::BadAnswer)?;
        Ok(Self { asker: self.asker.clone(), transaction })
    }

    fn end(&self, commit: bool) -> Asked<'_, ()> {
        let verdict: &[u8] = if commit { b"T\0" } else { b"F\0" };
        self.ask(Kind::TransactionEnd, &[verdict]).map(done)
    }

    fn ask(&self, kind: Kind, parts: &[&[u8]]) -> Waiting<'_, Request, Reply> {
        let payload = parts.concat();
        if payload.len() > wire::MAX_PAYLOAD {
            return self.asker.answered(Err(StoreError::TooLong));
        }
        self.asker.ask(Request { kind, transaction: self.transaction, payload })
    }
}

/// A reply whose payload says nothing.
fn done(reply: Reply) -> Result<(), StoreError> {
    reply.map(drop)
}

/// The reply to a request that something be gone.
fn gone(reply: Reply) -> Result<(), StoreError> {
    match reply {
        Ok(_) | Err(StoreError::Gone) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The reply's payload as text.
fn text(reply: Reply) -> Result<String, StoreError> {
    Ok(String::from_utf8_lossy(&reply?).into_owned())
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, String::from_utf8_lossy(&self.payload))
    }
}

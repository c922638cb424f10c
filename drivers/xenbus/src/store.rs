//! XenStore as a script sees it: one request, one answer, and what is built of them.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use pcidom_script::Asker;
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

/// The children of a directory and their values, as they were at one moment.
pub type Snapshot = VecMap<String, String>;

impl Store {
    /// A store that asks through `asker`.
    pub const fn new(asker: Asker<Request, Reply>) -> Self {
        Self { asker, transaction: 0 }
    }

    /// Reads a node as text. What isn't UTF-8 is replaced: no node we read may hold it.
    pub async fn read(&self, path: &str) -> Result<String, StoreError> {
        let value = self.ask(Kind::Read, &[path.as_bytes(), b"\0"]).await?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    /// Reads a node that need not be there.
    pub async fn find(&self, path: &str) -> Result<Option<String>, StoreError> {
        match self.read(path).await {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::Gone) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a node, made if it is not there.
    pub async fn write(&self, path: &str, value: &str) -> Result<(), StoreError> {
        self.ask(Kind::Write, &[path.as_bytes(), b"\0", value.as_bytes()]).await.map(drop)
    }

    /// Removes a node and all below it. One that is not there is no error.
    pub async fn remove(&self, path: &str) -> Result<(), StoreError> {
        match self.ask(Kind::Remove, &[path.as_bytes(), b"\0"]).await {
            Ok(_) | Err(StoreError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The names below a node.
    pub async fn directory(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let names = self.ask(Kind::Directory, &[path.as_bytes(), b"\0"]).await?;
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// Asks to be told of every change at and below `path` as an event with `token`.
    pub async fn watch(&self, path: &str, token: &str) -> Result<(), StoreError> {
        let parts = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        self.ask(Kind::Watch, &parts).await.map(drop)
    }

    /// Ends a watch. One that is not there is no error.
    pub async fn unwatch(&self, path: &str, token: &str) -> Result<(), StoreError> {
        let parts = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        match self.ask(Kind::Unwatch, &parts).await {
            Ok(_) | Err(StoreError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads all values directly below `path` in one transaction. No more than `limit`
    /// are read, since the peer may own the directory.
    pub async fn snapshot(
        &self,
        path: &str,
        limit: usize,
    ) -> Result<Snapshot, StoreError> {
        for _ in 0..MAX_TRIES {
            let inside = self.begin().await?;
            let result = inside.read_all(path, limit).await;
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

    async fn read_all(&self, path: &str, limit: usize) -> Result<Snapshot, StoreError> {
        let mut values = Snapshot::new();
        for name in self.directory(path).await?.into_iter().take(limit) {
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

    async fn end(&self, commit: bool) -> Result<(), StoreError> {
        let verdict: &[u8] = if commit { b"T\0" } else { b"F\0" };
        self.ask(Kind::TransactionEnd, &[verdict]).await.map(drop)
    }

    async fn ask(&self, kind: Kind, parts: &[&[u8]]) -> Reply {
        let payload = parts.concat();
        if payload.len() > wire::MAX_PAYLOAD {
            return Err(StoreError::TooLong);
        }
        self.asker.ask(Request { kind, transaction: self.transaction, payload }).await
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, String::from_utf8_lossy(&self.payload))
    }
}

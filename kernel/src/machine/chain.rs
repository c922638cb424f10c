//! The XenStore work of one link, in order.
//!
//! A state node means that what was written before it is there, so the jobs of a link run
//! one after the other, while those of different links overlap.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pciback::link::BackEntries;
use pcidom_xenbus::client::Client;
use pcidom_xenbus::store::{Snapshot, Store, StoreError};
use pcidom_xenbus::{DomId, XenbusState};
use pcifront::exports;

use super::jobs::Done;

/// Which link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkId {
    /// The A-link, towards dom0.
    Dom0,
    /// The B-link of a guest.
    Guest(DomId),
}

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkJob {
    /// Write our state.
    SetState { dir: String, state: XenbusState },
    /// Write nodes in one transaction, if another one is there as it says.
    WriteAll { beside: Option<(String, String)>, nodes: Vec<(String, String)> },
    /// Publish our details in one transaction, and then, where they are, our state.
    Open { details: Vec<(String, String)>, state: (String, String) },
    /// Read some keys of a directory; what is not there is left out.
    ReadKeys { dir: String, keys: &'static [&'static str] },
    /// Read a back directory in one transaction: what of it means something to us.
    ReadDir { dir: String, limit: usize },
}

/// What it brought.
#[derive(Debug)]
pub(super) enum LinkDone {
    /// State or nodes are written, or not.
    Wrote(Result<(), StoreError>),
    /// Details and state are published, or not.
    Opened(Result<(), StoreError>),
    /// The keys that are there, and of which directory.
    Keys(String, Snapshot),
    /// The directory, `None` if it isn't there.
    Dir(Option<Snapshot>),
}

impl LinkJob {
    async fn run(self, link: LinkId, store: Store) -> LinkDone {
        match self {
            Self::SetState { dir, state } => {
                LinkDone::Wrote(set_state(&store, &dir, state).await)
            }
            Self::WriteAll { beside, nodes } => {
                LinkDone::Wrote(store.write_all(beside.as_ref(), &nodes).await)
            }
            Self::Open { details, state } => {
                LinkDone::Opened(match store.write_all(None, &details).await {
                    Ok(()) => store.write_all(details.first(), &[state]).await,
                    error => error,
                })
            }
            Self::ReadKeys { dir, keys } => {
                let mut found = Snapshot::new();
                for key in keys {
                    if let Ok(value) = store.read(&format!("{dir}/{key}")).await {
                        found.insert((*key).into(), value);
                    }
                }
                LinkDone::Keys(dir, found)
            }
            Self::ReadDir { dir, limit } => {
                let wanted = match link {
                    LinkId::Dom0 => exports::is_read,
                    LinkId::Guest(_) => BackEntries::is_read,
                };
                LinkDone::Dir(store.snapshot(&dir, wanted, limit).await.ok())
            }
        }
    }
}

async fn set_state(
    store: &Store,
    dir: &str,
    state: XenbusState,
) -> Result<(), StoreError> {
    store.write(&format!("{dir}/state"), &format!("{}", state.number())).await
}

/// The queue of one link.
#[derive(Debug)]
pub(super) struct Chain {
    link: LinkId,
    busy: bool,
    queue: VecDeque<LinkJob>,
}

impl Chain {
    pub(super) const fn new(link: LinkId) -> Self {
        Self { link, busy: false, queue: VecDeque::new() }
    }

    /// Gives back the room of work that waited.
    pub(super) fn give_back_room(&mut self) {
        self.queue.shrink_to_fit();
    }

    /// Adds work. Reads wait until everything is written: one that brought our own state as
    /// it was before would look like somebody else's wish. A read that waits already is not
    /// added again: it will see what there is to see.
    pub(super) fn push(&mut self, job: LinkJob, store: &mut Client<Done>) {
        enqueue(&mut self.queue, job);
        self.start(store);
    }

    /// A job of this chain has ended.
    pub(super) fn ended(&mut self, store: &mut Client<Done>) {
        self.busy = false;
        self.start(store);
    }

    fn start(&mut self, store: &mut Client<Done>) {
        if self.busy {
            return;
        }
        let Some(job) = self.queue.pop_front() else { return };
        self.busy = true;
        let link = self.link;
        store.run(async move |store| Done::Link(link, job.run(link, store).await));
    }
}

fn enqueue(queue: &mut VecDeque<LinkJob>, job: LinkJob) {
    if !job.is_read() {
        let reads = queue.iter().position(LinkJob::is_read);
        queue.insert(reads.unwrap_or(queue.len()), job);
    } else if !queue.contains(&job) {
        queue.push_back(job);
    }
}

impl LinkJob {
    const fn is_read(&self) -> bool {
        matches!(self, Self::ReadKeys { .. } | Self::ReadDir { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::{LinkJob, enqueue};
    use alloc::collections::VecDeque;
    use pcidom_xenbus::XenbusState;

    /// Found by the model: our own Connected, read before our Reconfiguring was written,
    /// was taken for the toolstack's word that there is nothing to do.
    #[test]
    fn reads_wait_for_writes_and_are_not_asked_for_twice() {
        let read = |dir: &str| LinkJob::ReadDir { dir: dir.into(), limit: 1 };
        let write = |state| LinkJob::SetState { dir: "back".into(), state };
        let mut queue = VecDeque::new();
        let (first, second) = (XenbusState::Reconfigured, XenbusState::Connected);
        for job in [
            read("back"),
            write(first),
            read("front"),
            read("back"),
            write(second),
            read("back"),
        ] {
            enqueue(&mut queue, job);
        }
        assert_eq!(queue, [write(first), write(second), read("back"), read("front")]);
    }
}

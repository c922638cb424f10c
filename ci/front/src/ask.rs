//! One request in the shared page, and its answer.

use alloc::vec::Vec;
use core::time::Duration;

use pcidom_xenbus::SharedPage;
use pcidom_xenbus::pciif::{
    FRONT_ACTIVE, RawMsixEntry, RawOp, load_msix, load_op, store_msix, store_op, word,
};

use crate::link::Link;
use crate::xen::{Xen, notify, now};

/// Longer than Linux waits (2 s): whatever comes later came too late for it.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is in the page once the backend is done.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) err: i32,
    pub(crate) value: u32,
    /// `vector` of the entries that were sent.
    pub(crate) vectors: Vec<u16>,
}

/// Puts a request.
pub(crate) fn put(link: &Link, op: &RawOp, entries: &[RawMsixEntry]) {
    let page = &link.page;
    store_op(page, op);
    store_msix(page, entries);
    page.barrier();
    page.fetch_or(word::FLAGS, FRONT_ACTIVE);
    notify(link.port);
}

/// Puts a request and waits; `None` if there was no answer.
pub(crate) fn ask(
    xen: &mut Xen,
    link: &Link,
    op: &RawOp,
    entries: &[RawMsixEntry],
) -> Option<Answer> {
    let page = &link.page;
    put(link, op, entries);
    let deadline = now().after(PATIENCE);
    while page.load(word::FLAGS) & FRONT_ACTIVE != 0 {
        if now() >= deadline {
            page.fetch_and(word::FLAGS, !FRONT_ACTIVE);
            return None;
        }
        xen.sleep(Some(deadline));
    }
    let answer = load_op(page);
    let vectors = load_msix(page, entries.len()).iter().map(|e| e.vector).collect();
    Some(Answer { err: answer.err, value: answer.value, vectors })
}

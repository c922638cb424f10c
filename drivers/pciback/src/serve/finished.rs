//! Operations that have been answered, for whoever keeps a record of them.

use pcidom_script::Instant;
use pcidom_xenbus::pciif::RawOp;

use super::Server;

/// Most that are kept until somebody asks: one call of the server answers no more than one
/// that runs, one that waits and one that is found in the page.
const MAX_FINISHED: usize = 4;

/// An operation of the guest and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The request as it was copied.
    pub raw: RawOp,
    /// The answer: 0 or an error code.
    pub err: i32,
    /// When it was taken out of the page.
    pub since: Instant,
    /// The answer was written; otherwise the slot held another request by then.
    pub told: bool,
}

impl Server {
    /// What was answered since the last call.
    pub fn finished(&mut self) -> impl Iterator<Item = Finished> {
        self.finished.drain(..)
    }

    pub(super) fn finish(&mut self, finished: Finished) {
        if self.finished.len() < MAX_FINISHED {
            self.finished.push(finished);
        }
    }
}

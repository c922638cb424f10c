//! Writing a result back into the page.

use alloc::vec::Vec;

use pcidom_xenbus::pciif::{
    FRONT_ACTIVE, OpError, RawMsixEntry, command, store_msix, word,
};
use pcidom_xenbus::{Pirq, SharedPage};

use crate::interrupt::Kind;
use crate::procedure::Outcome;
use crate::request::Copied;

/// What goes into the slot: nothing else is written back (io/pciif.h, protocol.md 1.7).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) err: i32,
    value: Option<u32>,
    vectors: Vec<Pirq>,
}

impl Delivery {
    /// The answer to `copied` after `outcome`.
    pub(crate) fn of(copied: &Copied, outcome: &Outcome) -> Self {
        let success = |value| Self { err: 0, value, vectors: Vec::new() };
        match outcome {
            Outcome::Value(value) => success(Some(*value)),
            Outcome::Written => success(None),
            Outcome::Enabled(Kind::Msi, pirqs) => {
                success(pirqs.first().map(|pirq| pirq.0.into()))
            }
            Outcome::Enabled(Kind::Msix, pirqs) => {
                Self { err: 0, value: Some(0), vectors: pirqs.clone() }
            }
            Outcome::Failed(error) => Self::failed(copied, *error),
            Outcome::Trouble(_) => Self::failed(copied, OpError::OpFailed),
        }
    }

    /// A failed read gives all ones, as a missing device does; a failed enable no vector.
    pub(crate) fn failed(copied: &Copied, error: OpError) -> Self {
        let value = match copied.raw.cmd {
            command::CONF_READ => Some(u32::MAX),
            command::CONF_WRITE => None,
            _ => Some(0),
        };
        Self { err: error as i32, value, vectors: Vec::new() }
    }

    /// Completes the request in `page`, or does nothing and gives false if the slot no
    /// longer holds it: its frontend has given up, and what is there now is another one.
    pub(crate) fn write(&self, copied: &Copied, page: &impl SharedPage) -> bool {
        let active = page.load(word::FLAGS) & FRONT_ACTIVE != 0;
        if !active || !copied.is_still_in(page) {
            return false;
        }
        page.store(word::OP_ERR, self.err.cast_unsigned());
        if let Some(value) = self.value {
            page.store(word::OP_VALUE, value);
        }
        let entries: Vec<RawMsixEntry> = copied
            .entries
            .iter()
            .zip(&self.vectors)
            .map(|(asked, pirq)| RawMsixEntry { vector: pirq.0, entry: asked.entry })
            .collect();
        store_msix(page, &entries);
        page.barrier();
        page.fetch_and(word::FLAGS, !FRONT_ACTIVE);
        true
    }
}

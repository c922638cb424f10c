//! What was done to devices and vectors, numbered: a fresh mapping is told from a cached
//! one by these events, since Xen may give the same pirq number again.

use pcidom_pci::Sbdf;
use pcidom_script::Instant;
use pcidom_xenbus::{DomId, Pirq};

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number, from 0 on.
    pub number: usize,
    /// When.
    pub at: Instant,
    /// What.
    pub deed: Deed,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A message interrupt was mapped.
    Map {
        /// For this domain.
        domain: DomId,
        /// Of this device.
        device: Sbdf,
        /// The entry of its MSI-X table, `None` for MSI.
        entry: Option<u16>,
        /// The number it got.
        pirq: Pirq,
    },
    /// A pirq was unmapped by a call.
    Unmap {
        /// Of this domain.
        domain: DomId,
        /// The number.
        pirq: Pirq,
    },
    /// A pirq went with its domain, which nobody had unmapped.
    Freed {
        /// Of this domain.
        domain: DomId,
        /// The number.
        pirq: Pirq,
    },
    /// A device was given to a domain.
    Assign {
        /// The domain.
        domain: DomId,
        /// The device.
        device: Sbdf,
    },
    /// A device was taken from a domain into quarantine.
    Deassign {
        /// The domain.
        domain: DomId,
        /// The device.
        device: Sbdf,
    },
    /// A device was reset through its config space.
    Reset {
        /// The device.
        device: Sbdf,
    },
    /// Xen masked a whole device, because it could not mask the one vector.
    MaskAll {
        /// The device.
        device: Sbdf,
    },
    /// A page of a domain was unmapped by another one.
    PageUnmapped {
        /// Whose page.
        owner: DomId,
        /// Who had it mapped.
        by: DomId,
    },
    /// A domain's teardown began.
    Dying(DomId),
    /// A domain is gone.
    Gone(DomId),
}

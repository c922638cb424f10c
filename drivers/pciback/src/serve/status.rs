//! What people want to know of a guest's functions.

use alloc::vec::Vec;

use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_xenbus::Pirq;

use super::Server;
use crate::interrupt::{Holding, Mode, Trouble};
use crate::policy::Dropped;

/// One function, for `pcidomctl status` and the monitor.
#[derive(Clone, Debug)]
pub struct FunctionStatus {
    /// Its address on the guest's bus.
    pub at: VirtualBdf,
    /// Its physical address.
    pub sbdf: Sbdf,
    /// Its interrupts.
    pub mode: Mode,
    /// Its leases: pirqs of the guest.
    pub pirqs: Vec<Pirq>,
    /// Why the last enable or disable failed, if it did.
    pub trouble: Option<Trouble>,
    /// The guest's writes that were dropped or changed.
    pub dropped: Dropped,
}

impl Server {
    /// The functions on the link.
    pub fn functions(&self) -> impl Iterator<Item = FunctionStatus> {
        self.functions.iter().map(|served| {
            served.function.with(|f| FunctionStatus {
                at: served.at,
                sbdf: f.sbdf(),
                mode: f.interrupts.mode(),
                pirqs: match f.interrupts.holding() {
                    Holding::Held(leases) => leases.pirqs().to_vec(),
                    Holding::Nothing | Holding::Unsure => Vec::new(),
                },
                trouble: f.interrupts.trouble(),
                dropped: f.dropped().clone(),
            })
        })
    }
}

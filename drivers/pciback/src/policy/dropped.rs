//! What became of a guest's writes that were not done as asked.

use alloc::vec::Vec;

use pcidom_pci::Register;

/// Registers that are remembered by name, per function. More than a driver ever touches;
/// a guest that writes everywhere only moves the [`Dropped::others`] counter.
pub const MAX_DROPPED: usize = 32;

/// A register whose writes were dropped or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedWrite {
    /// Its name in the table, or that of the hidden capability it is in; empty for space
    /// that no row describes.
    pub name: &'static str,
    /// Which register; what was written to, if it has no row.
    pub register: Register,
    /// How often; stops at the top.
    pub count: u32,
    /// The last value, as far as it fell on this register.
    pub last: u32,
}

/// All of one function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    writes: Vec<DroppedWrite>,
    others: u32,
}

impl Dropped {
    /// By register, in the order in which they came up.
    pub fn writes(&self) -> &[DroppedWrite] {
        &self.writes
    }

    /// Writes to registers beyond [`MAX_DROPPED`].
    pub const fn others(&self) -> u32 {
        self.others
    }

    pub(crate) fn count(&mut self, name: &'static str, register: Register, last: u32) {
        let known = self.writes.iter_mut().find(|known| known.register == register);
        if let Some(write) = known {
            write.count = write.count.saturating_add(1);
            write.last = last;
        } else if self.writes.len() < MAX_DROPPED {
            self.writes.push(DroppedWrite { name, register, count: 1, last });
        } else {
            self.others = self.others.saturating_add(1);
        }
    }
}

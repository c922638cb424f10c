//! What is to be done in the hardware for a guest's write.

use pcidom_pci::{Access, Register, Width};

use super::field::View;

/// One step of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This value to this register, whatever is there.
    Write(Register, u32),
    /// What is there is read first.
    Merge(Merge),
}

/// A write that may change some bits of a register, or none: then the register is read only
/// to see whether the guest wanted anything else than what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The register.
    pub register: Register,
    /// Its name, for the count; empty if it has none.
    pub name: &'static str,
    /// What the guest wants there.
    pub wanted: u32,
    /// Which bits it has written.
    pub covered: u32,
    /// Which of those it may change.
    pub mask: u32,
    /// What comes there.
    pub value: u32,
    /// How the guest sees the register.
    pub view: View,
}

impl Merge {
    /// What the register is to hold, if it holds `old`.
    const fn merged(&self, old: u32) -> u32 {
        old & !self.mask | self.value & self.mask
    }

    /// The write, unless it would change nothing. Nor is a word of ones written back, which is
    /// what a device reads as that does not answer: should it answer again by then, the ones
    /// would be requests, its reset among them.
    pub(crate) fn access(&self, old: u32) -> Option<Access> {
        let width = self.register.width();
        let old = old & width.mask();
        let answers = width == Width::Byte || old != width.mask();
        let new = self.merged(old) & width.mask();
        (answers && new != old).then_some(Access::Write(self.register, new))
    }

    /// Whether the guest will see what it has written.
    pub(crate) const fn satisfies(&self, old: u32) -> bool {
        (self.wanted ^ self.view.over(self.merged(old))) & self.covered == 0
    }
}

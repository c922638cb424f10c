//! BARs and the expansion ROM as a guest sees them: a recorded value and a size mask.
//!
//! Nothing a guest writes here ever reaches the hardware. A write of all ones makes the
//! register show its size until the next write; any other write shows the address again.

use pcidom_pci::function::{Bar, BarKind};
use pcidom_pci::regs::bar;

/// One 32-bit address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressRegister {
    value: u32,
    size_mask: u32,
    ignored: u32,
    sizing: bool,
}

impl AddressRegister {
    /// One that decodes nothing: reads 0.
    pub(crate) const ABSENT: Self = Self::new(0, 0, 0);

    /// Shows `value`, or `size_mask` after a write of all ones; the bits `ignored` of that
    /// write don't count.
    pub(crate) const fn new(value: u32, size_mask: u32, ignored: u32) -> Self {
        Self { value, size_mask, ignored, sizing: false }
    }

    /// The first register of `found`.
    pub(crate) fn lower(found: &Bar) -> Self {
        let (flags, mask) = match found.kind {
            BarKind::Io => (bar::IO, bar::IO_FLAGS),
            BarKind::Memory { wide, prefetchable } => {
                let wide = if wide { bar::TYPE_64 } else { 0 };
                let prefetchable = if prefetchable { bar::PREFETCHABLE } else { 0 };
                (wide | prefetchable, bar::MEMORY_FLAGS)
            }
        };
        let [address, sizes] = [found.address, found.size.wrapping_neg()]
            .map(|n| halves(n).0 & !mask | flags);
        Self::new(address, sizes, mask)
    }

    /// The second register of `found`, which is 64 bits wide.
    pub(crate) fn upper(found: &Bar) -> Self {
        Self::new(halves(found.address).1, halves(found.size.wrapping_neg()).1, 0)
    }

    /// What a guest reads now.
    pub(crate) const fn read(&self) -> u32 {
        if self.sizing { self.size_mask } else { self.value }
    }

    /// Takes a write of the whole register; false if the guest asked for an address that
    /// it did not get.
    pub(crate) const fn write(&mut self, value: u32) -> bool {
        self.sizing = value | self.ignored == u32::MAX;
        self.sizing || (value ^ self.value) & !self.ignored == 0
    }

    /// Ends sizing.
    pub(crate) const fn settle(&mut self) {
        self.sizing = false;
    }
}

fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

//! The two capability lists as a guest finds them: what is hidden is unlinked, reads as 0
//! and takes no write.
//!
//! * A conventional capability is shown, and read-only where [`super::registers`] says
//!   nothing of it, unless it is in [`HIDDEN`]. A second one of a kind that has registers of
//!   its own there is hidden, too, and so is one that does not fit into its space.
//! * An extended capability is hidden unless it is in [`SHOWN`]; an id that nobody knew when
//!   this was written may stand for anything.
//! * What is hidden ends where the next capability begins. A conventional one ends after
//!   the bytes it can have, since a device may have registers of its own behind it.
//! * Of a list that is broken, what comes before the break is shown. Of an extended list
//!   that does not end, nothing is.

use alloc::vec::Vec;

use pcidom_pci::access::CONVENTIONAL_SPACE;
use pcidom_pci::function::Function;
use pcidom_pci::regs::{capability, extended, msix, pcie, pm};
use pcidom_pci::scan::MAX_EXTENDED_CAPABILITIES;
use pcidom_pci::{Register, Width};

use super::registers::PCI_X_ID;

/// A kind of capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its id.
    pub id: u16,
    /// Its name, one word: that of its registers in the specification, or a usual one.
    pub name: &'static str,
}

const fn kind(id: u16, name: &'static str) -> Kind {
    Kind { id, name }
}

/// Conventional capabilities that are hidden, and how many bytes they can have.
pub const HIDDEN: [(Kind, u16); 4] = [
    // Slave and host blocks, interrupt remapping, and where MSI is mapped to (HT 3.1, 7).
    (kind(0x08, "HT"), 0x1c),
    // Nothing but FLR (AF 3).
    (kind(capability::AF as u16, "AF"), 8),
    // BARs at other places than those that the daemon gives rights to (PCIe 7.8.5).
    (kind(0x14, "EA"), 0xc0),
    // Bridges only (PCIe 7.8.10).
    (kind(0x15, "FPB"), 0x24),
];

/// Extended capabilities that are shown, read-only (PCI Code and ID Assignment, 3).
pub const SHOWN: [Kind; 16] = [
    kind(0x00, "NULL"),
    kind(0x02, "VC"),
    kind(0x03, "DSN"),
    kind(0x04, "PB"),
    kind(0x09, "VC_MFVC"),
    kind(0x0b, "VSEC"),
    kind(0x16, "DPA"),
    kind(0x18, "LTR"),
    kind(0x19, "SECPCI"),
    kind(0x1e, "L1SS"),
    kind(0x1f, "PTM"),
    kind(0x22, "RTR"),
    kind(0x23, "DVSEC"),
    kind(0x25, "DLF"),
    kind(0x26, "PHY16"),
    kind(0x2a, "PHY32"),
];

/// Names of some that are hidden, for people; any other one is as well.
pub const SOME_HIDDEN: [Kind; 14] = [
    kind(0x01, "AER"),
    kind(0x05, "RCLINK"),
    kind(0x0d, "ACS"),
    kind(0x0e, "ARI"),
    kind(0x0f, "ATS"),
    kind(0x10, "SRIOV"),
    kind(0x11, "MRIOV"),
    kind(0x12, "MCAST"),
    kind(0x13, "PRI"),
    kind(0x15, "REBAR"),
    kind(0x17, "TPH"),
    kind(0x1b, "PASID"),
    kind(0x1d, "DPC"),
    kind(0x24, "VFREBAR"),
];

/// Shortest step from one extended capability to the next: its header.
const HEADER: u16 = 4;
/// Bytes of the longest MSI capability, in whole double words (PCI 6.8.1).
const MSI_LENGTH: u16 = 24;
/// The version that a null capability is shown with.
const NULL_VERSION: u32 = 1;

/// Bytes of a capability that a guest sees nothing of, whole double words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// First byte.
    pub start: u16,
    /// The byte after the last one.
    pub end: u16,
    /// Its id.
    pub id: u16,
}

impl Hidden {
    /// What it is called; empty if nobody knows.
    pub fn name(&self) -> &'static str {
        if self.start >= extended::START {
            return extended_name(self.id);
        }
        let mut all = HIDDEN.iter();
        all.find(|(kind, _)| kind.id == self.id).map_or("", |(kind, _)| kind.name)
    }

    /// Whether a register is in it: a register lies in one double word.
    pub const fn contains(&self, register: Register) -> bool {
        self.start <= register.offset() && register.offset() < self.end
    }
}

/// The lists of one function.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// Where the conventional list starts for the guest; 0 if it is empty.
    pub(super) first: u8,
    /// The headers as the guest sees them.
    pub(super) headers: Vec<(Register, u32)>,
    /// What it does not see.
    pub(super) hidden: Vec<Hidden>,
}

impl Lists {
    pub(super) fn of(function: &Function) -> Self {
        let mut lists = Self::default();
        lists.conventional(function);
        lists.extended(function);
        lists
    }

    fn conventional(&mut self, function: &Function) {
        let known = &function.capabilities;
        let mut next = 0;
        for found in known.iter().rev() {
            let offset = found.offset;
            if let Some(length) = hides(function, found.id.into(), offset) {
                let after = known.iter().map(|other| other.offset);
                let after = after.filter(|other| *other > offset).min();
                let end = offset.saturating_add(length).min(CONVENTIONAL_SPACE);
                let end = after.map_or(end, |after| end.min(after));
                self.hidden.push(Hidden { start: offset, end, id: found.id.into() });
            } else if let Some(at) = Register::new(offset, Width::Word) {
                self.headers.push((at, u32::from(next) << 8 | u32::from(found.id)));
                next = offset;
            }
        }
        let [low, _] = next.to_le_bytes();
        self.first = low;
    }

    fn extended(&mut self, function: &Function) {
        let known = &function.extended;
        if known.is_empty()
            && function.has_extended_space()
            && let Some(at) = Register::new(extended::START, Width::Dword)
        {
            self.headers.push((at, 0));
        }
        let endless = known.len() >= MAX_EXTENDED_CAPABILITIES;
        let mut next = 0;
        for found in known.iter().rev() {
            let offset = found.offset;
            let shown = !endless && SHOWN.iter().any(|kind| kind.id == found.id);
            let Some(at) = Register::new(offset, Width::Dword) else { continue };
            let version = u32::from(found.version) << extended::VERSION_SHIFT;
            let link = u32::from(next) << extended::NEXT_SHIFT;
            if shown {
                self.headers.push((at, u32::from(found.id) | version | link));
                next = offset;
                continue;
            }
            let after = known.iter().map(|other| other.offset);
            let after = after.filter(|other| *other > offset && !endless).min();
            let end = after.unwrap_or(function.space);
            let mut start = offset;
            if offset == extended::START {
                // The list starts here, whatever is here: an empty one, or a capability
                // that has nothing but a header (PCI Code and ID Assignment, 3).
                let null = NULL_VERSION << extended::VERSION_SHIFT | link;
                self.headers.push((at, if next == 0 { 0 } else { null }));
                start += HEADER;
            }
            self.hidden.push(Hidden { start, end, id: found.id });
        }
    }
}

/// How many bytes of a conventional capability are hidden, if it is.
fn hides(function: &Function, id: u16, offset: u16) -> Option<u16> {
    let listed = HIDDEN.iter().find(|(kind, _)| kind.id == id);
    if let Some((_, length)) = listed {
        return Some(*length);
    }
    let [id, _] = id.to_le_bytes();
    let (ours, length) = match id {
        capability::PM => (function.pm.map(|found| found.offset), pm::LENGTH),
        capability::MSI => (function.msi.map(|found| found.offset), MSI_LENGTH),
        capability::MSIX => (function.msix.map(|found| found.offset), msix::LENGTH),
        capability::PCIE => (function.pcie.map(|found| found.offset), pcie::LENGTH),
        // The first of each is ours; both have all their registers behind the header.
        capability::VPD | PCI_X_ID => {
            let mut all = function.capabilities.iter();
            (all.find(|found| found.id == id).map(|found| found.offset), 8)
        }
        _ => return None,
    };
    (ours != Some(offset)).then_some(length)
}

/// What an extended capability is called.
pub fn extended_name(id: u16) -> &'static str {
    let mut all = SHOWN.iter().chain(&SOME_HIDDEN);
    all.find(|kind| kind.id == id).map_or("", |kind| kind.name)
}

//! The page of a PV PCI link (`struct xen_pci_sharedinfo`, io/pciif.h).
//!
//! One request slot from the frontend, one AER slot from the backend, and a word of flags
//! that both change with locked operations. No indices, no ids: one request in flight each
//! way. `xen-sys` has the same structure as C declares it; the ABI test compares the word
//! numbers below with it.

use alloc::vec::Vec;

use crate::page::SharedPage;

/// What both ends write to XenStore as `magic`.
pub const MAGIC: &str = "7";
/// Entries `msix_entries` has room for (`SH_INFO_MAX_VEC`).
pub const MAX_MSIX_ENTRIES: usize = 128;

/// Frontend request outstanding (`XEN_PCIF_active`).
pub const FRONT_ACTIVE: u32 = 1 << 0;
/// The frontend serves AER requests (`XEN_PCIB_AERHANDLER`).
pub const AER_HANDLER: u32 = 1 << 1;
/// Backend AER request outstanding (`XEN_PCIB_active`).
pub const BACK_ACTIVE: u32 = 1 << 2;

/// Word numbers in the page: byte offset divided by four.
pub mod word {
    /// `flags`
    pub const FLAGS: usize = 0;
    /// First word of `op`.
    pub const OP: usize = 1;
    /// `op.err`
    pub const OP_ERR: usize = OP + 1;
    /// `op.value`
    pub const OP_VALUE: usize = OP + 7;
    /// First entry of `op.msix_entries`, one word each.
    pub const MSIX: usize = OP + 9;
    /// First word of `aer_op`.
    pub const AER: usize = MSIX + super::MAX_MSIX_ENTRIES;
    /// `aer_op.err`
    pub const AER_ERR: usize = AER + 1;
}

/// `op.cmd`
pub mod command {
    /// Read config space.
    pub const CONF_READ: u32 = 0;
    /// Write config space.
    pub const CONF_WRITE: u32 = 1;
    /// Enable MSI.
    pub const ENABLE_MSI: u32 = 2;
    /// Disable MSI.
    pub const DISABLE_MSI: u32 = 3;
    /// Enable MSI-X.
    pub const ENABLE_MSIX: u32 = 4;
    /// Disable MSI-X.
    pub const DISABLE_MSIX: u32 = 5;
    /// AER: an error was detected.
    pub const AER_DETECTED: u32 = 6;
    /// AER: go on.
    pub const AER_RESUME: u32 = 7;
    /// AER: memory access works again.
    pub const AER_MMIO: u32 = 8;
    /// AER: the slot was reset.
    pub const AER_SLOT_RESET: u32 = 9;
    /// Enable several MSI vectors; in the header, spoken by nobody.
    pub const ENABLE_MULTI_MSI: u32 = 10;
}

/// `op.err`: the only codes a backend may send (`XEN_PCI_ERR_*`). Errno values that Linux
/// leaks are never sent: its frontend takes -19 on a read for "0, success".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum OpError {
    /// `XEN_PCI_ERR_dev_not_found`
    DevNotFound = -1,
    /// `XEN_PCI_ERR_invalid_offset`
    InvalidOffset = -2,
    /// `XEN_PCI_ERR_access_denied`
    AccessDenied = -3,
    /// `XEN_PCI_ERR_not_implemented`
    NotImplemented = -4,
    /// `XEN_PCI_ERR_op_failed`
    OpFailed = -5,
}

/// The request slot as it stood in the page at one moment: a private copy, unchecked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawOp {
    /// `cmd`
    pub cmd: u32,
    /// `err`
    pub err: i32,
    /// `domain`: the segment.
    pub domain: u32,
    /// `bus`
    pub bus: u32,
    /// `devfn`
    pub devfn: u32,
    /// `offset`
    pub offset: i32,
    /// `size`
    pub size: i32,
    /// `value`
    pub value: u32,
}

/// One `struct xen_msix_entry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawMsixEntry {
    /// `vector`: the pirq in an answer, nothing in a request.
    pub vector: u16,
    /// `entry`: the index in the device's MSI-X table.
    pub entry: u16,
}

impl RawMsixEntry {
    const fn from_word(word: u32) -> Self {
        let [v0, v1, e0, e1] = word.to_le_bytes();
        Self { vector: u16::from_le_bytes([v0, v1]), entry: u16::from_le_bytes([e0, e1]) }
    }

    const fn to_word(self) -> u32 {
        let [v0, v1] = self.vector.to_le_bytes();
        let [e0, e1] = self.entry.to_le_bytes();
        u32::from_le_bytes([v0, v1, e0, e1])
    }
}

/// Copies the request out of the page, each word once.
pub fn load_op(page: &impl SharedPage) -> RawOp {
    page.barrier();
    let word = |n: usize| page.load(word::OP + n);
    RawOp {
        cmd: word(0),
        err: word(1).cast_signed(),
        domain: word(2),
        bus: word(3),
        devfn: word(4),
        offset: word(5).cast_signed(),
        size: word(6).cast_signed(),
        value: word(7),
    }
}

/// Writes a request into the page; the flag is the caller's next step.
pub fn store_op(page: &impl SharedPage, op: &RawOp) {
    let words = [
        op.cmd,
        op.err.cast_unsigned(),
        op.domain,
        op.bus,
        op.devfn,
        op.offset.cast_unsigned(),
        op.size.cast_unsigned(),
        op.value,
    ];
    for (n, value) in words.into_iter().enumerate() {
        page.store(word::OP + n, value);
    }
}

/// Copies the first `count` MSI-X entries out, [`MAX_MSIX_ENTRIES`] at most.
pub fn load_msix(page: &impl SharedPage, count: usize) -> Vec<RawMsixEntry> {
    let words = word::MSIX..word::MSIX + count.min(MAX_MSIX_ENTRIES);
    words.map(|n| RawMsixEntry::from_word(page.load(n))).collect()
}

/// Writes MSI-X entries from the first on, [`MAX_MSIX_ENTRIES`] at most.
pub fn store_msix(page: &impl SharedPage, entries: &[RawMsixEntry]) {
    for (n, entry) in entries.iter().take(MAX_MSIX_ENTRIES).enumerate() {
        page.store(word::MSIX + n, entry.to_word());
    }
}

/// The AER slot as it stood in the page at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawAerOp {
    /// `cmd`
    pub cmd: u32,
    /// `err`: the channel state in a request, the result in an answer.
    pub err: i32,
    /// `domain`
    pub domain: u32,
    /// `bus`
    pub bus: u32,
    /// `devfn`
    pub devfn: u32,
}

/// Copies the AER request out of the page.
pub fn load_aer(page: &impl SharedPage) -> RawAerOp {
    page.barrier();
    let word = |n: usize| page.load(word::AER + n);
    RawAerOp {
        cmd: word(0),
        err: word(1).cast_signed(),
        domain: word(2),
        bus: word(3),
        devfn: word(4),
    }
}

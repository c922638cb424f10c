//! What one function is: everything a scan learns, as plain data.
//!
//! It is recorded once, while nobody uses the device. Addresses, sizes and capability
//! offsets are taken from here afterwards and never from the hardware again, since a guest
//! can change what a lent device answers (advisory 337).

use alloc::vec::Vec;
use core::fmt;

use crate::access::{CONVENTIONAL_SPACE, EXTENDED_SPACE, Register};
use crate::address::Sbdf;
use crate::regs::{command, header, msi, msix};

/// One PCI function as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its physical address.
    pub sbdf: Sbdf,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class Code: base class, sub-class and interface in the low 24 bits.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// Subsystem IDs; bridges have none here.
    pub subsystem: Option<Subsystem>,
    /// Header Type as read, multi-function bit included.
    pub header_type: u8,
    /// Interrupt Line: for a PV domain the number of its INTx pirq.
    pub interrupt_line: u8,
    /// Interrupt Pin, 0 if it has none.
    pub interrupt_pin: u8,
    /// The BARs that exist. The upper half of a 64-bit BAR is no entry of its own.
    pub bars: Vec<Bar>,
    /// The raw values of all BAR registers, for writing them back after a reset.
    pub bar_registers: Vec<BarRegister>,
    /// The expansion ROM, if it has one.
    pub rom: Option<Rom>,
    /// The capability list in its order.
    pub capabilities: Vec<Capability>,
    /// Set if the capability list had a bad pointer or a loop: the offset that was not
    /// followed. What comes before it is good.
    pub list_cut_at: Option<u16>,
    /// The extended capability list in its order.
    pub extended: Vec<ExtendedCapability>,
    /// Parsed Power Management capability.
    pub pm: Option<Pm>,
    /// Parsed MSI capability.
    pub msi: Option<Msi>,
    /// Parsed MSI-X capability.
    pub msix: Option<Msix>,
    /// Parsed PCI Express capability.
    pub pcie: Option<Pcie>,
    /// Parsed Advanced Features capability.
    pub af: Option<Af>,
    /// What is below it, if it is a bridge.
    pub buses: Option<Buses>,
    /// Bytes of config space that can be reached: 256 or 4096.
    pub space: u16,
    /// More registers that can't change, and what they hold.
    pub constants: Vec<Constant>,
    /// It is lent without its interrupt line, which another guest has: INTx Disable stays on,
    /// whatever is done to it. No scan finds that; who lends says so.
    pub line_off: bool,
}

/// A register that is read-only by its specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constant {
    /// Where it is.
    pub register: Register,
    /// What was read there.
    pub value: u32,
}

/// Subsystem IDs of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subsystem {
    /// Subsystem Vendor ID.
    pub vendor: u16,
    /// Subsystem ID.
    pub device: u16,
}

/// What a BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory.
    Memory {
        /// It takes two registers and may lie above 4 GiB.
        wide: bool,
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

/// One Base Address Register that decodes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Its (first) register, 0 to 5.
    pub index: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// Machine address or I/O port.
    pub address: u64,
    /// Bytes, a power of two for an honest device.
    pub size: u64,
}

/// A BAR register and the value that was found in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarRegister {
    /// Where it is.
    pub offset: u16,
    /// What it read before sizing.
    pub value: u32,
}

/// The expansion ROM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rom {
    /// The raw register, and its value before sizing.
    pub register: BarRegister,
    /// Machine address.
    pub address: u32,
    /// Bytes.
    pub size: u32,
}

/// One entry of the capability list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Capability ID (`regs::capability`).
    pub id: u8,
    /// Where it starts.
    pub offset: u16,
}

/// One entry of the extended capability list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedCapability {
    /// Extended Capability ID.
    pub id: u16,
    /// Capability Version.
    pub version: u8,
    /// Where it starts.
    pub offset: u16,
}

/// Power Management.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pm {
    /// Where it starts.
    pub offset: u16,
    /// D3hot to D0 does not reset the function.
    pub no_soft_reset: bool,
    /// Power Management Capabilities: read-only.
    pub capabilities: u16,
}

/// Message Signaled Interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Where it starts.
    pub offset: u16,
    /// It has the upper half of an address.
    pub is_64bit: bool,
    /// It has mask and pending bits.
    pub maskable: bool,
    /// Vectors it can ask for, 1 to 32.
    pub vectors: u8,
    /// The read-only bits of Message Control, and those that are reserved.
    pub control_bits: u16,
}

impl Msi {
    /// Where its Message Control is.
    pub const fn control(&self) -> u16 {
        self.offset.saturating_add(msi::CONTROL)
    }

    /// Bytes of the whole capability (PCI 6.8.1, figure 6-9).
    pub const fn length(&self) -> u16 {
        let address = if self.is_64bit { 14 } else { 10 };
        if self.maskable { address + 10 } else { address }
    }
}

/// MSI-X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msix {
    /// Where it starts.
    pub offset: u16,
    /// Entries of its table, 1 to 2048.
    pub table_size: u16,
    /// The BAR with the table; 6 and 7 are reserved.
    pub table_bar: u8,
    /// Where the table starts in that BAR.
    pub table_offset: u32,
    /// The BAR with the pending bits.
    pub pba_bar: u8,
    /// Where they start in that BAR.
    pub pba_offset: u32,
}

impl Msix {
    /// Where its Message Control is.
    pub const fn control(&self) -> u16 {
        self.offset.saturating_add(msix::CONTROL)
    }
}

/// PCI Express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pcie {
    /// Where it starts.
    pub offset: u16,
    /// Capability Version.
    pub version: u8,
    /// Device/Port Type (PCIe 7.5.3.2): 0 an endpoint, 4 a root port.
    pub port_type: u8,
    /// Function Level Reset is there.
    pub flr: bool,
    /// Device Control as it was found, without Initiate Function Level Reset.
    pub control: u16,
    /// Slot Control as it was found, if it is a port with a slot in which cards come and go.
    pub slot: Option<u16>,
}

/// The bus numbers below a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buses {
    /// Secondary Bus Number: the bus right below.
    pub secondary: u8,
    /// Subordinate Bus Number: the last bus below.
    pub subordinate: u8,
}

/// Advanced Features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Af {
    /// Where it starts.
    pub offset: u16,
    /// Function Level Reset is there.
    pub flr: bool,
    /// Transactions Pending is there.
    pub pending: bool,
}

impl Function {
    /// The BAR whose first register is number `index`.
    pub fn bar(&self, index: u8) -> Option<&Bar> {
        self.bars.iter().find(|bar| bar.index == index)
    }

    /// It is a bridge or a port, which no guest ever gets.
    pub fn is_bridge(&self) -> bool {
        self.header_type & !header::MULTI_FUNCTION == header::TYPE_BRIDGE
            || self.class >> 16 == 0x06
    }

    /// Whether `other` is below this bridge, right below or behind others.
    pub fn is_above(&self, other: Sbdf) -> bool {
        self.buses.is_some_and(|Buses { secondary, subordinate }| {
            self.sbdf.segment() == other.segment()
                && (secondary..=subordinate).contains(&other.bus())
        })
    }

    /// The bits that its Command register always has: memory decode, since Xen reaches the
    /// MSI-X table through it, I/O if there is an I/O BAR, and INTx Disable if it has no line.
    pub fn decode(&self) -> u16 {
        let io = self.bars.iter().any(|bar| bar.kind == BarKind::Io);
        let line = if self.line_off { command::INTX_DISABLE } else { 0 };
        let io = if io { command::IO } else { 0 };
        command::MEMORY | io | line
    }

    /// Revision and Class Code as one read at 0x08 gives them.
    pub fn revision_and_class(&self) -> u32 {
        self.class << 8 | u32::from(self.revision)
    }

    /// Machine address of the MSI-X table, if all of it lies in a memory BAR.
    ///
    /// `None` for a device whose table can't be where it says; nothing may be mapped then.
    pub fn msix_table(&self) -> Option<u64> {
        let msix = self.msix?;
        let bar = self.bar(msix.table_bar)?;
        let length = u64::from(msix.table_size) * u64::from(msix::ENTRY_BYTES);
        let end = u64::from(msix.table_offset) + length;
        let in_memory = matches!(bar.kind, BarKind::Memory { .. });
        (in_memory && end <= bar.size)
            .then(|| bar.address.checked_add(msix.table_offset.into()))
            .flatten()
    }

    /// It has extended config space that can be reached.
    pub const fn has_extended_space(&self) -> bool {
        self.space > CONVENTIONAL_SPACE && self.space <= EXTENDED_SPACE
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            BarKind::Io => "io",
            BarKind::Memory { wide: true, .. } => "mem64",
            BarKind::Memory { wide: false, .. } => "mem32",
        };
        write!(f, "BAR{} {kind} {:#x}+{:#x}", self.index, self.address, self.size)
    }
}

impl fmt::Display for Function {
    /// One line for the log, e.g. `0000:01:00.0 1b36:0010 class 01.08.02, BAR0 mem64
    /// 0xfe400000+0x4000, caps: MSI-X(65 @ BAR0+0x2000) PCIe(FLR) PM`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [interface, sub, base, _] = self.class.to_le_bytes();
        write!(f, "{} {:04x}:{:04x}", self.sbdf, self.vendor, self.device)?;
        write!(f, " class {base:02x}.{sub:02x}.{interface:02x}")?;
        for bar in &self.bars {
            write!(f, ", {bar}")?;
        }
        if let Some(rom) = &self.rom {
            write!(f, ", ROM {:#x}+{:#x}", rom.address, rom.size)?;
        }
        f.write_str(", caps:")?;
        if let Some(msix) = &self.msix {
            let Msix { table_size, table_bar, table_offset, .. } = msix;
            write!(f, " MSI-X({table_size} @ BAR{table_bar}+{table_offset:#x}")?;
            f.write_str(if self.msix_table().is_some() { ")" } else { ", unusable)" })?;
        }
        if let Some(msi) = &self.msi {
            write!(f, " MSI({})", msi.vectors)?;
        }
        match &self.pcie {
            Some(Pcie { flr: true, .. }) => f.write_str(" PCIe(FLR)")?,
            Some(_) => f.write_str(" PCIe(no FLR)")?,
            None => {}
        }
        match &self.af {
            Some(Af { flr: true, .. }) => f.write_str(" AF(FLR)")?,
            Some(_) => f.write_str(" AF(no FLR)")?,
            None => {}
        }
        if self.pm.is_some() {
            f.write_str(" PM")?;
        }
        if let Some(Buses { secondary, subordinate }) = self.buses {
            let slot = self.pcie.is_some_and(|pcie| pcie.slot.is_some());
            let slot = if slot { ", hot-plug slot" } else { "" };
            write!(f, ", port of buses {secondary:02x} to {subordinate:02x}{slot}")?;
        }
        match self.list_cut_at {
            Some(offset) => write!(f, " (list broken at {offset:#04x})"),
            None => Ok(()),
        }
    }
}

//! Offsets and bits of configuration registers, named as the specifications name them.
//!
//! "PCI" is PCI Local Bus 3.0, "PCIe" is PCI Express Base 5.0, "PM" is PCI Bus Power
//! Management 1.2, "AF" is the Advanced Capabilities ECN for Conventional PCI. Offsets
//! of the standard header are absolute; those of a capability count from its start.

/// The standard header (PCI 6.1, PCIe 7.5.1).
pub mod header {
    /// Vendor ID, 16 bits. dom0's backend answers it from its own memory.
    pub const VENDOR_ID: u16 = 0x00;
    /// Device ID, 16 bits. As [`VENDOR_ID`].
    pub const DEVICE_ID: u16 = 0x02;
    /// Command, 16 bits; see [`super::command`].
    pub const COMMAND: u16 = 0x04;
    /// Status, 16 bits; see [`super::status`].
    pub const STATUS: u16 = 0x06;
    /// Revision ID in the low byte, Class Code in the upper three; read from hardware.
    pub const REVISION_AND_CLASS: u16 = 0x08;
    /// Cache Line Size, 8 bits. PCI Express keeps it writable and without effect
    /// (PCIe 7.5.1.1.7), and every reset clears it.
    pub const CACHE_LINE_SIZE: u16 = 0x0c;
    /// Header Type, 8 bits.
    pub const HEADER_TYPE: u16 = 0x0e;
    /// Header Type: the device has more functions.
    pub const MULTI_FUNCTION: u8 = 1 << 7;
    /// Header Type of an endpoint, without [`MULTI_FUNCTION`].
    pub const TYPE_ENDPOINT: u8 = 0;
    /// Latency Timer, 8 bits; 0 of a PCI Express function (PCIe 7.5.1.1.8).
    pub const LATENCY_TIMER: u16 = 0x0d;
    /// Header Type of a bridge or port, without [`MULTI_FUNCTION`].
    pub const TYPE_BRIDGE: u8 = 1;
    /// Base Address Register 0, 32 bits.
    pub const BAR0: u16 = 0x10;
    /// Base Address Registers of an endpoint.
    pub const ENDPOINT_BARS: u8 = 6;
    /// Base Address Registers of a bridge.
    pub const BRIDGE_BARS: u8 = 2;
    /// Primary, Secondary and Subordinate Bus Number and Secondary Latency Timer of a
    /// bridge, 8 bits each (PCIe 7.5.1.3.2).
    pub const BRIDGE_BUSES: u16 = 0x18;
    /// Cardbus CIS Pointer, 32 bits, read-only; endpoints only.
    pub const CIS: u16 = 0x28;
    /// Subsystem Vendor ID and Subsystem ID, 16 bits each; endpoints only.
    pub const SUBSYSTEM: u16 = 0x2c;
    /// Expansion ROM Base Address of an endpoint, 32 bits.
    pub const ROM: u16 = 0x30;
    /// Capabilities Pointer, 8 bits.
    pub const CAPABILITIES: u16 = 0x34;
    /// Reserved on an endpoint, 32 bits (PCI figure 6-1).
    pub const RESERVED: u16 = 0x38;
    /// Expansion ROM Base Address of a bridge, 32 bits.
    pub const BRIDGE_ROM: u16 = 0x38;
    /// Interrupt Line, 8 bits. dom0's backend shows its own number for the line.
    pub const INTERRUPT_LINE: u16 = 0x3c;
    /// Interrupt Pin, 8 bits: 0 none, 1 to 4 INTA to INTD.
    pub const INTERRUPT_PIN: u16 = 0x3d;
    /// Min_Gnt and Max_Lat of an endpoint, 8 bits each, read-only.
    pub const MIN_GRANT: u16 = 0x3e;
    /// Bridge Control of a bridge, 16 bits (PCIe 7.5.1.3.13).
    pub const BRIDGE_CONTROL: u16 = 0x3e;
    /// Bridge Control: Secondary Bus Reset.
    pub const BUS_RESET: u16 = 1 << 6;
    /// The first byte after the header, where capabilities may start (PCI 6.7).
    pub const END: u16 = 0x40;

    /// Where BAR `index` is.
    pub const fn bar(index: u8) -> u16 {
        BAR0 + 4 * index as u16
    }
}

/// Command (PCI 6.2.2, PCIe 7.5.1.1.3).
pub mod command {
    /// I/O Space Enable.
    pub const IO: u16 = 1 << 0;
    /// Memory Space Enable.
    pub const MEMORY: u16 = 1 << 1;
    /// Bus Master Enable: the function may start DMA and send MSIs.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// Memory Write and Invalidate.
    pub const INVALIDATE: u16 = 1 << 4;
    /// Parity Error Response.
    pub const PARITY: u16 = 1 << 6;
    /// SERR# Enable.
    pub const SERR: u16 = 1 << 8;
    /// Interrupt Disable: INTx is not asserted.
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// Status (PCI 6.2.3, PCIe 7.5.1.1.4).
pub mod status {
    /// Interrupt Status: INTx is pending.
    pub const INTERRUPT: u16 = 1 << 3;
    /// Capabilities List.
    pub const CAPABILITIES: u16 = 1 << 4;
    /// Error bits, each cleared by writing 1 to it.
    pub const ERRORS: u16 = 0xf900;
}

/// Base Address Registers (PCI 6.2.5, PCIe 7.5.1.2.1).
pub mod bar {
    /// It is an I/O BAR.
    pub const IO: u32 = 1 << 0;
    /// The flag bits of an I/O BAR.
    pub const IO_FLAGS: u32 = 0b11;
    /// The type field of a memory BAR.
    pub const TYPE: u32 = 0b110;
    /// Type: 64 bits wide; the next BAR is its upper half.
    pub const TYPE_64: u32 = 0b100;
    /// Memory without side effects of reads.
    pub const PREFETCHABLE: u32 = 1 << 3;
    /// The flag bits of a memory BAR.
    pub const MEMORY_FLAGS: u32 = 0b1111;
    /// Expansion ROM Enable.
    pub const ROM_ENABLE: u32 = 1 << 0;
    /// The address bits of the Expansion ROM BAR (PCI 6.2.5.2).
    pub const ROM_ADDRESS: u32 = !0x7ff;
    /// What is written to a ROM BAR to learn its size: all ones but the enable bit. It is
    /// the one value that every version of dom0's backend takes as that question.
    pub const ROM_SIZING: u32 = !ROM_ENABLE;
}

/// Capability IDs (PCI Code and ID Assignment, 2).
pub mod capability {
    /// Power Management Interface.
    pub const PM: u8 = 0x01;
    /// Vital Product Data.
    pub const VPD: u8 = 0x03;
    /// Message Signaled Interrupts.
    pub const MSI: u8 = 0x05;
    /// Vendor-specific.
    pub const VENDOR: u8 = 0x09;
    /// PCI Express.
    pub const PCIE: u8 = 0x10;
    /// Extended Message Signaled Interrupts.
    pub const MSIX: u8 = 0x11;
    /// Advanced Features.
    pub const AF: u8 = 0x13;
}

/// Power Management (PM 3.2, PCIe 7.5.2).
pub mod pm {
    /// Power Management Capabilities, 16 bits.
    pub const CAPABILITIES: u16 = 2;
    /// Power Management Control/Status, 16 bits.
    pub const CONTROL: u16 = 4;
    /// PMCSR: PowerState, 0 is D0 and 3 is D3hot.
    pub const STATE: u16 = 0b11;
    /// PMCSR: No_Soft_Reset, D3hot to D0 keeps the function's state.
    pub const NO_SOFT_RESET: u16 = 1 << 3;
    /// Bytes of the whole capability.
    pub const LENGTH: u16 = 8;
}

/// Message Signaled Interrupts (PCI 6.8.1, PCIe 7.7.1).
pub mod msi {
    /// Message Control, 16 bits.
    pub const CONTROL: u16 = 2;
    /// Message Control: MSI Enable.
    pub const ENABLE: u16 = 1 << 0;
    /// Message Control: Multiple Message Capable, log2 of the vectors.
    pub const MULTIPLE_CAPABLE: u16 = 0b111 << 1;
    /// Message Control: Multiple Message Enable.
    pub const MULTIPLE_ENABLE: u16 = 0b111 << 4;
    /// Message Control: 64 bit Address Capable.
    pub const ADDRESS_64: u16 = 1 << 7;
    /// Message Control: Per-Vector Masking Capable.
    pub const MASKABLE: u16 = 1 << 8;
    /// Message Control: Extended Message Data Enable (PCIe 7.7.1.2).
    pub const EXTENDED_DATA_ENABLE: u16 = 1 << 10;
    /// The bits of Message Control that can be written.
    pub const WRITABLE: u16 = ENABLE | MULTIPLE_ENABLE | EXTENDED_DATA_ENABLE;
}

/// MSI-X (PCI 6.8.2, PCIe 7.7.2).
pub mod msix {
    /// Message Control, 16 bits.
    pub const CONTROL: u16 = 2;
    /// Message Control: Table Size, entries minus one.
    pub const TABLE_SIZE: u16 = 0x7ff;
    /// Message Control: Function Mask, which Xen calls MASKALL.
    pub const MASKALL: u16 = 1 << 14;
    /// Message Control: MSI-X Enable.
    pub const ENABLE: u16 = 1 << 15;
    /// Table Offset and Table BIR, 32 bits.
    pub const TABLE: u16 = 4;
    /// PBA Offset and PBA BIR, 32 bits.
    pub const PBA: u16 = 8;
    /// The BAR Indicator Register bits of the two.
    pub const BIR: u32 = 0b111;
    /// Bytes of the whole capability.
    pub const LENGTH: u16 = 12;
    /// Bytes of one table entry.
    pub const ENTRY_BYTES: u16 = 16;
}

/// PCI Express (PCIe 7.5.3).
pub mod pcie {
    /// PCI Express Capabilities, 16 bits.
    pub const FLAGS: u16 = 2;
    /// PCI Express Capabilities: Capability Version.
    pub const VERSION: u16 = 0xf;
    /// PCI Express Capabilities: Device/Port Type.
    pub const TYPE: u16 = 0xf0;
    /// PCI Express Capabilities: Slot Implemented.
    pub const SLOT_IMPLEMENTED: u16 = 1 << 8;
    /// Device Capabilities, 32 bits.
    pub const DEVICE_CAPABILITIES: u16 = 4;
    /// Device Capabilities: Function Level Reset Capability.
    pub const FLR_CAPABLE: u32 = 1 << 28;
    /// Device Control, 16 bits.
    pub const DEVICE_CONTROL: u16 = 8;
    /// Device Control: Initiate Function Level Reset; reads 0.
    pub const INITIATE_FLR: u16 = 1 << 15;
    /// Device Status, 16 bits.
    pub const DEVICE_STATUS: u16 = 10;
    /// Device Status: Transactions Pending.
    pub const TRANSACTIONS_PENDING: u16 = 1 << 5;
    /// Link Capabilities, 32 bits (PCIe 7.5.3.6).
    pub const LINK_CAPABILITIES: u16 = 0x0c;
    /// Slot Capabilities, 32 bits (PCIe 7.5.3.9).
    pub const SLOT_CAPABILITIES: u16 = 0x14;
    /// Slot Capabilities: Hot-Plug Capable.
    pub const HOT_PLUG_CAPABLE: u32 = 1 << 6;
    /// Slot Control, 16 bits (PCIe 7.5.3.10).
    pub const SLOT_CONTROL: u16 = 0x18;
    /// Slot Control: Presence Detect Changed, Hot-Plug Interrupt and Data Link Layer State
    /// Changed Enable.
    pub const SLOT_ENABLES: u16 = 1 << 3 | 1 << 5 | 1 << 12;
    /// Slot Status, 16 bits (PCIe 7.5.3.11).
    pub const SLOT_STATUS: u16 = 0x1a;
    /// Slot Status: Presence Detect Changed, Command Completed and Data Link Layer State
    /// Changed, each cleared by writing 1 to it.
    pub const SLOT_EVENTS: u16 = 1 << 3 | 1 << 4 | 1 << 8;
    /// Device Capabilities 2, 32 bits (PCIe 7.5.3.15).
    pub const DEVICE_CAPABILITIES_2: u16 = 0x24;
    /// Link Capabilities 2, 32 bits (PCIe 7.5.3.18).
    pub const LINK_CAPABILITIES_2: u16 = 0x2c;
    /// Device/Port Type: an endpoint in the root complex, which may have no link.
    pub const TYPE_INTEGRATED: u8 = 9;
    /// Device/Port Type: a bridge from PCI Express to PCI or PCI-X.
    pub const TYPE_TO_PCI: u8 = 7;
    /// Bytes of the whole capability, version 2.
    pub const LENGTH: u16 = 0x3c;
}

/// Advanced Features (AF 3).
pub mod af {
    /// Length, 8 bits.
    pub const LENGTH_FIELD: u16 = 2;
    /// AF Capabilities, 8 bits.
    pub const CAPABILITIES: u16 = 3;
    /// AF Capabilities: Transactions Pending is there.
    pub const HAS_PENDING: u8 = 1 << 0;
    /// AF Capabilities: Function Level Reset is there.
    pub const HAS_FLR: u8 = 1 << 1;
    /// AF Control, 8 bits.
    pub const CONTROL: u16 = 4;
    /// AF Control: Initiate FLR.
    pub const INITIATE_FLR: u8 = 1 << 0;
    /// AF Status, 8 bits.
    pub const STATUS: u16 = 5;
    /// AF Status: Transactions Pending.
    pub const PENDING: u8 = 1 << 0;
    /// Bytes of the whole capability.
    pub const LENGTH: u16 = 6;
}

/// Extended capability headers (PCIe 7.6.3).
pub mod extended {
    /// Where the list starts.
    pub const START: u16 = 0x100;
    /// Capability ID.
    pub const ID: u32 = 0xffff;
    /// Shift of the 4-bit Capability Version.
    pub const VERSION_SHIFT: u32 = 16;
    /// Shift of the Next Capability Offset.
    pub const NEXT_SHIFT: u32 = 20;
}

//! The registers that have a rule, with the place in a specification that each comes from.
//!
//! This is the policy. `table` puts the rows of a function together from it; what stands
//! here for people (sources, risks) is used by tools and docs, and not part of the image.
//!
//! A register that is not here, and is in no hidden capability, can be read and not be
//! written. "PCI" is PCI Local Bus 3.0, "PCIe" is PCI Express Base 5.0, "PM" is PCI Bus
//! Power Management 1.2, "PCI-X" is PCI-X 2.0, "AF" is the Advanced Capabilities ECN.

use pcidom_pci::Width;
use pcidom_pci::regs::{pcie, status};

use super::field::{ReadRule, WriteRule};

/// A register's rule; its offset counts from the capability it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name, one word, as `pcidomctl` takes and shows it.
    pub name: &'static str,
    /// Where it is.
    pub offset: u16,
    /// How wide it is.
    pub width: Width,
    /// What a guest reads.
    pub read: ReadRule,
    /// What a guest's write does.
    pub write: WriteRule,
    /// Bits that a person may let a guest write besides.
    pub grantable: u32,
}

/// A rule, and what people want to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The rule.
    pub row: Row,
    /// The section of the specification that has the register.
    pub source: &'static str,
    /// What an exception for it risks; if none is possible, why.
    pub why: &'static str,
}

macro_rules! table {
    ($(#[$doc:meta])* $entries:ident, $rows:ident: $(
        $name:literal, $offset:literal, $width:ident, $read:expr, $write:expr,
        $grantable:expr, $source:literal, $why:expr;
    )*) => {
        $(#[$doc])*
        pub const $entries: &[Entry] = &[$(Entry {
            row: Row {
                name: $name,
                offset: $offset,
                width: Width::$width,
                read: $read,
                write: $write,
                grantable: $grantable,
            },
            source: $source,
            why: $why,
        }),*];
        pub(super) static $rows: &[Row] = &[$(Row {
            name: $name,
            offset: $offset,
            width: Width::$width,
            read: $read,
            write: $write,
            grantable: $grantable,
        }),*];
    };
}

/// PME_Support and the AUX current that comes with it: dom0 keeps PME off, so a guest must
/// not plan on waking anything (PM 3.2.3).
const PME_SUPPORT: u32 = 0xf9c0;
/// PowerState, PME_En and PME_Status of PMCSR (PM 3.2.4).
const POWER_AND_PME: u32 = 0x8103;
/// What Device Capabilities say that a guest can't use: FLR, and phantom functions, which
/// would go round the IOMMU (PCIe 7.5.3.3).
const NOT_OFFERED: u32 = pcie::FLR_CAPABLE | 0b11 << 3;
/// Device Status: the four error bits, each cleared by writing 1 to it (PCIe 7.5.3.5).
const DEVICE_ERRORS: u32 = 0x000f;
/// Error bits of Status, as wide as the rule wants them.
const STATUS_ERRORS: u32 = status::ERRORS as u32;

const FIXED: &str = "read-only in the hardware as well";
const FACT: &str = "it says what the device is, and can't change";
const XENS: &str = "Xen's: an interrupt message goes where it says";
const DOM0S: &str = "dom0's, which keeps the power state it has given the device";
const NOT_HERE: &str = "belongs to ports, and a port is never lent";

use ReadRule::{Command, DeviceControl, Hardware, Masked};
use WriteRule::{Clear, Drop, Forward};

/// Everything.
const ALL: ReadRule = Masked(u32::MAX);
/// Nothing.
const ZERO: ReadRule = ReadRule::Constant(0);

table! {
    /// The header of an endpoint. `Masked` registers that the scan has recorded become
    /// constants; BARs are numbered by `table`.
    HEADER, HEADER_ROWS:
    "VENDOR_ID", 0x00, Word, ALL, Drop, 0, "PCI 6.2.1", FACT;
    "DEVICE_ID", 0x02, Word, ALL, Drop, 0, "PCI 6.2.1", FACT;
    "COMMAND", 0x04, Word, Command, WriteRule::Command, 0, "PCI 6.2.2, PCIe 7.5.1.1.3",
        "decode stays on, and error reporting is the host's (advisory 120)";
    "STATUS", 0x06, Word, Hardware, Clear(STATUS_ERRORS), 0, "PCI 6.2.3, PCIe 7.5.1.1.4",
        "its error bits can be cleared already, the others are read-only";
    "REVISION_AND_CLASS", 0x08, Dword, ALL, Drop, 0, "PCI 6.2.1", FACT;
    "CACHE_LINE_SIZE", 0x0c, Byte, Hardware, Forward, 0, "PCI 6.2.4",
        "it can be written already";
    "LATENCY_TIMER", 0x0d, Byte, ALL, Drop, 0xff, "PCI 6.2.4, PCIe 7.5.1.1.8",
        "hardwired to 0 on PCI Express; on a conventional bus the device may hold the bus longer \
         than dom0 means it to";
    "HEADER_TYPE", 0x0e, Byte, ReadRule::HeaderType(0), Drop, 0, "PCI 6.2.1", FACT;
    "BIST", 0x0f, Byte, Hardware, WriteRule::SelfTest, 0, "PCI 6.2.4",
        "a device that tests itself may not answer for two seconds";
    "BAR0", 0x10, Dword, ReadRule::Address(0), WriteRule::Address(0), 0, "PCI 6.2.5.1", MOVED;
    "BAR1", 0x14, Dword, ReadRule::Address(1), WriteRule::Address(1), 0, "PCI 6.2.5.1", MOVED;
    "BAR2", 0x18, Dword, ReadRule::Address(2), WriteRule::Address(2), 0, "PCI 6.2.5.1", MOVED;
    "BAR3", 0x1c, Dword, ReadRule::Address(3), WriteRule::Address(3), 0, "PCI 6.2.5.1", MOVED;
    "BAR4", 0x20, Dword, ReadRule::Address(4), WriteRule::Address(4), 0, "PCI 6.2.5.1", MOVED;
    "BAR5", 0x24, Dword, ReadRule::Address(5), WriteRule::Address(5), 0, "PCI 6.2.5.1", MOVED;
    "CARDBUS_CIS", 0x28, Dword, ALL, Drop, 0, "PCI 6.2.4", FACT;
    "SUBSYSTEM", 0x2c, Dword, ALL, Drop, 0, "PCI 6.2.4", FACT;
    "ROM", 0x30, Dword, ReadRule::Address(6), WriteRule::Address(6), 0, "PCI 6.2.5.2",
        "its decoder may be shared with a BAR, so it is never switched";
    "CAP_POINTER", 0x34, Byte, ALL, Drop, 0, "PCI 6.7", FACT;
    "RESERVED_35", 0x35, Byte, ALL, Drop, 0, "PCI 6.1", FIXED;
    "RESERVED_36", 0x36, Word, ALL, Drop, 0, "PCI 6.1", FIXED;
    "RESERVED_38", 0x38, Dword, ALL, Drop, 0, "PCI 6.1", FIXED;
    "INTERRUPT_LINE", 0x3c, Byte, ALL, Drop, 0, "PCI 6.2.4",
        "it is the number of the guest's interrupt, not a place for notes";
    "INTERRUPT_PIN", 0x3d, Byte, ALL, Drop, 0, "PCI 6.2.4", FACT;
    "MIN_GNT_MAX_LAT", 0x3e, Word, ALL, Drop, 0, "PCI 6.2.4", FACT;
}

const MOVED: &str =
    "Xen lets the guest reach the addresses that dom0 gave, and no others";

table! {
    /// Power Management. Every capability begins with its id and the next one's offset.
    POWER, POWER_ROWS:
    "PM_CAP", 2, Word, Masked(!PME_SUPPORT), Drop, 0, "PM 3.2.3", FACT;
    "PMCSR", 4, Word, Masked(!POWER_AND_PME), WriteRule::PowerState, 0, "PM 3.2.4", DOM0S;
    "PM_DATA", 6, Word, Hardware, Drop, 0, "PM 3.2.5, 3.2.6", DOM0S;
}

table! {
    /// Vital Product Data.
    PRODUCT, PRODUCT_ROWS:
    "VPD_ADDRESS", 2, Word, Hardware, WriteRule::ProductAddress, 0, "PCI appendix I",
        "reading works; what is written there outlives the loan";
    "VPD_DATA", 4, Dword, Hardware, Drop, 0, "PCI appendix I",
        "what is written there outlives the loan";
}

table! {
    /// MSI. Its layout depends on the capability: `table` moves what follows the address.
    MESSAGES, MESSAGE_ROWS:
    "MSI_CONTROL", 2, Word, ReadRule::MsiControl(0), Drop, 0, "PCI 6.8.1.3",
        "a guest turns MSI on by a request, not by a write";
    "MSI_ADDRESS", 4, Dword, ZERO, Drop, 0, "PCI 6.8.1.4", XENS;
    "MSI_ADDRESS_HIGH", 8, Dword, ZERO, Drop, 0, "PCI 6.8.1.5", XENS;
    "MSI_DATA", 12, Dword, ZERO, Drop, 0, "PCI 6.8.1.6", XENS;
    "MSI_MASK", 16, Dword, ZERO, Drop, 0, "PCI 6.8.1.7", XENS;
    "MSI_PENDING", 20, Dword, Hardware, Drop, 0, "PCI 6.8.1.8", FIXED;
}

table! {
    /// MSI-X.
    VECTORS, VECTOR_ROWS:
    "MSIX_CONTROL", 2, Word, ReadRule::MsixControl(0), Drop, 0, "PCI 6.8.2.3",
        "a guest turns MSI-X on by a request, not by a write";
    "MSIX_TABLE", 4, Dword, ALL, Drop, 0, "PCI 6.8.2.4", FACT;
    "MSIX_PBA", 8, Dword, ALL, Drop, 0, "PCI 6.8.2.5", FACT;
}

table! {
    /// PCI-X.
    PCI_X, PCI_X_ROWS:
    "PCIX_COMMAND", 2, Word, Hardware, Drop, 0x007f, "PCI-X 7.2.3",
        "the device may take more of the bus than dom0 means it to, or stop it at an error";
    "PCIX_STATUS", 4, Dword, Hardware, Drop, 0, "PCI-X 7.2.4",
        "dom0's record of errors";
}

table! {
    /// PCI Express, of every version; from 0x0c on not of an endpoint in the root complex.
    EXPRESS, EXPRESS_ROWS:
    "PCIE_CAP", 0x02, Word, Hardware, Drop, 0, "PCIe 7.5.3.2", FIXED;
    "DEVCAP", 0x04, Dword, Masked(!NOT_OFFERED), Drop, 0, "PCIe 7.5.3.3", FACT;
    "DEVCTL", 0x08, Word, DeviceControl, WriteRule::DeviceControl, 0x7dff, "PCIe 7.5.3.4",
        "payload and read sizes that the host's fabric does not expect, and the device's \
         errors reported to the host, can stop other devices or the host";
    "DEVSTA", 0x0a, Word, Hardware, Clear(DEVICE_ERRORS), 0, "PCIe 7.5.3.5",
        "its error bits can be cleared already, the others are read-only";
    "LNKCAP", 0x0c, Dword, ALL, Drop, 0, "PCIe 7.5.3.6", FACT;
    "LNKCTL", 0x10, Word, Hardware, Drop, 0x0343, "PCIe 7.5.3.7",
        "link power states that the other end of the link does not expect can hang the link \
         and report errors to the host";
    "LNKSTA", 0x12, Word, Hardware, Drop, 0, "PCIe 7.5.3.8", FIXED;
    "SLTCAP", 0x14, Dword, Hardware, Drop, 0, "PCIe 7.5.3.9", NOT_HERE;
    "SLTCTL", 0x18, Word, Hardware, Drop, 0, "PCIe 7.5.3.10", NOT_HERE;
    "SLTSTA", 0x1a, Word, Hardware, Drop, 0, "PCIe 7.5.3.11", NOT_HERE;
    "ROOTCTL", 0x1c, Word, Hardware, Drop, 0, "PCIe 7.5.3.12", NOT_HERE;
    "ROOTCAP", 0x1e, Word, Hardware, Drop, 0, "PCIe 7.5.3.13", NOT_HERE;
    "ROOTSTA", 0x20, Dword, Hardware, Drop, 0, "PCIe 7.5.3.14", NOT_HERE;
    "DEVCAP2", 0x24, Dword, ALL, Drop, 0, "PCIe 7.5.3.15", FACT;
    "DEVCTL2", 0x28, Word, Hardware, Drop, 0x075f, "PCIe 7.5.3.16",
        "longer time-outs keep the host's fabric waiting; atomic operations and LTR that \
         a port above does not expect are errors reported to the host";
    "DEVSTA2", 0x2a, Word, Hardware, Drop, 0, "PCIe 7.5.3.17", FIXED;
    "LNKCAP2", 0x2c, Dword, ALL, Drop, 0, "PCIe 7.5.3.18", FACT;
    "LNKCTL2", 0x30, Word, Hardware, Drop, 0, "PCIe 7.5.3.19",
        "the link's speed and its tests are the host's";
    "LNKSTA2", 0x32, Word, Hardware, Drop, 0, "PCIe 7.5.3.20", FIXED;
    "SLTCAP2", 0x34, Dword, Hardware, Drop, 0, "PCIe 7.5.3.21", NOT_HERE;
    "SLTCTL2", 0x38, Word, Hardware, Drop, 0, "PCIe 7.5.3.22", NOT_HERE;
    "SLTSTA2", 0x3a, Word, Hardware, Drop, 0, "PCIe 7.5.3.23", NOT_HERE;
}

/// All tables, with the capability ids they belong to; the header has none.
pub const TABLES: [(&str, Option<u8>, &[Entry]); 7] = {
    use pcidom_pci::regs::capability as id;
    [
        ("Header", None, HEADER),
        ("Power Management", Some(id::PM), POWER),
        ("Vital Product Data", Some(id::VPD), PRODUCT),
        ("MSI", Some(id::MSI), MESSAGES),
        ("PCI-X", Some(PCI_X_ID), PCI_X),
        ("PCI Express", Some(id::PCIE), EXPRESS),
        ("MSI-X", Some(id::MSIX), VECTORS),
    ]
};

/// PCI-X's capability ID.
pub(super) const PCI_X_ID: u8 = 0x07;

/// The rule of a register, by its name.
pub fn entry(name: &str) -> Option<&'static Entry> {
    TABLES.iter().flat_map(|(_, _, entries)| *entries).find(|e| e.row.name == name)
}

//! public/physdev.h

use crate::domid_t;

/// Ask whether an interrupt wants [`PHYSDEVOP_eoi`].
pub const PHYSDEVOP_irq_status_query: u64 = 5;
/// Set the I/O privilege level.
pub const PHYSDEVOP_set_iopl: u64 = 6;
/// An interrupt has been served.
pub const PHYSDEVOP_eoi: u64 = 12;
/// Map a physical interrupt.
pub const PHYSDEVOP_map_pirq: u64 = 13;
/// Unmap it.
pub const PHYSDEVOP_unmap_pirq: u64 = 14;

/// An MSI or MSI-X vector of a device in segment 0.
pub const MAP_PIRQ_TYPE_MSI: i32 = 0;
/// A GSI.
pub const MAP_PIRQ_TYPE_GSI: i32 = 1;
/// An MSI or MSI-X vector of a device in any segment.
pub const MAP_PIRQ_TYPE_MSI_SEG: i32 = 3;

/// In [`physdev_irq_status_query::flags`]: [`PHYSDEVOP_eoi`] is needed each time.
pub const XENIRQSTAT_needs_eoi: u32 = 1;

/// Argument of [`PHYSDEVOP_irq_status_query`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct physdev_irq_status_query {
    /// In: the pirq.
    pub irq: u32,
    /// Out: `XENIRQSTAT_*`
    pub flags: u32,
}

/// Argument of [`PHYSDEVOP_eoi`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct physdev_eoi {
    /// In: the pirq.
    pub irq: u32,
}

/// Argument of [`PHYSDEVOP_set_iopl`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct physdev_set_iopl {
    /// In: 1 lets the kernel use the ports that the domain has.
    pub iopl: u32,
}

/// Argument of [`PHYSDEVOP_map_pirq`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct physdev_map_pirq {
    /// In: whose.
    pub domid: domid_t,
    /// In: `MAP_PIRQ_TYPE_*`
    pub r#type: i32,
    /// In: the GSI; -1 for a vector.
    pub index: i32,
    /// In: the wanted pirq or -1. Out: the pirq.
    pub pirq: i32,
    /// In: bus, and segment in the upper half.
    pub bus: i32,
    /// In: device and function.
    pub devfn: i32,
    /// In: entry of the MSI-X table.
    pub entry_nr: i32,
    /// In: base of the BAR with the MSI-X table; 0 for MSI.
    pub table_base: u64,
}

/// Argument of [`PHYSDEVOP_unmap_pirq`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct physdev_unmap_pirq {
    /// In: whose.
    pub domid: domid_t,
    /// In: the pirq.
    pub pirq: i32,
}

//! public/physdev.h

use crate::domid_t;

/// Set the I/O privilege level.
pub const PHYSDEVOP_set_iopl: u64 = 6;
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

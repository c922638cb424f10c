//! public/grant_table.h, version 1 of the table.

use crate::{domid_t, xen_pfn_t};

/// A grant reference: an index of the granting domain's table.
pub type grant_ref_t = u32;
/// A mapped grant.
pub type grant_handle_t = u32;

/// One grant.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct grant_entry_v1 {
    /// `GTF_*`
    pub flags: u16,
    /// Who may map it.
    pub domid: domid_t,
    /// Machine frame.
    pub frame: u32,
}

/// First entry that is not reserved for the toolstack.
pub const GNTTAB_NR_RESERVED_ENTRIES: u32 = 8;

/// Entry: free.
pub const GTF_invalid: u16 = 0;
/// Entry: `domid` may map it.
pub const GTF_permit_access: u16 = 1;
/// Entry: only for reading.
pub const GTF_readonly: u16 = 1 << 2;
/// Entry: mapped for reading now.
pub const GTF_reading: u16 = 1 << 3;
/// Entry: mapped for writing now.
pub const GTF_writing: u16 = 1 << 4;

/// Map a grant of another domain.
pub const GNTTABOP_map_grant_ref: u64 = 0;
/// Unmap it.
pub const GNTTABOP_unmap_grant_ref: u64 = 1;
/// Make our own table that large, and tell its frames.
pub const GNTTABOP_setup_table: u64 = 2;
/// Ask how large it is.
pub const GNTTABOP_query_size: u64 = 6;

/// Argument of [`GNTTABOP_map_grant_ref`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct gnttab_map_grant_ref {
    /// In: where to.
    pub host_addr: u64,
    /// In: `GNTMAP_*`
    pub flags: u32,
    /// In: the reference.
    pub r#ref: grant_ref_t,
    /// In: whose.
    pub dom: domid_t,
    /// Out: `GNTST_*`
    pub status: i16,
    /// Out: names the mapping.
    pub handle: grant_handle_t,
    /// Out: address for devices.
    pub dev_bus_addr: u64,
}

/// Argument of [`GNTTABOP_unmap_grant_ref`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct gnttab_unmap_grant_ref {
    /// In: where it is mapped.
    pub host_addr: u64,
    /// In: 0, or the address for devices.
    pub dev_bus_addr: u64,
    /// In: the mapping.
    pub handle: grant_handle_t,
    /// Out: `GNTST_*`
    pub status: i16,
}

/// Argument of [`GNTTABOP_setup_table`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gnttab_setup_table {
    /// In: whose table.
    pub dom: domid_t,
    /// In: frames.
    pub nr_frames: u32,
    /// Out: `GNTST_*`
    pub status: i16,
    /// In: room for the machine frames of the table.
    pub frame_list: *mut xen_pfn_t,
}

/// Argument of [`GNTTABOP_query_size`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct gnttab_query_size {
    /// In: whose table.
    pub dom: domid_t,
    /// Out: frames now.
    pub nr_frames: u32,
    /// Out: frames at most.
    pub max_nr_frames: u32,
    /// Out: `GNTST_*`
    pub status: i16,
}

/// Map for the CPU.
pub const GNTMAP_host_map: u32 = 1 << 1;
/// Map only for reading.
pub const GNTMAP_readonly: u32 = 1 << 2;

/// Done.
pub const GNTST_okay: i16 = 0;
/// Something failed.
pub const GNTST_general_error: i16 = -1;
/// No such domain.
pub const GNTST_bad_domain: i16 = -2;
/// No such reference, or not for us.
pub const GNTST_bad_gntref: i16 = -3;
/// No such mapping.
pub const GNTST_bad_handle: i16 = -4;
/// Not an address to map at.
pub const GNTST_bad_virt_addr: i16 = -5;
/// Not an address of a device mapping.
pub const GNTST_bad_dev_addr: i16 = -6;
/// The IOMMU has no room.
pub const GNTST_no_device_space: i16 = -7;
/// Not allowed.
pub const GNTST_permission_denied: i16 = -8;
/// The page cannot be granted.
pub const GNTST_bad_page: i16 = -9;
/// A copy would leave its page.
pub const GNTST_bad_copy_arg: i16 = -10;
/// The frame does not fit an entry.
pub const GNTST_address_too_big: i16 = -11;
/// Try again.
pub const GNTST_eagain: i16 = -12;
/// No room.
pub const GNTST_no_space: i16 = -13;

//! public/elfnote.h

/// Where execution starts.
pub const XEN_ELFNOTE_ENTRY: u32 = 1;
/// Where Xen puts the hypercall page.
pub const XEN_ELFNOTE_HYPERCALL_PAGE: u32 = 2;
/// Address of pseudo-physical 0.
pub const XEN_ELFNOTE_VIRT_BASE: u32 = 3;
/// What to subtract from the image's physical addresses.
pub const XEN_ELFNOTE_PADDR_OFFSET: u32 = 4;
/// Interface version.
pub const XEN_ELFNOTE_XEN_VERSION: u32 = 5;
/// Name of the system.
pub const XEN_ELFNOTE_GUEST_OS: u32 = 6;
/// Its version.
pub const XEN_ELFNOTE_GUEST_VERSION: u32 = 7;
/// Kind of loader.
pub const XEN_ELFNOTE_LOADER: u32 = 8;

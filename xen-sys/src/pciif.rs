//! public/io/pciif.h

/// Frontend request outstanding.
pub const XEN_PCIF_active: u32 = 1 << 0;
/// The frontend serves AER requests.
pub const XEN_PCIB_AERHANDLER: u32 = 1 << 1;
/// Backend AER request outstanding.
pub const XEN_PCIB_active: u32 = 1 << 2;

/// Read config space.
pub const XEN_PCI_OP_conf_read: u32 = 0;
/// Write config space.
pub const XEN_PCI_OP_conf_write: u32 = 1;
/// Enable MSI.
pub const XEN_PCI_OP_enable_msi: u32 = 2;
/// Disable MSI.
pub const XEN_PCI_OP_disable_msi: u32 = 3;
/// Enable MSI-X.
pub const XEN_PCI_OP_enable_msix: u32 = 4;
/// Disable MSI-X.
pub const XEN_PCI_OP_disable_msix: u32 = 5;
/// AER: an error was detected.
pub const XEN_PCI_OP_aer_detected: u32 = 6;
/// AER: go on.
pub const XEN_PCI_OP_aer_resume: u32 = 7;
/// AER: memory access works again.
pub const XEN_PCI_OP_aer_mmio: u32 = 8;
/// AER: the slot was reset.
pub const XEN_PCI_OP_aer_slotreset: u32 = 9;
/// Enable several MSI vectors.
pub const XEN_PCI_OP_enable_multi_msi: u32 = 10;

/// Done.
pub const XEN_PCI_ERR_success: i32 = 0;
/// No such function.
pub const XEN_PCI_ERR_dev_not_found: i32 = -1;
/// No such offset.
pub const XEN_PCI_ERR_invalid_offset: i32 = -2;
/// Not allowed.
pub const XEN_PCI_ERR_access_denied: i32 = -3;
/// Not known.
pub const XEN_PCI_ERR_not_implemented: i32 = -4;
/// Failed.
pub const XEN_PCI_ERR_op_failed: i32 = -5;

/// Entries of `msix_entries`.
pub const SH_INFO_MAX_VEC: usize = 128;

/// One MSI-X vector of a request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct xen_msix_entry {
    /// The pirq, in an answer.
    pub vector: u16,
    /// Index in the device's table.
    pub entry: u16,
}

/// The request slot.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xen_pci_op {
    /// `XEN_PCI_OP_*`
    pub cmd: u32,
    /// `XEN_PCI_ERR_*`
    pub err: i32,
    /// Segment.
    pub domain: u32,
    /// Bus.
    pub bus: u32,
    /// Device and function.
    pub devfn: u32,
    /// Register.
    pub offset: i32,
    /// Its bytes.
    pub size: i32,
    /// Value, or number of vectors.
    pub value: u32,
    /// Unused.
    pub info: u32,
    /// Vectors.
    pub msix_entries: [xen_msix_entry; SH_INFO_MAX_VEC],
}

/// The AER slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct xen_pcie_aer_op {
    /// `XEN_PCI_OP_aer_*`
    pub cmd: u32,
    /// State of the channel, or the result.
    pub err: i32,
    /// Segment.
    pub domain: u32,
    /// Bus.
    pub bus: u32,
    /// Device and function.
    pub devfn: u32,
}

/// The page of a PCI link.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xen_pci_sharedinfo {
    /// `XEN_PCIF_*`, `XEN_PCIB_*`; changed by both ends.
    pub flags: u32,
    /// From the frontend.
    pub op: xen_pci_op,
    /// From the backend.
    pub aer_op: xen_pcie_aer_op,
}

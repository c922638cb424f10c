//! The calls to Xen that a loan needs. Each corresponds to one function of libxenctrl.

use std::fmt;
use std::io;

use pcidom_pci::Sbdf;
use pcidom_xenbus::{DomId, Pirq};

use crate::host::EcamRegion;

/// Linux's numbers for the errors of Xen that mean something to us (xen/errno.h has the
/// same ones).
pub mod errno {
    /// No such domain.
    pub const ESRCH: i32 = 3;
    /// Busy: the device belongs to another domain, or Xen has it masked.
    pub const EBUSY: i32 = 16;
    /// The device does not belong to that domain.
    pub const ENODEV: i32 = 19;
    /// Not a value Xen takes; for an unmap: nothing is mapped there.
    pub const EINVAL: i32 = 22;
    /// No pirq left.
    pub const ENOSPC: i32 = 28;
    /// The domain was created without an IOMMU context.
    pub const EOPNOTSUPP: i32 = 95;
}

/// The call that takes a device away.
pub const DEASSIGN: &str = "xc_deassign_device";

/// A call that Xen refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XenError {
    /// Name of the C function.
    pub call: &'static str,
    /// What `errno` said.
    pub errno: i32,
}

impl fmt::Display for XenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, io::Error::from_raw_os_error(self.errno))
    }
}

impl std::error::Error for XenError {}

/// A domain, as Xen describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DomainInfo {
    /// On its way out: it gets nothing any more, but what it has can be taken away.
    pub dying: bool,
    /// It has ended by itself (power off, reboot, crash) and runs no more; the toolstack has
    /// not taken it away yet.
    pub ended: bool,
    /// Held by the toolstack.
    pub paused: bool,
    /// HVM or PVH, so without a PV PCI frontend.
    pub hvm: bool,
}

/// Whether a right is given or taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Taken away. What wasn't there is no error.
    Revoke = 0,
    /// Given.
    Grant = 1,
}

/// Xen, as far as a loan needs it.
pub trait Hypervisor {
    /// Corresponds to `xc_domain_getinfolist` for one domain; `None` if there is none.
    fn domain(&mut self, domain: DomId) -> Result<Option<DomainInfo>, XenError>;

    /// Corresponds to `xc_domain_iomem_permission`.
    fn iomem_permission(
        &mut self,
        domain: DomId,
        first_page: u64,
        pages: u64,
        right: Right,
    ) -> Result<(), XenError>;

    /// Succeeds if Xen uses this config space itself: it then maps no page of it for
    /// writing to a domain that is not dom0. With Xen's option `mmcfg=0` it would.
    /// Corresponds to `PHYSDEVOP_pci_mmcfg_reserved`, by which dom0's Linux has already told
    /// Xen to use it.
    fn guards_ecam(&mut self, region: &EcamRegion) -> Result<(), XenError>;

    /// Corresponds to `xc_domain_ioport_permission`.
    fn ioport_permission(
        &mut self,
        domain: DomId,
        first: u32,
        ports: u32,
        right: Right,
    ) -> Result<(), XenError>;

    /// Corresponds to `xc_domain_irq_permission`: `gsi` is a pirq of dom0.
    fn irq_permission(
        &mut self,
        domain: DomId,
        gsi: Pirq,
        right: Right,
    ) -> Result<(), XenError>;

    /// Corresponds to `xc_physdev_map_pirq`: maps a line interrupt to the pirq of its number.
    fn map_gsi(&mut self, domain: DomId, gsi: Pirq) -> Result<Pirq, XenError>;

    /// Corresponds to `xc_physdev_map_pirq_msi` with index and pirq -1: always a new one.
    /// `table_base` is the base of the BAR that holds the MSI-X table, 0 for MSI.
    fn map_msi(
        &mut self,
        domain: DomId,
        device: Sbdf,
        entry: u16,
        table_base: u64,
    ) -> Result<Pirq, XenError>;

    /// Corresponds to `xc_physdev_unmap_pirq`.
    fn unmap_pirq(&mut self, domain: DomId, pirq: Pirq) -> Result<(), XenError>;

    /// Corresponds to `xc_assign_device` with relaxed RDM: the device must be in quarantine.
    fn assign(&mut self, domain: DomId, device: Sbdf) -> Result<(), XenError>;

    /// Corresponds to `xc_deassign_device`: the device goes into quarantine (DomIO).
    fn deassign(&mut self, domain: DomId, device: Sbdf) -> Result<(), XenError>;
}

//! Where everything is in XenStore. No path is ever read out of a node.

use pcidom_loan::{CONTROL_DIR, LoanId, NodeName, REPORT_DIR};
use pcidom_pci::Sbdf;
use pcidom_xenbus::DomId;

/// The daemon's record: dom0 alone may read it.
pub(super) const RECORD: &str = "/tool/pcidom";

pub(super) fn generation() -> String {
    format!("{RECORD}/generation")
}

/// Whether Xen remaps interrupts, once that is known.
pub(super) fn remapping() -> String {
    format!("{RECORD}/remapping")
}

pub(super) fn records() -> String {
    format!("{RECORD}/loans")
}

pub(super) fn record(loan: LoanId) -> String {
    format!("{RECORD}/loans/{loan}")
}

/// Where other toolstacks ask for resets.
pub(super) const REQUESTS: &str = "/tool/pcidom/reset";

pub(super) fn request_for_reset(name: &str) -> String {
    format!("{REQUESTS}/{name}")
}

pub(super) fn result(name: &str) -> String {
    format!("{REQUESTS}/{name}/result")
}

pub(super) fn name(domain: DomId) -> String {
    format!("/local/domain/{domain}/name")
}

/// Tells one domain from another that later has its number.
pub(super) fn vm(domain: DomId) -> String {
    format!("/local/domain/{domain}/vm")
}

/// What the config of the domain with this `vm` path says in `extra=`.
pub(super) fn command_line(vm: &str) -> String {
    format!("{vm}/image/cmdline")
}

/// The A-link as dom0's end of it, which only dom0 can write: the pool.
pub(super) fn pool_link(pcidom: DomId) -> String {
    format!("/local/domain/0/backend/pci/{pcidom}/0")
}

/// A guest's link to dom0's own pciback, if it has one.
pub(super) fn stock_link(guest: DomId) -> String {
    format!("/local/domain/0/backend/pci/{guest}")
}

/// libxl's locks: which domain it has given a device to.
pub(super) const LOCKS: &str = "/libxl/pci";

/// The lock of one device. While it is there, libxl gives the device to nobody.
pub(super) fn lock(device: Sbdf) -> String {
    format!("{LOCKS}/{}/domid", NodeName(device))
}

/// The guest's end of its link.
pub(super) fn front(guest: DomId) -> String {
    format!("/local/domain/{guest}/device/pci/0")
}

/// The parent of [`back`], which goes with it.
pub(super) fn backs(pcidom: DomId, guest: DomId) -> String {
    format!("/local/domain/{pcidom}/backend/pci/{guest}")
}

/// pcidom's end of a guest's link.
pub(super) fn back(pcidom: DomId, guest: DomId) -> String {
    format!("/local/domain/{pcidom}/backend/pci/{guest}/0")
}

/// The directory the daemon speaks in.
pub(super) fn control(pcidom: DomId) -> String {
    format!("/local/domain/{pcidom}/{CONTROL_DIR}")
}

pub(super) fn pool_node(pcidom: DomId, device: Sbdf) -> String {
    format!("{}/pool/{}", control(pcidom), NodeName(device))
}

pub(super) fn ecam_node(pcidom: DomId, device: Sbdf) -> String {
    format!("{}/ecam/{}", control(pcidom), NodeName(device))
}

pub(super) fn order(pcidom: DomId, loan: LoanId) -> String {
    format!("{}/loans/{loan}", control(pcidom))
}

pub(super) fn answer(pcidom: DomId, loan: LoanId) -> String {
    format!("{}/answers/{loan}", control(pcidom))
}

pub(super) fn query(pcidom: DomId) -> String {
    format!("{}/query", control(pcidom))
}

/// The directory pcidom speaks in.
pub(super) fn said(pcidom: DomId) -> String {
    format!("/local/domain/{pcidom}/{REPORT_DIR}")
}

pub(super) fn said_of_loan(pcidom: DomId, loan: LoanId) -> String {
    format!("{}/loans/{loan}", said(pcidom))
}

pub(super) fn request(pcidom: DomId, loan: LoanId) -> String {
    format!("{}/requests/{loan}", said(pcidom))
}

pub(super) fn report(pcidom: DomId) -> String {
    format!("{}/report", said(pcidom))
}

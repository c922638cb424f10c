//! Interrupt lines that several devices are wired to.
//!
//! Devices of one guest share their line as on a real machine: it is mapped with the first
//! loan and unmapped with the last. Two guests on one line can hold up each other's
//! interrupts (advisory 461), so the second one does not get it: a device with MSI or MSI-X
//! is lent without its line, one that has nothing else is refused. A person may say
//! otherwise with `--share-line`.

use pcidom_pci::Sbdf;
use pcidom_xenbus::DomId;

use super::{Daemon, Failure};
use crate::host::DeviceFacts;

/// What `status` says of a loan without its line.
pub(super) const NOT_GIVEN: &str = "without its interrupt line, which another guest had: \
     it works with MSI or MSI-X only (attach --share-line gives it)";

impl Daemon {
    /// Whether a device that is to be assigned to `owner` may use its line.
    pub(super) fn may_use_line(
        &self,
        owner: DomId,
        device: Sbdf,
        facts: &DeviceFacts,
        share: bool,
    ) -> Result<bool, Failure> {
        let Some(gsi) = facts.gsi else { return Ok(true) };
        let other = self.loans.values().find(|loan| {
            loan.record.owner() != owner
                && loan.record.line
                && loan.facts.as_ref().and_then(|facts| facts.gsi) == Some(gsi)
        });
        let Some(other) = other.filter(|_| !share) else { return Ok(true) };
        let ((name, _), neighbour) = (other.record.owner_is(), other.record.device.0);
        if facts.msi.is_some() || facts.msix.is_some() {
            log::warn!("{device} is lent without its line {gsi}: {name} has that");
            return Ok(false);
        }
        Err(Failure::Refused(format!(
            "{device} has no interrupts but its line, GSI {gsi}, and {neighbour} of guest \
             {name} is on the same line: two guests on one line can hold up each other's \
             interrupts; lend both devices to one guest, or, if you trust both guests, \
             attach it with --share-line"
        )))
    }
}

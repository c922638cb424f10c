//! Config space for pcidom to read: the one page (ECAM) of each device in its pool.
//!
//! A read through it can disclose the device's registers and nothing else, and can change
//! nothing. Without it pcidom asks dom0 for every read.

use pcidom_pci::Sbdf;
use pcidom_xenbus::DomId;

use super::Env;
use crate::hypervisor::{Right, errno};

/// Lets `pcidom` map the device's page. Returns its frame number, or why not.
pub(super) fn open(
    env: &mut Env<'_>,
    pcidom: DomId,
    device: Sbdf,
) -> Result<u64, String> {
    let regions = env.host.ecam().map_err(|error| error.to_string())?;
    let found = regions.iter().find_map(|region| Some((region, region.frame(device)?)));
    let (region, frame) = found.ok_or("the firmware has no MCFG table for it")?;
    env.xen
        .guards_ecam(region)
        .map_err(|error| format!("Xen does not keep it read-only: {error}"))?;
    let granted = env.xen.iomem_permission(pcidom, frame, 1, Right::Grant);
    granted.map_err(|error| error.to_string())?;
    Ok(frame)
}

/// Takes the right to the page away. What pcidom has mapped already stays mapped until it
/// lets go: it does as soon as its node is gone.
pub(super) fn close(env: &mut Env<'_>, pcidom: DomId, device: Sbdf, frame: u64) {
    if let Err(error) = env.xen.iomem_permission(pcidom, frame, 1, Right::Revoke)
        && error.errno != errno::ESRCH
    {
        log::error!("{device}: taking its config space from pcidom {pcidom}: {error}");
    }
}

/// The page of a device that left while no daemon ran.
pub(super) fn frame(env: &mut Env<'_>, device: Sbdf) -> Option<u64> {
    env.host.ecam().ok()?.iter().find_map(|region| region.frame(device))
}

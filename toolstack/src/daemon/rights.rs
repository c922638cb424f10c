//! What a domain may do with a device in Xen: given as a whole, taken as a whole.

use pcidom_pci::Sbdf;
use pcidom_xenbus::DomId;

use super::Env;
use crate::host::{BarKind, DeviceFacts};
use crate::hypervisor::{Hypervisor, Right, XenError, errno};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Gives `owner` the device, which must be in quarantine. The IOMMU context comes first: a
/// guest with BARs but no context could make the device fault. On an error, what was given
/// is still there: the caller takes it back.
///
/// If `stub` is another domain, it serves the owner, and gets what Xen asks of whoever maps
/// a BAR or binds a line for another domain: the right to each. To map memory, Xen asks
/// the owner for the right as well; ports it gives the owner itself.
pub(super) fn give(
    env: &mut Env<'_>,
    (stub, owner): (DomId, DomId),
    device: Sbdf,
    facts: &DeviceFacts,
    line: bool,
) -> Result<(), XenError> {
    env.xen.assign(owner, device)?;
    for (bar, what) in facts.bars.iter().enumerate() {
        if stub == owner || what.kind == BarKind::Memory {
            one_bar(env.xen, owner, facts, bar, Right::Grant)?;
        }
    }
    if let Some(gsi) = facts.gsi.filter(|_| line) {
        env.xen.map_gsi(owner, gsi)?;
        env.xen.irq_permission(owner, gsi, Right::Grant)?;
    }
    if stub == owner {
        return Ok(());
    }
    (0..facts.bars.len())
        .try_for_each(|bar| one_bar(env.xen, stub, facts, bar, Right::Grant))?;
    match facts.gsi.filter(|_| line) {
        Some(gsi) => env.xen.irq_permission(stub, gsi, Right::Grant),
        None => Ok(()),
    }
}

/// How to take rights away.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taking {
    /// The domain is dying: the device first, or Xen's own teardown may meet it half reset.
    pub(super) dying: bool,
    /// Another device of this domain uses the same line: it stays mapped.
    pub(super) keep_gsi: bool,
}

/// What came of taking a device away.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// It was assigned to that domain, and is not any more.
    pub(super) owned: bool,
    /// What Xen refused for no reason that is expected here.
    pub(super) failures: Vec<XenError>,
}

/// Takes from a stub domain what it had to map the device of another one. Done as far as it
/// goes; a domain that is gone is no error.
pub(super) fn take_from_stub(
    xen: &mut dyn Hypervisor,
    stub: DomId,
    facts: &DeviceFacts,
    keep_gsi: bool,
) -> Vec<XenError> {
    let bars = 0..facts.bars.len();
    let mut results: Vec<_> =
        bars.map(|bar| one_bar(xen, stub, facts, bar, Right::Revoke)).collect();
    if let Some(gsi) = facts.gsi.filter(|_| !keep_gsi) {
        results.push(xen.irq_permission(stub, gsi, Right::Revoke));
    }
    let failures = results.into_iter().filter_map(Result::err);
    failures.filter(|error| error.errno != errno::ESRCH).collect()
}

/// Takes from `domain` whatever it has of the device, which is then in quarantine. Done as
/// far as it goes. What is gone already (the domain, the mapping, the device) is no error.
pub(super) fn take(
    env: &mut Env<'_>,
    domain: DomId,
    device: Sbdf,
    facts: Option<&DeviceFacts>,
    how: Taking,
) -> Taken {
    let mut failures = Vec::new();
    let mut note = |result: Result<(), XenError>, fine: &[i32]| {
        if let Err(error) = result
            && error.errno != errno::ESRCH
            && !fine.contains(&error.errno)
        {
            failures.push(error);
        }
    };
    // Not its own, or it has no IOMMU context and never owned any.
    let not_owner = [errno::ENODEV, errno::EOPNOTSUPP];
    let mut owned = false;
    if how.dying {
        let deassigned = env.xen.deassign(domain, device);
        owned = deassigned.is_ok();
        note(deassigned, &not_owner);
    }
    if let Some(facts) = facts {
        for bar in 0..facts.bars.len() {
            note(one_bar(env.xen, domain, facts, bar, Right::Revoke), &[]);
        }
        if let Some(gsi) = facts.gsi.filter(|_| !how.keep_gsi) {
            note(env.xen.unmap_pirq(domain, gsi), &[errno::EINVAL]);
            note(env.xen.irq_permission(domain, gsi, Right::Revoke), &[]);
        }
    }
    if !how.dying {
        let deassigned = env.xen.deassign(domain, device);
        owned = deassigned.is_ok();
        note(deassigned, &not_owner);
    }
    Taken { owned, failures }
}

/// Takes the device's BARs from a domain that should not have them. Only whole pages: on
/// another part of a page may be somebody else's device.
pub(super) fn take_bars(
    xen: &mut dyn Hypervisor,
    domain: DomId,
    facts: &DeviceFacts,
) -> Result<(), XenError> {
    for (number, bar) in facts.bars.iter().enumerate() {
        let whole = bar.start % PAGE == 0 && bar.length % PAGE == 0;
        if bar.kind == BarKind::Io || whole {
            one_bar(xen, domain, facts, number, Right::Revoke)?;
        }
    }
    Ok(())
}

fn one_bar(
    xen: &mut dyn Hypervisor,
    domain: DomId,
    facts: &DeviceFacts,
    number: usize,
    right: Right,
) -> Result<(), XenError> {
    let Some(bar) = facts.bars.get(number) else { return Ok(()) };
    match bar.kind {
        BarKind::Memory => {
            xen.iomem_permission(domain, bar.first_page(), bar.pages(), right)
        }
        BarKind::Io => {
            // 64 KiB of ports is all there is; a longer one is no port range.
            let (Ok(first), Ok(count)) =
                (u32::try_from(bar.start), u32::try_from(bar.length))
            else {
                let call = "xc_domain_ioport_permission";
                return Err(XenError { call, errno: errno::EINVAL });
            };
            xen.ioport_permission(domain, first, count, right)
        }
    }
}

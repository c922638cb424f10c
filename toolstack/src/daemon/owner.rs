//! Stub domains: the frontend of a loan is one domain, and the device another one's.
//!
//! A guest that is HVM has no PCI frontend. Its stub domain, which is PV, has one for it, and
//! maps for it what the device consists of. So the link and the rights to map are the stub
//! domain's, and the assignment and the pirqs the guest's: `attach --owner GUEST STUBDOM BDF`.
//! docs/stubdom.md tells what works, and what was tried where.

use pcidom_xenbus::DomId;

use super::attach::Guest;
use super::{Daemon, Env, Failure, Owner, guest_config, paths};
use crate::hypervisor::XenError;

/// Why a device can't be assigned to that guest.
pub(super) fn without_context(name: &str) -> String {
    format!(
        "{name} was created without an IOMMU context: put {} in its config and create it anew",
        guest_config::PASSTHROUGH
    )
}

/// Why it gets no interrupts.
pub(super) fn without_pirqs(name: &str, error: &XenError) -> String {
    format!(
        "Xen maps no interrupts of devices to {name} ({error}): it must be an HVM guest whose \
         kernel takes them as events; write hvm_pirq=1 in its config if this Xen knows that, \
         and create it anew"
    )
}

impl Daemon {
    /// Who is to own what `stub` is lent; none if that is the same.
    pub(super) fn check_owner(
        &self,
        env: &mut Env<'_>,
        stub: &Guest,
        owner: Option<(DomId, String)>,
    ) -> Result<Option<Owner>, Failure> {
        let Some((domain, name)) = owner.filter(|(domain, _)| *domain != stub.domain)
        else {
            return Ok(None);
        };
        let about = |text: &str| Err(Failure::Refused(format!("{name} {text}")));
        if domain == DomId::DOM0 || self.pcidoms.contains_key(&domain) {
            return about(
                "is no guest, so it has no stub domain: after --owner comes the guest, see \
                 xl list",
            );
        }
        let info = env.xen.domain(domain)?;
        let vm = env.store.read(&paths::vm(domain))?;
        let (Some(_), Some(vm)) = (info.filter(|info| !info.dying && !info.ended), vm)
        else {
            return about("is being destroyed");
        };
        // Its vectors must be this daemon's alone, see `unrecorded.rs`.
        if !env.store.list(&paths::stock_link(domain))?.is_empty() {
            return about(
                "has devices from dom0 (pci= in its config): take them out of its config, \
                 write passthrough=\"enabled\" there instead, and create it anew",
            );
        }
        let uuid = vm.trim_start_matches("/vm/");
        let record = env.host.domain_config(domain, uuid).unwrap_or_default();
        if guest_config::has_no_context(&record) {
            return Err(Failure::Refused(without_context(&name)));
        }
        Ok(Some(Owner { domid: domain.0, vm, name }))
    }
}

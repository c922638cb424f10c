//! Xen's book-keeping: who owns which device, and which domain may do what.

use std::collections::{BTreeMap, BTreeSet};

use pcidom_pci::Sbdf;
use pcidom_xenbus::{DomId, Pirq};

use crate::host::EcamRegion;
use crate::hypervisor::{DomainInfo, Hypervisor, Right, XenError, errno};

/// What the IOMMU has a device assigned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// DomIO: nobody.
    Quarantine,
    /// This domain.
    Domain(DomId),
}

/// All a domain has in Xen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Page numbers it may map.
    pub pages: BTreeSet<u64>,
    /// Ports it may use.
    pub ports: BTreeSet<u32>,
    /// Line interrupts it may bind.
    pub lines: BTreeSet<u16>,
    /// Its pirqs: a line, or a device's vector.
    pub pirqs: BTreeMap<u16, Option<(Sbdf, u16)>>,
}

/// First pirq above the lines: Xen gives vectors from the top down.
const LINES: u16 = 24;

/// Xen.
#[derive(Clone, Debug)]
pub struct FakeXen {
    /// The domains there are, dying ones too.
    pub domains: BTreeMap<DomId, DomainInfo>,
    /// Those that were created without an IOMMU context.
    pub without_iommu: BTreeSet<DomId>,
    /// Every device's owner.
    pub owners: BTreeMap<Sbdf, Owner>,
    /// What each domain has.
    pub holdings: BTreeMap<DomId, Holdings>,
    /// Vectors of one domain (`extra_guest_irqs`).
    pub vectors: u16,
    /// The call (counted down to 0, any of them) that fails, and how.
    pub fault: Option<(u32, i32)>,
    /// Calls (counted down to 0) until the daemon is killed right before one.
    pub death: Option<u32>,
    /// Xen leaves config space in memory alone (`mmcfg=0`).
    pub no_ecam: bool,
    /// Calls that changed something or tried to, in order.
    pub log: Vec<String>,
}

impl Default for FakeXen {
    fn default() -> Self {
        Self {
            domains: BTreeMap::new(),
            without_iommu: BTreeSet::new(),
            owners: BTreeMap::new(),
            holdings: BTreeMap::new(),
            vectors: 32,
            fault: None,
            death: None,
            no_ecam: false,
            log: Vec::new(),
        }
    }
}

impl FakeXen {
    /// What a domain has.
    pub fn of(&self, domain: DomId) -> Holdings {
        self.holdings.get(&domain).cloned().unwrap_or_default()
    }

    /// The end of a domain, with what Xen itself then does.
    pub fn destroy(&mut self, domain: DomId) {
        self.domains.remove(&domain);
        self.holdings.remove(&domain);
        for owner in self.owners.values_mut() {
            if *owner == Owner::Domain(domain) {
                *owner = Owner::Quarantine;
            }
        }
    }

    /// Common to all calls on a domain: faults, the log, whether it is there.
    fn enter(
        &mut self,
        call: &'static str,
        domain: DomId,
        detail: &str,
    ) -> Result<&mut Holdings, XenError> {
        super::die_at(&mut self.death);
        let fail = |errno| XenError { call, errno };
        self.log.push(format!("{call} {domain} {detail}"));
        if let Some((left, errno)) = &mut self.fault {
            if *left == 0 {
                let errno = *errno;
                self.fault = None;
                return Err(fail(errno));
            }
            *left -= 1;
        }
        if !self.domains.contains_key(&domain) {
            return Err(fail(errno::ESRCH));
        }
        Ok(self.holdings.entry(domain).or_default())
    }
}

fn change<T: Ord>(set: &mut BTreeSet<T>, items: impl Iterator<Item = T>, right: Right) {
    for item in items {
        match right {
            Right::Grant => set.insert(item),
            Right::Revoke => set.remove(&item),
        };
    }
}

impl Hypervisor for FakeXen {
    fn domain(&mut self, domain: DomId) -> Result<Option<DomainInfo>, XenError> {
        Ok(self.domains.get(&domain).copied())
    }

    fn iomem_permission(
        &mut self,
        domain: DomId,
        first_page: u64,
        pages: u64,
        right: Right,
    ) -> Result<(), XenError> {
        let detail = format!("{first_page:x}+{pages:x} {right:?}");
        let holdings = self.enter("xc_domain_iomem_permission", domain, &detail)?;
        change(&mut holdings.pages, first_page..first_page + pages, right);
        Ok(())
    }

    fn guards_ecam(&mut self, _region: &EcamRegion) -> Result<(), XenError> {
        let call = "PHYSDEVOP_pci_mmcfg_reserved";
        if self.no_ecam { Err(XenError { call, errno: errno::ENODEV }) } else { Ok(()) }
    }

    fn ioport_permission(
        &mut self,
        domain: DomId,
        first: u32,
        ports: u32,
        right: Right,
    ) -> Result<(), XenError> {
        let detail = format!("{first:x}+{ports:x} {right:?}");
        let holdings = self.enter("xc_domain_ioport_permission", domain, &detail)?;
        change(&mut holdings.ports, first..first + ports, right);
        Ok(())
    }

    fn irq_permission(
        &mut self,
        domain: DomId,
        gsi: Pirq,
        right: Right,
    ) -> Result<(), XenError> {
        let detail = format!("{gsi} {right:?}");
        let holdings = self.enter("xc_domain_irq_permission", domain, &detail)?;
        change(&mut holdings.lines, [gsi.0].into_iter(), right);
        Ok(())
    }

    fn map_gsi(&mut self, domain: DomId, gsi: Pirq) -> Result<Pirq, XenError> {
        let holdings = self.enter("xc_physdev_map_pirq", domain, &gsi.to_string())?;
        holdings.pirqs.insert(gsi.0, None);
        Ok(gsi)
    }

    fn map_msi(
        &mut self,
        domain: DomId,
        device: Sbdf,
        entry: u16,
        table_base: u64,
    ) -> Result<Pirq, XenError> {
        const CALL: &str = "xc_physdev_map_pirq_msi";
        let owner = self.owners.get(&device).copied();
        let vectors = self.vectors;
        let detail = format!("{device} {entry} {table_base:x}");
        let holdings = self.enter(CALL, domain, &detail)?;
        let fail = |errno| Err(XenError { call: CALL, errno });
        if owner != Some(Owner::Domain(domain)) {
            return fail(errno::ENODEV);
        }
        if holdings.pirqs.values().any(|what| *what == Some((device, entry))) {
            return fail(17); // EEXIST
        }
        let free = |pirq: &u16| !holdings.pirqs.contains_key(pirq);
        let Some(pirq) = (LINES..LINES + vectors).rev().find(free) else {
            return fail(errno::ENOSPC);
        };
        holdings.pirqs.insert(pirq, Some((device, entry)));
        Ok(Pirq(pirq))
    }

    fn unmap_pirq(&mut self, domain: DomId, pirq: Pirq) -> Result<(), XenError> {
        const CALL: &str = "xc_physdev_unmap_pirq";
        let holdings = self.enter(CALL, domain, &pirq.to_string())?;
        let removed = holdings.pirqs.remove(&pirq.0);
        removed.map(|_| ()).ok_or(XenError { call: CALL, errno: errno::EINVAL })
    }

    fn assign(&mut self, domain: DomId, device: Sbdf) -> Result<(), XenError> {
        const CALL: &str = "xc_assign_device";
        let fail = |errno| Err(XenError { call: CALL, errno });
        self.enter(CALL, domain, &device.to_string())?;
        if self.without_iommu.contains(&domain) {
            return fail(errno::EOPNOTSUPP);
        }
        match self.owners.get_mut(&device) {
            Some(owner @ Owner::Quarantine) => *owner = Owner::Domain(domain),
            Some(Owner::Domain(_)) => return fail(errno::EBUSY),
            None => return fail(errno::ENODEV),
        }
        Ok(())
    }

    fn deassign(&mut self, domain: DomId, device: Sbdf) -> Result<(), XenError> {
        const CALL: &str = "xc_deassign_device";
        self.enter(CALL, domain, &device.to_string())?;
        if self.without_iommu.contains(&domain) {
            return Err(XenError { call: CALL, errno: errno::EOPNOTSUPP });
        }
        match self.owners.get_mut(&device) {
            Some(owner) if *owner == Owner::Domain(domain) => *owner = Owner::Quarantine,
            _ => return Err(XenError { call: CALL, errno: errno::ENODEV }),
        }
        Ok(())
    }
}

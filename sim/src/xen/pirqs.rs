//! Interrupts of devices as domains see them: `PHYSDEVOP_map_pirq` and its kin.

use pcidom_pci::Sbdf;
use pcidom_pci::regs::msix;
use pcidom_xenbus::{DomId, Pirq};

use super::domains::Life;
use super::errno::{EEXIST, EINVAL, ENODEV, ENOSPC, ENXIO, ESRCH};
use super::record::Deed;
use super::{Xen, XenResult, refused};

/// GSIs of the host: pirqs of messages lie above them, taken from the top downwards, so
/// that the first one of a domain with 32 extra interrupts is 55, as in the bed.
const GSIS: u16 = 24;

/// What a pirq of a domain stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// A line interrupt.
    Line(Pirq),
    /// A message of a device; the entry of its MSI-X table, `None` for MSI.
    Message(Sbdf, Option<u16>),
}

impl Xen {
    /// `PHYSDEVOP_map_pirq` for a message: `table_base` is the base of the BAR with the
    /// MSI-X table, 0 for MSI. `wanted` is the pirq to use, `None` (-1) for a new one.
    ///
    /// Rules: the caller is a control domain, the device is on the domain's own list,
    /// memory decode is on, the entry is in the table, a pirq is free.
    pub fn map_msi(
        &self,
        caller: DomId,
        domain: DomId,
        device: Sbdf,
        entry: u16,
        table_base: u64,
        wanted: Option<Pirq>,
    ) -> XenResult<Pirq> {
        let call = "map_pirq";
        self.privileged(caller, call)?;
        match self.life(domain) {
            None => return refused(call, ESRCH),
            Some(Life::Dying) => return refused(call, EINVAL),
            Some(Life::Running) => {}
        }
        let owner = self.owner(device);
        let function = self.function(device).filter(|_| owner == Some(domain));
        let Some(function) = function else { return refused(call, ENODEV) };
        let entry = (table_base != 0).then_some(entry);
        if let Some(entry) = entry {
            let table = function.msix.and_then(|m| Some((m, function.bar(m.table_bar)?)));
            let Some((msix, bar)) = table else { return refused(call, ENODEV) };
            if entry >= msix.table_size || bar.address != table_base {
                return refused(call, EINVAL);
            }
            if !self.decodes_memory(device) {
                return refused(call, ENXIO);
            }
        } else if function.msi.is_none() {
            return refused(call, ENODEV);
        }
        self.check_one_kind(device, entry.is_some());
        let pirq = self.allocate(domain, wanted, Mapped::Message(device, entry))?;
        self.note(Deed::Map { domain, device, entry, pirq });
        Ok(pirq)
    }

    /// `PHYSDEVOP_map_pirq` for a line.
    pub fn map_gsi(&self, caller: DomId, domain: DomId, gsi: Pirq) -> XenResult<Pirq> {
        let call = "map_pirq";
        self.privileged(caller, call)?;
        if self.life(domain).is_none() {
            return refused(call, ESRCH);
        }
        if gsi.0 >= GSIS {
            return refused(call, EINVAL);
        }
        // Mapped already: the same number again, without complaint.
        if self.pirqs(domain).contains(&(gsi, Mapped::Line(gsi))) {
            return Ok(gsi);
        }
        self.allocate(domain, Some(gsi), Mapped::Line(gsi))
    }

    /// `PHYSDEVOP_unmap_pirq`; works on a dying domain.
    pub fn unmap_pirq(&self, caller: DomId, domain: DomId, pirq: Pirq) -> XenResult<()> {
        let call = "unmap_pirq";
        self.privileged(caller, call)?;
        if self.life(domain).is_none() {
            return refused(call, ESRCH);
        }
        let mapped = {
            let mut state = self.state_mut();
            let domain = state.domains.get_mut(&domain);
            domain.and_then(|domain| domain.pirqs.remove(&pirq))
        };
        let Some(mapped) = mapped else { return refused(call, EINVAL) };
        self.note(Deed::Unmap { domain, pirq });
        self.mask(mapped);
        Ok(())
    }

    /// The pirqs of a domain.
    pub fn pirqs(&self, domain: DomId) -> Vec<(Pirq, Mapped)> {
        let state = self.state();
        let domain = state.domains.get(&domain);
        let pirqs = domain.map(|domain| domain.pirqs.iter());
        pirqs.into_iter().flatten().map(|(pirq, mapped)| (*pirq, *mapped)).collect()
    }

    /// The message vectors of a device that are mapped, whoever has them.
    pub fn vectors_of(&self, device: Sbdf) -> Vec<(DomId, Pirq)> {
        let state = self.state();
        let all = state.domains.iter().flat_map(|(number, domain)| {
            domain.pirqs.iter().map(|(pirq, mapped)| (*number, *pirq, *mapped))
        });
        let own =
            all.filter(|(_, _, m)| matches!(m, Mapped::Message(of, _) if *of == device));
        own.map(|(domain, pirq, _)| (domain, pirq)).collect()
    }

    /// Lets a device send the message of this MSI-X entry, as far as it can: it masters
    /// the bus and is enabled and unmasked. Returns whether an event channel was reached.
    pub fn send_message(&self, device: Sbdf, entry: u16) -> bool {
        let control = self.msix_control(device) & (msix::ENABLE | msix::MASKALL);
        let (Some(owner), true) = (self.owner(device), control == msix::ENABLE) else {
            return false;
        };
        if !self.is_master(device) {
            return false;
        }
        let wanted = Mapped::Message(device, Some(entry));
        let pirqs = self.pirqs(owner);
        let reached = pirqs.into_iter().filter(|(_, mapped)| *mapped == wanted);
        let ports = reached.filter_map(|(pirq, _)| self.pirq_port(owner, pirq));
        ports.map(|port| self.raise(owner, port)).count() > 0
    }

    /// The end of a domain frees what nobody had unmapped.
    pub(super) fn free_pirqs(&self, domain: DomId) {
        for (pirq, mapped) in self.pirqs(domain) {
            self.note(Deed::Freed { domain, pirq });
            self.mask(mapped);
        }
    }

    fn allocate(
        &self,
        domain: DomId,
        wanted: Option<Pirq>,
        mapped: Mapped,
    ) -> XenResult<Pirq> {
        let call = "map_pirq";
        let mut state = self.state_mut();
        let Some(domain) = state.domains.get_mut(&domain) else {
            return refused(call, ESRCH);
        };
        let end = GSIS + domain.config.extra_irqs;
        let pirq = match wanted {
            Some(pirq) if pirq.0 >= end => return refused(call, EINVAL),
            Some(pirq) if domain.pirqs.contains_key(&pirq) => {
                return refused(call, EEXIST);
            }
            Some(pirq) => pirq,
            None => {
                let free =
                    (GSIS..end).rev().find(|n| !domain.pirqs.contains_key(&Pirq(*n)));
                match free {
                    Some(number) => Pirq(number),
                    None => return refused(call, ENOSPC),
                }
            }
        };
        domain.pirqs.insert(pirq, mapped);
        Ok(pirq)
    }

    /// Freeing a message masks it, through the device's memory.
    fn mask(&self, mapped: Mapped) {
        if let Mapped::Message(device, Some(_)) = mapped
            && !self.decodes_memory(device)
        {
            self.mask_all(device);
        }
    }

    /// Xen switches MSI off under a device that gets MSI-X, with a warning only.
    fn check_one_kind(&self, device: Sbdf, msix: bool) {
        let state = self.state();
        let all = state.domains.values().flat_map(|domain| domain.pirqs.values());
        let other = all.filter(
            |m| matches!(m, Mapped::Message(of, entry) if *of == device && entry.is_some() != msix),
        );
        let count = other.count();
        drop(state);
        if count > 0 {
            self.violation(format!("{device} got MSI and MSI-X at the same time"));
        }
    }
}

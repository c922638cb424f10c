//! Interrupts of devices as domains see them: `PHYSDEVOP_map_pirq` and its kin.

use pcidom_pci::Sbdf;
use pcidom_pci::regs::msix;
use pcidom_xenbus::{DomId, Pirq};

use super::domains::Life;
use super::errno::{EINVAL, ENODEV, ENOSPC, ENXIO, ESRCH};
use super::events::{Channel, End};
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
    /// MSI-X table, 0 for MSI. The pirq is always a new one (-1): Xen 4.17 answers a request
    /// for a number that is in use with success and maps nothing, so nobody makes one.
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
        let pirq = self.allocate(domain, Mapped::Message(device, entry))?;
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
        let mut state = self.state_mut();
        let Some(domain) = state.domains.get_mut(&domain) else {
            return refused(call, ESRCH);
        };
        domain.pirqs.insert(gsi, Mapped::Line(gsi));
        Ok(gsi)
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

    /// The highest number that is free. One that was unmapped while the domain had it bound
    /// is not, until the domain closes that port.
    fn allocate(&self, domain: DomId, mapped: Mapped) -> XenResult<Pirq> {
        let call = "map_pirq";
        let mut state = self.state_mut();
        let Some(domain) = state.domains.get_mut(&domain) else {
            return refused(call, ESRCH);
        };
        let end = GSIS + domain.config.extra_irqs;
        let free = |pirq: &Pirq| {
            let bound = |channel: &Channel| channel.end == End::Pirq(*pirq);
            !domain.pirqs.contains_key(pirq) && !domain.ports.values().any(bound)
        };
        let Some(pirq) = (GSIS..end).rev().map(Pirq).find(free) else {
            return refused(call, ENOSPC);
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

#[cfg(test)]
mod tests {
    use pcidom_pci::Sbdf;
    use pcidom_xenbus::{DomId, Pirq};

    use super::Mapped;
    use crate::agenda::Agenda;
    use crate::xen::domains::DomainConfig;
    use crate::xen::{Delays, Xen};

    #[test]
    fn a_number_that_was_taken_by_force_is_free_when_its_port_is_closed() {
        let xen = Xen::new(&Agenda::new(1), Delays::default());
        let guest = xen.create_domain(DomainConfig::default());
        let what = Mapped::Message(Sbdf::new(0, 1, 0, 0).unwrap(), None);
        assert_eq!(xen.allocate(guest, what), Ok(Pirq(55)));
        let port = xen.bind_pirq(guest, Pirq(55)).unwrap();
        xen.unmap_pirq(DomId::DOM0, guest, Pirq(55)).unwrap();
        assert_eq!(xen.allocate(guest, what), Ok(Pirq(54)));
        xen.close(guest, port).unwrap();
        assert_eq!(xen.allocate(guest, what), Ok(Pirq(55)));
    }
}

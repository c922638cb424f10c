//! Grants of memory (public/grant_table.h).

use pcidom_xenbus::{DomId, GrantRef};

use super::domains::Life;
use super::errno::{EBUSY, EINVAL, ESRCH};
use super::record::Deed;
use super::{Xen, XenResult, refused};
use crate::agenda::Happening;
use crate::page::SimPage;

/// One entry of a domain's grant table.
#[derive(Debug)]
pub(super) struct Grant {
    to: DomId,
    page: SimPage,
    /// How often it is mapped now.
    pub(super) mapped: u32,
    /// Given up by its owner; stays until nobody maps it.
    ended: bool,
}

/// A page of another domain, mapped.
#[derive(Clone, Debug)]
pub struct Mapping {
    owner: DomId,
    reference: GrantRef,
    page: SimPage,
}

impl Mapping {
    /// The page itself.
    pub const fn page(&self) -> &SimPage {
        &self.page
    }
}

impl Xen {
    /// Puts a page into the caller's grant table.
    pub fn grant(&self, caller: DomId, to: DomId) -> XenResult<(GrantRef, SimPage)> {
        let mut state = self.state_mut();
        let domain = state.domains.get_mut(&caller).filter(|d| d.life == Life::Running);
        let Some(domain) = domain else { return refused("grant", ESRCH) };
        let reference = GrantRef(domain.next_grant);
        domain.next_grant += 1;
        let page = SimPage::new();
        let grant = Grant { to, page: page.clone(), mapped: 0, ended: false };
        domain.grants.insert(reference, grant);
        Ok((reference, page))
    }

    /// Takes a grant back: refused while it is mapped (advisory 396 is about frontends that
    /// did not look).
    pub fn end_grant(&self, caller: DomId, reference: GrantRef) -> XenResult<()> {
        let mut state = self.state_mut();
        let domain = state.domains.get_mut(&caller);
        let Some(domain) = domain else { return refused("end_grant", ESRCH) };
        match domain.grants.get_mut(&reference) {
            None => refused("end_grant", EINVAL),
            Some(grant) if grant.mapped > 0 => {
                grant.ended = true;
                refused("end_grant", EBUSY)
            }
            Some(_) => {
                domain.grants.remove(&reference);
                Ok(())
            }
        }
    }

    /// Takes back the grant of this page, as `gnttab_end_foreign_access` does: at once, or
    /// when the peer has let go.
    pub fn end_grant_of(&self, caller: DomId, page: &SimPage) {
        let reference = {
            let state = self.state();
            let grants = state.domains.get(&caller).map(|domain| domain.grants.iter());
            let mut own = grants.into_iter().flatten().filter(|(_, g)| g.page.is(page));
            own.next().map(|(reference, _)| *reference)
        };
        if let Some(reference) = reference {
            // Refused while it is mapped; then it goes with the last mapping.
            let _: XenResult<()> = self.end_grant(caller, reference);
        }
    }

    /// `GNTTABOP_map_grant_ref`. Maps of a dying domain are refused.
    pub fn map_grant(
        &self,
        caller: DomId,
        owner: DomId,
        reference: GrantRef,
    ) -> XenResult<Mapping> {
        let call = "map_grant_ref";
        let mut state = self.state_mut();
        let Some(domain) = state.domains.get_mut(&owner) else {
            return refused(call, ESRCH);
        };
        if domain.life == Life::Dying {
            return refused(call, EINVAL);
        }
        match domain.grants.get_mut(&reference) {
            Some(grant) if grant.to == caller && !grant.ended => {
                grant.mapped += 1;
                Ok(Mapping { owner, reference, page: grant.page.clone() })
            }
            _ => refused(call, EINVAL),
        }
    }

    /// `GNTTABOP_unmap_grant_ref`. What a dying domain waited for may be over now.
    pub fn unmap_grant(&self, mapping: &Mapping) -> XenResult<()> {
        let call = "unmap_grant_ref";
        let (by, dying) = {
            let mut state = self.state_mut();
            let Some(domain) = state.domains.get_mut(&mapping.owner) else {
                return refused(call, ESRCH);
            };
            let (by, over) = match domain.grants.get_mut(&mapping.reference) {
                Some(grant) if grant.mapped > 0 => {
                    grant.mapped -= 1;
                    (grant.to, grant.mapped == 0 && grant.ended)
                }
                _ => return refused(call, EINVAL),
            };
            if over {
                domain.grants.remove(&mapping.reference);
            }
            (by, domain.life == Life::Dying)
        };
        self.note(Deed::PageUnmapped { owner: mapping.owner, by });
        if dying {
            let delay = self.delays().event;
            self.agenda().within(&delay, Happening::Complete(mapping.owner));
        }
        Ok(())
    }

    /// How often pages of `owner` are mapped by others.
    pub fn mapped_pages(&self, owner: DomId) -> u32 {
        let state = self.state();
        let grants = state.domains.get(&owner).map(|d| d.grants.values());
        grants.into_iter().flatten().map(|grant| grant.mapped).sum()
    }

    /// Entries in use of a domain's grant table.
    pub fn grants_in_use(&self, owner: DomId) -> usize {
        self.state().domains.get(&owner).map_or(0, |domain| domain.grants.len())
    }

    /// The page behind a grant, for tests that play the peer.
    pub fn granted_page(&self, owner: DomId, reference: GrantRef) -> Option<SimPage> {
        let state = self.state();
        let grant = state.domains.get(&owner)?.grants.get(&reference)?;
        Some(grant.page.clone())
    }

    /// A dying domain lets go of what it has mapped of others.
    pub(super) fn drop_own_mappings(&self, domain: DomId) {
        let mut state = self.state_mut();
        for other in state.domains.values_mut() {
            for grant in other.grants.values_mut().filter(|grant| grant.to == domain) {
                grant.mapped = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pcidom_xenbus::{DomId, GrantRef};

    use crate::agenda::Agenda;
    use crate::xen::domains::{DomainConfig, Life};
    use crate::xen::{Delays, Xen};

    fn pair() -> (Xen, DomId, DomId) {
        let xen = Xen::new(&Agenda::new(1), Delays::default());
        let one = xen.create_domain(DomainConfig::default());
        let two = xen.create_domain(DomainConfig::default());
        (xen, one, two)
    }

    #[test]
    fn a_grant_that_is_mapped_can_not_be_ended() {
        let (xen, one, two) = pair();
        let (reference, _) = xen.grant(one, two).unwrap();
        assert!(xen.map_grant(DomId::DOM0, one, reference).is_err());
        assert!(xen.map_grant(two, one, GrantRef(99)).is_err());
        let mapping = xen.map_grant(two, one, reference).unwrap();
        assert!(xen.end_grant(one, reference).is_err());
        assert_eq!(xen.mapped_pages(one), 1);
        xen.unmap_grant(&mapping).unwrap();
        assert!(xen.unmap_grant(&mapping).is_err());
        // What was to be ended goes with the last mapping.
        assert_eq!(xen.grants_in_use(one), 0);
        let (reference, _) = xen.grant(one, two).unwrap();
        assert_eq!(xen.end_grant(one, reference), Ok(()));
    }

    #[test]
    fn a_dying_domain_is_a_zombie_until_its_last_page_is_unmapped() {
        let (xen, one, two) = pair();
        let (reference, _) = xen.grant(one, two).unwrap();
        let mapping = xen.map_grant(two, one, reference).unwrap();
        xen.destroy_domain(DomId::DOM0, one).unwrap();
        assert!(xen.map_grant(two, one, reference).is_err());
        xen.relinquish(one);
        assert!(!xen.complete(one));
        assert_eq!((xen.life(one), xen.zombies()), (Some(Life::Dying), vec![one]));
        xen.unmap_grant(&mapping).unwrap();
        assert!(xen.complete(one));
        assert_eq!(xen.life(one), None);
    }
}

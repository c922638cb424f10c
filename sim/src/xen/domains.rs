//! Domains: their life, and what Xen keeps for each.
//!
//! A domain dies in steps: its teardown begins, its devices move to DomIO some time later,
//! its pirqs are freed and it is gone only when nobody maps a page of it any more. In
//! between it is a zombie: its number is taken, and calls still find it.

use std::collections::{BTreeMap, BTreeSet};

use pcidom_xenbus::{DomId, GrantRef, Pirq, Port};

use super::devices::Rights;
use super::errno::{EINVAL, EOPNOTSUPP, EPERM, ESRCH};
use super::events::Channel;
use super::grants::Grant;
use super::pirqs::Mapped;
use super::record::Deed;
use super::{Xen, XenResult, refused};
use crate::agenda::Happening;

/// How alive a domain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs.
    Running,
    /// Its teardown has begun.
    Dying,
}

/// How a domain is made.
#[derive(Clone, Copy, Debug)]
pub struct DomainConfig {
    /// May be given devices (`passthrough="enabled"`).
    pub iommu: bool,
    /// pirqs above the GSIs (`extra_guest_irqs=`).
    pub extra_irqs: u16,
    /// Held by the toolstack (`xl create -p`), and not let go.
    pub paused: bool,
    /// HVM or PVH.
    pub hvm: bool,
}

/// `extra_guest_irqs` of Xen's command line, for a domU that nothing says more about.
pub const DEFAULT_EXTRA_IRQS: u16 = 32;

impl Default for DomainConfig {
    fn default() -> Self {
        Self { iommu: true, extra_irqs: DEFAULT_EXTRA_IRQS, paused: false, hvm: false }
    }
}

/// What Xen keeps for one domain.
#[derive(Debug)]
pub(super) struct Domain {
    pub(super) life: Life,
    pub(super) privileged: bool,
    pub(super) config: DomainConfig,
    pub(super) ports: BTreeMap<Port, Channel>,
    pub(super) next_port: u32,
    pub(super) grants: BTreeMap<GrantRef, Grant>,
    pub(super) next_grant: u32,
    pub(super) pirqs: BTreeMap<Pirq, Mapped>,
    pub(super) rights: Rights,
    /// An event of XenStore's ring waits.
    pub(super) store_event: bool,
    /// Whose stub domain it is.
    pub(super) target: Option<DomId>,
}

/// First port and grant that a domain gets: the ones before are XenStore's and the
/// console's, made with the domain.
const FIRST_NUMBER: u32 = 8;

impl Domain {
    fn new(privileged: bool, config: DomainConfig) -> Self {
        Self {
            life: Life::Running,
            privileged,
            config,
            ports: BTreeMap::new(),
            next_port: FIRST_NUMBER,
            grants: BTreeMap::new(),
            next_grant: FIRST_NUMBER,
            pirqs: BTreeMap::new(),
            rights: Rights { iomem: BTreeSet::new(), ..Rights::default() },
            store_event: false,
            target: None,
        }
    }

    pub(super) fn dom0() -> Self {
        Self::new(true, DomainConfig { extra_irqs: 256, ..DomainConfig::default() })
    }
}

impl Xen {
    /// Makes a domain.
    pub fn create_domain(&self, config: DomainConfig) -> DomId {
        let mut state = self.state_mut();
        let domain = DomId(state.next_domain);
        state.next_domain += 1;
        state.domains.insert(domain, Domain::new(false, config));
        domain
    }

    /// How alive `domain` is; `None` if there is none of this number.
    pub fn life(&self, domain: DomId) -> Option<Life> {
        self.state().domains.get(&domain).map(|domain| domain.life)
    }

    /// All domains there are, dying ones too.
    pub fn domains(&self) -> Vec<DomId> {
        self.state().domains.keys().copied().collect()
    }

    /// `XEN_DOMCTL_set_target`: `stub` is the stub domain of `target`, once, and only of one
    /// that is HVM.
    pub fn set_target(&self, caller: DomId, stub: DomId, target: DomId) -> XenResult<()> {
        const CALL: &str = "set_target";
        self.privileged(caller, CALL)?;
        if !self.is_hvm(target) {
            return refused(CALL, EOPNOTSUPP);
        }
        match self.state_mut().domains.get_mut(&stub) {
            Some(Domain { target: target_of @ None, .. }) => {
                *target_of = Some(target);
                Ok(())
            }
            Some(_) => refused(CALL, EINVAL),
            None => refused(CALL, ESRCH),
        }
    }

    /// Whether `domain` is the stub domain of `owner`: it maps for it what it has.
    pub fn serves(&self, domain: DomId, owner: Option<DomId>) -> bool {
        let state = self.state();
        let target = state.domains.get(&domain).and_then(|domain| domain.target);
        target.is_some() && target == owner
    }

    /// Whether `domain` is HVM or PVH.
    pub fn is_hvm(&self, domain: DomId) -> bool {
        self.state().domains.get(&domain).is_some_and(|d| d.config.hvm)
    }

    /// Whether the toolstack holds `domain`.
    pub fn is_paused(&self, domain: DomId) -> bool {
        self.state().domains.get(&domain).is_some_and(|d| d.config.paused)
    }

    /// Whether `domain` runs.
    pub fn is_running(&self, domain: DomId) -> bool {
        self.life(domain) == Some(Life::Running)
    }

    /// Domains that are dying and can't, because a page of them is mapped.
    pub fn zombies(&self) -> Vec<DomId> {
        let state = self.state();
        let dying = state.domains.iter().filter(|(_, d)| d.life == Life::Dying);
        dying.map(|(number, _)| *number).collect()
    }

    /// Begins the teardown of a domain (`XEN_DOMCTL_destroydomain`). Its code does not run
    /// any more from here on.
    pub fn destroy_domain(&self, caller: DomId, domain: DomId) -> XenResult<()> {
        self.privileged(caller, "destroydomain")?;
        {
            let mut state = self.state_mut();
            match state.domains.get_mut(&domain) {
                Some(dying) if dying.life == Life::Running => dying.life = Life::Dying,
                _ => return refused("destroydomain", ESRCH),
            }
        }
        self.note(Deed::Dying(domain));
        self.close_all_ports(domain);
        self.agenda().within(&self.delays().relinquish, Happening::Relinquish(domain));
        Ok(())
    }

    /// The step of a teardown that takes the devices away.
    pub(crate) fn relinquish(&self, domain: DomId) {
        for device in self.devices_of(domain) {
            self.move_to_quarantine(domain, device);
        }
        self.drop_own_mappings(domain);
        // Not only itself: it may have held pages of others that are dying.
        for zombie in self.zombies() {
            self.agenda().within(&self.delays().event, Happening::Complete(zombie));
        }
    }

    /// The last step of a teardown, if nothing holds the domain. Returns whether it is gone.
    pub(crate) fn complete(&self, domain: DomId) -> bool {
        let owns = !self.devices_of(domain).is_empty();
        let gone = {
            let state = self.state();
            let dead = state.domains.get(&domain);
            dead.is_some_and(|dead| {
                let held = dead.grants.values().any(|grant| grant.mapped > 0);
                dead.life == Life::Dying && !held && !owns
            })
        };
        if gone {
            self.free_pirqs(domain);
            self.state_mut().domains.remove(&domain);
            self.note(Deed::Gone(domain));
        }
        gone
    }

    pub(super) fn privileged(&self, caller: DomId, call: &'static str) -> XenResult<()> {
        match self.state().domains.get(&caller) {
            Some(domain) if domain.privileged => Ok(()),
            _ => refused(call, EPERM),
        }
    }
}

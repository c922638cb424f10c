//! How a device may be reset: whether the port above it may be used for that.
//!
//! A bus or slot reset takes with it whatever is below the port. So the port is named to
//! pcidom only where it and all below it are in the pool, by what sysfs shows at that moment.

use std::collections::BTreeSet;

use pcidom_loan::ResetTerms;
use pcidom_pci::Sbdf;
use pcidom_xenbus::DomId;

use super::pool::PoolState;
use super::{Daemon, Env, Stage};
use crate::host::{Above, HostError};

/// A port that may be used, and all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) port: Sbdf,
    pub(super) below: Vec<Sbdf>,
}

/// What the order of a loan says about resets, and what that means.
pub(super) struct Terms {
    pub(super) order: ResetTerms,
    /// All that may be reset with it, itself included.
    pub(super) reach: Vec<Sbdf>,
    /// Why no port is named, if none is.
    pub(super) no_port: Option<NoPort>,
}

/// Why there is no bus or slot reset of a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPort {
    #[error("it is on a root bus, and that is never reset")]
    RootBus,
    #[error(
        "{port}, the port above it, is not in the pool: xl pci-assignable-add {port}, and \
         write it into {name}.cfg, pci = [ \"{port}\", ... ] (docs/resets.md)"
    )]
    PortNotInPool { port: Sbdf, name: String },
    #[error("{device} is below the same port {port}, and not in the pool ({driver})")]
    Foreigner { port: Sbdf, device: Sbdf, driver: String },
    #[error(
        "{device} is below the same port {port}, and a port itself: what is below that would \
         not come back"
    )]
    Nested { port: Sbdf, device: Sbdf },
    #[error("{device}, which would be needed for it, is unfit: {reason}")]
    Unfit { device: Sbdf, reason: String },
    #[error("{0}, which is above it, is no port")]
    NoBridge(Sbdf),
    #[error("{device} is below the same port, and {used}")]
    InUse { device: Sbdf, used: String },
    #[error(transparent)]
    Unknown(#[from] HostError),
}

impl NoPort {
    /// What a message about a reset that failed adds.
    pub(super) fn addition(&self) -> String {
        format!("; slot and bus reset are not possible: {self}")
    }
}

impl Daemon {
    /// The port that may be used to reset a device.
    pub(super) fn port_for(
        &self,
        env: &mut Env<'_>,
        pcidom: DomId,
        device: Sbdf,
    ) -> Result<Port, NoPort> {
        let Above::Port(port) = env.host.above(device)? else {
            return Err(NoPort::RootBus);
        };
        let known = self.pcidoms.get(&pcidom);
        let fit = |device| match known.and_then(|p| p.pool.get(&device)) {
            Some(entry) => match &entry.state {
                PoolState::Quarantined => Ok(Some(entry.port)),
                // The very reset may bring it back.
                PoolState::Unfit(_) if entry.may_come_back().is_some() => Ok(Some(false)),
                PoolState::Unfit(reason) => {
                    Err(NoPort::Unfit { device, reason: reason.clone() })
                }
                PoolState::Leaving => Ok(None),
            },
            None => Ok(None),
        };
        match fit(port)? {
            Some(true) => {}
            Some(false) => return Err(NoPort::NoBridge(port)),
            None => {
                let name = known.map_or("pcidom", |pcidom| &pcidom.name).to_owned();
                return Err(NoPort::PortNotInPool { port, name });
            }
        }
        let mut below = Vec::new();
        for found in env.host.below(port)? {
            let device = found.device;
            match fit(device)? {
                Some(false) => below.push(device),
                Some(true) => return Err(NoPort::Nested { port, device }),
                None => {
                    let driver = found.driver.map(|driver| format!("driver {driver}"));
                    let driver = driver.unwrap_or_else(|| "no driver".into());
                    return Err(NoPort::Foreigner { port, device, driver });
                }
            }
        }
        Ok(Port { port, below })
    }

    /// The same, after another look at what is unfit for it: that may be mended.
    pub(super) fn mended_port_for(
        &mut self,
        env: &mut Env<'_>,
        pcidom: DomId,
        device: Sbdf,
    ) -> Result<Port, NoPort> {
        let mut looked_at = BTreeSet::new();
        loop {
            match self.port_for(env, pcidom, device) {
                Err(NoPort::Unfit { device, .. }) if looked_at.insert(device) => {
                    // If it still is, its entry says so.
                    if let Err(error) = self.refresh(env, pcidom, device) {
                        log::warn!("{device} is still unfit: {error}");
                    }
                }
                result => return result,
            }
        }
    }

    /// What the order of a loan says about resets.
    pub(super) fn terms(&self, port: Result<Port, NoPort>, lax: bool) -> Terms {
        let plain = ResetTerms { lax, ..ResetTerms::default() };
        match port.and_then(|port| self.with_nothing_lent(port)) {
            Ok(Port { port, below }) => Terms {
                order: ResetTerms { port: Some(port), below: count(&below), ..plain },
                reach: below,
                no_port: None,
            },
            Err(reason) => {
                Terms { order: plain, reach: Vec::new(), no_port: Some(reason) }
            }
        }
    }

    /// No loan's reset may touch a neighbour that is lent, be it to the same guest: its
    /// vectors are mapped, and Xen could mask them no more.
    fn with_nothing_lent(&self, port: Port) -> Result<Port, NoPort> {
        let lent = self.loans.values().find(|loan| {
            port.below.contains(&loan.record.device.0)
                && matches!(
                    loan.record.stage,
                    Stage::Lending | Stage::Lent | Stage::Detaching
                )
        });
        match lent {
            None => Ok(port),
            Some(loan) => Err(NoPort::InUse {
                device: loan.record.device.0,
                used: format!("is lent to {}", loan.record.guest_name),
            }),
        }
    }

    /// The device whose order, which is not answered yet, may take this one along: until it
    /// is, this one can't be lent.
    pub(super) fn reached_by(&self, device: Sbdf) -> Option<Sbdf> {
        let other = self.loans.values().find(|loan| loan.reach.contains(&device));
        other.map(|loan| loan.record.device.0)
    }

    /// Arms the port above a device anew, before it may be needed.
    pub(super) fn refresh_port(
        &mut self,
        env: &mut Env<'_>,
        pcidom: DomId,
        device: Sbdf,
    ) {
        if let Ok(Above::Port(port)) = env.host.above(device)
            && self.in_pool(pcidom, port)
            && let Err(error) = self.refresh(env, pcidom, port)
        {
            log::warn!("the port {port} above {device}: {error}");
        }
    }
}

/// As an order has it.
pub(super) fn count(below: &[Sbdf]) -> u16 {
    u16::try_from(below.len()).unwrap_or(u16::MAX)
}

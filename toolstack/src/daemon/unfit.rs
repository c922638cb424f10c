//! Devices of a pool that can't be lent: looked at again after a while, and after each reset
//! that may have mended them.
//!
//! One that answers nothing is reset by its port for that, if that may be used. It is given
//! up after a few looks; a person's `attach` or `reset` looks once more.

use std::time::Duration;

use pcidom_pci::Sbdf;
use pcidom_script::Instant;
use pcidom_xenbus::DomId;

use super::pool::PoolState;
use super::reset::Wanted;
use super::resets::Asker;
use super::{Daemon, Env, Failure};
use crate::host::DeviceFacts;

/// The first look comes after this, each further one after twice the time of the one before.
const FIRST_LOOK: Duration = Duration::from_secs(4);
/// So many looks by itself: four minutes in all. What firmware or a person has not mended by
/// then is not mended by looking.
const LOOKS: u8 = 6;

/// When something unfit is looked at again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Again {
    looks: u8,
    at: Option<Instant>,
}

impl Again {
    /// It is unfit: since now, or still.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.looks == 0 && self.at.is_none() {
            self.at = Some(now.after(FIRST_LOOK));
        }
    }

    /// It is looked at now.
    fn next(&mut self, now: Instant) {
        self.looks = self.looks.saturating_add(1);
        let pause = FIRST_LOOK.saturating_mul(1 << self.looks.min(LOOKS));
        self.at = (self.looks < LOOKS).then(|| now.after(pause));
    }
}

impl Daemon {
    /// When the next of them is looked at.
    pub(super) fn next_unfit(&self) -> Option<Instant> {
        let all = self.pcidoms.values().flat_map(|pcidom| pcidom.pool.values());
        all.filter_map(|entry| entry.again.at).min()
    }

    /// Looks at those whose time has come.
    pub(super) fn look_at_unfit(&mut self, env: &mut Env<'_>) {
        let mut due = Vec::new();
        for (domain, pcidom) in &mut self.pcidoms {
            for (device, entry) in &mut pcidom.pool {
                if entry.again.at.is_some_and(|at| at <= env.now) {
                    entry.again.next(env.now);
                    due.push((*domain, pcidom.name.clone(), *device));
                }
            }
        }
        for (domain, name, device) in due {
            let mended = self.refresh(env, domain, device);
            let Err(error) = mended else { continue };
            log::info!("{device} is still unfit: {error}");
            // What is in use is somebody else's matter, with a reset of its own.
            if self.loan_of(device).is_some()
                || self.known_silent(domain, device).is_none()
            {
                continue;
            }
            let pcidom = Some(name.as_str());
            let wanted = Wanted { device, method: None, force: false, pcidom };
            if let Err(error) = self.reset(env, Asker::Daemon, wanted) {
                log::info!("{device} is not reset by its port: {error}");
            }
        }
    }

    /// Looks at those of these devices that are unfit: a reset that went over them is over.
    pub(super) fn look_again(
        &mut self,
        env: &mut Env<'_>,
        domain: DomId,
        devices: &[Sbdf],
    ) {
        for device in devices {
            let entry = self.pcidoms.get(&domain).and_then(|p| p.pool.get(device));
            let unfit = |state: &PoolState| matches!(state, PoolState::Unfit(_));
            if entry.is_some_and(|entry| unfit(&entry.state)) {
                match self.refresh(env, domain, *device) {
                    Ok(_) => log::info!("{device} can be lent again"),
                    Err(error) => log::warn!("{device} is still unfit: {error}"),
                }
            }
        }
    }

    /// [`Daemon::refresh`] for what is reset next: a device that answers nothing may come
    /// back by its port, and then is what it was.
    pub(super) fn refresh_for_reset(
        &mut self,
        env: &mut Env<'_>,
        domain: DomId,
        device: Sbdf,
    ) -> Result<DeviceFacts, Failure> {
        let error = match self.refresh(env, domain, device) {
            Ok(facts) => return Ok(facts),
            Err(error) => error,
        };
        let Some(facts) = self.known_silent(domain, device) else { return Err(error) };
        match self.mended_port_for(env, domain, device) {
            Ok(_) => Ok(facts),
            Err(reason) => {
                Err(Failure::Refused(format!("{device}: {error}{}", reason.addition())))
            }
        }
    }

    /// What a device was that answers nothing now.
    fn known_silent(&self, domain: DomId, device: Sbdf) -> Option<DeviceFacts> {
        let entry = self.pcidoms.get(&domain)?.pool.get(&device)?;
        entry.may_come_back().cloned()
    }
}

//! Resets on demand: who may ask for which, and what has to be done first.
//!
//! pcidom resets, as for a loan; the order is one of a loan to nobody. Nothing of it is in the
//! record: a daemon that starts removes what is left of it.

use std::fmt::Write;

use pcidom_loan::ResetTerms;
use pcidom_pci::Sbdf;
use pcidom_pci::reset::Method;
use pcidom_xenbus::DomId;

use super::resets::{Asker, Reset};
use super::terms::{NoPort, Port, count};
use super::{Daemon, Env, Failure, Noted, Record, Stage, paths};
use crate::store::StoreError;

fn refused<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Refused(text.into()))
}

/// A reset as it is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) device: Sbdf,
    pub(super) method: Option<Method>,
    pub(super) force: bool,
    pub(super) pcidom: Option<&'a str>,
}

impl Wanted<'_> {
    /// The method, if it is one that needs the port.
    const fn by_port(&self) -> Option<Method> {
        match self.method {
            Some(method @ (Method::Slot | Method::SecondaryBus)) => Some(method),
            Some(
                Method::FunctionLevel | Method::AdvancedFeatures | Method::PowerState,
            )
            | None => None,
        }
    }
}

/// What a function is used for that a reset would disturb.
struct Use {
    guest: String,
    stage: Stage,
}

impl Daemon {
    /// Begins a reset. From here on the reply comes when it is over.
    pub(super) fn reset(
        &mut self,
        env: &mut Env<'_>,
        asker: Asker,
        wanted: Wanted<'_>,
    ) -> Result<(), Failure> {
        let device = wanted.device;
        let pcidom = self.find_pcidom(wanted.pcidom)?;
        self.check_in_pool(device, pcidom)?;
        let vm = self.serving(pcidom)?;
        self.check_no_reset(device)?;
        if self.is_port(pcidom, device) {
            return self.refuse_port(env, device);
        }
        let used = self.use_of(device);
        self.check_own_use(&wanted, used.as_ref())?;
        let (port, no_port) = self.way(env, pcidom, &wanted)?;
        let id = self.free_id()?;
        // As before a loan: pciback may have forgotten what it was told. Of what is lent
        // nothing is taken, and it is in the pool whatever comes of this.
        if used.is_none() {
            if self.refresh_for_reset(env, pcidom, device)?.port {
                return self.refuse_port(env, device);
            }
        } else {
            // As it was when it was lent: what it shows now is the guest's to change.
            let facts = self.loan_of(device).and_then(|(id, _)| self.loans.get(&id));
            let facts = facts.and_then(|loan| loan.facts.as_ref());
            let quirks = facts.map(|facts| facts.quirks.clone()).unwrap_or_default();
            env.host.arm(device, &quirks)?;
        }
        if let Some(Port { port, .. }) = port {
            self.refresh(env, pcidom, port)?;
        }
        let scope = port.as_ref().map_or_else(|| vec![device], |p| p.below.clone());
        let below = if port.is_some() { count(&scope) } else { 0 };
        let port = port.map(|port| port.port);
        let disarmed = self.end_leases_in(env, &scope)?;
        let generation = self.generation + 1;
        let Wanted { method, force, .. } = wanted;
        let terms = ResetTerms { port, below, method, lax: false, force };
        let reset = Reset::new(
            (pcidom, vm, device),
            (port, scope),
            (generation, asker),
            no_port.map(|reason| reason.addition()),
            env.now,
        )
        .after(disarmed.clone());
        let guest = self.loan_of(device).and_then(|(id, _)| self.loans.get(&id));
        let guest = guest.map_or(DomId::DOM0, |loan| loan.record.guest());
        let order = reset.order(guest, terms);
        env.store
            .transaction(&mut |nodes| {
                nodes.write(&paths::generation(), &generation.to_string())?;
                if nodes.read(&paths::vm(pcidom))?.as_ref() != Some(&reset.vm) {
                    return Err(StoreError::Gone);
                }
                nodes.remove(&paths::answer(pcidom, id))?;
                nodes.write(&paths::order(pcidom, id), &order.to_string())
            })
            .map_err(|error| match disarmed.as_str() {
                "" => error.into(),
                disarmed => Failure::Refused(format!("XenStore: {error}{disarmed}")),
            })?;
        self.generation = generation;
        self.begin_reset(env, id, reset, terms);
        Ok(())
    }

    /// What is lent, or about to be or to end, is used.
    fn use_of(&self, device: Sbdf) -> Option<Use> {
        let (id, stage) = self.loan_of(device)?;
        let guest = self.loans.get(&id).map(|loan| loan.record.guest_name.clone());
        Some(Use { guest: guest.unwrap_or_default(), stage })
    }

    /// Nothing is reset twice at a time.
    pub(super) fn check_no_reset(&self, device: Sbdf) -> Result<(), Failure> {
        match self.reset_over(device) {
            None => Ok(()),
            Some(reset) if reset.device == device => refused(format!(
                "{device} is being reset just now: wait for that, then try again"
            )),
            Some(reset) => refused(format!(
                "{device} is being reset just now, with {}: wait for that, then try again",
                reset.device
            )),
        }
    }

    fn check_own_use(
        &self,
        wanted: &Wanted<'_>,
        used: Option<&Use>,
    ) -> Result<(), Failure> {
        let device = wanted.device;
        match used {
            None => Ok(()),
            Some(Use { guest, stage: Stage::Lent | Stage::Detaching })
                if !wanted.force =>
            {
                refused(format!(
                    "{device} is lent to {guest}: pcidomctl detach {guest} {device}; or, if \
                     its driver there may fail, reset it with --force"
                ))
            }
            Some(Use { stage: Stage::Lent | Stage::Detaching, .. }) => Ok(()),
            Some(Use { guest, stage }) => refused(format!(
                "{device} is {stage} just now (guest {guest}), with a reset: wait for that"
            )),
        }
    }

    fn refuse_port<T>(&self, env: &mut Env<'_>, port: Sbdf) -> Result<T, Failure> {
        let below = env.host.below(port)?;
        let names: Vec<String> = below.iter().map(|b| b.device.to_string()).collect();
        let Some(first) = names.first() else {
            return refused(format!(
                "{port} is a port, which resets what is below it, and nothing is"
            ));
        };
        refused(format!(
            "{port} is a port, which resets what is below it ({}): pcidomctl reset {first} \
             --method bus",
            names.join(", ")
        ))
    }

    /// The port that may be used for this reset, or none and why; refuses what was asked for
    /// by name and can't be.
    fn way(
        &mut self,
        env: &mut Env<'_>,
        pcidom: DomId,
        wanted: &Wanted<'_>,
    ) -> Result<(Option<Port>, Option<NoPort>), Failure> {
        let device = wanted.device;
        let by_port = wanted.by_port();
        if wanted.method.is_some() && by_port.is_none() {
            return Ok((None, None));
        }
        let port = self.mended_port_for(env, pcidom, device);
        let port = match (port, by_port) {
            (Ok(port), _) => port,
            (Err(reason), Some(method)) => {
                return refused(format!("{device} can't have a {method}: {reason}"));
            }
            (Err(reason), None) => return Ok((None, Some(reason))),
        };
        let others = port.below.iter().copied().filter(|other| *other != device);
        for other in others {
            let reset = self.reset_over(other).is_some();
            let used = self.use_of(other);
            if !reset && used.is_none() {
                continue;
            }
            let what = match &used {
                _ if reset => "is being reset just now".into(),
                Some(Use { guest, stage: Stage::Lent | Stage::Detaching }) => {
                    format!("is lent to {guest}")
                }
                Some(Use { guest, stage }) => {
                    format!("is {stage} just now (guest {guest})")
                }
                None => String::new(),
            };
            // Nobody's neighbour is reset unless a person has named the method.
            let Some(method) = by_port else {
                let what = format!("{what}: only --method slot or bus takes it along");
                return Ok((None, Some(NoPort::InUse { device: other, used: what })));
            };
            let text =
                format!("a {method} of {device} takes {other} along, which {what}");
            match used {
                Some(Use { guest, stage: Stage::Lent | Stage::Detaching }) if !reset => {
                    if !wanted.force {
                        return refused(format!(
                            "{text}: pcidomctl detach {guest} {other}; or, if its driver \
                             there may fail, --force"
                        ));
                    }
                }
                _ => return refused(format!("{text}: wait for that")),
            }
        }
        Ok((Some(port), None))
    }

    /// Unmaps what guests have mapped of these functions: a reset would leave Xen with
    /// interrupts that it can't mask any more.
    /// Returns what to add to a failure: nobody but the guests' drivers can bring these vectors
    /// back.
    fn end_leases_in(
        &mut self,
        env: &mut Env<'_>,
        scope: &[Sbdf],
    ) -> Result<String, Failure> {
        let mut disarmed = String::new();
        for id in self.loan_ids() {
            let Some(loan) = self.loans.get(&id) else { continue };
            if !scope.contains(&loan.record.device.0) || loan.leases.is_none() {
                continue;
            }
            log::warn!("{}: it is being reset, by force", loan.title(id));
            let Record { device, guest_name, .. } = &loan.record;
            let _ = write!(
                disarmed,
                "; {0} has lost its interrupts all the same: load its driver in {guest_name} \
                 anew, or pcidomctl detach {guest_name} {0}",
                device.0
            );
            // A daemon that dies before the second note ends the loan: the numbers in the
            // first one may be somebody else's by then.
            let mut record = loan.record.clone();
            record.leases = Noted::INTENT;
            record.save(env.store, id)?;
            self.end_leases(env, id);
            if let Some(loan) = self.loans.get(&id) {
                loan.record.save(env.store, id)?;
            }
        }
        Ok(disarmed)
    }
}

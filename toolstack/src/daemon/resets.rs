//! Resets under way: each is an order to pcidom under the number of a loan.

use std::time::Duration;

use pcidom_loan::{
    BusPolicy, Exceptions, Generation, LoanId, LoanOrder, Outcome, Phase, ResetTerms,
};
use pcidom_pci::Sbdf;
use pcidom_script::Instant;
use pcidom_xenbus::DomId;

use super::loan::{self, RETRY};
use super::stop::STOPS;
use super::{Client, Daemon, Env, Failure, paths};
use crate::verb::Reply;

/// As long as the reset of a loan.
pub(super) const BOUND: Duration = loan::RESET_DEADLINE;
/// Whoever waits hears this often that it goes on.
const WORD: Duration = Duration::from_secs(5);

/// Who has asked for a reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A verb.
    Verb(Client),
    /// Another toolstack, by the name of its node.
    Node(String),
    /// Nobody but the daemon, to bring a device back that answers nothing.
    Daemon,
}

/// A reset that pcidom was told to do.
#[derive(Debug)]
pub(super) struct Reset {
    pub(super) pcidom: DomId,
    pub(super) vm: String,
    pub(super) device: Sbdf,
    port: Option<Sbdf>,
    /// All that may be reset with it, itself included.
    scope: Vec<Sbdf>,
    generation: u64,
    asker: Asker,
    /// What a failure adds: why slot and bus reset are out of the question, if they are.
    addition: Option<String>,
    /// What each failure adds: which functions have lost their vectors for it.
    disarmed: String,
    begun: Instant,
    deadline: Instant,
    /// When whoever waits hears of it next, or XenStore is tried again.
    look: Instant,
}

impl Reset {
    pub(super) fn new(
        (pcidom, vm, device): (DomId, String, Sbdf),
        (port, scope): (Option<Sbdf>, Vec<Sbdf>),
        (generation, asker): (u64, Asker),
        addition: Option<String>,
        now: Instant,
    ) -> Self {
        Self {
            pcidom,
            vm,
            device,
            port,
            scope,
            generation,
            asker,
            addition,
            disarmed: String::new(),
            begun: now,
            deadline: now.after(BOUND),
            look: now.after(WORD),
        }
    }

    /// It was begun by taking these vectors.
    pub(super) fn after(mut self, disarmed: String) -> Self {
        self.disarmed = disarmed;
        self
    }

    /// What pcidom is told: a loan to nobody, or to whoever has the device.
    pub(super) fn order(&self, guest: DomId, reset: ResetTerms) -> LoanOrder {
        LoanOrder {
            generation: Generation(self.generation),
            phase: Phase::Reset,
            guest: guest.0,
            device: self.device,
            slot: None,
            bus: BusPolicy::Vpci,
            line: true,
            reset,
            exceptions: Exceptions::default(),
        }
    }

    pub(super) fn next_look(&self) -> Instant {
        self.look.min(self.deadline)
    }

    fn seconds(&self, now: Instant) -> f64 {
        now.since(self.begun).as_secs_f64()
    }
}

impl Daemon {
    /// Takes up a reset whose order is written.
    pub(super) fn begin_reset(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
        reset: Reset,
        terms: ResetTerms,
    ) {
        let device = reset.device;
        let method = terms.method.map(|method| format!(" by {method}"));
        let port = reset.port.map(|port| {
            let others = reset.scope.iter().filter(|other| **other != device);
            let others: Vec<String> = others.map(ToString::to_string).collect();
            let with =
                if others.is_empty() { "nothing else".into() } else { others.join(", ") };
            format!("; if the port {port} is used for it, with {with}")
        });
        let text = format!(
            "resetting {device}{}{}",
            method.unwrap_or_default(),
            port.unwrap_or_default()
        );
        log::info!("reset {id} gen {}: {text}", reset.generation);
        self.tell(&reset.asker.clone(), text);
        self.resets.insert(id, reset);
        self.look_at_resets(env, |it, _| it == id);
    }

    /// The reset under way that a function may be reset by.
    pub(super) fn reset_over(&self, device: Sbdf) -> Option<&Reset> {
        self.resets.values().find(|reset| reset.scope.contains(&device))
    }

    /// Looks what has become of these resets, and of those that can't be answered any more.
    /// Each look reads XenStore.
    pub(super) fn look_at_resets(
        &mut self,
        env: &mut Env<'_>,
        which: impl Fn(LoanId, &Reset) -> bool,
    ) {
        let looked_at = |(id, reset): &(&LoanId, &Reset)| {
            which(**id, reset) || self.reset_lost(reset).is_some()
        };
        let ids: Vec<LoanId> =
            self.resets.iter().filter(looked_at).map(|(id, _)| *id).collect();
        for id in ids {
            if let Err(error) = self.step_reset(env, id) {
                log::error!("reset {id}: {error}");
                if let Some(reset) = self.resets.get_mut(&id) {
                    reset.look = env.now.after(RETRY);
                    reset.deadline = reset.deadline.max(reset.look);
                }
            }
        }
    }

    fn step_reset(&mut self, env: &mut Env<'_>, id: LoanId) -> Result<(), Failure> {
        let Some(reset) = self.resets.get(&id) else { return Ok(()) };
        let (device, seconds) = (reset.device, reset.seconds(env.now));
        let said = loan::said(env, reset.pcidom, id, reset.generation)?;
        let disarmed = &reset.disarmed;
        let not = |why: &str| Err(format!("{device} was not reset: {why}{disarmed}"));
        let result = match (said, self.reset_lost(reset)) {
            (Some(Outcome::Ready(how)), _) => {
                Ok(format!("{device} was reset in {seconds:.1} s: {how}"))
            }
            (Some(Outcome::Failed(why)), _) => {
                not(&(why + reset.addition.as_deref().unwrap_or_default()))
            }
            (_, Some(lost)) => not(&lost),
            _ if reset.deadline <= env.now => not(&format!(
                "pcidom did not answer in {} s: look at xl console {}",
                BOUND.as_secs(),
                reset.pcidom
            )),
            _ => {
                if reset.look <= env.now {
                    let text = format!("still resetting {device} after {seconds:.0} s");
                    self.tell(&reset.asker.clone(), text);
                    if let Some(reset) = self.resets.get_mut(&id) {
                        reset.look = env.now.after(WORD);
                    }
                }
                return Ok(());
            }
        };
        let (pcidom, vm) = (reset.pcidom, reset.vm.clone());
        env.store.transaction(&mut |nodes| {
            if nodes.read(&paths::vm(pcidom))?.as_ref() == Some(&vm) {
                nodes.remove(&paths::order(pcidom, id))?;
            }
            Ok(())
        })?;
        let Some(reset) = self.resets.remove(&id) else { return Ok(()) };
        let text = match &result {
            Ok(text) | Err(text) => text,
        };
        log::info!("reset {id} gen {}: {text}", reset.generation);
        match reset.asker {
            Asker::Verb(client) => self.reply(
                client,
                match result {
                    Ok(text) => Reply::Done { text },
                    Err(text) => Reply::Failed { text },
                },
            ),
            Asker::Node(name) => self.answer_request(env, &name, result),
            Asker::Daemon => {}
        }
        self.look_again(env, reset.pcidom, &reset.scope);
        Ok(())
    }

    /// What keeps a reset from ever being answered.
    fn reset_lost(&self, reset: &Reset) -> Option<String> {
        match self.pcidoms.get(&reset.pcidom) {
            Some(pcidom) if pcidom.vm != reset.vm => Some("pcidom is gone".into()),
            None => Some("pcidom is gone".into()),
            Some(pcidom) if pcidom.stopping => Some(STOPS.into()),
            Some(_) => {
                // As many as the order says are below the port.
                let needed = reset.port.iter().chain(&reset.scope).copied();
                let mut left = needed.filter(|it| !self.in_pool(reset.pcidom, *it));
                left.next().map(|it| format!("{it} left the pool"))
            }
        }
    }

    /// A word to somebody who watches. A node has room for the result only.
    fn tell(&mut self, asker: &Asker, text: String) {
        match asker {
            Asker::Verb(client) => self.reply(*client, Reply::Progress { text }),
            Asker::Node(_) | Asker::Daemon => {}
        }
    }
}

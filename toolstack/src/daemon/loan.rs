//! One loan: its record, what it waits for, and what may have happened to it.

use std::time::Duration;

use pcidom_loan::{Generation, LoanId, LoanReport, Outcome};
use pcidom_pci::Sbdf;
use pcidom_script::{Instant, Pace};
use pcidom_xenbus::{DomId, XenbusState};

use super::leases::Leases;
use super::pace;
use super::record::Found;
use super::terms::NoPort;
use super::{Client, Daemon, Env, Failure, Owner, Record, Stage, paths};
use crate::host::DeviceFacts;
use crate::store::Nodes;
use crate::verb::Reply;

/// pcidom resets a device: it waits up to 20 s for its scan and up to 60 s for it to come back,
/// and may have tried other methods before.
pub(super) const RESET_DEADLINE: Duration = Duration::from_secs(90);
/// A frontend that is there connects in less than libxl's `wait_for_backend` of 10 s; a guest
/// that boots gets three times that.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// A guest's driver lets go: libxl's `wait_for_backend`.
pub(super) const DETACH_DEADLINE: Duration = Duration::from_secs(10);
/// pcidom takes a device off its link when it sees the order, before the reset: one wake-up.
/// A guest whose device is gone must not wait for a slow reset to hear of it.
pub(super) const TELL_DEADLINE: Duration = Duration::from_secs(1);
/// Between the end of a link and the next one of the same guest: time for the guest to see
/// that the directories are gone. Linux takes one that was removed and made again before it
/// looked for the old one, and never connects; it looks at once, unless it is busy.
pub(super) const LINK_PAUSE: Duration = Duration::from_secs(1);
/// XenStore is tried again after this.
pub(super) const RETRY: Duration = Duration::from_secs(3);

/// Who waits for what.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    Attach(Client),
    Detach(Client),
}

/// What ended a loan that nobody asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The guest died, was destroyed, or tore its end of the link down.
    Guest(&'static str),
    /// pcidom died.
    Pcidom,
    /// The device left the pool.
    Device,
}

impl Lost {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Guest(text) => text,
            Self::Pcidom => "pcidom is gone",
            Self::Device => "the device left the pool",
        }
    }
}

#[derive(Debug)]
pub(super) struct Loan {
    pub(super) record: Record,
    /// Its vectors; the record has a note of them.
    pub(super) leases: Leases,
    /// What the rights are made of. None if dom0 does not know the device any more.
    pub(super) facts: Option<DeviceFacts>,
    /// When it has to be looked at although nothing has happened.
    pub(super) deadline: Option<Instant>,
    pub(super) waiter: Option<Waiter>,
    /// Prepared; waits for its link to settle.
    pub(super) ready: bool,
    /// When it became lent, for the deadlines of whoever waits.
    pub(super) lent_at: Instant,
    /// How long the guest may take to connect.
    pub(super) connect_wait: Duration,
    /// Until when its guest may let go although it must: pcidom shuts down, or is gone.
    pub(super) patience: Option<Instant>,
    /// When a guest that lost the device is told at the latest; none if it knows.
    pub(super) tell_guest_at: Option<Instant>,
    /// Its guest was told before pcidom had let go, which may have written over it.
    pub(super) told_early: bool,
    /// Its guest was told that the link goes with it, so that is not kept for another one.
    pub(super) link_goes: bool,
    /// When the pause after the last link of its guest is over.
    pub(super) link_at: Option<Instant>,
    /// Why an attach is undone; the reply once it is.
    pub(super) failure: Option<String>,
    /// What the reset that is ordered may take along; none once it is over.
    pub(super) reach: Vec<Sbdf>,
    /// Why the last order named no port to reset the device by.
    pub(super) no_port: Option<NoPort>,
    /// How often it may be asked for leases.
    pub(super) requests: Pace,
    /// When a request that came too soon is served.
    pub(super) serve_at: Option<Instant>,
    /// How much may be said of what pcidom writes about it.
    pub(super) lines: Pace,
    /// And of its vectors.
    pub(super) vector_lines: Pace,
}

impl Loan {
    /// A loan that begins, or was found in the record.
    pub(super) fn new(id: LoanId, record: Record) -> Self {
        Self {
            leases: Leases::recover(id, &record),
            record,
            facts: None,
            deadline: None,
            waiter: None,
            ready: false,
            lent_at: Instant::default(),
            connect_wait: CONNECT_DEADLINE,
            patience: None,
            tell_guest_at: None,
            told_early: false,
            link_goes: false,
            link_at: None,
            failure: None,
            reach: Vec::new(),
            no_port: None,
            requests: pace::of_requests(),
            serve_at: None,
            lines: pace::of_lines(),
            vector_lines: pace::of_vector_lines(),
        }
    }

    pub(super) fn read_facts(&mut self, env: &mut Env<'_>) {
        let device = self.record.device.0;
        match env.host.device(device).and_then(|raw| DeviceFacts::read(&raw)) {
            Ok(facts) => self.facts = Some(facts),
            Err(error) => log::error!("{device}: {error}"),
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// When it has to be looked at next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.tell_guest_at).chain(self.link_at).min()
    }

    /// How the log names it.
    pub(super) fn title(&self, id: LoanId) -> String {
        let Record { generation, device, guest_name, guest, owner, .. } = &self.record;
        let stub = format!("{guest_name} ({guest})");
        let whose = match owner {
            // Pirqs are the owner's, so that is who comes last.
            Some(Owner { domid, name, .. }) => format!("by {stub} -> {name} ({domid})"),
            None => format!("-> {stub}"),
        };
        format!("loan {id} gen {generation} {} {whose}", device.0)
    }

    /// What pcidom says of this very loan.
    pub(super) fn report(
        &self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<Option<Outcome>, Failure> {
        said(env, self.record.pcidom(), id, self.record.generation)
    }
}

/// What pcidom says under this number, if it is of this generation.
pub(super) fn said(
    env: &mut Env<'_>,
    pcidom: DomId,
    id: LoanId,
    wanted: u64,
) -> Result<Option<Outcome>, Failure> {
    let path = paths::said_of_loan(pcidom, id);
    let Some(text) = env.store.read(&path)? else { return Ok(None) };
    match text.parse() {
        Ok(LoanReport { generation, outcome }) => {
            Ok((generation == Generation(wanted)).then_some(outcome))
        }
        Err(error) => {
            // As often as pcidom likes: nothing for dom0's disk.
            log::debug!("{id} of pcidom {pcidom}: a report that is none: {error}");
            Ok(None)
        }
    }
}

/// Reads a `state` node.
pub(super) fn state(
    nodes: &mut dyn Nodes,
    directory: &str,
) -> Result<XenbusState, Failure> {
    let text = nodes.read(&format!("{directory}/state"))?;
    Ok(XenbusState::parse(text.as_deref()))
}

impl Daemon {
    /// Moves a loan on as far as it goes now.
    pub(super) fn advance(&mut self, env: &mut Env<'_>, id: LoanId) {
        // Each round changes the stage, and no stage comes back in one call.
        for _ in 0..5 {
            let Some(loan) = self.loans.get(&id) else { return };
            let (before, title) = (loan.record.stage, loan.title(id));
            let result = match before {
                Stage::Preparing => self.step_preparing(env, id),
                // Only on the way through, or found in the record.
                Stage::Lending => {
                    self.end(env, id, Some("lending was interrupted".into()))
                }
                Stage::Lent => self.step_lent(env, id),
                Stage::Detaching => self.step_detaching(env, id),
                Stage::Ending => self.step_ending(env, id),
            };
            if let Err(error) = result {
                let now = env.now;
                if self.loans.get_mut(&id).is_none_or(|loan| loan.lines.may(now)) {
                    log::error!("{title}: {before}: {error}");
                }
                self.put_off(env, id);
                return;
            }
            if self.loans.get(&id).is_none_or(|loan| loan.record.stage == before) {
                return;
            }
        }
    }

    pub(super) fn advance_all(
        &mut self,
        env: &mut Env<'_>,
        which: impl Fn(&Loan) -> bool,
    ) {
        for id in self.loan_ids() {
            if self.loans.get(&id).is_some_and(&which) {
                self.advance(env, id);
            }
        }
    }

    /// XenStore failed in the middle of a step: try again in a while, not at once.
    fn put_off(&mut self, env: &Env<'_>, id: LoanId) {
        let later = env.now.after(RETRY);
        if let Some(loan) = self.loans.get_mut(&id)
            && loan.next_look().is_some_and(|look| look <= env.now)
        {
            loan.deadline = loan.deadline.map(|deadline| deadline.max(later));
            loan.tell_guest_at = loan.tell_guest_at.map(|tell| tell.max(later));
            loan.link_at = loan.link_at.map(|link| link.max(later));
        }
    }

    /// What has become of those a loan needs.
    pub(super) fn lost(
        &self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<Option<Lost>, Failure> {
        let Some(Loan { record, .. }) = self.loans.get(&id) else { return Ok(None) };
        let Found { pcidom_home, guest_home, front } = record.find(env.store)?;
        let pcidom = env.xen.domain(record.pcidom())?;
        if pcidom.is_none_or(|info| info.dying || info.ended) || !pcidom_home {
            return Ok(Some(Lost::Pcidom));
        }
        let guest = env.xen.domain(record.guest())?;
        if guest.is_none_or(|info| info.dying) {
            return Ok(Some(Lost::Guest("the guest died")));
        }
        if !guest_home {
            return Ok(Some(Lost::Guest("the guest is being destroyed")));
        }
        if record.owner.is_some() {
            if env.xen.domain(record.owner())?.is_none_or(|info| info.dying) {
                return Ok(Some(Lost::Guest("the guest died whose stub domain it is")));
            }
            if !record.owner_is_home(env.store)? {
                return Ok(Some(Lost::Guest(
                    "the guest is being destroyed whose stub domain it is",
                )));
            }
        }
        let on_link = matches!(record.stage, Stage::Lent | Stage::Detaching);
        if on_link && !front {
            return Ok(Some(Lost::Guest("the guest's end of the link is gone")));
        }
        if !self.in_pool(record.pcidom(), record.device.0) {
            return Ok(Some(Lost::Device));
        }
        Ok(None)
    }

    /// Whoever waits for this loan waits no longer.
    pub(super) fn tell_waiter(&mut self, id: LoanId, reply: Reply) {
        let waiter = self.loans.get_mut(&id).and_then(|loan| loan.waiter.take());
        if let Some(Waiter::Attach(client) | Waiter::Detach(client)) = waiter {
            self.reply(client, reply);
        }
    }

    /// Takes up a loan found in the record.
    pub(super) fn recover(&mut self, env: &mut Env<'_>, id: LoanId) {
        let Some(loan) = self.loans.get_mut(&id) else { return };
        loan.lent_at = env.now;
        if let Err(error) = self.keep_lock(env, id) {
            log::error!("loan {id}: {error}");
        }
        let Some(loan) = self.loans.get_mut(&id) else { return };
        let half_mapped = loan.leases.is_intent();
        let (pcidom, guest) = (loan.record.pcidom(), loan.record.guest());
        let reason = match loan.record.stage {
            Stage::Preparing => Some("the daemon was started anew"),
            Stage::Lending => Some("the daemon was started anew while it gave rights"),
            Stage::Ending => Some("the daemon was started anew while it ended"),
            Stage::Lent | Stage::Detaching if half_mapped => {
                Some("the daemon was started anew while it mapped interrupts")
            }
            Stage::Lent => None,
            Stage::Detaching => {
                loan.deadline = Some(env.now.after(DETACH_DEADLINE));
                None
            }
        };
        if loan.record.entry.is_some()
            && let Err(error) = self.watch_link(env, (pcidom, guest), true)
        {
            log::error!("loan {id}: {error}");
        }
        if let Some(record) = self.loans.get(&id).map(|loan| loan.record.clone())
            && let Err(error) = self.watch_owner(env, &record, true)
        {
            log::error!("loan {id}: {error}");
        }
        let result = match reason {
            Some(reason) => self.end(env, id, Some(reason.into())),
            None => Ok(()),
        };
        if let Err(error) = result {
            log::error!("loan {id}: {error}");
        }
        self.advance(env, id);
    }
}

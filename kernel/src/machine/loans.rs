//! Loans, as the daemon orders them.
//!
//! ```text
//!            order prepare            order lent            order ending
//!   (none) ---------------> Resetting ----------> on the link ----------> Resetting
//!                              | 1                                           | 2
//!                              v                                             v
//!                    report ready or failed              report returned or failed
//!
//!   order removed, at any time: forgotten, 3
//! ```
//! An order to prepare or reset a device that is not scanned waits for its scan; see
//! [`SCAN_PATIENCE`]. How devices are reset is in `resets`.
//!
//! 1, 2: [`Machine::report`]. 3: [`Machine::new_orders`].

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use pciback::LeaseError;
use pciback::vbus::Placing;
use pcidom_loan::{
    LeaseAnswer, LeaseAsk, LoanId, LoanOrder, LoanReport, Outcome, PROTOCOL, Phase,
    REPORT_DIR,
};
use pcidom_pci::Sbdf;
use pcidom_script::Instant;
use pcidom_xenbus::{DomId, Pirq};
use vecmap::VecMap;

use super::Machine;
use super::jobs;
use super::leases::{LeaseClient, LeaseStep, NoLease};
use super::report::device_text;
use super::resets::Attempt;
use super::trace::Trace;
use crate::platform::Platform;

/// How long an order waits until its device is scanned. The daemon waits 90 s for it to be
/// ready; a device may take 60 s of these to come back from its reset.
const SCAN_PATIENCE: Duration = Duration::from_secs(20);

/// One loan.
#[derive(Debug)]
pub(super) struct Loan {
    pub(super) order: LoanOrder,
    pub(super) lease: LeaseClient,
    /// The device has been reset after the loan's end, or could not be.
    over: bool,
    /// It waits until the device is scanned, and no longer than this.
    scan_until: Option<Instant>,
    /// The device was reported ready: the daemon gives it to the guest, or has done so.
    given: bool,
    /// The reset that was ordered last.
    pub(super) attempt: Attempt,
}

impl Loan {
    pub(super) const fn guest(&self) -> DomId {
        DomId(self.order.guest)
    }

    /// It is a loan to this guest, and no mere reset.
    pub(super) fn is_with(&self, guest: DomId) -> bool {
        self.guest() == guest && self.order.phase != Phase::Reset
    }

    /// The guest has the device or is about to get it.
    pub(super) fn is_lent(&self) -> bool {
        match self.order.phase {
            Phase::Prepare => self.given,
            Phase::Lent => true,
            Phase::Ending | Phase::Reset => false,
        }
    }
}

impl<P: Platform> Machine<P> {
    /// The daemon's orders have changed.
    pub(super) fn new_orders(
        &mut self,
        orders: &VecMap<LoanId, LoanOrder>,
        platform: &mut P,
    ) {
        let known: Vec<LoanId> = self.loans.keys().copied().collect();
        for id in known {
            let same = |loan: &Loan| {
                orders
                    .get(&id)
                    .is_some_and(|order| order.generation == loan.order.generation)
            };
            if !self.loans.get(&id).is_some_and(same) {
                self.forget_loan(id, orders, platform);
            }
        }
        for (id, order) in orders {
            let before = self.loans.get(id).map(|loan| loan.order.phase);
            if before == Some(order.phase) {
                continue;
            }
            let lease = LeaseClient::new(order.generation);
            let fresh = Loan {
                order: *order,
                lease,
                over: false,
                scan_until: None,
                given: false,
                attempt: Attempt::default(),
            };
            let loan = self.loans.entry(*id).or_insert(fresh);
            (loan.order, loan.scan_until) = (*order, None);
            self.obey(*id, *order, platform);
        }
    }

    fn obey(&mut self, id: LoanId, order: LoanOrder, platform: &mut P) {
        let (guest, device) = (DomId(order.guest), order.device);
        self.trace.keep(platform.now(), Trace::Phase(id, order.phase, device));
        if matches!(order.phase, Phase::Lent | Phase::Ending) {
            self.not_clean(device);
        }
        if let Some(theirs) = &self.foreign
            && matches!(order.phase, Phase::Prepare | Phase::Reset)
        {
            // What has begun is ended all the same.
            let text = format!(
                "the daemon speaks version {theirs:.16} of the loan protocol, and this pcidom \
                 {PROTOCOL}: install both of one release, then xl shutdown and xl create \
                 this pcidom"
            );
            return self.report(id, Err(text), platform);
        }
        match order.phase {
            Phase::Prepare => {
                log::info!("loan {id}: {device} is wanted for domain {guest}");
                self.reset(id, order, platform);
            }
            Phase::Reset => {
                log::info!("loan {id}: {device} is to be reset");
                self.reset(id, order, platform);
            }
            Phase::Lent => {
                log::info!("loan {id}: {device} is lent to domain {guest}");
                let function =
                    self.pool.get(&device).and_then(|known| known.function.as_ref());
                let bridge = function.is_some_and(|f| f.is_bridge());
                let LoanOrder { slot, bus: policy, .. } = order;
                let virtual_function = false;
                let placing = Placing { device, slot, policy, virtual_function, bridge };
                self.lend(guest, placing, platform);
            }
            Phase::Ending => {
                log::info!("loan {id}: {device} comes back from domain {guest}");
                let told = self.loans.get_mut(&id).and_then(|loan| loan.lease.end());
                self.lease_steps(id, guest, told);
                self.take_back(guest, device, platform);
                self.reset(id, order, platform);
            }
        }
    }

    fn reset(&mut self, id: LoanId, order: LoanOrder, platform: &mut P) {
        let device = order.device;
        let function = self.pool.get(&device).and_then(|known| known.function.as_ref());
        match function.map(|function| function.is_bridge()) {
            Some(false) => self.begin_reset(id, platform),
            Some(true) => {
                let text = format!(
                    "{device} is a port or bridge: it is there to reset what is below it"
                );
                self.report(id, Err(text), platform);
            }
            None if order.phase == Phase::Ending => {
                self.fail_unscanned(id, order, platform);
            }
            None => {
                if let Some(loan) = self.loans.get_mut(&id) {
                    loan.scan_until = Some(platform.now().after(SCAN_PATIENCE));
                }
                self.scan_at_once(device, platform);
            }
        }
    }

    fn fail_unscanned(&mut self, id: LoanId, order: LoanOrder, platform: &mut P) {
        let device = order.device;
        let text = match self.pool.get(&device) {
            Some(known) => device_text(device, known, false),
            None => format!("{device} is not in the pool of this pcidom"),
        };
        self.report(id, Err(text), platform);
    }

    /// A device is scanned: the loan that waited for that goes on. A device has one.
    pub(super) fn go_on(&mut self, device: Sbdf, platform: &mut P) {
        let mut loans = self.loans.iter_mut();
        let waits =
            |loan: &Loan| loan.order.device == device && loan.scan_until.is_some();
        if let Some((id, loan)) = loans.find(|(_, loan)| waits(loan)) {
            loan.scan_until = None;
            let (id, order) = (*id, loan.order);
            self.reset(id, order, platform);
        }
    }

    /// Tells the daemon how a reset for a loan has ended.
    pub(super) fn report(
        &mut self,
        id: LoanId,
        result: Result<String, String>,
        platform: &mut P,
    ) {
        let Some(loan) = self.loans.get_mut(&id) else { return };
        let generation = loan.order.generation;
        loan.given = result.is_ok();
        let (guest, device, phase) = (loan.guest(), loan.order.device, loan.order.phase);
        self.trace.keep(platform.now(), Trace::Reset(device, result.is_ok()));
        match &result {
            Ok(method) => log::info!("loan {id}: {device} reset: {method}"),
            Err(reason) => log::error!("loan {id}: {device} not reset: {reason}"),
        }
        if matches!(phase, Phase::Ending | Phase::Reset) {
            loan.over = true;
            self.device_is_unused(device, platform);
        }
        if phase == Phase::Ending {
            let mut others = self.loans.values().filter(|other| other.is_with(guest));
            if others.all(|other| other.over) {
                self.release_dead(guest, platform);
            }
        }
        let outcome = match (result, phase) {
            (Ok(method), Phase::Prepare | Phase::Reset) => Outcome::Ready(method),
            (Ok(method), Phase::Lent | Phase::Ending) => Outcome::Returned(method),
            (Err(reason), _) => Outcome::Failed(reason),
        };
        let report = LoanReport { generation, outcome };
        let path = format!("{REPORT_DIR}/loans/{id}");
        let value = report.to_string();
        if phase == Phase::Ending && self.guests.contains_key(&guest) {
            // After all that its link has to write: the daemon moves entries next.
            return self.write_with_link(guest, path, value);
        }
        self.store.run(move |store| jobs::write(store, path, value));
    }

    fn forget_loan(
        &mut self,
        id: LoanId,
        orders: &VecMap<LoanId, LoanOrder>,
        platform: &mut P,
    ) {
        let Some(mut loan) = self.loans.remove(&id) else { return };
        let (guest, device) = (loan.guest(), loan.order.device);
        let told = loan.lease.end();
        self.lease_steps(id, guest, told);
        self.trace.keep(platform.now(), Trace::Over(id));
        log::info!("loan {id}: over, {device} is free");
        if loan.order.phase == Phase::Lent {
            // The daemon never does this; if it happens, the guest must not keep the device.
            self.take_back(guest, device, platform);
        }
        if loan.given {
            // The guest may have had it, though nobody told us so in time.
            self.not_clean(device);
        }
        self.device_is_unused(device, platform);
        let is_with = |order: &LoanOrder| {
            DomId(order.guest) == guest && order.phase != Phase::Reset
        };
        if !orders.values().any(is_with) {
            self.drop_guest(guest, platform);
        } else if !self.has_link(guest) {
            // The daemon may have kept the link for one that is being prepared. If not, that
            // gets a link of its own: directories made anew are no part of this one's life.
            self.read_guest_back(guest);
        }
        let paths = ["loans", "requests"].map(|node| format!("{REPORT_DIR}/{node}/{id}"));
        self.store.run(move |store| jobs::remove(store, paths.into()));
    }

    /// Whether a loan with this guest is or was on a link.
    pub(super) fn has_link(&self, guest: DomId) -> bool {
        let on_link = |loan: &Loan| {
            loan.guest() == guest
                && matches!(loan.order.phase, Phase::Lent | Phase::Ending)
        };
        self.loans.values().any(on_link)
    }

    /// Whether a loan or a reset stands between `device` and its leaving the pool.
    pub(super) fn is_in_use(&self, device: Sbdf) -> bool {
        self.loans.values().any(|loan| loan.order.device == device && !loan.over)
            || self.tasks.is_resetting(device)
    }

    /// A guest's server asks for leases.
    pub(super) fn ask_lease(
        &mut self,
        guest: DomId,
        device: Sbdf,
        ask: LeaseAsk,
        now: Instant,
    ) {
        let found = self.loans.iter_mut().find(|(_, loan)| {
            let order = &loan.order;
            (DomId(order.guest), order.device, order.phase)
                == (guest, device, Phase::Lent)
        });
        let Some((id, loan)) = found else {
            // No loan, no leases: the daemon has ended those there were.
            self.lease_answers.push_back((guest, Err(LeaseError::Unavailable)));
            return;
        };
        let count = match &ask {
            LeaseAsk::MapMsi => 1,
            LeaseAsk::MapMsix(entries) => {
                u16::try_from(entries.len()).unwrap_or(u16::MAX)
            }
            LeaseAsk::Unmap => 0,
        };
        self.trace.keep(now, Trace::Asked(guest, count));
        let step = loan.lease.ask(ask, now);
        let id = *id;
        self.lease_steps(id, guest, step);
    }

    fn lease_steps(
        &mut self,
        id: LoanId,
        guest: DomId,
        steps: impl IntoIterator<Item = LeaseStep>,
    ) {
        for step in steps {
            match step {
                LeaseStep::Send(request) => {
                    let path = format!("{REPORT_DIR}/requests/{id}");
                    let value = request.to_string();
                    self.store.run(move |store| jobs::write(store, path, value));
                }
                LeaseStep::Took { time, late } => {
                    if let Some(known) = self.guests.get_mut(&guest) {
                        known.waits.answered(time, late);
                    }
                }
                LeaseStep::Tell(result) => {
                    let answer = result
                        .map(|pirqs| pirqs.into_iter().map(Pirq).collect())
                        .map_err(|error| match error {
                            NoLease::Refused(refusal) => LeaseError::Refused(refusal),
                            NoLease::NoAnswer => LeaseError::Unavailable,
                        });
                    self.lease_answers.push_back((guest, answer));
                }
            }
        }
    }

    /// The daemon's answers have changed: read those that somebody waits for.
    pub(super) fn read_answers(&mut self) {
        for (id, loan) in &self.loans {
            if loan.lease.is_open() {
                let id = *id;
                self.store.run(move |store| jobs::answer(store, id));
            }
        }
    }

    /// An answer of the daemon, as its node stands.
    pub(super) fn lease_answered(
        &mut self,
        id: LoanId,
        answer: &LeaseAnswer,
        now: Instant,
    ) {
        let Some(loan) = self.loans.get_mut(&id) else { return };
        let guest = loan.guest();
        let steps = loan.lease.answered(answer, now);
        self.lease_steps(id, guest, steps);
    }

    /// Lease requests, and orders that wait for a scan, whose time is over.
    pub(super) fn tick_loans(&mut self, now: Instant, platform: &mut P) {
        let ids: Vec<LoanId> = self.loans.keys().copied().collect();
        for id in ids {
            let Some(loan) = self.loans.get_mut(&id) else { continue };
            let guest = loan.guest();
            let step = loan.lease.tick(now);
            if step.is_some()
                && let Some(known) = self.guests.get_mut(&guest)
            {
                known.waits.unanswered();
            }
            let (order, late) = (loan.order, loan.scan_until.take_if(|at| *at <= now));
            self.lease_steps(id, guest, step);
            if late.is_some() {
                self.fail_unscanned(id, order, platform);
            }
        }
    }

    /// When the next of them is.
    pub(super) fn loans_deadline(&self) -> Option<Instant> {
        // A loan whose device is not scanned asks for no leases.
        let deadline = |loan: &Loan| loan.scan_until.or(loan.lease.deadline());
        self.loans.values().filter_map(deadline).min()
    }
}

//! The server of one guest: takes its requests out of the page, has them carried out one
//! at a time, and writes the results back.
//!
//! ```text
//!            1 on_event: FRONT_ACTIVE                     5 answered at once
//!   free ------------------------------> (copied, parsed) ------------------> free
//!                                          |          |
//!                  2 a procedure starts    |          | 3 another procedure still runs
//!                                          v          v
//!               +-------------------- serving      waiting --- 6 its time is up: op_failed,
//!               | 4 the last answer:     |            |          free
//!               |   result, free         | 7 its      +--- 2 when that one has ended
//!               v                        v    time is up: op_failed; it goes on alone
//!             free                    running without a caller --- it ends ---> free
//! ```
//!
//! A procedure asks one question at a time, and each question gets exactly one answer,
//! also if the loan, the guest or the link ends meanwhile. Linux's frontend gives up after
//! two seconds and then uses the slot for its next request, without any number that would
//! tell an answer to the old one; hence [`DEADLINE`], and the comparison before a result
//! is written.

mod finished;
mod no_page;
mod status;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use pcidom_loan::LeaseAsk;
use pcidom_pci::{Access, Answer, Sbdf, VirtualBdf};
use pcidom_script::{Instant, Progress, Script};
use pcidom_xenbus::pciif::{FRONT_ACTIVE, OpError, word};
use pcidom_xenbus::{Pirq, SharedPage};

use crate::ask::{Caller, Hands, Question, Reply, SharedFunction};
use crate::counters::Counters;
use crate::deliver::Delivery;
use crate::interrupt::{Kind, LeaseError, Trouble};
use crate::policy::VirtualFunction;
use crate::procedure::{self, Outcome};
use crate::request::{Copied, Operation};

pub use finished::Finished;
use no_page::NoPage;
pub use status::FunctionStatus;

/// A guest's operation is answered within this time (design.md 4): Linux waits 2 s.
pub const ANSWER_LIMIT: Duration = Duration::from_millis(1500);

/// When an operation is given up, so that a wake-up that comes late, behind other guests'
/// work, is still within [`ANSWER_LIMIT`].
pub const DEADLINE: Duration = Duration::from_millis(1400);

/// What the owner of the page, the port and the A-link is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Access the function's config space; answer with [`Server::on_config`], exactly once.
    Config(Sbdf, Access),
    /// Put this to the daemon; answer with [`Server::on_lease`], exactly once.
    Lease(Sbdf, LeaseAsk),
    /// Send one event to the guest.
    Notify,
    /// The event that was reported had nothing to do.
    Spurious,
    /// Interrupts could not be turned on or off: for the log, at a limited rate.
    Trouble(Sbdf, Trouble),
    /// A function that [`Server::withdraw`] took off the link is quiet now.
    Withdrawn(Sbdf),
}

/// A request that a guest waits for.
#[derive(Debug)]
struct Ticket {
    copied: Copied,
    operation: Operation,
    target: VirtualBdf,
    since: Instant,
}

impl Ticket {
    fn deadline(&self) -> Instant {
        self.since.after(DEADLINE)
    }
}

/// Why a procedure runs, if no guest waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Guest,
    /// The guest was not told of the interrupts it was given.
    Disable,
    Quiet,
    Withdraw,
}

#[derive(Debug)]
struct Running {
    script: Script<Question, Reply, Outcome>,
    function: SharedFunction,
    caller: Caller,
    ticket: Option<Ticket>,
    purpose: Purpose,
}

#[derive(Debug)]
struct Served {
    at: VirtualBdf,
    function: SharedFunction,
}

/// Serves one guest.
#[derive(Debug, Default)]
pub struct Server {
    functions: Vec<Served>,
    running: Option<Running>,
    waiting: Option<Ticket>,
    jobs: VecDeque<(SharedFunction, Purpose)>,
    counters: Counters,
    /// Answered since somebody asked: [`Server::finished`].
    finished: Vec<Finished>,
}

impl Server {
    /// Without functions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows `function` to the guest at `at`. One that has that address or is the same
    /// device is made quiet first, before the next request is served.
    pub fn add(&mut self, at: VirtualBdf, function: VirtualFunction) {
        let sbdf = function.sbdf();
        let (replaced, kept): (Vec<_>, Vec<_>) = core::mem::take(&mut self.functions)
            .into_iter()
            .partition(|served| served.at == at || served.function.sbdf() == sbdf);
        self.functions = kept;
        self.jobs.extend(replaced.into_iter().map(|old| (old.function, Purpose::Quiet)));
        self.functions.push(Served { at, function: SharedFunction::new(function) });
        self.mark_multifunction();
    }

    /// The loan of `sbdf` is over, and the daemon has unmapped its leases: nothing is asked
    /// about it from now on. A question that is open still needs its answer.
    pub fn remove(&mut self, sbdf: Sbdf) {
        let of_loan = |function: &SharedFunction| function.sbdf() == sbdf;
        let listed = self.functions.iter().map(|served| &served.function);
        let queued = self.jobs.iter().map(|(function, _)| function);
        let running = self.running.iter().map(|running| &running.function);
        for function in listed.chain(queued).chain(running) {
            if of_loan(function) {
                function.with(|f| f.ended = true);
            }
        }
        self.functions.retain(|served| !of_loan(&served.function));
        self.mark_multifunction();
    }

    /// `sbdf` was reset while it is lent, and the daemon has unmapped its leases before: what
    /// the guest had set in it is gone.
    pub fn was_reset(&mut self, sbdf: Sbdf) {
        for served in self.functions.iter().filter(|s| s.function.sbdf() == sbdf) {
            served.function.with(VirtualFunction::forget_reset);
        }
    }

    /// Takes `sbdf` off the link while its loan goes on: absent for the guest at once, then
    /// interrupts off, bus mastering off, leases unmapped; [`Action::Withdrawn`] at the end.
    pub fn withdraw(&mut self, sbdf: Sbdf, out: &mut Vec<Action>) {
        let found = self.functions.iter().position(|s| s.function.sbdf() == sbdf);
        if let Some(index) = found {
            let served = self.functions.remove(index);
            self.jobs.push_back((served.function, Purpose::Withdraw));
            self.mark_multifunction();
        } else {
            out.push(Action::Withdrawn(sbdf));
        }
        self.start_jobs(out);
    }

    /// The link closes and the page is not used any more: makes every function quiet. They
    /// stay on the list, for a guest that connects again.
    pub fn shut(&mut self, out: &mut Vec<Action>) {
        self.waiting = None;
        if let Some(running) = &mut self.running {
            running.ticket = None;
            running.caller.leave();
        }
        for served in &self.functions {
            self.jobs.push_back((served.function.clone(), Purpose::Quiet));
        }
        self.start_jobs(out);
    }

    /// No question is open and nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_none() && self.jobs.is_empty()
    }

    /// What has been counted so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// When [`Server::on_time`] is to be called, if a guest waits.
    pub fn deadline(&self) -> Option<Instant> {
        self.ticket().map(Ticket::deadline)
    }

    /// An event came from the guest, or the page is to be looked at again.
    pub fn on_event(
        &mut self,
        page: &impl SharedPage,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.start_jobs(out);
        if self.ticket().is_some() || !self.take(page, now, out) {
            self.counters.spurious = self.counters.spurious.saturating_add(1);
            out.push(Action::Spurious);
        }
    }

    /// The answer to [`Action::Config`]. `page` is `None` once it is unmapped.
    pub fn on_config(
        &mut self,
        page: Option<&impl SharedPage>,
        answer: Answer,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.resume(page, Reply::Config(answer), now, out);
    }

    /// The answer to [`Action::Lease`]: the pirqs in the order of the request, none for an
    /// unmap. `Unavailable` is for an answer that doesn't come; what was asked may then be
    /// done or not, and is undone before anything else is asked for.
    pub fn on_lease(
        &mut self,
        page: Option<&impl SharedPage>,
        answer: Result<Vec<Pirq>, LeaseError>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.resume(page, Reply::Lease(answer), now, out);
    }

    /// [`Server::deadline`] may have passed.
    pub fn on_time(
        &mut self,
        page: Option<&impl SharedPage>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let late = match &mut self.running {
            Some(running) if running.ticket.is_some() => {
                running.caller.leave();
                running.ticket.take()
            }
            _ => self.waiting.take(),
        };
        if let Some(Ticket { copied, since, .. }) = late {
            self.counters.late = self.counters.late.saturating_add(1);
            let result = Delivery::failed(&copied, OpError::OpFailed);
            let told = self.deliver(&copied, since, &result, page, out);
            self.look_again(page, told, now, out);
        }
    }

    /// After a result that was not `told`: the slot holds something else, perhaps a request
    /// whose event was reported while the other one was served. Once per call, so that a
    /// guest that keeps changing its slot can't hold the loop.
    fn look_again(
        &mut self,
        page: Option<&impl SharedPage>,
        told: bool,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if let Some(page) = page
            && !told
            && self.ticket().is_none()
        {
            self.take(page, now, out);
        }
    }

    fn ticket(&self) -> Option<&Ticket> {
        let running = self.running.as_ref().and_then(|running| running.ticket.as_ref());
        running.or(self.waiting.as_ref())
    }

    fn find(&self, at: VirtualBdf) -> Option<&SharedFunction> {
        self.functions
            .iter()
            .find(|served| served.at == at)
            .map(|served| &served.function)
    }

    /// A slot shows the multifunction bit if the guest's bus has more functions there, and
    /// not if dom0's bus has.
    fn mark_multifunction(&self) {
        let slot = |at: VirtualBdf| (at.0.segment(), at.0.bus(), at.0.device());
        for served in &self.functions {
            let here = self.functions.iter().filter(|s| slot(s.at) == slot(served.at));
            let several = here.count() > 1;
            served.function.with(|f| f.set_multifunction(several));
        }
    }

    /// Takes the request out of the page, if one is there.
    fn take(
        &mut self,
        page: &impl SharedPage,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> bool {
        if page.load(word::FLAGS) & FRONT_ACTIVE == 0 {
            return false;
        }
        let copied = Copied::load(page);
        self.counters.took(&copied);
        let request = copied.parse().and_then(|request| {
            let known = self.find(request.target).is_some();
            known.then_some(request).ok_or(OpError::DevNotFound)
        });
        match request {
            Err(error) => {
                let result = Delivery::failed(&copied, error);
                self.deliver(&copied, now, &result, Some(page), out);
            }
            Ok(request) => {
                let (operation, target) = (request.operation, request.target);
                self.waiting = Some(Ticket { copied, operation, target, since: now });
                self.start_waiting(Some(page), out);
            }
        }
        true
    }

    /// Starts the request that waits, if nothing runs.
    fn start_waiting(&mut self, page: Option<&impl SharedPage>, out: &mut Vec<Action>) {
        if self.running.is_some() {
            return;
        }
        let Some(ticket) = self.waiting.take() else { return };
        // It may have been withdrawn while the request waited.
        let Some(function) = self.find(ticket.target).cloned() else {
            let result = Delivery::failed(&ticket.copied, OpError::DevNotFound);
            self.deliver(&ticket.copied, ticket.since, &result, page, out);
            return;
        };
        let caller = Caller::default();
        let (shared, called_by) = (function.clone(), caller.clone());
        let operation = ticket.operation.clone();
        let progress = Script::start(move |asker| async move {
            let hands = Hands { asker, function: shared, caller: called_by };
            match (operation.lease(), operation) {
                (_, Operation::Config(access)) => procedure::config(hands, access).await,
                (_, Operation::BadCount(count)) => {
                    procedure::refuse(&hands, Trouble::Count(count))
                }
                (Some(ask), Operation::EnableMsi) => {
                    procedure::enable(hands, Kind::Msi, ask).await
                }
                (Some(ask), Operation::EnableMsix(_)) => {
                    procedure::enable(hands, Kind::Msix, ask).await
                }
                _ => procedure::disable(hands).await,
            }
        });
        let purpose = Purpose::Guest;
        self.go_on(progress, function, caller, Some(ticket), purpose, page, out);
    }

    /// Starts what is to be done without a guest, if nothing runs.
    fn start_jobs(&mut self, out: &mut Vec<Action>) {
        while self.running.is_none()
            && let Some((function, purpose)) = self.jobs.pop_front()
        {
            let caller = Caller::default();
            let (shared, called_by) = (function.clone(), caller.clone());
            let progress = Script::start(move |asker| async move {
                let hands = Hands { asker, function: shared, caller: called_by };
                match purpose {
                    Purpose::Guest | Purpose::Disable => procedure::disable(hands).await,
                    Purpose::Quiet | Purpose::Withdraw => procedure::quiet(hands).await,
                }
            });
            let page = None::<&NoPage>;
            self.go_on(progress, function, caller, None, purpose, page, out);
        }
    }

    fn resume(
        &mut self,
        page: Option<&impl SharedPage>,
        reply: Reply,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        // An answer without a question is a bug of the caller; nothing waits for it.
        let Some(running) = self.running.take() else { return };
        let Running { script, function, caller, ticket, purpose } = running;
        let dropped = self.counters.dropped;
        self.go_on(script.resume(reply), function, caller, ticket, purpose, page, out);
        self.start_jobs(out);
        self.start_waiting(page, out);
        self.look_again(page, self.counters.dropped == dropped, now, out);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of `Running`, just taken apart"
    )]
    fn go_on(
        &mut self,
        progress: Progress<Question, Reply, Outcome>,
        function: SharedFunction,
        caller: Caller,
        ticket: Option<Ticket>,
        purpose: Purpose,
        page: Option<&impl SharedPage>,
        out: &mut Vec<Action>,
    ) {
        let outcome = match progress {
            Progress::Asks(question, script) => {
                out.push(match question {
                    Question::Config(sbdf, access) => Action::Config(sbdf, access),
                    Question::Lease(sbdf, ask) => Action::Lease(sbdf, ask),
                });
                self.running =
                    Some(Running { script, function, caller, ticket, purpose });
                return;
            }
            Progress::Done(outcome) => outcome,
        };
        if let Outcome::Trouble(trouble) = outcome
            && !function.with(|f| f.ended)
        {
            self.counters.trouble = self.counters.trouble.saturating_add(1);
            out.push(Action::Trouble(function.sbdf(), trouble));
        }
        if purpose == Purpose::Withdraw {
            out.push(Action::Withdrawn(function.sbdf()));
        }
        let Some(Ticket { copied, since, .. }) = ticket else { return };
        let result = Delivery::of(&copied, &outcome);
        let told = self.deliver(&copied, since, &result, page, out);
        if !told && matches!(outcome, Outcome::Enabled(..)) {
            // The guest doesn't know these vectors, so it must not have them.
            self.jobs.push_front((function, Purpose::Disable));
        }
    }

    fn deliver(
        &mut self,
        copied: &Copied,
        since: Instant,
        result: &Delivery,
        page: Option<&impl SharedPage>,
        out: &mut Vec<Action>,
    ) -> bool {
        let told = page.is_some_and(|page| result.write(copied, page));
        self.finish(Finished { raw: copied.raw, err: result.err, since, told });
        if told {
            self.counters.answered(result.err);
            out.push(Action::Notify);
        } else {
            self.counters.dropped = self.counters.dropped.saturating_add(1);
        }
        told
    }
}

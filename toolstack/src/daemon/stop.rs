//! pcidom shuts down, or a guest is told of a loss: who is given how much time.

use std::time::Duration;

use pcidom_loan::LoanId;
use pcidom_script::Instant;
use pcidom_xenbus::{DomId, XenbusState};

use super::link::Standing;
use super::loan::state;
use super::{Daemon, Env, Failure, Record, paths};

/// How long drivers may take to let go when pcidom was told to shut down. With what comes
/// after it (reset, and the guest's frontend closing) this stays below pcidom's own bound.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How long a guest's frontend may take to close after a device was taken from it. Linux
/// unbinds the driver first.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Why a loan ends that nobody asked to end.
pub(super) const STOPS: &str = "pcidom is shutting down";

impl Daemon {
    pub(super) fn is_stopping(&self, pcidom: DomId) -> bool {
        self.pcidoms.get(&pcidom).is_some_and(|pcidom| pcidom.stopping)
    }

    /// Ends a lent loan because its pcidom shuts down: the guest's driver is asked first.
    pub(super) fn retire(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<(), Failure> {
        let until = self.patience(env.now, id, STOP_DEADLINE);
        let Some(loan) = self.loans.get_mut(&id) else { return Ok(()) };
        loan.failure.get_or_insert_with(|| STOPS.into());
        let record = loan.record.clone();
        if until <= env.now {
            return self.end(env, id, None);
        }
        match self.standing(env, &record)? {
            Standing::Connected => self.ask_guest(env, id)?,
            Standing::Quiet => return self.end(env, id, None),
            // A change of another device on that link: after it, it is this one's turn.
            Standing::Busy => {}
        }
        self.set_deadline(id, until);
        Ok(())
    }

    /// Shortens the wait of a detach that was under way when pcidom was told to shut down.
    /// Whether it goes on waiting.
    pub(super) fn must_end(&mut self, env: &Env<'_>, id: LoanId) -> bool {
        let Some(loan) = self.loans.get(&id) else { return true };
        if !self.is_stopping(loan.record.pcidom()) || loan.patience.is_some() {
            return false;
        }
        let until = self.patience(env.now, id, STOP_DEADLINE);
        self.set_deadline(id, until);
        true
    }

    /// Whether a living guest can't be told of a loss now: its frontend is on its way through
    /// another change of the link, and would not see this one.
    pub(super) fn is_guest_changing(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<bool, Failure> {
        let Some(loan) = self.loans.get(&id) else { return Ok(false) };
        let record = loan.record.clone();
        if loan.tell_guest_at.is_none()
            || record.entry.is_none()
            || !self.stays(&record)
            || !runs(env, &record)?
        {
            return Ok(false);
        }
        let back = state(env.store, &paths::back(record.pcidom(), record.guest()))?;
        if !matches!(back, XenbusState::Reconfiguring | XenbusState::Reconfigured) {
            return Ok(false);
        }
        let until = self.patience(env.now, id, CLOSE_DEADLINE);
        if let Some(loan) = self.loans.get_mut(&id) {
            loan.tell_guest_at = Some(until);
        }
        Ok(until > env.now)
    }

    /// Whether a living guest is still letting go of what it was told it lost. The directory
    /// of a link that goes must not be removed under it: Linux would not notice that a later
    /// one is new. And the entry of one of several devices is what tells it which.
    pub(super) fn is_guest_closing(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<bool, Failure> {
        let Some(loan) = self.loans.get(&id) else { return Ok(false) };
        let record = loan.record.clone();
        let (pcidom, guest) = (record.pcidom(), record.guest());
        let Some(entry) = record.entry.filter(|_| runs(env, &record).unwrap_or(false))
        else {
            return Ok(false);
        };
        let back = paths::back(pcidom, guest);
        let now = state(env.store, &back)?;
        let waits = match now {
            XenbusState::Closing if !self.stays(&record) => {
                match state(env.store, &paths::front(guest))? {
                    // It is gone, it has closed, or nobody was ever there.
                    XenbusState::Unknown
                    | XenbusState::Closed
                    | XenbusState::Initialising
                    | XenbusState::InitWait => false,
                    XenbusState::Initialised
                    | XenbusState::Connected
                    | XenbusState::Closing
                    | XenbusState::Reconfiguring
                    | XenbusState::Reconfigured => true,
                }
            }
            XenbusState::Connected
            | XenbusState::Reconfiguring
            | XenbusState::Reconfigured
                if self.stays(&record) =>
            {
                // pcidom writes another one when the guest has let go.
                let asks = env.store.read(&format!("{back}/state-{entry}"))?;
                // A link that is kept is Connected.
                self.entries(&record) <= 1 && now != XenbusState::Connected
                    || XenbusState::parse(asks.as_deref()) == XenbusState::Closing
            }
            // It looks at its bus, for a device that went with another loan: without the page
            // each access would take its two seconds.
            XenbusState::Reconfiguring | XenbusState::Reconfigured => true,
            _ => false,
        };
        if !waits {
            return Ok(false);
        }
        let until = self.patience(env.now, id, CLOSE_DEADLINE);
        if until <= env.now {
            log::warn!("loan {id}: the guest has not let go, and is asked no longer");
            return Ok(false);
        }
        self.set_deadline(id, until);
        Ok(true)
    }

    /// Whether the link is there for others when this loan ends.
    pub(super) fn stays(&self, record: &Record) -> bool {
        self.entries(record) > 1 || self.is_awaited(record)
    }

    /// Until when this loan's guest has time, which begins when that is first asked.
    fn patience(&mut self, now: Instant, id: LoanId, length: Duration) -> Instant {
        let Some(loan) = self.loans.get_mut(&id) else { return now };
        *loan.patience.get_or_insert(now.after(length))
    }

    fn set_deadline(&mut self, id: LoanId, until: Instant) {
        if let Some(loan) = self.loans.get_mut(&id) {
            loan.deadline = Some(until);
        }
    }
}

/// The guest is there and can do something.
fn runs(env: &mut Env<'_>, record: &Record) -> Result<bool, Failure> {
    let info = env.xen.domain(record.guest())?;
    let runs = info.is_some_and(|info| !info.dying && !info.ended && !info.paused);
    Ok(runs && record.guest_is_home(env.store)?)
}

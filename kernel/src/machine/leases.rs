//! Lease requests of one loan to the daemon, one open at a time.
//!
//! A request that the daemon does not answer in time is abandoned: its guest gets an error
//! now, and if the answer comes after all, what it granted is unmapped again. Nothing is
//! ever used that came too late.

use alloc::vec::Vec;
use core::time::Duration;

use pcidom_loan::{Generation, LeaseAnswer, LeaseAsk, LeaseRefusal, LeaseRequest};
use pcidom_script::Instant;

/// How long a request may take before its guest is told that it failed: as long as the
/// guest's own deadline allows. Measured exchanges take 10 to 60 ms, but dom0 may be busy.
pub(super) const LEASE_TIMEOUT: Duration = Duration::from_millis(1250);

/// How long a request waits for an earlier one that the daemon has left unanswered. Short:
/// the daemon is most likely not there, and the guest's next request must not pay for it.
const BEHIND_TIMEOUT: Duration = Duration::from_millis(100);

/// What the server asked for, or what cleans up after an abandoned request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Asked { until: Instant },
    Abandoned { maps: bool },
    CleanUp,
}

/// Why a request brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoLease {
    /// The daemon said no.
    Refused(LeaseRefusal),
    /// The daemon did not answer.
    NoAnswer,
}

/// The lease exchange of one loan.
#[derive(Debug)]
pub(super) struct LeaseClient {
    generation: Generation,
    sequence: u32,
    open: Option<Purpose>,
    /// When that was sent.
    sent: Instant,
    /// Asked while an abandoned request is still open.
    next: Option<(LeaseAsk, Instant)>,
}

/// What the event loop does next about leases.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LeaseStep {
    /// Write this request.
    Send(LeaseRequest),
    /// The open request was answered: note how long it took. A late one was given up.
    Took { time: Duration, late: bool },
    /// Tell the server.
    Tell(Result<Vec<u16>, NoLease>),
}

impl LeaseClient {
    pub(super) const fn new(generation: Generation) -> Self {
        let sent = Instant::from_nanos(0);
        Self { generation, sequence: 0, open: None, sent, next: None }
    }

    /// The server asks. It asks again only after it was told.
    pub(super) fn ask(&mut self, ask: LeaseAsk, now: Instant) -> Option<LeaseStep> {
        if self.open.is_some() {
            self.next = Some((ask, now.after(BEHIND_TIMEOUT)));
            return None;
        }
        let until = now.after(LEASE_TIMEOUT);
        Some(self.send(ask, Purpose::Asked { until }, now))
    }

    /// The daemon's answer node says this.
    pub(super) fn answered(
        &mut self,
        answer: &LeaseAnswer,
        now: Instant,
    ) -> Vec<LeaseStep> {
        let mut steps = Vec::new();
        if answer.generation != self.generation || answer.sequence != self.sequence {
            return steps;
        }
        let open = self.open.take();
        if open.is_some() {
            let late = matches!(open, Some(Purpose::Abandoned { .. }));
            steps.push(LeaseStep::Took { time: now.since(self.sent), late });
        }
        match open {
            None => return steps,
            Some(Purpose::Asked { .. }) => {
                let result = answer.result.clone().map_err(NoLease::Refused);
                steps.push(LeaseStep::Tell(result));
            }
            Some(Purpose::Abandoned { maps: true }) if answer.result.is_ok() => {
                steps.push(self.send(LeaseAsk::Unmap, Purpose::CleanUp, now));
            }
            Some(Purpose::Abandoned { .. } | Purpose::CleanUp) => {}
        }
        if self.open.is_none()
            && let Some((ask, until)) = self.next.take()
        {
            // Its time has begun with the wait: the daemon is there, so it gets the whole.
            let until = until.after(LEASE_TIMEOUT - BEHIND_TIMEOUT);
            steps.push(self.send(ask, Purpose::Asked { until }, now));
        }
        steps
    }

    /// Time has come.
    pub(super) fn tick(&mut self, now: Instant) -> Option<LeaseStep> {
        if self.next.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.next = None;
            return Some(LeaseStep::Tell(Err(NoLease::NoAnswer)));
        }
        let Some(Purpose::Asked { until }) = self.open else { return None };
        if until > now {
            return None;
        }
        // What was asked does not matter any more; if it mapped, it will be unmapped. An
        // unmap that comes late does no harm, and unmapping twice is answered with success.
        self.open = Some(Purpose::Abandoned { maps: true });
        Some(LeaseStep::Tell(Err(NoLease::NoAnswer)))
    }

    /// Which request was the last, if all is answered: what is held now is what the
    /// daemon's record says since then.
    pub(super) fn settled(&self) -> Option<(Generation, u32)> {
        let settled = self.open.is_none() && self.next.is_none();
        settled.then_some((self.generation, self.sequence))
    }

    /// Whether an answer is waited for.
    pub(super) const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The loan is ending: who waits for an answer waits in vain, and what comes late needs
    /// no clean-up, since the daemon has unmapped all.
    pub(super) fn end(&mut self) -> Option<LeaseStep> {
        let waited =
            matches!(self.open, Some(Purpose::Asked { .. })) || self.next.is_some();
        (self.open, self.next) = (None, None);
        waited.then_some(LeaseStep::Tell(Err(NoLease::NoAnswer)))
    }

    /// When [`LeaseClient::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (&self.open, &self.next) {
            (_, Some((_, until))) | (Some(Purpose::Asked { until }), None) => {
                Some(*until)
            }
            _ => None,
        }
    }

    fn send(&mut self, ask: LeaseAsk, purpose: Purpose, now: Instant) -> LeaseStep {
        self.sequence = self.sequence.wrapping_add(1);
        (self.open, self.sent) = (Some(purpose), now);
        let (generation, sequence) = (self.generation, self.sequence);
        LeaseStep::Send(LeaseRequest { generation, sequence, ask })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use core::time::Duration;

    use super::{BEHIND_TIMEOUT, LEASE_TIMEOUT, LeaseClient, LeaseStep, NoLease};
    use pcidom_loan::{Generation, LeaseAnswer, LeaseAsk};
    use pcidom_script::Instant;

    const GENERATION: Generation = Generation(3);

    fn answer(sequence: u32, pirqs: &[u16]) -> LeaseAnswer {
        LeaseAnswer { generation: GENERATION, sequence, result: Ok(pirqs.to_vec()) }
    }

    fn sent(step: Option<LeaseStep>) -> (u32, LeaseAsk) {
        match step {
            Some(LeaseStep::Send(request)) => (request.sequence, request.ask),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_counts_once_and_only_for_its_own_request() {
        let mut client = LeaseClient::new(GENERATION);
        let now = Instant::default();
        let (sequence, _) = sent(client.ask(LeaseAsk::MapMsi, now));
        let then = now.after(Duration::from_millis(40));
        assert_eq!(client.answered(&answer(sequence + 1, &[55]), then), []);
        let stale = LeaseAnswer { generation: Generation(2), ..answer(sequence, &[55]) };
        assert_eq!(client.answered(&stale, then), []);
        let told = client.answered(&answer(sequence, &[55]), then);
        let took = LeaseStep::Took { time: Duration::from_millis(40), late: false };
        assert_eq!(told, [took, LeaseStep::Tell(Ok(vec![55]))]);
        assert_eq!(client.answered(&answer(sequence, &[55]), then), []);
    }

    #[test]
    fn what_comes_too_late_is_unmapped_before_anything_else_is_asked() {
        let mut client = LeaseClient::new(GENERATION);
        let now = Instant::default();
        let (first, _) = sent(client.ask(LeaseAsk::MapMsi, now));
        let late = now.after(LEASE_TIMEOUT);
        assert_eq!(client.tick(late), Some(LeaseStep::Tell(Err(NoLease::NoAnswer))));
        assert_eq!(client.ask(LeaseAsk::MapMsix(vec![0]), late), None);
        let took = |time, late| Some(LeaseStep::Took { time, late });
        let more = Duration::from_millis(10);
        let mut steps = client.answered(&answer(first, &[55]), late.after(more));
        let (second, ask) = sent(steps.pop());
        assert_eq!(ask, LeaseAsk::Unmap);
        assert_eq!(steps.pop(), took(LEASE_TIMEOUT + more, true));
        let mut steps = client.answered(&answer(second, &[]), late.after(more * 3));
        let (third, ask) = sent(steps.pop());
        assert_eq!(ask, LeaseAsk::MapMsix(vec![0]));
        assert_eq!(steps.pop(), took(more * 2, false));
        let mut steps = client.answered(&answer(third, &[54]), late.after(more * 4));
        assert_eq!(steps.pop(), Some(LeaseStep::Tell(Ok(vec![54]))));
        assert_eq!((steps.pop(), steps.pop()), (took(more, false), None));
    }

    #[test]
    fn a_request_behind_an_abandoned_one_has_a_deadline_of_its_own() {
        let mut client = LeaseClient::new(GENERATION);
        let now = Instant::default();
        client.ask(LeaseAsk::MapMsi, now);
        let late = now.after(LEASE_TIMEOUT);
        client.tick(late);
        client.ask(LeaseAsk::Unmap, late);
        let later = client.deadline().unwrap();
        assert_eq!(later, late.after(BEHIND_TIMEOUT));
        assert_eq!(client.tick(later), Some(LeaseStep::Tell(Err(NoLease::NoAnswer))));
        assert_eq!(client.deadline(), None);
    }
}

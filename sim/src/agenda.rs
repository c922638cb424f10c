//! The virtual clock, what is to happen on it, and the only source of chance.
//!
//! Time goes on only when everybody has done what they can do now. The same seed gives the
//! same run, delay by delay.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use pcidom_script::Instant;
use pcidom_xenbus::DomId;

/// Something that is due at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// Whoever runs in this domain looks at its ports and its mail.
    Wake(DomId),
    /// XenStore takes the next request from this domain's ring.
    StoreServes(DomId),
    /// Xen's teardown of this domain moves its devices to DomIO.
    Relinquish(DomId),
    /// Xen's teardown of this domain looks whether it can be finished.
    Complete(DomId),
}

/// A xorshift generator (Marsaglia 2003): good enough for delays, and the same everywhere.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[derive(Debug)]
struct State {
    now: Instant,
    sequence: u64,
    due: BTreeMap<(Instant, u64), Happening>,
    chance: Chance,
}

/// The clock. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Agenda(Rc<RefCell<State>>);

impl Agenda {
    /// A clock that shows `start` of the virtual time; `seed` decides all delays.
    pub fn new(seed: u64) -> Self {
        // Any state but zero works; the constant spreads small seeds (splitmix64's).
        let chance = Chance(seed.wrapping_mul(2).wrapping_add(1) ^ 0x9e37_79b9_7f4a_7c15);
        Self(Rc::new(RefCell::new(State {
            // Not zero: nothing may depend on a clock that starts with the domain.
            now: Instant::from_nanos(1_000_000_000),
            sequence: 0,
            due: BTreeMap::new(),
            chance,
        })))
    }

    /// Time now.
    pub fn now(&self) -> Instant {
        self.0.borrow().now
    }

    /// A delay within `range`.
    pub fn delay(&self, range: &Range<Duration>) -> Duration {
        let span = range.end.saturating_sub(range.start).as_nanos().max(1);
        let chance = u128::from(self.0.borrow_mut().chance.next());
        let nanos = u64::try_from(chance % span).unwrap_or(0);
        range.start + Duration::from_nanos(nanos)
    }

    /// A number below `end`, for choices.
    pub fn choose(&self, end: u64) -> u64 {
        self.0.borrow_mut().chance.next() % end.max(1)
    }

    /// Lets `what` happen after a delay within `range`.
    pub fn within(&self, range: &Range<Duration>, what: Happening) {
        self.after(self.delay(range), what);
    }

    /// Lets `what` happen after `delay`.
    pub fn after(&self, delay: Duration, what: Happening) {
        let mut state = self.0.borrow_mut();
        state.sequence += 1;
        let key = (state.now.after(delay), state.sequence);
        state.due.insert(key, what);
    }

    /// When the next thing is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.0.borrow().due.keys().next().map(|(at, _)| *at)
    }

    /// Takes the next thing that is due by now.
    pub fn take_due(&self) -> Option<Happening> {
        let mut state = self.0.borrow_mut();
        let (at, sequence) = state.due.keys().next().copied()?;
        if at > state.now {
            return None;
        }
        state.due.remove(&(at, sequence))
    }

    /// Moves the clock to `to`; it never goes back.
    pub fn advance(&self, to: Instant) {
        let mut state = self.0.borrow_mut();
        state.now = state.now.max(to);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pcidom_xenbus::DomId;

    use super::{Agenda, Happening};

    #[test]
    fn things_happen_in_the_order_of_their_times_and_then_of_their_making() {
        let agenda = Agenda::new(1);
        for (delay, domain) in [(20, 1), (10, 2), (10, 3)] {
            agenda.after(Duration::from_millis(delay), Happening::Wake(DomId(domain)));
        }
        let mut order = Vec::new();
        while let Some(at) = agenda.next_due() {
            agenda.advance(at);
            order.extend(agenda.take_due());
        }
        assert_eq!(order, [2, 3, 1].map(|n| Happening::Wake(DomId(n))));
    }

    #[test]
    fn a_seed_decides_every_delay() {
        let range = Duration::from_micros(10)..Duration::from_micros(90);
        let series = |seed| -> Vec<_> {
            let agenda = Agenda::new(seed);
            (0..50).map(|_| agenda.delay(&range)).collect()
        };
        assert_eq!(series(7), series(7));
        assert_ne!(series(7), series(8));
        assert!(series(7).iter().all(|delay| range.contains(delay)));
    }
}

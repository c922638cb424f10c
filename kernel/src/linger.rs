//! Whether to stay awake for a moment before sleeping, and for how long.
//!
//! Config requests come in bursts, and dom0 answers a forwarded one soon: going to sleep and
//! being woken costs more than the request itself. So after a request pcidom looks for the
//! next event for a short while, giving its CPU to whoever else wants it. How long, it learns
//! from how soon it was woken the last times, since a slow guest needs longer between two
//! requests; and apart from that how soon dom0 answers. An idle pcidom never does this, and one whose waits were in vain does it less and
//! less.
//!
//! Nor does one that shares its CPU with somebody who computes: who gives way there has it back
//! a time slice later, 30 ms with Xen's older scheduler, where who sleeps is woken at once.

use core::time::Duration;

use pcidom_script::Instant;

/// How long it stays awake at first: a few times what being woken costs, so that the wait costs
/// at most as much again as it can save. Linux's KVM waits as long for the same reason
/// (`halt_poll_ns`).
pub const LINGER: Duration = Duration::from_micros(200);

/// How long at most, where events come that far apart: twice what lies between two requests, and
/// what dom0 needs for an access, where that is most, in emulation on a slow host (0.4 to 1 ms).
pub const LONGEST_LINGER: Duration = Duration::from_millis(2);

/// How often it gives its CPU to whoever wants it while it stays awake. Each time takes Xen's
/// scheduler, and in emulation a lock that dom0 may need for the very access that is waited for.
pub const GIVE_WAY_EVERY: Duration = Duration::from_micros(100);

/// Most waits that are left out after some in vain. A new burst is noticed sooner, by a sleep
/// that was short.
const MAX_SKIP: u32 = 31;

/// Who gave way and has the CPU back so late has given it to somebody who computes: longer than
/// staying awake takes in all.
pub const CROWDED: Duration = LONGEST_LINGER;

/// How long it always sleeps after that at first, twice as long each time it happens again.
const FIRST_RETREAT: Duration = Duration::from_secs(1);

/// How long at most: then a time slice a minute is lost by looking whether the other is gone.
const LONGEST_RETREAT: Duration = Duration::from_secs(64);

/// How staying awake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lingered {
    /// With an event.
    Came,
    /// Without one.
    Quiet,
    /// Somebody else had the CPU for long.
    Crowded,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A guest's request, perhaps.
    Request,
    /// dom0's answer, for sure.
    Answer,
}

/// Decides, by how it went before.
#[derive(Debug)]
pub struct Linger {
    /// Guests that ask seldom say nothing about dom0, which answers soon, and the other way round.
    requests: Learnt,
    answers: Learnt,
    /// All waits are left out until then.
    retreat_until: Instant,
    /// How long that was the last time; zero since the CPU was our own.
    retreat: Duration,
}

impl Linger {
    /// Nothing is known yet.
    pub const fn new() -> Self {
        Self {
            requests: Learnt::new(LINGER),
            // It will come, so the first one is waited for as long as any.
            answers: Learnt::new(LONGEST_LINGER),
            retreat_until: Instant::from_nanos(0),
            retreat: Duration::ZERO,
        }
    }

    /// How long to stay awake this time, or not at all.
    pub fn awake(&mut self, next: Next, now: Instant) -> Option<Duration> {
        if now < self.retreat_until {
            return None;
        }
        self.of(next).awake()
    }

    const fn of(&mut self, next: Next) -> &mut Learnt {
        match next {
            Next::Request => &mut self.requests,
            Next::Answer => &mut self.answers,
        }
    }

    /// An event came while it stayed awake.
    pub const fn came(&mut self, next: Next) {
        self.retreat = Duration::ZERO;
        self.of(next).soon();
    }

    /// While it stayed awake somebody else had the CPU for long.
    pub fn crowded(&mut self, now: Instant) {
        self.retreat = (self.retreat * 2).clamp(FIRST_RETREAT, LONGEST_RETREAT);
        self.retreat_until = now.after(self.retreat);
    }

    /// It slept after all, and was woken so long after the last event; `waited` says whether it
    /// had stayed awake before.
    pub fn slept(&mut self, next: Next, waited: bool, after: Duration) {
        if waited {
            self.retreat = Duration::ZERO;
        }
        self.of(next).slept(waited, after);
    }
}

/// How soon one kind of event came the last times.
#[derive(Debug)]
struct Learnt {
    /// How long the first wait is.
    first: Duration,
    /// How long the next wait is.
    window: Duration,
    /// Waits in vain, one after the other. The end of each burst is one.
    in_vain: u32,
    /// So many waits are left out.
    skip: u32,
}

impl Learnt {
    const fn new(first: Duration) -> Self {
        Self { first, window: first, in_vain: 0, skip: 0 }
    }

    const fn awake(&mut self) -> Option<Duration> {
        if self.skip == 0 {
            return Some(self.window);
        }
        self.skip -= 1;
        None
    }

    const fn soon(&mut self) {
        self.in_vain = 0;
        self.skip = 0;
    }

    fn slept(&mut self, waited: bool, after: Duration) {
        if after <= LONGEST_LINGER {
            // A burst whose gaps are longer than the window: the next one fits.
            self.window = LONGEST_LINGER.min(self.window * 2);
            self.soon();
        } else {
            self.window = self.first;
            if waited {
                self.in_vain = self.in_vain.saturating_add(1);
                // One is the end of a burst; from the second on it looks as if none came in time.
                let skip = 1_u32.checked_shl(self.in_vain.saturating_sub(1));
                self.skip = skip.map_or(MAX_SKIP, |skip| MAX_SKIP.min(skip - 1));
            }
        }
    }
}

impl Default for Linger {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST_RETREAT, LINGER, LONGEST_LINGER, LONGEST_RETREAT, Linger, Next};
    use core::time::Duration;
    use pcidom_script::Instant;

    const LONG: Duration = Duration::from_millis(20);
    const NOW: Instant = Instant::from_nanos(0);

    /// A request, and the next event so long after it; how long it stayed awake in vain.
    fn request(linger: &mut Linger, gap: Duration) -> Duration {
        let awake = linger.awake(Next::Request, NOW);
        if awake.is_some_and(|awake| gap <= awake) {
            linger.came(Next::Request);
            return Duration::ZERO;
        }
        linger.slept(Next::Request, awake.is_some(), gap);
        awake.unwrap_or_default()
    }

    #[test]
    fn bursts_are_waited_for_and_single_requests_less_and_less() {
        let mut linger = Linger::new();
        for _ in 0..10 {
            for _ in 0..5 {
                assert_eq!(request(&mut linger, LINGER / 2), Duration::ZERO);
            }
            assert_eq!(request(&mut linger, LONG), LINGER, "the end of a burst");
        }
        let lost: Duration = (0..1000).map(|_| request(&mut linger, LONG)).sum();
        assert!(lost < LINGER * 40, "{lost:?}");
    }

    #[test]
    fn a_new_burst_is_noticed_at_once() {
        let mut linger = Linger::new();
        (0..100).for_each(|_| {
            request(&mut linger, LONG);
        });
        // Asleep, and woken soon.
        request(&mut linger, LINGER);
        assert_eq!(request(&mut linger, LINGER), Duration::ZERO);
    }

    #[test]
    fn gaps_are_learnt_up_to_a_bound() {
        let mut linger = Linger::new();
        let gap = LINGER * 3;
        let lost: Duration = (0..1000).map(|_| request(&mut linger, gap)).sum();
        assert_eq!(
            lost,
            LINGER + LINGER * 2,
            "each time twice as long, until it is enough"
        );
        let gap = LONGEST_LINGER;
        let lost: Duration = (0..1000).map(|_| request(&mut linger, gap)).sum();
        assert_eq!(lost, LINGER * 4 + LINGER * 8);
        assert_eq!(request(&mut linger, LONG), LONGEST_LINGER);
        assert_eq!(
            linger.awake(Next::Request, NOW),
            Some(LINGER),
            "forgotten with the burst"
        );
        linger.slept(Next::Request, true, LONG);

        let beyond = LONGEST_LINGER + Duration::from_micros(1);
        let lost: Duration = (0..1000).map(|_| request(&mut linger, beyond)).sum();
        assert!(lost < LINGER * 40, "{lost:?}");
    }

    #[test]
    fn an_answer_is_waited_for_at_once_and_long_however_seldom_guests_ask() {
        let mut linger = Linger::new();
        for _ in 0..100 {
            request(&mut linger, LONG);
            assert_eq!(linger.awake(Next::Answer, NOW), Some(LONGEST_LINGER));
            linger.came(Next::Answer);
        }
        // A dom0 that always needs longer is waited for less and less.
        let mut waits = 0;
        for _ in 0..1000 {
            let awake = linger.awake(Next::Answer, NOW);
            waits += u32::from(awake.is_some());
            linger.slept(Next::Answer, awake.is_some(), LONG);
        }
        assert!(waits < 40, "{waits}");
    }

    #[test]
    fn beside_somebody_who_computes_it_sleeps_and_looks_again_less_and_less() {
        let mut linger = Linger::new();
        // A request each millisecond for ten minutes, and the CPU is never our own.
        let (mut tries, mut now) = (0, NOW);
        while now < NOW.after(Duration::from_secs(600)) {
            if linger.awake(Next::Request, now).is_some() {
                linger.crowded(now);
                tries += 1;
            } else {
                linger.slept(Next::Request, false, LINGER);
            }
            now = now.after(Duration::from_millis(1));
        }
        // 1, 2, 4 s and so on up to 64 are 127 s in all; then one each 64.
        assert_eq!(tries, 7 + (600 - 127_u64).div_ceil(LONGEST_RETREAT.as_secs()));
        // The other is gone: with the first look that is over.
        now = now.after(LONGEST_RETREAT);
        assert!(linger.awake(Next::Request, now).is_some());
        linger.came(Next::Request);
        linger.crowded(now);
        assert_eq!(linger.awake(Next::Request, now), None);
        assert!(linger.awake(Next::Request, now.after(FIRST_RETREAT)).is_some());
    }
}

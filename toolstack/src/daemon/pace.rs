//! How often a pcidom, and a guest through it, may have the daemon do or say something.
//!
//! Every lease request costs dom0 a transaction and up to 128 calls of Xen, and every line of
//! the log a piece of its disk. Who asks faster than this is served later, never refused: a
//! pcidom has one request open for each loan, and waits longer for Xen than for this.

use std::time::Duration;

use pcidom_script::Instant;

/// Lease requests of one loan that are served as fast as they come. A driver that starts takes
/// four, so nobody who reloads one by hand ever meets the pause.
pub(super) const REQUEST_BURST: u32 = 64;
/// One more each time this has passed: 50 a second cost dom0 a quarter of a CPU at most (5 ms
/// each). A driver that is reloaded without end asks less often, and a wait of 20 ms is far
/// below pcidom's own limit of 1.25 s.
pub(super) const REQUEST_PAUSE: Duration = Duration::from_millis(20);
/// Changes in the nodes of one pcidom, or of one guest's link, that are looked at as they come:
/// what several guests cause that attach, start drivers and detach at one time.
pub(super) const LOOK_BURST: u32 = 256;
/// After that everything of this pcidom or link is looked at so often, however much changes.
pub(super) const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Lines about one loan, or one pcidom, in a row: what drivers, attaches and detaches cause that
/// people ask for.
pub(super) const LINE_BURST: u32 = 64;
/// The same for lines that tell which vectors were mapped and unmapped: a driver that is reloaded
/// fifty times writes 200, and whoever looks for a number that was used twice needs all of
/// them (`nvme-storm`).
pub(super) const VECTOR_LINE_BURST: u32 = 1024;
/// One more line each time this has passed: 86,400 a day are a few MiB.
pub(super) const LINE_PAUSE: Duration = Duration::from_secs(1);

/// What somebody has left.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    burst: u32,
    pause: Duration,
    left: u32,
    /// Up to when that which time gives has been counted.
    counted: Instant,
}

impl Pace {
    /// For requests of a loan.
    pub(super) fn of_requests() -> Self {
        Self::new(REQUEST_BURST, REQUEST_PAUSE)
    }

    /// For changes in nodes that a domain writes.
    pub(super) fn of_looks() -> Self {
        Self::new(LOOK_BURST, LOOK_PAUSE)
    }

    /// For lines of the log.
    pub(super) fn of_lines() -> Self {
        Self::new(LINE_BURST, LINE_PAUSE)
    }

    /// For lines of the log that tell of vectors.
    pub(super) fn of_vector_lines() -> Self {
        Self::new(VECTOR_LINE_BURST, LINE_PAUSE)
    }

    /// Whether all that was taken is there again.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left == self.burst
    }

    fn new(burst: u32, pause: Duration) -> Self {
        Self { burst, pause, left: burst, counted: Instant::default() }
    }

    /// Takes one, or says when there is one again.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        self.refill(now);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.counted.after(self.pause)),
        }
    }

    fn refill(&mut self, now: Instant) {
        while self.left < self.burst && self.counted.after(self.pause) <= now {
            self.counted = self.counted.after(self.pause);
            self.left += 1;
        }
        if self.left == self.burst {
            self.counted = now;
        }
    }

    /// Whether a line may be logged, which then counts.
    pub(super) fn may(&mut self, now: Instant) -> bool {
        self.take(now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_BURST, Pace, REQUEST_BURST, REQUEST_PAUSE};
    use pcidom_script::Instant;
    use std::time::Duration;

    #[test]
    fn a_burst_is_free_and_then_time_alone_gives_more() {
        let mut pace = Pace::of_requests();
        let start = Instant::from_nanos(5_000_000_000);
        for _ in 0..REQUEST_BURST {
            assert_eq!(pace.take(start), Ok(()));
        }
        assert_eq!(pace.take(start), Err(start.after(REQUEST_PAUSE)));
        let soon = start.after(REQUEST_PAUSE);
        assert_eq!(pace.take(soon), Ok(()));
        assert_eq!(pace.take(soon), Err(soon.after(REQUEST_PAUSE)));
    }

    #[test]
    fn a_flood_of_a_hundred_seconds_is_a_burst_and_a_line_a_second() {
        let mut pace = Pace::of_lines();
        let times =
            (0..10_000).map(|n| Instant::default().after(Duration::from_millis(n * 10)));
        let lines = times.filter(|now| pace.may(*now)).count();
        assert_eq!(lines, LINE_BURST as usize + 99);
    }

    #[test]
    fn a_long_silence_gives_no_more_than_a_burst() {
        let mut pace = Pace::of_lines();
        assert!(pace.may(Instant::default()));
        let later = Instant::default().after(Duration::from_secs(1_000_000));
        assert_eq!((0..1000).filter(|_| pace.may(later)).count(), LINE_BURST as usize);
    }
}

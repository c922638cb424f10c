//! When to try again what has failed.

use core::time::Duration;

use pcidom_script::Instant;

/// The first wait: what a device may take to answer after a reset (PCIe Base 6.6.1).
const FIRST: Duration = Duration::from_secs(1);

/// The longest: what has been mended is noticed about a minute later.
const LONGEST: Duration = Duration::from_secs(64);

/// Waits that double from [`FIRST`] to [`LONGEST`].
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// It has failed: try it again in a while. Returns that while.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let wait = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now.after(wait));
        wait
    }

    /// When to try it again, if it is to be tried.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Ends the wait now; returns whether there was one.
    pub(super) const fn cut_short(&mut self) -> bool {
        self.until.take().is_some()
    }

    /// Ends the wait if it is over at `now`; returns whether it was waited and is over.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::Backoff;
    use pcidom_script::Instant;

    #[test]
    fn waits_double_up_to_a_bound_and_are_over_once() {
        let (mut backoff, now) = (Backoff::default(), Instant::default());
        assert!(!backoff.is_over(now));
        for seconds in [1, 2, 4, 8, 16, 32, 64, 64] {
            let wait = Duration::from_secs(seconds);
            assert_eq!(backoff.failed(now), wait);
            assert_eq!(backoff.until(), Some(now.after(wait)));
            assert!(!backoff.is_over(now.after(wait - Duration::from_nanos(1))));
            assert!(backoff.is_over(now.after(wait)));
            assert!(!backoff.is_over(now.after(wait)));
        }
        assert!(!backoff.cut_short());
        for _ in 0..100 {
            assert_eq!(backoff.failed(now), Duration::from_secs(64));
            assert!(backoff.cut_short());
            assert_eq!(backoff.until(), None);
        }
    }
}

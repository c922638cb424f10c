//! How often somebody may have something done: some in a row, and then one in a while.

use core::time::Duration;

use crate::Instant;

/// What somebody has left.
///
/// Kept as one moment: when all would be there again. What is taken moves it on by a pause, and
/// no more than a burst of pauses may lie ahead.
#[derive(Clone, Debug)]
pub struct Pace {
    /// How long it takes until all of the burst is there again.
    burst: Duration,
    pause: Duration,
    whole_at: Instant,
}

impl Pace {
    /// `burst` in a row, and one more each time `pause` has passed. All of the burst is there.
    pub const fn new(burst: u32, pause: Duration) -> Self {
        let burst = pause.saturating_mul(burst);
        Self { burst, pause, whole_at: Instant::from_nanos(0) }
    }

    /// Takes one, ahead of time if there is none: not to be used before the moment returned,
    /// which is `now` if there was one.
    pub fn book(&mut self, now: Instant) -> Instant {
        self.whole_at = self.whole_at.max(now).after(self.pause);
        now.after(self.whole_at.since(now).saturating_sub(self.burst))
    }

    /// Takes one, or says when there is one again.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let before = self.whole_at;
        let at = self.book(now);
        if at <= now {
            return Ok(());
        }
        self.whole_at = before;
        Err(at)
    }

    /// Takes one if there is one.
    pub fn may(&mut self, now: Instant) -> bool {
        self.take(now).is_ok()
    }

    /// Whether all that was taken is there again.
    pub fn is_full(&self, now: Instant) -> bool {
        self.whole_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;
    use crate::Instant;
    use core::time::Duration;

    const BURST: u32 = 64;
    const PAUSE: Duration = Duration::from_millis(20);

    fn start() -> Instant {
        Instant::from_nanos(5_000_000_000)
    }

    #[test]
    fn a_burst_is_free_and_then_time_alone_gives_more() {
        let mut pace = Pace::new(BURST, PAUSE);
        for _ in 0..BURST {
            assert_eq!(pace.take(start()), Ok(()));
        }
        assert_eq!(pace.take(start()), Err(start().after(PAUSE)));
        let soon = start().after(PAUSE);
        assert_eq!(pace.take(soon), Ok(()));
        assert_eq!(pace.take(soon), Err(soon.after(PAUSE)));
    }

    #[test]
    fn what_is_booked_ahead_comes_one_by_one() {
        let mut pace = Pace::new(BURST, PAUSE);
        let booked: Vec<Instant> = (0..BURST + 3).map(|_| pace.book(start())).collect();
        let (burst, ahead) = booked.split_at(64);
        assert!(burst.iter().all(|at| *at == start()));
        let pauses = [1, 2, 3].map(|n| start().after(PAUSE * n));
        assert_eq!(ahead, pauses);
    }

    #[test]
    fn a_flood_of_a_hundred_seconds_is_a_burst_and_one_for_each_pause() {
        let mut pace = Pace::new(BURST, Duration::from_secs(1));
        let times =
            (0..10_000).map(|n| Instant::default().after(Duration::from_millis(n * 10)));
        let lines = times.filter(|now| pace.may(*now)).count();
        assert_eq!(lines, BURST as usize + 99);
    }

    #[test]
    fn who_comes_slowly_never_waits() {
        let (mut pace, mut now) = (Pace::new(BURST, PAUSE), start());
        for _ in 0..10 * BURST {
            assert_eq!(pace.book(now), now);
            now = now.after(PAUSE);
        }
        assert!(pace.is_full(now));
    }

    #[test]
    fn a_long_silence_gives_no_more_than_a_burst() {
        let mut pace = Pace::new(BURST, PAUSE);
        assert!(pace.is_full(Instant::default()) && pace.may(Instant::default()));
        assert!(!pace.is_full(Instant::default()));
        let later = Instant::default().after(Duration::from_secs(1_000_000));
        assert_eq!((0..1000).filter(|_| pace.may(later)).count(), BURST as usize);
    }
}

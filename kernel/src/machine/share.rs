//! How much of dom0's time a guest may take by writes that reach the hardware.
//!
//! Each of them is an event for dom0 and work for its kernel, and a guest can ask for one after
//! the other. Reads that go to dom0 are not counted: where it matters they come from the window
//! (`windows`), and a guest that reads all of a config space is no attack.

use core::time::Duration;

use pcidom_script::Instant;

/// Writes in a row that wait for nothing: more than a driver's start, or a walk through a config
/// space of which everything may be written, in words.
const WRITE_BURST: u32 = 4096;

/// After that one in this time: ten microseconds or so of dom0's, which are a hundredth of it.
const WRITE_PAUSE: Duration = Duration::from_millis(1);

/// What a guest has left.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// When all of the burst is there again.
    whole_at: Instant,
}

impl Share {
    /// A write is asked for. Before when it must not be started; `None` if at once.
    pub(super) fn write(&mut self, now: Instant) -> Option<Instant> {
        self.whole_at = self.whole_at.max(now).after(WRITE_PAUSE);
        let used = self.whole_at.since(now);
        let over = used.checked_sub(WRITE_PAUSE.saturating_mul(WRITE_BURST))?;
        (!over.is_zero()).then(|| now.after(over))
    }
}

#[cfg(test)]
mod tests {
    use super::{Share, WRITE_BURST, WRITE_PAUSE};
    use core::time::Duration;
    use pcidom_script::Instant;

    /// How many writes are started in so much time by a guest that asks for one as soon as
    /// the last is done, if each takes `work`.
    fn writes(share: &mut Share, from: Instant, length: Duration, work: Duration) -> u32 {
        let (mut now, mut count) = (from, 0);
        while now.since(from) < length {
            now = share.write(now).unwrap_or(now).after(work);
            count += 1;
        }
        count
    }

    #[test]
    fn a_guests_writes_are_a_burst_and_then_one_a_millisecond() {
        let (mut share, start) = (Share::default(), Instant::default());
        let length = Duration::from_secs(100);
        let count = writes(&mut share, start, length, Duration::from_micros(20));
        let after = u32::try_from(length.as_nanos() / WRITE_PAUSE.as_nanos()).unwrap();
        assert!(count.abs_diff(WRITE_BURST + after) < 100, "{count}");
        // All of it comes back while the guest is quiet, and no more.
        let later = start.after(length.saturating_mul(100));
        assert!((0..WRITE_BURST).all(|_| share.write(later).is_none()));
        assert_eq!(share.write(later), Some(later.after(WRITE_PAUSE)));
    }

    #[test]
    fn writes_that_come_slowly_never_wait() {
        let (mut share, mut now) = (Share::default(), Instant::default());
        for _ in 0..10 * WRITE_BURST {
            assert_eq!(share.write(now), None);
            now = now.after(WRITE_PAUSE);
        }
    }
}

//! How much a guest may make pcidom say.
//!
//! It can change its state and make up reasons without end, and the log ends up on dom0's disk.
//! `status` and the monitor's `ring` have what was last, always.

use core::time::Duration;

use pcidom_script::Instant;

/// Lines in a row. Whatever an honest guest does in one go, with all devices that a bus has room
/// for coming or leaving one by one, takes fewer.
const BURST: u8 = 64;

/// One more line each time this has passed: 86,400 a day are a few MiB.
const PAUSE: Duration = Duration::from_secs(1);

/// What a guest has left.
#[derive(Debug)]
pub(super) struct Talk {
    left: u8,
    /// Up to when the lines that time gives have been counted.
    counted: Instant,
}

impl Talk {
    /// A guest that appears now.
    pub(super) const fn new(now: Instant) -> Self {
        Self { left: BURST, counted: now }
    }

    /// Whether a line may be logged, which then counts.
    pub(super) fn may(&mut self, now: Instant) -> bool {
        while self.left < BURST && self.counted.after(PAUSE) <= now {
            self.counted = self.counted.after(PAUSE);
            self.left = self.left.saturating_add(1);
        }
        if self.left == BURST {
            self.counted = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_causes_a_burst_and_then_a_line_a_second() {
        let mut talk = Talk::new(Instant::default());
        let mut lines = 0_u32;
        // A hundred a second, for a hundred seconds.
        for number in 0..10_000_u64 {
            let now = Instant::default().after(Duration::from_millis(number * 10));
            lines += u32::from(talk.may(now));
        }
        assert_eq!(lines, u32::from(BURST) + 99);
    }

    #[test]
    fn silence_fills_it_up_and_no_more() {
        let mut talk = Talk::new(Instant::default());
        let later = Instant::default().after(Duration::from_secs(1_000_000));
        let lines = (0..1000).filter(|_| talk.may(later)).count();
        assert_eq!(lines, usize::from(BURST));
        let soon = later.after(PAUSE);
        assert!(talk.may(soon) && !talk.may(soon));
    }
}

//! Guests that send events with nothing behind them.
//!
//! A spurious event now and then is normal: a frontend may notify while its request is
//! being served already. A guest that goes on is listened to less and less often, and what
//! it asks meanwhile is still served when its port is opened again (advisories 331, 332).

use core::time::Duration;

use pcidom_script::Instant;

/// Spurious events in a row that cost a guest nothing.
const PATIENCE: u32 = 16;
/// The first pause, doubled with every further spurious event.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest pause: far below the 1.5 s in which a request must be answered.
const LONGEST_PAUSE: Duration = Duration::from_millis(256);

/// How a guest has behaved.
#[derive(Debug, Default)]
pub(super) struct Storm {
    in_a_row: u32,
    masked_until: Option<Instant>,
}

impl Storm {
    /// An event that brought a request.
    pub(super) const fn useful(&mut self) {
        self.in_a_row = 0;
    }

    /// An event that brought nothing. Returns whether the port is to be masked now.
    pub(super) fn spurious(&mut self, now: Instant) -> bool {
        self.in_a_row = self.in_a_row.saturating_add(1);
        let Some(over) = self.in_a_row.checked_sub(PATIENCE + 1) else { return false };
        let pause = FIRST_PAUSE.saturating_mul(1 << over.min(16)).min(LONGEST_PAUSE);
        self.masked_until = Some(now.after(pause));
        true
    }

    /// When the port is to be opened again.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.masked_until
    }

    /// Returns whether the port is to be opened now.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        let over = self.masked_until.is_some_and(|until| until <= now);
        if over {
            self.masked_until = None;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_PAUSE, PATIENCE, Storm};
    use pcidom_script::Instant;

    #[test]
    fn pauses_grow_to_a_bound_and_end_with_a_useful_event() {
        let mut storm = Storm::default();
        let mut now = Instant::default();
        for _ in 0..PATIENCE {
            assert!(!storm.spurious(now));
        }
        let mut last = None;
        for _ in 0..40 {
            assert!(storm.spurious(now));
            let pause = storm.deadline().unwrap().since(now);
            assert!(last.is_none_or(|last| pause >= last) && pause <= LONGEST_PAUSE);
            last = Some(pause);
            assert!(!storm.tick(now));
            now = storm.deadline().unwrap();
            assert!(storm.tick(now));
        }
        assert_eq!(last, Some(LONGEST_PAUSE));
        storm.useful();
        assert!(!storm.spurious(now));
    }
}

//! Whether to stay awake for a moment before sleeping.
//!
//! Config requests come in bursts, and dom0 answers a forwarded one soon: going to sleep and
//! being woken costs more than the request itself. So after a request pcidom looks for the
//! next event for a short while, giving its CPU to whoever else wants it. An idle pcidom
//! never does this, and one whose waits were in vain does it less and less.

use core::time::Duration;

/// How long it stays awake: a few times what being woken costs, so that the wait costs at most
/// as much again as it can save. Linux's KVM waits as long for the same reason
/// (`halt_poll_ns`).
pub const LINGER: Duration = Duration::from_micros(200);

/// How long it stays awake while dom0 carries out an access, whose answer will come for sure:
/// a few times what that takes where dom0 is slowest, in emulation (150 to 300 us).
pub const LINGER_FOR_ANSWER: Duration = Duration::from_micros(800);

/// Most waits that are left out after some in vain. A new burst is noticed after as many
/// requests.
const MAX_SKIP: u32 = 31;

/// Decides, by how it went before.
#[derive(Debug, Default)]
pub struct Linger {
    /// Waits in vain, one after the other. The end of each burst is one.
    in_vain: u32,
    /// So many waits are left out.
    skip: u32,
}

impl Linger {
    /// Nothing is known yet.
    pub const fn new() -> Self {
        Self { in_vain: 0, skip: 0 }
    }

    /// Whether to stay awake this time.
    pub const fn is_worth_it(&mut self) -> bool {
        let worth_it = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        worth_it
    }

    /// Whether an event came while it stayed awake.
    pub fn came(&mut self, event: bool) {
        self.in_vain = if event { 0 } else { self.in_vain.saturating_add(1) };
        // One is the end of a burst; from the second on it looks as if none came in time.
        let skip = 1_u32.checked_shl(self.in_vain.saturating_sub(1));
        self.skip = skip.map_or(MAX_SKIP, |skip| MAX_SKIP.min(skip - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::{Linger, MAX_SKIP};

    #[test]
    fn bursts_are_waited_for_and_single_requests_less_and_less() {
        let mut linger = Linger::new();
        for _ in 0..10 {
            for _ in 0..5 {
                assert!(linger.is_worth_it());
                linger.came(true);
            }
            assert!(linger.is_worth_it());
            linger.came(false);
        }
        let mut waits = 0;
        for _ in 0..1000 {
            if linger.is_worth_it() {
                linger.came(false);
                waits += 1;
            }
        }
        assert!(waits < 40, "{waits}");
        // And a burst that begins then is noticed.
        let first = (0..=MAX_SKIP).position(|_| linger.is_worth_it());
        assert!(first.is_some());
        linger.came(true);
        assert!(linger.is_worth_it());
    }
}

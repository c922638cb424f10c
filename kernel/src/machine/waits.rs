//! How long a guest's lease requests took, counted in constant memory.
//!
//! Not each time is kept but how many were within which bound: enough to say within what
//! 99 of 100 were answered, for as long as the guest lives.

use core::fmt;
use core::time::Duration;

use super::leases::LEASE_TIMEOUT;

/// Bounds in milliseconds. Powers of two and what is halfway between, as far as exchanges
/// take on a host that works; then a fifth of the 1.5 s in which a guest must be answered,
/// where another transport would be due; then what is left of those.
const BOUNDS: [u16; 16] = [1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 300, 600];

/// The lease exchanges of one guest.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// How many were answered within each bound and not within the one before.
    within: [u32; BOUNDS.len()],
    /// How many took longer than any bound, or were not answered in time.
    longer: u32,
    /// How many of those were not answered in time.
    unanswered: u32,
    /// The slowest in milliseconds, rounded up.
    slowest: u32,
}

impl Waits {
    /// A request was answered after this time. One that is late was given up before, and
    /// counted then.
    pub(super) fn answered(&mut self, took: Duration, late: bool) {
        let millis = rounded_up(took);
        self.slowest = self.slowest.max(millis);
        if late {
            return;
        }
        let places = BOUNDS.iter().zip(&mut self.within);
        let mut fitting = places.filter(|(bound, _)| millis <= u32::from(**bound));
        let place = fitting.next().map_or(&mut self.longer, |(_, place)| place);
        *place = place.saturating_add(1);
    }

    /// A request was given up.
    pub(super) fn unanswered(&mut self) {
        self.longer = self.longer.saturating_add(1);
        self.unanswered = self.unanswered.saturating_add(1);
        self.slowest = self.slowest.max(rounded_up(LEASE_TIMEOUT));
    }

    /// How many there were, and within how many milliseconds 99 of 100 of them ended.
    fn ninety_nine(&self) -> (u32, u32) {
        let sum = |sum: u32, count: &u32| sum.saturating_add(*count);
        let count = self.within.iter().fold(self.longer, sum);
        let mut left = count - count / 100;
        for (bound, within) in BOUNDS.iter().zip(&self.within) {
            left = left.saturating_sub(*within);
            if left == 0 {
                return (count, self.slowest.min((*bound).into()));
            }
        }
        (count, self.slowest)
    }
}

/// Milliseconds, one more for a part of one.
fn rounded_up(time: Duration) -> u32 {
    let millis = u32::try_from(time.as_secs().saturating_mul(1000)).unwrap_or(u32::MAX);
    millis.saturating_add(time.subsec_nanos().div_ceil(1_000_000))
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((count, within), slowest) = (self.ninety_nine(), self.slowest);
        write!(
            f,
            "{count} exchanges, 99 of 100 within {within} ms, slowest {slowest} ms"
        )?;
        match self.unanswered {
            0 => Ok(()),
            count => write!(f, ", {count} not answered in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use core::time::Duration;

    use super::{BOUNDS, Waits};

    fn waits(times: &[(u32, u64)]) -> Waits {
        let mut waits = Waits::default();
        for (count, millis) in times {
            for _ in 0..*count {
                waits.answered(Duration::from_millis(*millis), false);
            }
        }
        waits
    }

    #[test]
    fn one_of_a_hundred_may_be_slow_and_two_show() {
        assert_eq!(
            waits(&[(99, 20), (1, 299)]).to_string(),
            "100 exchanges, 99 of 100 within 24 ms, slowest 299 ms"
        );
        assert_eq!(
            waits(&[(98, 20), (2, 250)]).to_string(),
            "100 exchanges, 99 of 100 within 250 ms, slowest 250 ms"
        );
        // Fewer than a hundred: then it is the slowest that counts.
        assert_eq!(waits(&[(98, 20), (1, 100)]).ninety_nine(), (99, 100));
        assert_eq!(waits(&[]).ninety_nine(), (0, 0));
    }

    #[test]
    fn a_time_is_never_said_to_be_shorter_than_it_was() {
        // One is far slower than the others, so that these show.
        let shown =
            |millis: u16| waits(&[(199, millis.into()), (1, 5000)]).ninety_nine().1;
        let next = BOUNDS.iter().skip(1).map(|bound| u32::from(*bound)).chain([5000]);
        for (bound, next) in BOUNDS.iter().zip(next) {
            assert_eq!((shown(*bound), shown(bound + 1)), (u32::from(*bound), next));
        }
        let mut fraction = Waits::default();
        fraction.answered(Duration::from_micros(2001), false);
        assert_eq!(fraction.ninety_nine(), (1, 3));
    }

    #[test]
    fn what_was_given_up_counts_as_slow_and_once() {
        let mut waits = waits(&[(97, 5)]);
        for _ in 0..3 {
            waits.unanswered();
        }
        waits.answered(Duration::from_millis(1700), true);
        assert_eq!(
            waits.to_string(),
            "100 exchanges, 99 of 100 within 1700 ms, slowest 1700 ms, \
             3 not answered in time"
        );
    }

    #[test]
    fn counters_stop_where_their_memory_ends() {
        let mut waits = Waits { longer: u32::MAX, slowest: 7, ..Waits::default() };
        waits.answered(Duration::MAX, false);
        waits.answered(Duration::ZERO, false);
        assert_eq!(waits.ninety_nine(), (u32::MAX, u32::MAX));
        assert!(size_of::<Waits>() <= 80);
    }
}

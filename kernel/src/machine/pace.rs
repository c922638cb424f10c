//! How much a guest may have done for it that others pay for.

use core::time::Duration;

use pcidom_script::Pace;

/// Writes that reach the hardware and wait for nothing, in a row: more than a driver's start, or a
/// walk through a config space of which everything may be written, in words.
///
/// Each is an event for dom0 and work for its kernel. Reads that go to dom0 are not counted: where
/// it matters they come from the window (`windows`), and a guest that reads all of a config space
/// is no attack.
pub(super) const WRITE_BURST: u32 = 4096;

/// After that one in this time: ten microseconds or so of dom0's, which are a hundredth of it.
pub(super) const WRITE_PAUSE: Duration = Duration::from_millis(1);

/// Lines of the log in a row. Whatever an honest guest does in one go, with all devices that a bus
/// has room for coming or leaving one by one, takes fewer.
///
/// A guest can change its state and make up reasons without end, and the log ends up on dom0's
/// disk. `status` and the monitor's `ring` have what was last, always.
const LINE_BURST: u32 = 64;

/// One more line each time this has passed: 86,400 a day are a few MiB.
const LINE_PAUSE: Duration = Duration::from_secs(1);

/// A guest's writes that reach the hardware.
pub(super) const fn of_writes() -> Pace {
    Pace::new(WRITE_BURST, WRITE_PAUSE)
}

/// What a guest may cause to be logged.
pub(super) const fn of_lines() -> Pace {
    Pace::new(LINE_BURST, LINE_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::{LINE_BURST, WRITE_BURST, WRITE_PAUSE, of_lines, of_writes};
    use core::time::Duration;
    use pcidom_script::Instant;

    /// By a guest that asks for one as soon as the last is done.
    #[test]
    fn a_guests_writes_are_a_burst_and_then_one_a_millisecond() {
        let (mut pace, start) = (of_writes(), Instant::from_nanos(7));
        let (length, work) = (Duration::from_secs(100), Duration::from_micros(20));
        let (mut now, mut count) = (start, 0_u32);
        while now.since(start) < length {
            now = pace.book(now).after(work);
            count += 1;
        }
        let after = u32::try_from(length.as_nanos() / WRITE_PAUSE.as_nanos()).unwrap();
        assert!(count.abs_diff(WRITE_BURST + after) < 100, "{count}");
    }

    #[test]
    fn a_guest_causes_a_burst_and_then_a_line_a_second() {
        let mut pace = of_lines();
        // A hundred a second, for a hundred seconds.
        let times =
            (0..10_000).map(|n| Instant::default().after(Duration::from_millis(n * 10)));
        let lines = times.filter(|now| pace.may(*now)).count();
        assert_eq!(lines, LINE_BURST as usize + 99);
    }
}

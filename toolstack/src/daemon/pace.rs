//! How often a pcidom, and a guest through it, may have the daemon do or say something.
//!
//! Every lease request costs dom0 a transaction and up to 128 calls of Xen, and every line of
//! the log a piece of its disk. Who asks faster than this is served later, never refused: a
//! pcidom has one request open for each loan, and waits longer for Xen than for this.

use std::time::Duration;

use pcidom_script::Pace;

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

/// For requests of a loan.
pub(super) const fn of_requests() -> Pace {
    Pace::new(REQUEST_BURST, REQUEST_PAUSE)
}

/// For changes in nodes that a domain writes.
pub(super) const fn of_looks() -> Pace {
    Pace::new(LOOK_BURST, LOOK_PAUSE)
}

/// For lines of the log.
pub(super) const fn of_lines() -> Pace {
    Pace::new(LINE_BURST, LINE_PAUSE)
}

/// For lines of the log that tell of vectors.
pub(super) const fn of_vector_lines() -> Pace {
    Pace::new(VECTOR_LINE_BURST, LINE_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::{LINE_BURST, of_lines};
    use pcidom_script::Instant;
    use std::time::Duration;

    #[test]
    fn a_flood_of_a_hundred_seconds_is_a_burst_and_a_line_a_second() {
        let mut pace = of_lines();
        let times =
            (0..10_000).map(|n| Instant::default().after(Duration::from_millis(n * 10)));
        let lines = times.filter(|now| pace.may(*now)).count();
        assert_eq!(lines, LINE_BURST as usize + 99);
    }
}

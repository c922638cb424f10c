//! The last events, kept in memory: for the monitor's `ring`, and for the panic handler.
//!
//! Entries are typed and small, so that keeping them costs a guest nothing worth naming;
//! text is made of them only when somebody looks.

use alloc::boxed::Box;
use core::cell::Cell;
use core::fmt;

use pciback::{Finished, LeaseError};
use pcidom_loan::{LoanId, Phase};
use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_script::Instant;
use pcidom_xenbus::pciif::command;
use pcidom_xenbus::{DomId, Port, XenbusState};

/// Entries kept, in 24 KiB: what it takes to scan a bus and load a driver.
pub const RING_ENTRIES: usize = 512;

/// Something that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// A port has fired and nothing came of it: a guest's, or (`None`) nobody's. What a
    /// useful event brings is an entry of its own.
    Port(Option<DomId>, Port),
    /// A guest's operation has been answered.
    Op(DomId, Op),
    /// Our end of a link, a guest's or (`None`) the A-link, goes to a state.
    Link(Option<DomId>, XenbusState),
    /// The daemon is asked for so many leases for a guest; none is an unmap.
    Asked(DomId, u16),
    /// What a guest's server was told about leases: how many.
    Leased(DomId, Result<u16, LeaseError>),
    /// A loan's phase, as the daemon orders it.
    Phase(LoanId, Phase, Sbdf),
    /// A reset has ended, well or not.
    Reset(Sbdf, bool),
    /// A loan is over and forgotten.
    Over(LoanId),
}

/// An operation in the numbers of the ring; what does not fit is as large as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    command: u8,
    size: u8,
    offset: u16,
    at: Option<VirtualBdf>,
    err: i8,
    told: bool,
    micros: u32,
}

impl Op {
    /// The operation, answered `now`.
    pub fn new(finished: &Finished, now: Instant) -> Self {
        let Finished { raw, err, since, told } = finished;
        Self {
            command: u8::try_from(raw.cmd).unwrap_or(u8::MAX),
            size: u8::try_from(raw.size).unwrap_or(u8::MAX),
            offset: u16::try_from(raw.offset).unwrap_or(u16::MAX),
            at: Sbdf::from_wire(raw.domain, raw.bus, raw.devfn).map(VirtualBdf),
            err: i8::try_from(*err).unwrap_or(i8::MIN),
            told: *told,
            micros: u32::try_from(now.since(*since).as_micros()).unwrap_or(u32::MAX),
        }
    }
}

type Entry = (Instant, Trace);

/// The ring. Entries are cells, so that whoever reports a crash can read them whoever else
/// holds it.
#[derive(Debug)]
pub struct Ring {
    start: Instant,
    entries: Box<[Cell<Option<Entry>>]>,
    next: Cell<usize>,
}

impl Ring {
    /// Empty; times are shown as counted from `start`.
    pub fn new(start: Instant) -> Self {
        let entries = (0..RING_ENTRIES).map(|_| Cell::new(None)).collect();
        Self { start, entries, next: Cell::new(0) }
    }

    /// Keeps an entry in place of the oldest.
    pub fn keep(&self, now: Instant, trace: Trace) {
        let at = self.next.get();
        if let Some(place) = self.entries.get(at) {
            place.set(Some((now, trace)));
        }
        self.next.set((at + 1) % RING_ENTRIES);
    }

    /// The last `count` entries, oldest first.
    pub fn last(&self, count: usize) -> impl Iterator<Item = Line> {
        let (newer, older) = self.entries.split_at(self.next.get().min(RING_ENTRIES));
        let all = older.iter().chain(newer).filter_map(Cell::get);
        let known = all.clone().count();
        let start = self.start;
        all.skip(known.saturating_sub(count)).map(move |entry| Line { start, entry })
    }
}

/// An entry as people read it.
#[derive(Debug)]
pub struct Line {
    start: Instant,
    entry: Entry,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, trace) = self.entry;
        let at = at.since(self.start);
        write!(f, "{:4}.{:06} {trace}", at.as_secs(), at.subsec_micros())
    }
}

/// Whose link or port it is.
struct Whose(Option<DomId>);

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(guest) => write!(f, "domain {guest}"),
            None => f.write_str("dom0"),
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(Some(guest), port) => {
                write!(f, "domain {guest}: event on port {port} for nothing")
            }
            Self::Port(None, port) => write!(f, "nobody: event on port {port}"),
            Self::Op(guest, op) => write!(f, "domain {guest}: {op}"),
            Self::Link(whose, state) => {
                write!(f, "{}: link to state {state}", Whose(*whose))
            }
            Self::Asked(guest, 0) => write!(f, "domain {guest}: leases given back"),
            Self::Asked(guest, count) => {
                write!(f, "domain {guest}: {count} lease(s) asked")
            }
            Self::Leased(guest, Ok(count)) => {
                write!(f, "domain {guest}: {count} lease(s) granted")
            }
            Self::Leased(guest, Err(error)) => {
                write!(f, "domain {guest}: no lease: {error}")
            }
            Self::Phase(loan, phase, device) => {
                write!(f, "loan {loan}: {device} {phase:?}")
            }
            Self::Reset(device, true) => write!(f, "{device} reset"),
            Self::Reset(device, false) => write!(f, "{device} not reset"),
            Self::Over(loan) => write!(f, "loan {loan}: over"),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, has_register) = match u32::from(self.command) {
            command::CONF_READ => ("read", true),
            command::CONF_WRITE => ("write", true),
            command::ENABLE_MSI => ("enable MSI", false),
            command::DISABLE_MSI => ("disable MSI", false),
            command::ENABLE_MSIX => ("enable MSI-X", false),
            command::DISABLE_MSIX => ("disable MSI-X", false),
            _ => ("unknown command", false),
        };
        f.write_str(name)?;
        if let Some(at) = self.at {
            write!(f, " {at}")?;
        }
        if has_register {
            write!(f, " {:#05x}/{}", self.offset, self.size)?;
        }
        match self.err {
            0 => f.write_str(": ok")?,
            err => write!(f, ": error {err}")?,
        }
        let untold = if self.told { "" } else { ", not told" };
        write!(f, "{untold}, {} us", self.micros)
    }
}

#[cfg(test)]
mod tests {
    use super::{Op, RING_ENTRIES, Ring, Trace};
    use core::time::Duration;
    use pciback::Finished;
    use pcidom_script::Instant;
    use pcidom_xenbus::pciif::RawOp;
    use pcidom_xenbus::{DomId, Port};

    const START: Instant = Instant::from_nanos(5_000_000_000);

    #[test]
    fn the_oldest_entries_give_way_and_the_order_stays() {
        let ring = Ring::new(START);
        assert_eq!(ring.last(10).count(), 0);
        for n in 0..u32::try_from(RING_ENTRIES).unwrap() + 3 {
            ring.keep(
                START.after(Duration::from_micros(n.into())),
                Trace::Port(None, Port(n)),
            );
        }
        assert_eq!(ring.last(usize::MAX).count(), RING_ENTRIES);
        let lines: Vec<String> = ring.last(2).map(|line| line.to_string()).collect();
        let last = [
            "   0.000513 nobody: event on port 513",
            "   0.000514 nobody: event on port 514",
        ];
        assert_eq!(lines, last);
        let first = ring.last(usize::MAX).next().unwrap().to_string();
        assert_eq!(first, "   0.000003 nobody: event on port 3");
    }

    #[test]
    fn an_operation_is_shown_whatever_a_guest_put_into_it() {
        let op = |raw, err, told| {
            let finished = Finished { raw, err, since: START, told };
            let op = Op::new(&finished, START.after(Duration::from_micros(812)));
            Trace::Op(DomId(3), op).to_string()
        };
        let read = RawOp { offset: 0x10, size: 4, ..RawOp::default() };
        assert_eq!(op(read, 0, true), "domain 3: read 0000:00:00.0 0x010/4: ok, 812 us");
        let odd = RawOp { cmd: 77, domain: u32::MAX, offset: -1, size: -1, ..read };
        assert_eq!(
            op(odd, -4, false),
            "domain 3: unknown command: error -4, not told, 812 us"
        );
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<super::Entry>() <= 48);
    }
}

//! What pcidom and the daemon in dom0 say to each other.
//!
//! Two XenStore directories carry it. Each node has one writer and is written whole:
//!
//! | node | writer | content |
//! |---|---|---|
//! | `/local/domain/P/pcidom/protocol` | daemon | [`PROTOCOL`] |
//! | `/local/domain/P/pcidom/pool/BDF` | daemon | [`QUARANTINED`]: pcidom may use it now |
//! | `/local/domain/P/pcidom/ecam/BDF` | daemon | [`ConfigFrame`]; optional |
//! | `/local/domain/P/pcidom/loans/ID` | daemon | [`LoanOrder`] |
//! | `/local/domain/P/pcidom/answers/ID` | daemon | [`LeaseAnswer`] |
//! | `/local/domain/P/pcidom/query` | daemon | a number: write a report with this number |
//! | `/local/domain/P/data/pcidom/protocol` | pcidom | [`PROTOCOL`], before `state` |
//! | `/local/domain/P/data/pcidom/state` | pcidom | [`READY`] once it serves, [`STOPPING`] when it is to end |
//! | `/local/domain/P/data/pcidom/loans/ID` | pcidom | [`LoanReport`] |
//! | `/local/domain/P/data/pcidom/requests/ID` | pcidom | [`LeaseRequest`] |
//! | `/local/domain/P/data/pcidom/report/...` | pcidom | text for `pcidomctl status` |
//!
//! `P` is pcidom's domid, `ID` a [`LoanId`], `BDF` is written with dashes. The daemon trusts
//! nothing in the second directory: a message names loan and generation, is parsed into
//! the types here, and is checked against the daemon's own record before anything is done.
//! docs/loan-protocol.md tells the life of a loan.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod bus;
mod exceptions;
mod lease;
mod order;
mod text;

use core::fmt;

use pcidom_pci::Sbdf;

pub use bus::{BusPolicy, NoSuchPolicy};
pub use exceptions::{Allowed, Exceptions, MAX_ALLOWED};
pub use lease::{
    LeaseAnswer, LeaseAsk, LeaseRefusal, LeaseRequest, MAX_VECTORS, repeated,
};
pub use order::{LoanOrder, LoanReport, Outcome, Phase, ResetTerms};
pub use text::{MAX_TEXT, ParseError};

/// Version of the protocol; the daemon and pcidom refuse another one by name.
pub const PROTOCOL: &str = "1";
/// What a side speaks that does not say: there were such of the first version.
pub const PROTOCOL_UNSAID: &str = "1";
/// Directory of the daemon's nodes, below the domain's home.
pub const CONTROL_DIR: &str = "pcidom";
/// Directory of pcidom's nodes, below the domain's home (`data` belongs to the domain).
pub const REPORT_DIR: &str = "data/pcidom";
/// Content of a pool node.
pub const QUARANTINED: &str = "quarantined";
/// Content of pcidom's `state` node once it serves.
pub const READY: &str = "ready";
/// Content of pcidom's `state` node once it was told to shut down: it waits until the
/// daemon has ended its loans.
pub const STOPPING: &str = "stopping";

/// Most loans a host has at one time; ids are below it. Bounds both sides' tables.
pub const MAX_LOANS: u16 = 256;

/// The slot of a loan. Used again after a loan has ended: only together with its
/// [`Generation`] does it name a loan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoanId(u16);

impl LoanId {
    /// `None` from [`MAX_LOANS`] on.
    pub const fn new(number: u16) -> Option<Self> {
        if number < MAX_LOANS { Some(Self(number)) } else { None }
    }

    /// Reads the name of a node.
    pub fn parse(text: &str) -> Option<Self> {
        Self::new(text::decimal(text)?)
    }
}

impl fmt::Display for LoanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts loans of a host, never used twice: tells a message of this loan from one that
/// was left over from an earlier loan with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of the machine frame that is a device's config space (ECAM), which pcidom may map
/// for reading. Decimal in its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigFrame(pub u64);

impl ConfigFrame {
    /// Reads a node. A frame number has at most 40 bits: 52 of an address less 12.
    pub fn parse(text: &str) -> Option<Self> {
        text::decimal(text).filter(|frame| *frame < 1 << 40).map(Self)
    }
}

impl fmt::Display for ConfigFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A device's name as a XenStore node: libxl's `0000-01-00-0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeName(pub Sbdf);

impl NodeName {
    /// Reads a node's name.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut part = |max| text::hexadecimal(parts.next()?).filter(|n| *n <= max);
        let (segment, bus, device, function) =
            (part(0xffff)?, part(0xff)?, part(0x1f)?, part(7)?);
        if parts.next().is_some() {
            return None;
        }
        Sbdf::from_wire(segment, bus, device << 3 | function).map(Self)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.0;
        write!(
            f,
            "{:04x}-{:02x}-{:02x}-{:x}",
            at.segment(),
            at.bus(),
            at.device(),
            at.function()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{LoanId, MAX_LOANS};

    #[test]
    fn ids_end_where_the_tables_do_and_have_one_spelling_in_a_path() {
        assert!(LoanId::new(MAX_LOANS - 1).is_some() && LoanId::new(MAX_LOANS).is_none());
        assert_eq!(LoanId::parse("255").map(|id| id.to_string()), Some("255".into()));
        for text in
            ["256", "65536", "99999999999999999999", "-1", "+1", "0x1", "1/2", "..", " 1"]
        {
            assert_eq!(LoanId::parse(text), None, "{text}");
        }
    }
}

//! What a guest has seen, for tests to look at.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use pcidom_pci::VirtualBdf;
use pcidom_script::Instant;
use pcidom_xenbus::pciif::RawOp;
use pcidom_xenbus::{Pirq, Port};

use super::Command;
use super::transport::{OpAnswer, OpInFlight};

/// How a driver gets its interrupts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Interrupts {
    /// Not at all.
    #[default]
    None,
    /// The line, by its pirq.
    Line(Pirq),
    /// One message.
    Msi(Pirq),
    /// Messages of the MSI-X table, in the order of its entries.
    Msix(Vec<Pirq>),
}

/// A function that the guest's PCI core has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Vendor and device id.
    pub ids: u32,
    /// Its header type says that its slot has more functions.
    pub multifunction: bool,
    /// Sizes of the BARs by register number, as sizing gave them.
    pub bars: BTreeMap<u8, u64>,
    /// Capability ids in the order of the list.
    pub capabilities: Vec<u8>,
    /// Offset of the MSI-X capability.
    pub msix: Option<u16>,
    /// What its line register says.
    pub line: u8,
    /// A driver is bound.
    pub driver: bool,
    /// How the driver gets its interrupts.
    pub interrupts: Interrupts,
    /// Ports that those are bound to.
    pub ports: Vec<Port>,
    /// Why the driver has given up, if it has.
    pub failed: Option<&'static str>,
}

/// One op and how it went.
#[derive(Clone, Copy, Debug)]
pub struct OpRecord {
    /// As it was asked.
    pub op: RawOp,
    /// The error it got.
    pub err: i32,
    /// The value it got.
    pub value: u32,
    /// When it was sent.
    pub sent: Instant,
    /// How long it took.
    pub latency: Duration,
    /// Not answered within 2 s.
    pub timed_out: bool,
    /// The backend was not, or not any more, at the other end.
    pub link_was_down: bool,
}

/// Everything about one guest.
#[derive(Debug)]
pub struct GuestState {
    /// Functions by their address on the guest's bus.
    pub found: BTreeMap<VirtualBdf, Found>,
    /// All ops so far.
    pub ops: Vec<OpRecord>,
    /// AER requests served: command and channel state.
    pub errors: Vec<(u32, i32)>,
    /// Interrupts taken per port.
    pub interrupts: BTreeMap<Port, u32>,
    pub(super) wanted: u32,
    pub(super) mail: VecDeque<(String, String)>,
    pub(super) commands: VecDeque<Command>,
}

impl GuestState {
    pub(super) fn new(wanted: u32) -> Self {
        Self {
            found: BTreeMap::new(),
            ops: Vec::new(),
            errors: Vec::new(),
            interrupts: BTreeMap::new(),
            wanted,
            mail: VecDeque::new(),
            commands: VecDeque::new(),
        }
    }

    /// The longest an op took.
    pub fn worst_latency(&self) -> Duration {
        self.ops.iter().map(|op| op.latency).max().unwrap_or_default()
    }

    /// Ops that were given up although a backend was there.
    pub fn timeouts(&self) -> usize {
        self.ops.iter().filter(|op| op.timed_out && !op.link_was_down).count()
    }

    /// The function with these ids, if one is there: vendor in the low half.
    pub fn by_ids(&self, ids: u32) -> Option<(VirtualBdf, &Found)> {
        self.found
            .iter()
            .find(|(_, found)| found.ids == ids)
            .map(|(at, found)| (*at, found))
    }

    /// Ops that were given up, for whatever reason.
    pub fn given_up(&self) -> usize {
        self.ops.iter().filter(|op| op.timed_out).count()
    }

    pub(super) fn record(&mut self, op: &OpInFlight, answer: &OpAnswer, now: Instant) {
        self.ops.push(OpRecord {
            op: op.op,
            err: answer.raw.err,
            value: answer.raw.value,
            sent: op.sent,
            latency: now.since(op.sent),
            timed_out: answer.timed_out,
            link_was_down: answer.link_was_down,
        });
    }

    pub(super) fn interrupted(&mut self, port: Port) {
        *self.interrupts.entry(port).or_default() += 1;
    }
}

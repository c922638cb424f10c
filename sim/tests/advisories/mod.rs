//! Advisories against PCI backends, frontends and their toolstacks, one test or more each, by
//! number; docs/advisories.md has the whole list. The guest here is no driver: it writes to its
//! page what it likes.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what goes wrong here fails the test"
)]

mod config;
mod ends;
mod ring;

use pcidom_pci::Sbdf;
use pcidom_pci::fake::FakeBackend;
use pcidom_sim::trace;
use pcidom_sim::xen::devices::Hand;
use pcidom_sim::xen::record::Deed;
use pcidom_xenbus::pciif::{RawOp, command};

use crate::raw::Raw;

impl Raw {
    /// One that may have so many message vectors, before a dom0 that lets everything through:
    /// what that would stop as well must be stopped before it.
    fn new(vectors: u16) -> Self {
        let raw = Self::lent(vectors);
        let xen = raw.scene.world.xen();
        let open = |backend: &mut FakeBackend| backend.arms().everything = true;
        xen.with_hardware(raw.device(), Hand::Dom0, open).unwrap();
        raw
    }

    fn device(&self) -> Sbdf {
        self.function.sbdf
    }

    /// Asks for something, and returns the slot as it is when the flag is gone.
    fn op(&mut self, op: RawOp, entries: &[u16]) -> RawOp {
        let answer = self.ask(&op, entries);
        assert!(answer.is_some(), "no answer to {op:?}");
        answer.unwrap()
    }

    /// A write of config space; what came of it.
    fn write(&mut self, offset: u16, size: i32, value: u32) -> i32 {
        let (cmd, offset) = (command::CONF_WRITE, offset.into());
        self.op(RawOp { cmd, offset, size, value, ..RawOp::default() }, &[]).err
    }

    /// The device's config space as it is in hardware.
    fn hardware(&self) -> Vec<u8> {
        let xen = self.scene.world.xen();
        let bytes = xen.with_hardware(self.device(), Hand::Dom0, |backend| {
            backend.hardware().bytes().to_vec()
        });
        bytes.unwrap()
    }

    /// Message interrupts that were mapped since event number `from`.
    fn maps(&self, from: usize) -> usize {
        let records = self.scene.world.xen().records();
        let maps =
            records.iter().skip(from).filter(|r| matches!(r.deed, Deed::Map { .. }));
        maps.count()
    }

    fn records(&self) -> usize {
        self.scene.world.xen().records().len()
    }
}

/// Lines for people since the trace began: pcidom's and the daemon's.
fn lines_for_people() -> usize {
    let levels = ["INFO ", "WARN ", "ERROR"];
    let shown = |line: &String| levels.iter().any(|level| line.contains(level));
    trace::lines().iter().filter(|line| shown(line)).count()
}

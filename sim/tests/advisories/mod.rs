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

use std::time::Duration;

use pcidom_pci::fake::{FakeBackend, FakeFunction};
use pcidom_pci::{Function, Sbdf};
use pcidom_sim::linux_guest::{Command, LinuxGuest};
use pcidom_sim::xen::devices::Hand;
use pcidom_sim::xen::domains::DomainConfig;
use pcidom_sim::xen::record::Deed;
use pcidom_sim::{Scene, SimPage, trace};
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::pciif::{
    FRONT_ACTIVE, RawMsixEntry, RawOp, command, load_op, store_msix, store_op, word,
};
use pcidom_xenbus::{DomId, Pirq, Port, SharedPage};

/// A guest that was lent a network card with MSI, MSI-X and PCI Express, and whose page and
/// port we have.
struct Raw {
    scene: Scene,
    function: Function,
    guest: DomId,
    page: SimPage,
    port: Port,
}

impl Raw {
    /// One that may have so many message vectors.
    fn new(vectors: u16) -> Self {
        let at = Sbdf::new(0, 1, 0, 0).unwrap();
        let mut scene = Scene::with(1, |world| {
            let nic = FakeBackend::new(at, FakeFunction::e1000e_losing_state());
            vec![world.xen().add_device(nic, Some(Pirq(10)))]
        });
        scene.serve();
        let config = DomainConfig { extra_irqs: vectors, ..DomainConfig::default() };
        let guest = scene.xl.create("raw", config);
        let (xen, store) = (scene.world.xen().clone(), scene.world.store().clone());
        let linux = scene.world.add(LinuxGuest::boot(&xen, &store, guest, 1));
        let reply = scene.attach(guest, at);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
        scene.world.run_for(Duration::from_secs(1));
        // Its kernel has connected the link and leaves the device to us.
        let found: Vec<_> = linux.borrow().state().found.keys().copied().collect();
        linux.borrow().command(Command::Unload(found[0]));
        scene.world.run_for(Duration::from_secs(1));
        let (page, port) =
            (linux.borrow().page().unwrap(), linux.borrow().link_port().unwrap());
        scene.world.remove(&linux);
        let function = xen.function(at).unwrap();
        // What dom0 would stop as well must be stopped before it.
        let open = |backend: &mut FakeBackend| backend.arms().everything = true;
        xen.with_hardware(at, Hand::Dom0, open).unwrap();
        Self { scene, function, guest, page, port }
    }

    fn device(&self) -> Sbdf {
        self.function.sbdf
    }

    /// Asks for something, and returns the slot as it is when the flag is gone.
    fn op(&mut self, op: RawOp, entries: &[u16]) -> RawOp {
        let entries: Vec<_> = entries
            .iter()
            .map(|entry| RawMsixEntry { vector: 0xffff, entry: *entry })
            .collect();
        store_op(&self.page, &op);
        store_msix(&self.page, &entries);
        self.page.fetch_or(word::FLAGS, FRONT_ACTIVE);
        let xen = self.scene.world.xen().clone();
        xen.notify(self.guest, self.port).unwrap();
        let page = self.page.clone();
        let answered = |_: &_| page.peek(word::FLAGS) & FRONT_ACTIVE == 0;
        let limit = Duration::from_secs(2);
        assert!(self.scene.world.run_until(limit, answered), "no answer to {op:?}");
        load_op(&self.page)
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

//! A guest that writes its page itself, word by word, in place of Linux's frontend.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what goes wrong here fails the test"
)]

use std::time::Duration;

use pcidom_pci::fake::{FakeBackend, FakeFunction};
use pcidom_pci::{Function, Sbdf};
use pcidom_sim::linux_guest::{Command, LinuxGuest};
use pcidom_sim::xen::domains::DomainConfig;
use pcidom_sim::{Scene, SimPage};
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::pciif::{
    FRONT_ACTIVE, RawMsixEntry, RawOp, load_op, store_msix, store_op, word,
};
use pcidom_xenbus::{DomId, Pirq, Port, SharedPage};

/// How long Linux's frontend waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A guest that was lent a network card with MSI, MSI-X and PCI Express, and whose page and
/// port we have.
pub(crate) struct Raw {
    pub(crate) scene: Scene,
    pub(crate) function: Function,
    pub(crate) guest: DomId,
    pub(crate) page: SimPage,
    pub(crate) port: Port,
}

impl Raw {
    /// One that may have so many message vectors.
    pub(crate) fn lent(vectors: u16) -> Self {
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
        assert_eq!(found.len(), 1);
        linux.borrow().command(Command::Unload(found[0]));
        scene.world.run_for(Duration::from_secs(1));
        let (page, port) =
            (linux.borrow().page().unwrap(), linux.borrow().link_port().unwrap());
        scene.world.remove(&linux);
        let function = xen.function(at).unwrap();
        Self { scene, function, guest, page, port }
    }

    /// Asks for something: the slot as it is when the flag is gone, or `None` if it stays.
    pub(crate) fn ask(&mut self, op: &RawOp, entries: &[u16]) -> Option<RawOp> {
        let entries: Vec<_> = entries
            .iter()
            .map(|entry| RawMsixEntry { vector: 0xffff, entry: *entry })
            .collect();
        store_op(&self.page, op);
        store_msix(&self.page, &entries);
        self.page.fetch_or(word::FLAGS, FRONT_ACTIVE);
        let xen = self.scene.world.xen().clone();
        xen.notify(self.guest, self.port).unwrap();
        let page = self.page.clone();
        let answered = |_: &_| page.peek(word::FLAGS) & FRONT_ACTIVE == 0;
        self.scene.world.run_until(PATIENCE, answered).then(|| load_op(&self.page))
    }
}

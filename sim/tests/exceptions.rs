//! What a guest may write, and what a person lets it write besides: the whole way from the
//! verb through pcidom and dom0 to the hardware.
#![expect(clippy::unwrap_used, reason = "what goes wrong here fails the test")]

use std::time::Duration;

use pcidom_pci::{Register, Width};
use pcidom_sim::scene::NVME;
use pcidom_sim::xen::devices::Hand;
use pcidom_sim::{Scene, SimPage};
use pcidom_toolstack::verb::{Bdf, Reply, Verb, Wish};
use pcidom_xenbus::pciif::{self, FRONT_ACTIVE, RawOp, command, word};
use pcidom_xenbus::{DomId, Port, SharedPage};

/// A guest whose config writes the test chooses.
struct Guest {
    domain: DomId,
    page: SimPage,
    port: Port,
}

impl Guest {
    /// A new guest with the only device there is, lent with these exceptions.
    fn with(scene: &mut Scene, name: &str, permissive: bool, allow: &[&str]) -> Self {
        let guest = scene.guest(name);
        let domain = guest.borrow().domain_id();
        let allow = allow.iter().map(|item| (*item).into()).collect();
        let verb = Verb::Attach {
            guest: domain.to_string(),
            owner: None,
            device: Bdf(scene.device(0)),
            slot: None,
            bus: None,
            share_line: false,
            lax: false,
            wait: None,
            wish: Wish { permissive, allow },
            pcidom: None,
        };
        let asked = scene.ask(|daemon| daemon.ask(verb));
        let reply = scene.wait_for(asked);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
        assert!(scene.guest_uses(&guest, NVME));
        scene.world.remove(&guest);
        let (page, port) = (guest.borrow().page(), guest.borrow().link_port());
        Self { domain, page: page.unwrap(), port: port.unwrap() }
    }

    /// Writes, and gives the writes that reached the hardware.
    fn write(
        &self,
        scene: &mut Scene,
        (offset, size): (i32, i32),
        value: u32,
    ) -> Vec<(Register, u32)> {
        let device = scene.device(0);
        let taken = |scene: &Scene| {
            let hardware =
                scene.world.xen().with_hardware(device, Hand::Dom0, |backend| {
                    backend.hardware_mut().take_writes()
                });
            hardware.unwrap()
        };
        taken(scene);
        let cmd = command::CONF_WRITE;
        let op = RawOp { cmd, offset, size, value, ..RawOp::default() };
        pciif::store_op(&self.page, &op);
        self.page.fetch_or(word::FLAGS, FRONT_ACTIVE);
        scene.world.xen().notify(self.domain, self.port).unwrap();
        scene.world.run_for(Duration::from_millis(200));
        assert_eq!(self.page.load(word::FLAGS) & FRONT_ACTIVE, 0, "not answered");
        assert_eq!(pciif::load_op(&self.page).err, 0);
        taken(scene)
    }

    fn end(self, scene: &mut Scene) {
        let reply = scene.detach(self.domain, scene.device(0), true);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
        scene.world.run_for(Duration::from_secs(5));
    }
}

fn place(offset: u16, width: Width) -> Register {
    Register::new(offset, width).unwrap()
}

const LATENCY: (i32, i32) = (0x0d, 1);
const OWN: (i32, i32) = (0xf0, 4);

#[test]
fn an_exception_reaches_the_hardware_for_one_loan_although_dom0_stays_open() {
    for mut scene in [Scene::ready(71, 1), Scene::through_dom0(72, 1)] {
        let guest =
            Guest::with(&mut scene, "one", false, &["LATENCY_TIMER", "0xf0:4:0xff"]);
        let latency = (place(0x0d, Width::Byte), 0x40);
        assert_eq!(guest.write(&mut scene, LATENCY, 0x40), [latency]);
        let own = (place(0xf0, Width::Dword), 0x0000_0077);
        assert_eq!(guest.write(&mut scene, OWN, 0x1234_5677), [own]);
        guest.end(&mut scene);
        let next = Guest::with(&mut scene, "two", false, &[]);
        assert_eq!(next.write(&mut scene, LATENCY, 0x40), []);
        assert_eq!(next.write(&mut scene, OWN, 0x1234_5677), []);
        scene.check();
    }
}

#[test]
fn permissive_opens_the_devices_own_registers_and_no_message() {
    let mut scene = Scene::ready(73, 1);
    let guest = Guest::with(&mut scene, "one", true, &[]);
    let own = (place(0xf0, Width::Dword), 0x1234_5678);
    assert_eq!(guest.write(&mut scene, OWN, 0x1234_5678), [own]);
    for message in [(0x42, 2), (0x44, 4), (0x48, 4), (0x10, 4)] {
        assert_eq!(guest.write(&mut scene, message, 0x1234), [], "{message:?}");
    }
    guest.end(&mut scene);
    let next = Guest::with(&mut scene, "two", false, &[]);
    assert_eq!(next.write(&mut scene, OWN, 0x1234_5678), []);
    scene.check();
}

#[test]
fn a_guest_clears_its_devices_error_bits_and_sets_its_read_size_without_an_exception() {
    for mut scene in [Scene::ready(74, 1), Scene::through_dom0(75, 1)] {
        let guest = Guest::with(&mut scene, "one", false, &[]);
        let hit =
            scene.world.xen().with_hardware(scene.device(0), Hand::Dom0, |backend| {
                backend.hardware_mut().set_bytes(0x07, &[0xf9]);
            });
        hit.unwrap();
        let cleared = (place(0x06, Width::Word), 0xf900);
        assert_eq!(guest.write(&mut scene, (0x06, 2), 0xffff), [cleared]);
        let device_status = (place(0x8a, Width::Word), 0x000f);
        assert_eq!(guest.write(&mut scene, (0x8a, 2), 0xffff), [device_status]);
        let control = (place(0x88, Width::Word), 0x0810);
        assert_eq!(guest.write(&mut scene, (0x88, 2), 0x8817 | 0x0008), [control]);
        scene.check();
    }
}

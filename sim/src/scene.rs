//! A host as tests start from: dom0 with its pciback and the daemon, a pcidom with a pool.

use std::time::Duration;

use pcidom_loan::BusPolicy;
use pcidom_pci::Sbdf;
use pcidom_pci::fake::{FakeBackend, FakeFunction};
use pcidom_pci::regs::{header, msix};
use pcidom_pci::reset::Method;
use pcidom_toolstack::daemon::Client;
use pcidom_toolstack::verb::{Bdf, Bus, Reply, Verb, Wish};
use pcidom_xenbus::{DomId, Pirq, XenbusState};

use crate::daemon::DaemonProcess;
use crate::linux_guest::LinuxGuest;
use crate::pciback::LinuxPciback;
use crate::pcidom::Pcidom;
use crate::world::{Shared, World};
use crate::xen::DOM_IO;
use crate::xen::domains::DomainConfig;
use crate::xen::errno::EPERM;
use crate::xl::Xl;

/// The name of the pcidom, and the daemon's word for it.
pub const PCIDOM: &str = "pcidom";
/// Vendor and device id of the NVMe controllers.
pub const NVME: u32 = 0x0010_1b36;
/// Vectors that guests' NVMe drivers want: one for each of their queues.
pub const QUEUES: u32 = 3;

/// The GSIs of PCI devices start here, after those of the legacy ones.
const FIRST_GSI: u32 = 16;

/// How long anything that works may take, generously.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host.
#[derive(Debug)]
pub struct Scene {
    /// The scheduler.
    pub world: World,
    /// dom0's tools.
    pub xl: Xl,
    /// dom0's backend.
    pub pciback: Shared<LinuxPciback>,
    /// The daemon; `None` before it is started.
    pub daemon: Option<Shared<DaemonProcess>>,
    /// pcidom.
    pub pcidom: Shared<Pcidom>,
    /// Its number.
    pub pcidom_id: DomId,
    /// The devices of the pool.
    pub devices: Vec<Sbdf>,
}

/// QEMU's NVMe controller at `at`, with its BAR where no other device has one, and resets of
/// its own as in `methods`. Its line register says what dom0's pciback would: the number of
/// its GSI.
fn nvme(at: Sbdf, number: u32, gsi: u8, methods: &[Method]) -> FakeBackend {
    let mut nvme = FakeFunction::builder(0x1b36, 0x0010, 0x01_0802, 2);
    nvme.subsystem(0x1af4, 0x1100)
        .put(header::INTERRUPT_LINE, &[gsi, 1])
        .memory_bar(0, 0x4000, true)
        .msix(0x40, 65, 0, 0x2000, 0, 0x3000)
        .pcie(0x80, methods.contains(&Method::FunctionLevel));
    if methods.contains(&Method::PowerState) {
        nvme.losing_pm(0x60);
    } else {
        nvme.pm(0x60);
    }
    if methods.contains(&Method::AdvancedFeatures) {
        nvme.af(0x70);
    }
    let address = 0xfe40_0000 + 0x1_0000 * number;
    let mut function =
        nvme.build(&[(header::bar(0), address), (header::COMMAND, 0x0002)]);
    function.set_ready_after(Duration::from_millis(20));
    FakeBackend::new(at, function)
}

/// A port, and below it one device of so many functions, controllers with these methods; the
/// port has a hot-plug slot if that is one of them. Its number tells it from other ports.
///
/// # Panics
/// If a PCI bus has no room for it.
#[expect(clippy::expect_used, reason = "a test that asks for too much fails")]
pub fn card(world: &World, number: u8, functions: u8, methods: &[Method]) -> Vec<Sbdf> {
    let slot = methods.contains(&Method::Slot);
    let bus = 0x20 + number;
    let at = Sbdf::new(0, 0, number, 0).expect("a slot");
    let port = FakeBackend::new(at, FakeFunction::port_like(bus, bus, slot));
    let mut all = vec![world.xen().add_device(port, None)];
    all.extend((0..functions).map(|n| {
        let at = Sbdf::new(0, bus, 0, n).expect("a function");
        let gsi = 20 + n;
        let device = nvme(at, 0x10 * u32::from(number) + u32::from(n), gsi, methods);
        world.xen().add_device(device, Some(Pirq(gsi.into())))
    }));
    all
}

/// So many controllers, by so many functions in a slot of a bus of their own.
fn nvmes(world: &World, count: u32, functions: u32) -> Vec<Sbdf> {
    let devices = (0..count).filter_map(|n| {
        let bus = u8::try_from(n / functions + 1).ok()?;
        let at = Sbdf::new(0, bus, 0, u8::try_from(n % functions).ok()?)?;
        let gsi = u8::try_from(FIRST_GSI + n % 8).ok()?;
        let nvme = nvme(at, n, gsi, &[Method::FunctionLevel]);
        Some(world.xen().add_device(nvme, Some(Pirq(gsi.into()))))
    });
    devices.collect()
}

impl Scene {
    /// dom0 with `count` NVMe controllers, all in the pool of a pcidom that has just been
    /// created. Nobody has run yet.
    pub fn new(seed: u64, count: u32) -> Self {
        Self::with(seed, |world| nvmes(world, count, 1))
    }

    /// The same, ready, with controllers that are functions of 8 each: more than 32 fit on a
    /// link to dom0.
    ///
    /// # Panics
    /// If pcidom does not serve.
    pub fn crowded(seed: u64, count: u32) -> Self {
        let mut scene = Self::with(seed, |world| nvmes(world, count, 8));
        scene.serve();
        scene
    }

    /// The same with devices of the caller's making.
    pub fn with(seed: u64, devices: impl FnOnce(&World) -> Vec<Sbdf>) -> Self {
        Self::with_pool(seed, devices, true)
    }

    /// A pcidom that serves and was created without `pci=`, and `count` controllers that can
    /// be attached to it.
    ///
    /// # Panics
    /// If pcidom does not serve.
    pub fn with_empty_pool(seed: u64, count: u32) -> Self {
        let mut scene = Self::with_pool(seed, |world| nvmes(world, count, 1), false);
        scene.serve();
        scene
    }

    fn with_pool(
        seed: u64,
        devices: impl FnOnce(&World) -> Vec<Sbdf>,
        pooled: bool,
    ) -> Self {
        let mut world = World::new(seed);
        let devices = devices(&world);
        let pciback = LinuxPciback::new(world.xen(), world.store());
        let pciback = world.add(pciback);
        let xl = Xl::new(&world);
        for device in &devices {
            xl.assignable_add(*device);
        }
        let config = DomainConfig::default();
        let pool = if pooled { &devices[..] } else { &[] };
        let pcidom_id = xl.create_with_devices(PCIDOM, config, pool);
        let pcidom = Pcidom::boot(world.xen(), world.store(), pcidom_id);
        let pcidom = world.add(pcidom);
        Self { world, xl, pciback, daemon: None, pcidom, pcidom_id, devices }
    }

    /// [`Scene::new`] with the daemon started, run until pcidom serves.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn ready(seed: u64, count: u32) -> Self {
        let mut scene = Self::new(seed, count);
        scene.serve();
        scene
    }

    /// [`Scene::ready`] on a host whose config space pcidom can't map: every access takes
    /// the way through dom0.
    ///
    /// # Panics
    /// If pcidom does not serve.
    pub fn through_dom0(seed: u64, count: u32) -> Self {
        let mut scene = Self::new(seed, count);
        scene.pcidom.borrow().failures().borrow_mut().insert("map_config", EPERM);
        scene.serve();
        scene
    }

    /// Starts the daemon, and runs until pcidom serves.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn serve(&mut self) {
        self.start_daemon();
        let path = format!("/local/domain/{}/data/pcidom/state", self.pcidom_id);
        let dom0 = self.world.store().connect(DomId::DOM0);
        let ready = |_: &World| dom0.read(&path).as_deref() == Ok(pcidom_loan::READY);
        assert!(self.world.run_until(PATIENCE, ready), "pcidom serves");
        self.world.run_for(Duration::from_secs(1));
    }

    /// Starts the daemon.
    pub fn start_daemon(&mut self) {
        let daemon = DaemonProcess::start(self.world.xen(), self.world.store(), PCIDOM);
        self.daemon = Some(self.world.add(daemon));
    }

    /// Kills the daemon.
    pub fn kill_daemon(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.borrow_mut().kill();
            self.world.remove(&daemon);
        }
    }

    /// Creates and boots a Linux guest that can be lent devices.
    pub fn guest(&mut self, name: &str) -> Shared<LinuxGuest> {
        let domain = self.xl.create(name, DomainConfig::default());
        let (xen, store) = (self.world.xen().clone(), self.world.store().clone());
        self.world.add(LinuxGuest::boot(&xen, &store, domain, QUEUES))
    }

    /// Device number `n` of the pool.
    ///
    /// # Panics
    /// If there are not so many.
    #[expect(clippy::expect_used, reason = "a test that names a missing device fails")]
    pub fn device(&self, n: usize) -> Sbdf {
        *self.devices.get(n).expect("a device of this number")
    }

    /// A new guest that uses device number `n`, with MSI-X.
    ///
    /// # Panics
    /// If it doesn't come to that.
    pub fn lend(&mut self, name: &str, n: usize) -> Shared<LinuxGuest> {
        let (device, guest) = (self.device(n), self.guest(name));
        let domain = guest.borrow().domain_id();
        let reply = self.attach(domain, device);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
        assert!(self.guest_uses(&guest, NVME), "{name} uses {device}");
        assert!(self.world.xen().send_message(device, 0), "{device} interrupts {name}");
        guest
    }

    /// Has the guest's drivers reloaded, and waits until it has nothing more to do.
    ///
    /// # Panics
    /// If that does not end.
    pub fn reload(&mut self, guest: &Shared<LinuxGuest>) {
        guest.borrow().reload();
        let idle = |_: &World| guest.borrow().is_idle();
        assert!(self.world.run_until(PATIENCE * 4, idle), "the guest is done");
    }

    /// `pcidomctl attach`, and what it replied.
    ///
    /// # Panics
    /// If there is no daemon, or it does not reply.
    pub fn attach(&mut self, guest: DomId, device: Sbdf) -> Reply {
        let asked = self.ask(|daemon| daemon.attach(guest, device, PCIDOM));
        self.wait_for(asked)
    }

    /// `pcidomctl attach --owner OWNER STUB BDF`; the reply comes later.
    ///
    /// # Panics
    /// If there is no daemon.
    pub fn ask_for_owner(&self, owner: DomId, stub: DomId, device: Sbdf) -> Client {
        self.ask(|daemon| {
            daemon.ask(Verb::Attach {
                guest: stub.to_string(),
                owner: Some(owner.to_string()),
                device: Bdf(device),
                slot: None,
                bus: None,
                share_line: false,
                lax: false,
                wait: None,
                wish: Wish::default(),
                pcidom: Some(PCIDOM.into()),
            })
        })
    }

    /// `pcidomctl attach --bus ... GUEST BDF@VSLOT`, and what it replied.
    ///
    /// # Panics
    /// If there is no daemon, or it does not reply.
    pub fn attach_at(
        &mut self,
        guest: DomId,
        device: Sbdf,
        slot: Option<u8>,
        bus: Option<BusPolicy>,
    ) -> Reply {
        let verb = Verb::Attach {
            guest: guest.to_string(),
            owner: None,
            device: Bdf(device),
            slot,
            bus: bus.map(Bus),
            share_line: false,
            lax: false,
            wait: None,
            wish: Wish::default(),
            pcidom: Some(PCIDOM.into()),
        };
        let asked = self.ask(|daemon| daemon.ask(verb));
        self.wait_for(asked)
    }

    /// `pcidomctl detach`, and what it replied.
    ///
    /// # Panics
    /// If there is no daemon, or it does not reply.
    pub fn detach(&mut self, guest: DomId, device: Sbdf, force: bool) -> Reply {
        let asked = self.ask(|daemon| daemon.detach(guest, device, force, PCIDOM));
        self.wait_for(asked)
    }

    /// Asks the daemon for something and does not wait.
    ///
    /// # Panics
    /// If there is no daemon.
    #[expect(clippy::expect_used, reason = "a test that asks nobody fails")]
    pub fn ask(&self, verb: impl FnOnce(&mut DaemonProcess) -> Client) -> Client {
        verb(&mut self.daemon.as_ref().expect("a daemon").borrow_mut())
    }

    /// Runs until the daemon replies.
    ///
    /// # Panics
    /// If there is no daemon, or it does not reply.
    #[expect(clippy::expect_used, reason = "a test that waits in vain fails")]
    pub fn wait_for(&mut self, asked: Client) -> Reply {
        let daemon = self.daemon.clone().expect("a daemon");
        self.world.run_until(PATIENCE, |_| daemon.borrow().reply(asked).is_some());
        let reply = daemon.borrow().reply(asked);
        reply.expect("a reply")
    }

    /// Runs until the guest's driver has a device with these ids, interrupts and nothing
    /// more to do. Returns whether that came.
    pub fn guest_uses(&mut self, guest: &Shared<LinuxGuest>, ids: u32) -> bool {
        self.world.run_until(PATIENCE, |_| {
            let guest = guest.borrow();
            let state = guest.state();
            let bound =
                state.by_ids(ids).is_some_and(|(_, found)| !found.ports.is_empty());
            bound && guest.is_idle() && guest.link_state() == XenbusState::Connected
        })
    }

    /// What must be true of every host at every end: nothing that was forbidden has
    /// happened, and nobody has a right to a device that is not his.
    ///
    /// # Panics
    /// If it is not so.
    pub fn check(&self) {
        let xen = self.world.xen();
        assert_eq!(xen.violations(), Vec::<String>::new());
        for device in xen.devices() {
            let owner = xen.owner(device);
            for (domain, pirq) in xen.vectors_of(device) {
                assert_eq!(owner, Some(domain), "pirq {pirq} of {device}");
            }
            let pages = xen.bar_pages(device);
            for domain in xen.domains() {
                let may = !xen.rights(domain).iomem.is_disjoint(&pages);
                assert!(
                    !may || owner == Some(domain)
                        || xen.serves(domain, owner)
                        || domain == DomId::DOM0,
                    "domain {domain} has the BARs of {device}, which belongs to {owner:?}"
                );
            }
        }
    }

    /// Nobody holds a device of the pool: no vector is mapped, each is in quarantine, and
    /// no dead domain lingers.
    ///
    /// # Panics
    /// If it is not so.
    pub fn check_nothing_held(&self) {
        self.check();
        let xen = self.world.xen();
        for device in &self.devices {
            assert_eq!(xen.vectors_of(*device), [], "{device}");
            assert_eq!(xen.owner(*device), Some(DOM_IO), "{device}");
        }
        assert_eq!(xen.zombies(), []);
    }

    /// The same, and every device of the pool is quiet.
    ///
    /// # Panics
    /// If it is not so.
    pub fn check_nothing_lent(&self) {
        self.check_nothing_held();
        let xen = self.world.xen();
        for device in &self.devices {
            assert!(!xen.is_master(*device), "{device} masters the bus");
            let bits = msix::ENABLE | msix::MASKALL;
            assert_eq!(xen.msix_control(*device) & bits, 0, "{device}: MSI-X");
        }
    }
}

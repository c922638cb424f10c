//! One attack of a guest at a time, as long as it likes, and how another guest fares beside
//! it. `garbage` mixes them at random; `ci/scenarios/hostile` does the same on real Xen.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: what is not there fails the test"
)]

use std::time::Duration;

use pcidom_sim::linux_guest::LinuxGuest;
use pcidom_sim::scene::NVME;
use pcidom_sim::store::Connection;
use pcidom_sim::{Scene, Shared, SimPage};
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::pciif::{
    FRONT_ACTIVE, MAGIC, RawMsixEntry, RawOp, command, load_op, store_msix, store_op,
    word,
};
use pcidom_xenbus::{DomId, Port, SharedPage, XenbusState};

/// How often the attack has its turn, and how long apart.
const STEPS: u32 = 10_000;
const PAUSE: Duration = Duration::from_micros(100);

/// PMCSR of the controller of `Scene`.
const POWER_CONTROL: i32 = 0x64;

/// A guest whose kernel is gone: the test plays it.
struct Hostile {
    domain: DomId,
    store: Connection,
    page: SimPage,
    port: Port,
    /// Requests that were answered, and those that were done.
    answered: u32,
    done: u32,
}

fn scene(seed: u64) -> (Scene, Shared<LinuxGuest>, Hostile) {
    let mut scene = Scene::through_dom0(seed, 2);
    let bad = scene.lend("bad", 0);
    let good = scene.lend("good", 1);
    scene.world.remove(&bad);
    let domain = bad.borrow().domain_id();
    let hostile = Hostile {
        domain,
        store: scene.world.store().connect(domain),
        page: bad.borrow().page().unwrap(),
        port: bad.borrow().link_port().unwrap(),
        answered: 0,
        done: 0,
    };
    (scene, good, hostile)
}

/// How the other guest fares.
#[derive(Debug)]
struct Fare {
    reloads: u32,
    /// The median of its config reads.
    read: Duration,
}

/// Lets the guest reload its driver again and again while `disturb` is called.
fn fare(
    scene: &mut Scene,
    good: &Shared<LinuxGuest>,
    mut disturb: impl FnMut(&mut Scene, u32),
) -> Fare {
    let before = good.borrow().state().ops.len();
    let mut reloads = 0;
    for n in 0..STEPS {
        if good.borrow().is_idle() {
            good.borrow().reload();
            reloads += 1;
        }
        disturb(scene, n);
        scene.world.run_for(PAUSE);
    }
    assert!(scene.guest_uses(good, NVME));
    let good = good.borrow();
    let state = good.state();
    assert_eq!((state.given_up(), state.timeouts()), (0, 0));
    let ops = state.ops.iter().skip(before);
    let reads = ops.filter(|op| op.op.cmd == command::CONF_READ);
    let mut reads: Vec<Duration> = reads.map(|op| op.latency).collect();
    reads.sort_unstable();
    Fare { reloads, read: reads.get(reads.len() / 2).copied().unwrap() }
}

/// The other guest's reads take at most twice as long, and it gets nearly half as much done: of
/// the link to dom0, where a reload's writes go, each of the two has every other turn.
fn assert_unharmed(alone: &Fare, beside: &Fare) {
    assert!(beside.read <= alone.read * 2, "{alone:?}, {beside:?}");
    assert!(beside.reloads * 5 >= alone.reloads * 2, "{alone:?}, {beside:?}");
}

/// The device can be taken from the hostile guest and works elsewhere.
fn assert_over(mut scene: Scene, hostile: &Hostile) {
    scene.check();
    let device = scene.device(0);
    let reply = scene.detach(hostile.domain, device, true);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    scene.world.run_for(Duration::from_secs(5));
    assert_eq!(scene.world.xen().mapped_pages(hostile.domain), 0);
    let next = scene.lend("next", 0);
    assert!(scene.guest_uses(&next, NVME));
    scene.check();
    scene.xl.destroy_at_once(hostile.domain);
    scene.world.run_for(Duration::from_secs(5));
    assert_eq!(scene.world.xen().zombies(), []);
}

impl Hostile {
    /// Puts the request, if the one before was answered.
    fn ask(&mut self, scene: &Scene, op: &RawOp, entries: &[RawMsixEntry]) {
        if self.page.peek(word::FLAGS) & FRONT_ACTIVE != 0 {
            return;
        }
        self.answered += 1;
        self.done += u32::from(load_op(&self.page).err == 0);
        store_op(&self.page, op);
        store_msix(&self.page, entries);
        self.page.fetch_or(word::FLAGS, FRONT_ACTIVE);
        assert_eq!(scene.world.xen().notify(self.domain, self.port), Ok(()));
    }

    fn key(&self, key: &str, value: &str) {
        self.store.write(&format!("device/pci/0/{key}"), value).unwrap();
    }

    /// What the backend makes of these keys.
    fn offer(&self, scene: &mut Scene, keys: [&str; 3]) -> XenbusState {
        self.key("state", "1");
        self.until(scene, &[XenbusState::InitWait, XenbusState::Initialised]);
        for (key, value) in ["pci-op-ref", "event-channel", "magic"].into_iter().zip(keys)
        {
            self.key(key, value);
        }
        self.key("state", "3");
        self.until(
            scene,
            &[XenbusState::Connected, XenbusState::Closing, XenbusState::Closed],
        )
    }

    fn until(&self, scene: &mut Scene, wanted: &[XenbusState]) -> XenbusState {
        let back = self.store.read("device/pci/0/backend").unwrap();
        let path = format!("{back}/state");
        let state = || XenbusState::parse(self.store.read(&path).ok().as_deref());
        let came = |_: &_| wanted.contains(&state());
        assert!(scene.world.run_until(Duration::from_secs(2), came), "{:?}", state());
        state()
    }
}

#[test]
fn a_guest_that_keeps_the_link_to_dom0_busy_gets_its_turn_and_no_more() {
    let (mut scene, good, mut hostile) = scene(1);
    let alone = fare(&mut scene, &good, |_, _| {});
    let beside = fare(&mut scene, &good, |scene, n| {
        // Power states, a cache line, bus mastering.
        let op = |offset, size, value| RawOp {
            cmd: command::CONF_WRITE,
            offset,
            size,
            value,
            ..RawOp::default()
        };
        let op = match n % 4 {
            0 => op(POWER_CONTROL, 2, if n % 8 == 0 { 3 } else { 0 }),
            1 => op(0x0c, 1, 0x10),
            2 => op(0x04, 2, 2),
            _ => op(0x04, 2, 6),
        };
        hostile.ask(scene, &op, &[]);
    });
    assert_unharmed(&alone, &beside);
    assert!(hostile.done > 300, "{} of {} writes", hostile.done, hostile.answered);
    assert_over(scene, &hostile);
}

#[test]
fn a_guests_writes_to_the_hardware_are_a_burst_and_then_one_a_millisecond() {
    /// kernel/src/machine/pace.rs.
    const BURST: u64 = 4096;
    const A_SECOND: u64 = 1000;
    const SECONDS: u64 = 20;
    let (mut scene, good, mut hostile) = scene(4);
    let served = |scene: &Scene| scene.pciback.borrow().ops_served(scene.pcidom_id);
    let before = served(&scene);
    let end = scene.world.now().after(Duration::from_secs(SECONDS));
    let mut on = 0;
    while scene.world.now() < end {
        on ^= 4;
        let value = 2 | on;
        let op = RawOp {
            cmd: command::CONF_WRITE,
            offset: 4,
            size: 2,
            value,
            ..RawOp::default()
        };
        hostile.ask(&scene, &op, &[]);
        let page = hostile.page.clone();
        let came = move |_: &_| page.peek(word::FLAGS) & FRONT_ACTIVE == 0;
        assert!(scene.world.run_until(Duration::from_secs(2), came));
    }
    let count = served(&scene) - before;
    let most = BURST + A_SECOND * SECONDS;
    assert!(
        count > most * 9 / 10 && count <= most + most / 100,
        "{count}, at most {most}"
    );
    // Who waits is that guest.
    assert!(scene.guest_uses(&good, NVME));
    assert_eq!(good.borrow().state().timeouts(), 0);
    assert_over(scene, &hostile);
}

#[test]
fn a_guest_that_lies_in_every_field_gets_errors_and_costs_nobody() {
    const PLACES: [u32; 4] = [0, 1, 0x100, u32::MAX];
    const OFFSETS: [i32; 6] = [0, 3, 0x1000, -1, i32::MIN, i32::MAX];
    const SIZES: [i32; 5] = [0, 3, 8, -4, i32::MAX];
    const COUNTS: [u32; 4] = [0, 129, 1 << 31, u32::MAX];
    let (mut scene, good, mut hostile) = scene(2);
    let alone = fare(&mut scene, &good, |_, _| {});
    let entries = [RawMsixEntry { vector: 0xffff, entry: 0xffff }; 128];
    let device = scene.device(0);
    let vectors = scene.world.xen().vectors_of(device);
    let beside = fare(&mut scene, &good, |scene, n| {
        let of = |list: &[u32], by: u32| list[(n / by) as usize % list.len()];
        let signed = |list: &[i32], by: u32| list[(n / by) as usize % list.len()];
        let op = RawOp {
            // Not those that turn off what is on, which is right at any time.
            cmd: [0, 1, 4, 2, 6, 9, 10, 0x100, u32::MAX][n as usize % 9],
            err: 0x55,
            domain: of(&PLACES, 3),
            bus: of(&PLACES, 5),
            devfn: of(&PLACES, 7),
            offset: signed(&OFFSETS, 11),
            size: signed(&SIZES, 13),
            value: of(&COUNTS, 17),
        };
        hostile.page.store(word::FLAGS, hostile.page.peek(word::FLAGS) & 1 | n << 1);
        hostile.ask(scene, &op, &entries);
    });
    // One of them was there before the first.
    assert!(hostile.answered > STEPS / 4, "{}", hostile.answered);
    assert!(hostile.done <= 1, "{} of {}", hostile.done, hostile.answered);
    assert_eq!(scene.world.xen().vectors_of(device), vectors);
    assert_unharmed(&alone, &beside);
    assert_over(scene, &hostile);
}

#[test]
fn grants_and_ports_that_are_none_make_no_link_and_cost_nobody() {
    let (mut scene, good, hostile) = scene(3);
    let (xen, pcidom) = (scene.world.xen().clone(), scene.pcidom_id);
    let good_id = good.borrow().domain_id();
    let (reference, page) = xen.grant(hostile.domain, pcidom).unwrap();
    let port = xen.alloc_unbound(hostile.domain, pcidom).unwrap();
    let (reference, port) = (reference.to_string(), port.to_string());
    // Granted to others, and a port for others.
    let (dom0s, _) = xen.grant(hostile.domain, DomId::DOM0).unwrap();
    let (goods, _) = xen.grant(hostile.domain, good_id).unwrap();
    let for_dom0 = xen.alloc_unbound(hostile.domain, DomId::DOM0).unwrap();
    // Given up before, and a port that was closed.
    let (ended, _) = xen.grant(hostile.domain, pcidom).unwrap();
    xen.end_grant(hostile.domain, ended).unwrap();
    let closed = xen.alloc_unbound(hostile.domain, pcidom).unwrap();
    xen.close(hostile.domain, closed).unwrap();
    let texts = ["77777", "4294967296", "-1", "", "none"].map(String::from);
    let grants = [dom0s, goods, ended].map(|reference| reference.to_string());
    let ports = [for_dom0, closed].map(|port| port.to_string());
    good.borrow().reload();
    for bad in texts.iter().chain(&grants) {
        let state = hostile.offer(&mut scene, [bad, &port, MAGIC]);
        assert_ne!(state, XenbusState::Connected, "grant {bad:?}");
    }
    for bad in texts.iter().chain(&ports) {
        let state = hostile.offer(&mut scene, [&reference, bad, MAGIC]);
        assert_ne!(state, XenbusState::Connected, "port {bad:?}");
    }
    for bad in ["", "6", "seven"] {
        let state = hostile.offer(&mut scene, [&reference, &port, bad]);
        assert_ne!(state, XenbusState::Connected, "magic {bad:?}");
    }
    assert_eq!(xen.mapped_pages(hostile.domain), 0);
    // What is right is taken after all that, and one that is taken back stays until pcidom
    // lets go.
    let state = hostile.offer(&mut scene, [&reference, &port, MAGIC]);
    assert_eq!(state, XenbusState::Connected);
    xen.end_grant_of(hostile.domain, &page);
    assert_eq!(xen.mapped_pages(hostile.domain), 1);
    assert_ne!(
        hostile.offer(&mut scene, [&reference, &port, MAGIC]),
        XenbusState::Connected
    );
    assert_eq!(xen.mapped_pages(hostile.domain), 0);
    assert!(scene.guest_uses(&good, NVME));
    assert_eq!(good.borrow().state().given_up(), 0);
    assert_over(scene, &hostile);
}

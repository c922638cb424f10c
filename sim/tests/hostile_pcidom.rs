//! Two pcidoms on one host, one of them taken over: it writes to XenStore what it likes, as fast
//! as it can, and the other one's guest does not notice.
#![expect(clippy::unwrap_used, reason = "what goes wrong here fails the test")]

use std::time::Duration;

use pcidom_loan::LoanOrder;
use pcidom_sim::daemon::DaemonProcess;
use pcidom_sim::linux_guest::LinuxGuest;
use pcidom_sim::pcidom::Pcidom;
use pcidom_sim::scene::{NVME, PCIDOM};
use pcidom_sim::store::Connection;
use pcidom_sim::xen::DOM_IO;
use pcidom_sim::xen::domains::DomainConfig;
use pcidom_sim::xen::record::Deed;
use pcidom_sim::{Scene, Shared, World};
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::DomId;

const OTHER: &str = "other";
/// How often the hostile one writes, and how fast: some twenty times while the daemon answers.
const WRITES: u32 = 20_000;
const PAUSE: Duration = Duration::from_micros(250);

struct Two {
    scene: Scene,
    /// The guest of the pcidom that works, with device 0.
    good: Shared<LinuxGuest>,
    /// The guest of the other one, with device 1.
    victim: DomId,
    hostile: DomId,
    /// What the one that was taken over writes with.
    store: Connection,
}

fn two(seed: u64) -> Two {
    let mut scene = Scene::with_empty_pool(seed, 2);
    scene.kill_daemon();
    let (first, second) = (scene.device(0), scene.device(1));
    assert!(scene.xl.pci_attach(&mut scene.world, scene.pcidom_id, first));
    let hostile = scene.xl.create_with_devices(OTHER, DomainConfig::default(), &[second]);
    let (xen, store) = (scene.world.xen().clone(), scene.world.store().clone());
    let other = scene.world.add(Pcidom::boot(&xen, &store, hostile));
    let daemon = DaemonProcess::start_for(&xen, &store, &[PCIDOM, OTHER]);
    scene.daemon = Some(scene.world.add(daemon));
    scene.world.run_for(Duration::from_secs(3));
    let good = scene.lend("good", 0);
    let guest = scene.guest("victim");
    let victim = guest.borrow().domain_id();
    let asked = scene.ask(|daemon| daemon.attach(victim, second, OTHER));
    let reply = scene.wait_for(asked);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    assert!(scene.guest_uses(&guest, NVME));
    scene.world.remove(&other);
    Two { scene, good, victim, hostile, store: store.connect(hostile) }
}

/// The order of the hostile one's own loan: what it knows.
fn own_loan(two: &Two) -> (String, LoanOrder) {
    let orders = format!("/local/domain/{}/pcidom/loans", two.hostile);
    let names = two.store.directory(&orders).unwrap();
    let name = names.first().unwrap().clone();
    let order = two.store.read(&format!("{orders}/{name}")).unwrap();
    (name, order.parse().unwrap())
}

/// Lets the good guest reload its drivers all the time; returns how often, and the worst
/// time of an operation.
fn reloads(two: &mut Two, mut disturb: impl FnMut(&Two, u32)) -> (u32, Duration) {
    // It is paced itself, by loan: it begins with all it may ask for in a row.
    two.scene.world.run_for(Duration::from_secs(10));
    let before = two.good.borrow().state().ops.len();
    let mut reloads = 0;
    for n in 0..WRITES {
        if two.good.borrow().is_idle() {
            two.good.borrow().reload();
            reloads += 1;
        }
        disturb(two, n);
        two.scene.world.run_for(PAUSE);
    }
    let good = two.good.clone();
    assert!(two.scene.guest_uses(&good, NVME));
    let good = good.borrow();
    let state = good.state();
    assert_eq!(state.given_up(), 0);
    let latency = state.ops.iter().skip(before).map(|op| op.latency);
    (reloads, latency.max().unwrap_or_default())
}

/// Maps and unmaps for a device since a record.
fn calls(two: &Two, since: usize) -> usize {
    let device = two.scene.device(1);
    let xen = two.scene.world.xen();
    let ours =
        |deed: &Deed| matches!(deed, Deed::Map { device: of, .. } if *of == device);
    xen.records().iter().skip(since).filter(|record| ours(&record.deed)).count()
}

#[test]
fn a_pcidom_that_asks_without_end_costs_dom0_little_and_another_ones_guest_nothing() {
    let mut two = two(1);
    let alone = reloads(&mut two, |_, _| {});
    let (name, order) = own_loan(&two);
    let (since, begun) = (two.scene.world.xen().records().len(), two.scene.world.now());
    let flooded = reloads(&mut two, |two, n| {
        let verb = if n % 2 == 0 { "unmap" } else { "map msix 0,1,2" };
        let text = format!("gen={} seq={} {verb}", order.generation, 1000 + n);
        let path = format!("data/pcidom/requests/{name}");
        assert_eq!(two.store.write(&path, &text), Ok(()));
    });
    let seconds = two.scene.world.now().since(begun).as_secs_f64();
    let maps = f64::from(u32::try_from(calls(&two, since)).unwrap());
    // 64 requests in a row and 50 a second, half of them for three vectors each.
    assert!(maps <= 1.5 * (65.0 + 50.0 * seconds), "{maps} maps in {seconds} s");
    assert!(maps > 0.0, "it is served, though");
    assert!(flooded.0 * 10 >= alone.0 * 8, "{alone:?}, {flooded:?}");
    assert!(flooded.1 <= alone.1 * 2, "{alone:?}, {flooded:?}");
    two.scene.check();
}

#[test]
fn nothing_that_one_pcidom_writes_touches_what_another_one_has_lent() {
    let mut two = two(2);
    let (good, device) = (two.good.borrow().domain_id(), two.scene.device(0));
    let dom0 = two.scene.world.store().connect(DomId::DOM0);
    let orders = format!("/local/domain/{}/pcidom/loans", two.scene.pcidom_id);
    let names = dom0.directory(&orders).unwrap();
    let name = names.first().unwrap();
    let order: LoanOrder =
        dom0.read(&format!("{orders}/{name}")).unwrap().parse().unwrap();
    let vectors = two.scene.world.xen().vectors_of(device);
    assert!(!vectors.is_empty());
    // Where it is spoken to, and where others speak, it may write nothing at all.
    let others = format!("/local/domain/{}/data/pcidom", two.scene.pcidom_id);
    for path in [
        format!("{others}/requests/{name}"),
        format!("{orders}/{name}"),
        format!("/local/domain/{}/pcidom/loans/{name}", two.hostile),
        format!("/tool/pcidom/loans/{name}"),
        "/tool/pcidom/reset/mine".into(),
        format!("/local/domain/0/backend/pci/{}/0/dev-1", two.hostile),
        format!("/local/domain/{good}/device/pci/0/state"),
    ] {
        assert!(two.store.write(&path, "7").is_err(), "{path}");
        assert!(two.store.remove(&path).is_err(), "{path}");
    }
    for generation in [order.generation.0, 0, u64::MAX] {
        for word in ["unmap", "map msix 0", "map msi"] {
            let text = format!("gen={generation} seq=4000000000 {word}");
            let path = format!("data/pcidom/requests/{name}");
            assert_eq!(two.store.write(&path, &text), Ok(()));
            two.scene.world.run_for(Duration::from_millis(50));
        }
        for word in ["ready flr", "returned flr", "failed no"] {
            let text = format!("gen={generation} {word}");
            let path = format!("data/pcidom/loans/{name}");
            assert_eq!(two.store.write(&path, &text), Ok(()));
            two.scene.world.run_for(Duration::from_millis(50));
        }
    }
    let xen = two.scene.world.xen();
    assert_eq!(xen.vectors_of(device), vectors);
    assert_eq!(xen.owner(device), Some(good));
    two.scene.check();
    assert!(two.scene.guest_uses(&two.good.clone(), NVME));
}

#[test]
fn the_end_of_a_pcidom_that_was_taken_over_takes_its_own_loans_only() {
    let mut two = two(3);
    let (lent, own) = (two.scene.device(0), two.scene.device(1));
    // It lies about everything until it is destroyed.
    let (name, order) = own_loan(&two);
    for word in ["returned flr", "failed \u{1b}[2J", "ready flr"] {
        let text = format!("gen={} {word}", order.generation);
        two.store.write(&format!("data/pcidom/loans/{name}"), &text).unwrap();
        two.scene.world.run_for(Duration::from_secs(1));
    }
    let owner = |two: &Two, device| two.scene.world.xen().owner(device);
    assert_eq!(owner(&two, own), Some(two.victim), "its word ends no loan");
    two.scene.xl.destroy_at_once(two.hostile);
    let good = two.good.borrow().domain_id();
    let over = |world: &World| world.xen().owner(own) == Some(DOM_IO);
    assert!(two.scene.world.run_until(Duration::from_secs(30), over));
    assert_eq!(two.scene.world.xen().vectors_of(own), []);
    assert_eq!(owner(&two, lent), Some(good));
    let guest = two.good.clone();
    two.scene.reload(&guest);
    assert!(two.scene.guest_uses(&guest, NVME));
    two.scene.check();
}

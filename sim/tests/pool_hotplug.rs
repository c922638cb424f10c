//! The pool, as dom0's toolstacks change it while pcidom runs: `xl`, and xend before it.
//!
//! Every order of events that counts, and what has it. All are on the simulated host, here or in
//! the file named; those that need no more than tools on real Xen too, by the scenario named. The
//! same at the bare state machine is in `drivers/pcifront/src/tests/link.rs`.
//!
//! | sequence | here | real Xen |
//! |---|---|---|
//! | no device, then the first by `xl` | `xl_fills_an_empty_pool_and_empties_it` | `pool-hotplug` |
//! | `xl`: second, third; middle, last, all leave; the first after that | the same | `pool-hotplug` |
//! | `xl`: others come and go while one is lent | `pool.rs`: `devices_come_and_go_while_others_are_lent` | `pool-hotplug` |
//! | `xl`: all leave and come back, seen by pcidom or not | `pool_link.rs`: `the_pool_ends_as_dom0_exports_it_whenever_pcidom_looks` | `pool-hotplug`, seen |
//! | `xl`: one leaves and comes back unseen by the daemon | `pool.rs`: `a_device_that_left_and_came_back_unseen_is_taken_into_quarantine_again` | |
//! | xend, the only device: 7 8 4 5, directories gone; 1 2 3 4 | `xend_takes_the_only_device_away_and_gives_it_again` | `pool-hotplug` |
//! | the same, 5 or all of it missed | `what_pcidom_missed_of_xend_taking_the_last_device_does_not_matter` | `pool-hotplug` |
//! | xend, two: one leaves (7 8 4) and comes back (7 8 4), the other is lent | `xend_takes_one_of_two_devices_while_the_other_is_lent` | `pool-hotplug` |
//! | xend, two: both leave one after the other, and come together | `xend_takes_two_devices_and_gives_them_again` | `pool-hotplug` |
//! | Connected again without Closing, 8 again | `connected_again_without_closing_changes_nothing` | `pool-hotplug` |
//! | Connected missed: the link is in 3 when 7 comes | `a_change_that_comes_before_connected_was_seen_is_taken_up` | no tool is quick enough |
//! | directories gone and back, seen in part | `pool_link.rs`: `a_link_made_anew_is_taken_up_whatever_pcidom_was_about_to_do` | `pool-hotplug`, unseen |
//! | entries move up while Connected, in one transaction (`xl`) | `pool.rs`: `a_lent_device_that_another_ones_leaving_moves_up_stays_lent` | `pool-hotplug` |
//! | the same node by node (xend), looked at in between | `entries_that_xend_moves_are_judged_when_it_is_done` | `pool-hotplug`, the daemon looks |
//! | a toolstack that stops half-way in that | `a_toolstack_that_stops_while_it_moves_entries_takes_nothing_away` | |
//! | `xl pci-detach` of a lent device | `a_lent_device_that_xl_takes_is_locked_until_its_loan_is_over`, `pcidom_ends.rs` | `pcidom-ends` |
//! | the same without the daemon | `without_the_daemon_xl_waits_less_than_its_ten_seconds` | |
//! | devices that do not fit the link | `pool_link.rs`: `a_pool_that_does_not_fit_the_link_leaves_pcidom_idle` | |

use std::collections::BTreeSet;
use std::time::Duration;

use pcidom_pci::Sbdf;
use pcidom_script::Instant;
use pcidom_sim::linux_guest::LinuxGuest;
use pcidom_sim::pciback::back_dir;
use pcidom_sim::scene::NVME;
use pcidom_sim::store::Connection;
use pcidom_sim::xen::DOM_IO;
use pcidom_sim::xend::Xend;
use pcidom_sim::{Actor, Scene, Shared, World, Xen};
use pcidom_toolstack::verb::{Reply, Verb};
use pcidom_xenbus::{DomId, XenbusState};

const SECOND: Duration = Duration::from_secs(1);

fn front_dir(scene: &Scene) -> String {
    format!("/local/domain/{}/device/pci/0", scene.pcidom_id)
}

/// The devices of the pool, as the daemon and as pcidom itself have them.
fn pools(scene: &mut Scene) -> (Vec<Sbdf>, Vec<String>) {
    let asked = scene.ask(|daemon| daemon.ask(Verb::Status { pcidom: None }));
    let pcidom = match scene.wait_for(asked) {
        Reply::Status { status } => status.pcidoms.into_iter().next(),
        _ => None,
    };
    assert!(pcidom.as_ref().is_some_and(|pcidom| pcidom.report.is_some()), "{pcidom:?}");
    let lines = pcidom.iter().flat_map(|pcidom| &pcidom.pool);
    let daemons = lines.map(|line| {
        assert!(["free", "lent"].contains(&line.state.as_str()), "{line:?}");
        line.device.0
    });
    let own = pcidom.iter().flat_map(|pcidom| &pcidom.report).flatten();
    let own = own.filter(|(key, _)| key.starts_with("pool/"));
    (daemons.collect(), own.map(|(_, text)| text.clone()).collect())
}

/// The pool holds these devices and no other, whoever is asked, and both ends are Connected.
fn check_pool(scene: &mut Scene, expected: &[Sbdf]) {
    let (daemons, own) = pools(scene);
    let mut sorted = expected.to_vec();
    sorted.sort();
    assert_eq!(daemons, sorted, "the daemon");
    assert_eq!(own.len(), expected.len(), "pcidom: {own:?}");
    for device in expected {
        let name = device.to_string();
        let known = own.iter().filter(|text| text.contains(&name));
        assert!(known.clone().count() == 1, "{device}: {own:?}");
        assert!(known.clone().all(|text| text.contains("1b36:0010")), "{own:?}");
    }
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let (front, back) = (front_dir(scene), back_dir(scene.pcidom_id));
    if expected.is_empty() {
        assert!(dom0.read(&front).is_err() && dom0.read(&back).is_err());
        assert_eq!(scene.world.xen().grants_in_use(scene.pcidom_id), 0);
        return;
    }
    for dir in [&front, &back] {
        assert_eq!(dom0.read(&format!("{dir}/state")).as_deref(), Ok("4"), "{dir}");
    }
    let node = |key: &str, n: usize| dom0.read(&format!("{back}/{key}-{n}")).ok();
    let count = expected.len();
    assert_eq!(dom0.get(&format!("{back}/num_devs")), Some(count));
    let there: Vec<_> = (0..count).filter_map(|n| node("dev", n)).collect();
    assert_eq!(there, expected.iter().map(Sbdf::to_string).collect::<Vec<_>>());
    assert!((0..count).all(|n| node("state", n).as_deref() == Some("3")));
    let places: BTreeSet<_> = (0..count).filter_map(|n| node("vdev", n)).collect();
    assert_eq!(places.len(), count, "{places:?}");
    for key in ["dev", "vdev", "state", "key"] {
        assert_eq!(node(key, count), None, "{key} beyond the last entry");
    }
    assert_eq!(scene.world.xen().grants_in_use(scene.pcidom_id), 1);
    scene.check();
}

/// A guest gets device number `n`, uses it and gives it back.
fn works(scene: &mut Scene, n: usize) {
    let device = scene.device(n);
    let name = format!("guest-{n}-{}", scene.world.now().as_nanos());
    let guest = scene.lend(&name, n).borrow().domain_id();
    let reply = scene.detach(guest, device, false);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
}

/// Neither the loan nor the guest has noticed anything.
fn still_lent(scene: &mut Scene, guest: &Shared<LinuxGuest>, n: usize) {
    let owner = guest.borrow().domain_id();
    assert_eq!(scene.world.xen().owner(scene.device(n)), Some(owner));
    assert!(scene.guest_uses(guest, NVME));
    assert!(scene.world.xen().send_message(scene.device(n), 0));
    scene.reload(guest);
    assert!(scene.guest_uses(guest, NVME));
    assert_eq!(guest.borrow().state().given_up(), 0);
}

#[test]
fn xl_fills_an_empty_pool_and_empties_it() {
    let mut scene = Scene::with_empty_pool(1, 3);
    let pcidom = scene.pcidom_id;
    let [first, second, third] = [0, 1, 2].map(|n| scene.device(n));
    check_pool(&mut scene, &[]);
    // Comes (or goes), which, and what is there then.
    let sequence: &[(bool, usize, &[Sbdf])] = &[
        (true, 0, &[first]),
        (true, 1, &[first, second]),
        (true, 2, &[first, second, third]),
        (false, 1, &[first, third]),
        (false, 2, &[first]),
        (false, 0, &[]),
        (true, 2, &[third]),
        (true, 0, &[third, first]),
        (false, 2, &[first]),
        (true, 1, &[first, second]),
        (false, 0, &[second]),
        (false, 1, &[]),
        (true, 1, &[second]),
    ];
    for (comes, n, pool) in sequence {
        let device = scene.device(*n);
        assert!(match comes {
            true => scene.xl.pci_attach(&mut scene.world, pcidom, device),
            false => scene.xl.pci_detach(&mut scene.world, pcidom, device),
        });
        scene.world.run_for(SECOND);
        check_pool(&mut scene, pool);
        for n in 0..3 {
            if pool.contains(&scene.device(n)) {
                works(&mut scene, n);
            }
        }
    }
    scene.check_nothing_lent();
}

/// A host with xend, its pcidom, and a pace of so many microseconds from write to write.
fn with_xend(seed: u64, count: u32) -> (Scene, Xend, impl FnMut(&mut World) + Copy) {
    let scene = Scene::with_empty_pool(seed, count);
    let xend = Xend::new(&scene.world, &scene.xl);
    let gap = match seed % 4 {
        0 => Duration::ZERO,
        1 => Duration::from_micros(150),
        2 => Duration::from_micros(700),
        _ => Duration::from_millis(4),
    };
    (scene, xend, move |world: &mut World| world.run_for(gap))
}

#[test]
fn xend_takes_the_only_device_away_and_gives_it_again() {
    for seed in 0..8 {
        let (mut scene, xend, mut pace) = with_xend(seed, 1);
        let (pcidom, device) = (scene.pcidom_id, scene.device(0));
        for _ in 0..3 {
            xend.create_device(pcidom, &[device]);
            scene.world.run_for(SECOND);
            check_pool(&mut scene, &[device]);
            works(&mut scene, 0);
            assert!(xend.pci_detach(&mut scene.world, pcidom, device, &mut pace));
            scene.world.run_for(SECOND);
            check_pool(&mut scene, &[]);
        }
        scene.check_nothing_lent();
    }
}

#[test]
fn what_pcidom_missed_of_xend_taking_the_last_device_does_not_matter() {
    // After the handshake: seven writes of the clean-up, then online, 5, and the directories.
    for (seed, missed) in (0..12).flat_map(|from| [(from, 1), (from, 2), (from, 12)]) {
        let (mut scene, xend, _) = with_xend(1, 2);
        let (pcidom, devices) = (scene.pcidom_id, scene.devices.clone());
        xend.create_device(pcidom, &devices[..1]);
        scene.world.run_for(SECOND);
        let (image, mut n) = (scene.pcidom.clone(), 0);
        let mut pace = |world: &mut World| {
            let after_handshake = 3;
            let from = after_handshake + seed;
            image.borrow_mut().set_paused((from..from + missed).contains(&n));
            n += 1;
            world.run_for(Duration::from_millis(20));
        };
        assert!(xend.pci_detach(&mut scene.world, pcidom, devices[0], &mut pace));
        xend.create_device(pcidom, &[devices[1], devices[0]]);
        scene.world.run_for(Duration::from_millis(20));
        scene.pcidom.borrow_mut().set_paused(false);
        scene.world.run_for(2 * SECOND);
        check_pool(&mut scene, &[devices[1], devices[0]]);
        works(&mut scene, 1);
    }
}

#[test]
fn xend_takes_one_of_two_devices_while_the_other_is_lent() {
    for seed in 0..12 {
        let (mut scene, xend, mut pace) = with_xend(seed, 2);
        let (pcidom, devices) = (scene.pcidom_id, scene.devices.clone());
        let (goes, stays) = if seed % 3 == 2 { (1, 0) } else { (0, 1) };
        xend.create_device(pcidom, &devices);
        scene.world.run_for(SECOND);
        check_pool(&mut scene, &devices);
        let guest = scene.lend("guest", stays);
        for _ in 0..2 {
            let device = scene.device(goes);
            assert!(xend.pci_detach(&mut scene.world, pcidom, device, &mut pace));
            scene.world.run_for(SECOND);
            check_pool(&mut scene, &[devices[stays]]);
            still_lent(&mut scene, &guest, stays);
            assert!(xend.pci_attach(&mut scene.world, pcidom, device, &mut pace));
            scene.world.run_for(SECOND);
            check_pool(&mut scene, &[devices[stays], device]);
            still_lent(&mut scene, &guest, stays);
            works(&mut scene, goes);
        }
    }
}

#[test]
fn xend_takes_two_devices_and_gives_them_again() {
    for seed in 0..8 {
        let (mut scene, xend, mut pace) = with_xend(seed, 2);
        let (pcidom, devices) = (scene.pcidom_id, scene.devices.clone());
        for round in 0..2 {
            xend.create_device(pcidom, &devices[..1]);
            // The next one waits for nothing.
            scene.world.run_for(Duration::from_millis(300));
            assert!(xend.pci_attach(&mut scene.world, pcidom, devices[1], &mut pace));
            scene.world.run_for(SECOND);
            check_pool(&mut scene, &devices);
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for n in order {
                works(&mut scene, n);
                let world = &mut scene.world;
                assert!(xend.pci_detach(world, pcidom, devices[n], &mut pace));
            }
            scene.world.run_for(SECOND);
            check_pool(&mut scene, &[]);
            xend.create_device(pcidom, &[devices[1], devices[0]]);
            scene.world.run_for(SECOND);
            check_pool(&mut scene, &[devices[1], devices[0]]);
            for n in order {
                let world = &mut scene.world;
                assert!(xend.pci_detach(world, pcidom, devices[n], &mut pace));
            }
            scene.world.run_for(SECOND);
        }
        scene.check_nothing_lent();
    }
}

#[test]
fn connected_again_without_closing_changes_nothing() {
    for seed in 0..6 {
        let mut scene = Scene::ready(seed, 2);
        let (pcidom, devices) = (scene.pcidom_id, scene.devices.clone());
        let guest = scene.lend("guest", 0);
        let dom0 = scene.world.store().connect(DomId::DOM0);
        let back = back_dir(pcidom);
        let ports = scene.world.xen().open_ports(pcidom);
        let page = dom0.read(&format!("{}/pci-op-ref", front_dir(&scene)));
        for said in ["4", "4", "8", "4", "2", "3", "4"] {
            dom0.write(&format!("{back}/state"), said).unwrap();
            scene.world.run_for(Duration::from_millis(seed * 3));
        }
        scene.world.run_for(SECOND);
        check_pool(&mut scene, &devices);
        still_lent(&mut scene, &guest, 0);
        assert_eq!(scene.world.xen().open_ports(pcidom), ports);
        assert_eq!(dom0.read(&format!("{}/pci-op-ref", front_dir(&scene))), page);
        works(&mut scene, 1);
    }
}

#[test]
fn a_change_that_comes_before_connected_was_seen_is_taken_up() {
    // One more comes, the only one goes, or both.
    for change in 0..3 {
        let mut scene = Scene::with_empty_pool(change, 2);
        let (pcidom, [first, second]) =
            (scene.pcidom_id, [0, 1].map(|n| scene.device(n)));
        let dom0 = scene.world.store().connect(DomId::DOM0);
        assert!(scene.xl.pci_attach(&mut scene.world, pcidom, first));
        let state = format!("{}/state", front_dir(&scene));
        let opened = |_: &World| dom0.read(&state).as_deref() == Ok("3");
        assert!(scene.world.run_until(SECOND, opened));
        scene.pcidom.borrow_mut().set_paused(true);
        scene.world.run_for(Duration::from_millis(50));
        let back = back_dir(pcidom);
        assert_eq!(dom0.read(&format!("{back}/state")).as_deref(), Ok("4"));
        if change != 1 {
            assert!(scene.xl.pci_attach(&mut scene.world, pcidom, second));
        }
        if change != 0 {
            dom0.write(&format!("{back}/state-0"), "5").unwrap();
            dom0.write(&format!("{back}/state"), "7").unwrap();
        }
        assert_eq!(dom0.read(&state).as_deref(), Ok("3"), "pcidom has not seen 4");
        scene.pcidom.borrow_mut().set_paused(false);
        scene.world.run_for(SECOND);
        let states = [state.clone(), format!("{back}/state")];
        assert!(states.iter().all(|node| dom0.read(node).as_deref() == Ok("4")));
        if change == 0 {
            check_pool(&mut scene, &[first, second]);
            works(&mut scene, 0);
        } else {
            let expected = if change == 1 { vec![] } else { vec![second] };
            assert_eq!(pools(&mut scene).0, expected);
            assert_eq!(pools(&mut scene).1.len(), expected.len());
        }
        if change != 1 {
            works(&mut scene, 1);
        }
    }
}

/// xend takes the first of three devices while the second is lent, and pcidom looks at the
/// directory `moment` writes after the handshake. Then xend goes on.
fn looked_at(moment: u32) -> (Scene, Shared<LinuxGuest>) {
    let (mut scene, xend, _) = with_xend(1, 3);
    let (pcidom, first) = (scene.pcidom_id, scene.device(0));
    xend.create_device(pcidom, &scene.devices);
    scene.world.run_for(SECOND);
    let guest = scene.lend("guest", 1);
    let (image, mut n) = (scene.pcidom.clone(), 0);
    let mut pace = |world: &mut World| {
        // state-0 and state are written, and then dom0's end is in 4: pcidom has yet to hear.
        image.borrow_mut().set_paused((2..2 + moment).contains(&n));
        if n == 2 + moment {
            world.run_for(Duration::from_millis(500));
        } else if n != 2 {
            world.run_for(Duration::from_micros(500));
        }
        n += 1;
    };
    assert!(xend.pci_detach(&mut scene.world, pcidom, first, &mut pace));
    // Six nodes go, twice six move, and the number is written.
    assert_eq!(n, 2 + 1 + 6 + 2 * 12 + 1);
    (scene, guest)
}

#[test]
fn entries_that_xend_moves_are_judged_when_it_is_done() {
    for moment in 1..=31 {
        let (mut scene, guest) = looked_at(moment);
        scene.world.run_for(2 * SECOND);
        let devices = scene.devices.clone();
        check_pool(&mut scene, &devices[1..]);
        still_lent(&mut scene, &guest, 1);
    }
}

#[test]
fn a_toolstack_that_stops_while_it_moves_entries_takes_nothing_away() {
    let mut scene = Scene::ready(1, 3);
    let (pcidom, devices) = (scene.pcidom_id, scene.devices.clone());
    let guest = scene.lend("guest", 2);
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let back = back_dir(pcidom);
    // The first has gone, the second has moved up, the third is on its way.
    dom0.write(&format!("{back}/dev-0"), &devices[1].to_string()).unwrap();
    dom0.write(&format!("{back}/vdev-0"), "0000:00:01.00").unwrap();
    for key in ["dev-1", "vdev-1", "dev-2"] {
        dom0.remove(&format!("{back}/{key}")).unwrap();
    }
    dom0.write(&format!("{back}/state"), "4").unwrap();
    scene.world.run_for(100 * SECOND);
    assert_eq!(pools(&mut scene), (devices.clone(), pools(&mut scene).1));
    assert_eq!(pools(&mut scene).1.len(), 3);
    still_lent(&mut scene, &guest, 2);
    // The link works, for what is there.
    dom0.write(&format!("{back}/state-0"), "5").unwrap();
    dom0.write(&format!("{back}/state"), "7").unwrap();
    let connected = |_: &World| dom0.read(&format!("{back}/state")).as_deref() == Ok("4");
    assert!(scene.world.run_until(SECOND, connected));
    scene.world.run_for(SECOND);
    assert_eq!(pools(&mut scene).0, [devices[0], devices[2]]);
    still_lent(&mut scene, &guest, 2);
    // Somebody tidies up: what has no entry now is not in the pool.
    dom0.write(&format!("{back}/num_devs"), "0").unwrap();
    scene.world.run_for(70 * SECOND);
    assert_eq!(pools(&mut scene), (vec![], vec![]));
    scene.check_nothing_held();
}

/// Looks every few milliseconds who has a device, whether it is locked, and whether it is lent.
struct Observer {
    xen: Xen,
    store: Connection,
    device: Sbdf,
    /// When, the owner, the lock, and the record of the loan.
    seen: Vec<(Instant, Option<DomId>, Option<String>, bool)>,
}

const LOOKS: Duration = Duration::from_millis(5);

impl Actor for Observer {
    fn domain(&self) -> DomId {
        DomId::DOM0
    }

    fn step(&mut self) {
        if self.deadline().is_some_and(|next| self.xen.now() < next) {
            return;
        }
        let name = self.device.to_string().replace([':', '.'], "-");
        let lock = self.store.read(&format!("/libxl/pci/{name}/domid")).ok();
        let lent = self.store.read("/tool/pcidom/loans/0").is_ok();
        self.seen.push((self.xen.now(), self.xen.owner(self.device), lock, lent));
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.seen.last().map_or(self.xen.now(), |(at, ..)| at.after(LOOKS)))
    }
}

fn observe(scene: &mut Scene, device: Sbdf) -> Shared<Observer> {
    let (xen, store) = (scene.world.xen().clone(), scene.world.store().clone());
    let store = store.connect(DomId::DOM0);
    scene.world.add(Observer { xen, store, device, seen: Vec::new() })
}

#[test]
fn a_lent_device_that_xl_takes_is_locked_until_its_loan_is_over() {
    for seed in 0..10 {
        let mut scene = Scene::ready(seed, 2);
        let (pcidom, devices) = (scene.pcidom_id, scene.devices.clone());
        let guest = scene.lend("guest", 0);
        let owner = guest.borrow().domain_id();
        let observer = observe(&mut scene, devices[0]);
        let before = scene.world.now();
        assert!(scene.xl.pci_detach(&mut scene.world, pcidom, devices[0]));
        let took = scene.world.now().since(before);
        assert!(took < 10 * SECOND, "{took:?}");
        let dom0 = scene.world.store().connect(DomId::DOM0);
        assert!(dom0.read("/tool/pcidom/loans/0").is_err(), "xl was told too early");
        scene.world.remove(&observer);
        for (at, whose, lock, lent) in &observer.borrow().seen {
            let at = at.since(before);
            assert!([Some(owner), Some(DOM_IO)].contains(whose), "{at:?}: {whose:?}");
            assert!(!lent || lock.is_some(), "{at:?}: lent, and not locked");
        }
        scene.world.run_for(SECOND);
        check_pool(&mut scene, &devices[1..]);
        assert_eq!(guest.borrow().state().by_ids(NVME).map(|(at, _)| at), None);
        assert_eq!(guest.borrow().link_state(), XenbusState::Unknown);
        assert!(scene.xl.pci_attach(&mut scene.world, pcidom, devices[0]));
        scene.world.run_for(SECOND);
        check_pool(&mut scene, &[devices[1], devices[0]]);
        works(&mut scene, 0);
    }
}

#[test]
fn without_the_daemon_xl_waits_less_than_its_ten_seconds() {
    let mut scene = Scene::ready(1, 2);
    let (pcidom, device) = (scene.pcidom_id, scene.device(0));
    let guest = scene.lend("guest", 0);
    scene.kill_daemon();
    let before = scene.world.now();
    assert!(scene.xl.pci_detach(&mut scene.world, pcidom, device));
    let took = scene.world.now().since(before);
    assert!((8 * SECOND..10 * SECOND).contains(&took), "{took:?}");
    // Xen keeps it for its guest: nobody else can be given it.
    let owner = guest.borrow().domain_id();
    assert_eq!(scene.world.xen().owner(device), Some(owner));
    scene.start_daemon();
    scene.world.run_for(40 * SECOND);
    scene.check_nothing_held();
}

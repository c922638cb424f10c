//! What happens while a reset goes on: other resets, guests, and ends of all kinds.

use std::time::Duration;

use pcidom_loan::Outcome;
use pcidom_pci::Sbdf;
use pcidom_pci::fake::Fault;
use pcidom_pci::reset::Method;
use pcidom_sim::Scene;
use pcidom_sim::linux_guest::{Command, LinuxGuest};
use pcidom_sim::scene::{NVME, PCIDOM, card};
use pcidom_sim::world::World;
use pcidom_sim::xen::errno::EPERM;
use pcidom_xenbus::pciif::{self, FRONT_ACTIVE, RawOp, word};
use pcidom_xenbus::{DomId, SharedPage};

use super::{
    NOBODY, OTHER, PORT, failed, forget, hardware, node, obey, order, ready, report,
    resets, two_functions, wait,
};

#[test]
fn a_forced_reset_takes_what_a_guest_has_set_and_its_accesses_fail_at_once_meanwhile() {
    let mut scene = two_functions(&[Method::FunctionLevel]);
    let (first, second) = (scene.device(1), scene.device(2));
    let guest = scene.lend("reader", 2);
    // Its driver goes, and with it the leases, as the daemon sees to it.
    let at = guest.borrow().finds(NVME).unwrap();
    guest.borrow().command(Command::Unload(at));
    scene.world.run_for(Duration::from_secs(2));
    assert_eq!(scene.world.xen().vectors_of(second), []);
    scene.world.remove(&guest);
    let guest = guest.borrow();
    assert_eq!(ask(&mut scene, &guest, at.0, (1, 0x04, 2), 0x0546).0, 0);
    assert_eq!(ask(&mut scene, &guest, at.0, (0, 0x04, 2), 0), (0, 0x0546));
    hardware(&scene, second, |nvme| nvme.set_ready_after(Duration::from_secs(5)));
    let text = format!(
        "phase=reset guest=0 dev={first} port=0000:00:02.0 below=2 method=bus force"
    );
    order(&scene, 200, 1, &text);
    scene.world.run_for(Duration::from_secs(1));
    let since = scene.world.now();
    // Read-only for a guest, but not known: Status.
    let during = ask(&mut scene, &guest, at.0, (0, 0x06, 2), 0);
    assert_eq!(during.0, -5, "op_failed");
    assert!(scene.world.now().since(since) < Duration::from_millis(5));
    let told = ready(wait(&mut scene, 200, 1));
    assert!(told.contains("of 0000:22:00.0 and 0000:22:00.1, "), "{told}");
    assert_eq!(ask(&mut scene, &guest, at.0, (0, 0x04, 2), 0), (0, 0));
    assert_eq!(ask(&mut scene, &guest, at.0, (0, 0x06, 2), 0).0, 0);
    forget(&mut scene, 200);
    scene.check();
}

/// Error and value of one op that a guest sends by hand: command, offset and size.
fn ask(
    scene: &mut Scene,
    guest: &LinuxGuest,
    at: Sbdf,
    (cmd, offset, size): (u32, i32, i32),
    value: u32,
) -> (i32, u32) {
    let (page, port) = (guest.page().unwrap(), guest.link_port().unwrap());
    let (domain, bus, devfn) = (at.segment().into(), at.bus().into(), at.devfn().into());
    let op = RawOp { cmd, domain, bus, devfn, offset, size, value, ..RawOp::default() };
    pciif::store_op(&page, &op);
    page.fetch_or(word::FLAGS, FRONT_ACTIVE);
    scene.world.xen().notify(guest.domain_id(), port).unwrap();
    let active = |_: &World| page.load(word::FLAGS) & FRONT_ACTIVE == 0;
    assert!(scene.world.run_until(Duration::from_secs(2), active));
    (page.load(word::OP_ERR).cast_signed(), page.load(word::OP_VALUE))
}

#[test]
fn a_reset_that_waits_for_a_slow_card_holds_up_no_guest() {
    let mut scene = Scene::with(3, |world| {
        let mut all = card(world, PORT, 2, &[]);
        all.extend(card(world, OTHER, 1, &[Method::FunctionLevel]));
        all
    });
    scene.pcidom.borrow().failures().borrow_mut().insert("map_config", EPERM);
    scene.serve();
    let guest = scene.lend("busy", 4);
    let first = scene.device(1);
    for device in [first, scene.device(2)] {
        hardware(&scene, device, |nvme| nvme.set_ready_after(Duration::from_secs(20)));
    }
    order(
        &scene,
        200,
        1,
        &format!("phase=reset guest=0 dev={first} port=0000:00:02.0 below=2"),
    );
    scene.world.run_for(Duration::from_secs(1));
    let before = guest.borrow().state().ops.len();
    for _ in 0..3 {
        scene.reload(&guest);
    }
    assert_eq!(report(&scene, 200, 1), None, "the reset goes on");
    let ops: Vec<_> = guest.borrow().state().ops.iter().skip(before).cloned().collect();
    assert!(ops.len() > 50, "{}", ops.len());
    let reads = ops.iter().filter(|op| op.op.cmd == 0);
    let worst = reads.map(|op| op.latency).max().unwrap();
    assert!(worst < Duration::from_millis(5), "{worst:?}");
    assert_eq!(guest.borrow().state().timeouts(), 0);
    let told = ready(wait(&mut scene, 200, 1));
    assert!(told.starts_with("secondary bus reset"), "{told}");
    forget(&mut scene, 200);
    scene.check();
}

#[test]
fn resets_that_want_the_same_devices_come_one_after_the_other() {
    let mut scene = two_functions(&[Method::PowerState]);
    let (first, second) = (scene.device(1), scene.device(2));
    for device in [first, second] {
        hardware(&scene, device, |nvme| nvme.set_ready_after(Duration::from_secs(3)));
    }
    let bus = |device| {
        format!("phase=reset guest=0 dev={device} port=0000:00:02.0 below=2 method=bus")
    };
    // Own, both, own, both: none may touch what another one holds, and none is forgotten.
    let orders = [
        format!("phase=reset guest=0 dev={first} method=pm"),
        bus(second),
        format!("phase=reset guest=0 dev={second} method=pm"),
        bus(first),
    ];
    for (n, text) in (0..).zip(&orders) {
        order(&scene, 200 + n, 1, text);
    }
    let mut ends = Vec::new();
    for n in 0..4 {
        let told = ready(wait(&mut scene, 200 + n, 1));
        ends.push((scene.world.now(), told));
    }
    assert!(ends.is_sorted_by_key(|(at, _)| *at));
    let since = |n: usize| ends[n].0.since(ends[n - 1].0);
    for n in 1..4 {
        assert!(since(n) > Duration::from_secs(3), "{n}: {:?}", since(n));
    }
    assert_eq!((resets(&scene, first), resets(&scene, second)), (3, 3));
    scene.check_nothing_lent();
}

#[test]
fn an_order_that_is_taken_back_while_it_waits_does_nothing() {
    let mut scene = two_functions(&[Method::PowerState]);
    let (first, second) = (scene.device(1), scene.device(2));
    hardware(&scene, first, |nvme| nvme.set_ready_after(Duration::from_secs(3)));
    order(&scene, 200, 1, &format!("phase=reset guest=0 dev={first} method=pm"));
    let bus =
        format!("phase=reset guest=0 dev={second} port=0000:00:02.0 below=2 method=bus");
    order(&scene, 201, 1, &bus);
    scene.world.run_for(Duration::from_secs(1));
    forget(&mut scene, 201);
    ready(wait(&mut scene, 200, 1));
    scene.world.run_for(Duration::from_secs(5));
    assert_eq!((resets(&scene, first), resets(&scene, second)), (1, 0));
    // And one that becomes another order before its turn, or in it, is answered for that.
    order(&scene, 200, 2, &format!("phase=reset guest=0 dev={first}"));
    order(&scene, 201, 3, &format!("phase=prepare guest={NOBODY} dev={first}"));
    scene.world.run_for(Duration::from_secs(1));
    order(&scene, 201, 3, &format!("phase=ending guest={NOBODY} dev={first}"));
    assert!(matches!(wait(&mut scene, 201, 3), Outcome::Returned(_)));
    assert_eq!(resets(&scene, first), 3);
    order(&scene, 202, 4, &format!("phase=prepare guest={NOBODY} dev={first}"));
    scene.world.run_for(Duration::from_secs(1));
    order(&scene, 202, 4, &format!("phase=ending guest={NOBODY} dev={first}"));
    let since = scene.world.now();
    assert!(matches!(wait(&mut scene, 202, 4), Outcome::Returned(_)));
    assert!(scene.world.now().since(since) > Duration::from_secs(4), "both have run");
}

#[test]
fn a_device_that_is_unplugged_at_any_moment_of_its_reset_ends_it_with_an_error() {
    for gone in [1, 2] {
        for millis in [0, 1, 2, 3, 4, 5, 6, 8, 15, 30, 100, 105, 108] {
            let mut scene = two_functions(&[]);
            let (first, gone) = (scene.device(1), scene.device(gone));
            let text =
                format!("phase=reset guest=0 dev={first} port=0000:00:02.0 below=2");
            order(&scene, 200, 1, &text);
            scene.world.run_for(Duration::from_millis(millis));
            assert_eq!(report(&scene, 200, 1), None);
            hardware(&scene, gone, |nvme| nvme.set_fault(Fault::Gone));
            failed(wait(&mut scene, 200, 1));
            assert!(!hardware(&scene, scene.device(0), |port| port.holds_bus()));
            forget(&mut scene, 200);
            scene.check_nothing_held();
            // Put in again, it can be reset.
            hardware(&scene, gone, |nvme| nvme.set_fault(Fault::None));
            let told = ready(obey(&mut scene, &text));
            assert!(told.starts_with("secondary bus reset"), "{told}");
            scene.check_nothing_lent();
        }
    }
}

#[test]
fn a_device_that_leaves_the_pool_during_its_reset_does_not_leave_the_bus_in_it() {
    for leaves in [0, 1, 2] {
        for millis in [1, 5, 20, 60, 110] {
            let mut scene = two_functions(&[]);
            let (first, pcidom) = (scene.device(1), scene.pcidom_id);
            for device in [first, scene.device(2)] {
                hardware(&scene, device, |nvme| {
                    nvme.set_ready_after(Duration::from_secs(2));
                });
            }
            let text =
                format!("phase=reset guest=0 dev={first} port=0000:00:02.0 below=2");
            order(&scene, 200, 1, &text);
            scene.world.run_for(Duration::from_millis(millis));
            let leaving = scene.device(leaves);
            assert!(scene.xl.pci_detach(&mut scene.world, pcidom, leaving));
            // It has gone after the reset and not in the middle of it.
            let told = wait(&mut scene, 200, 1);
            assert!(matches!(told, Outcome::Ready(_)), "{leaves} {millis}: {told:?}");
            assert!(!hardware(&scene, scene.device(0), |port| port.holds_bus()));
            forget(&mut scene, 200);
            assert!(scene.xl.pci_attach(&mut scene.world, pcidom, leaving));
            scene.world.run_for(Duration::from_secs(5));
            let told = obey(&mut scene, &text);
            assert!(matches!(told, Outcome::Ready(_)), "{leaves} {millis}: {told:?}");
            scene.check_nothing_lent();
        }
    }
}

#[test]
fn a_guest_that_dies_during_a_reset_of_its_device_gives_it_back() {
    for millis in [1, 50, 110, 2000] {
        let mut scene = two_functions(&[Method::FunctionLevel]);
        let first = scene.device(1);
        let guest = scene.lend("mortal", 1);
        let domain = guest.borrow().domain_id();
        let at = guest.borrow().finds(NVME).unwrap();
        guest.borrow().command(Command::Unload(at));
        scene.world.run_for(Duration::from_secs(2));
        hardware(&scene, first, |nvme| nvme.set_ready_after(Duration::from_secs(3)));
        let text = format!(
            "phase=reset guest={domain} dev={first} port=0000:00:02.0 below=2 method=bus"
        );
        order(&scene, 200, 1, &text);
        scene.world.run_for(Duration::from_millis(millis));
        scene.xl.destroy_at_once(domain);
        ready(wait(&mut scene, 200, 1));
        scene.world.run_for(Duration::from_secs(20));
        // While the order stands, so that it keeps nothing of the guest alive.
        scene.check_nothing_lent();
        forget(&mut scene, 200);
        scene.lend("next", 1);
        scene.check();
    }
}

#[test]
fn a_daemon_that_dies_during_a_reset_finds_the_device_whole() {
    for millis in [1, 50, 110, 2000] {
        let mut scene = two_functions(&[Method::FunctionLevel]);
        let first = scene.device(1);
        hardware(&scene, first, |nvme| nvme.set_ready_after(Duration::from_secs(3)));
        let domain = scene.guest("guest").borrow().domain_id();
        scene.ask(|daemon| daemon.attach(domain, first, PCIDOM));
        let bus = format!(
            "phase=reset guest=0 dev={first} port=0000:00:02.0 below=2 method=bus"
        );
        order(&scene, 200, 1, &bus);
        scene.world.run_for(Duration::from_millis(millis));
        scene.kill_daemon();
        scene.world.run_for(Duration::from_millis(500));
        scene.start_daemon();
        scene.world.run_for(Duration::from_secs(40));
        let dom0 = scene.world.store().connect(DomId::DOM0);
        let _: Result<(), _> = dom0.remove(&node(&scene, "pcidom/loans/200"));
        scene.world.run_for(Duration::from_secs(1));
        scene.check_nothing_lent();
        assert!(!hardware(&scene, scene.device(0), |port| port.holds_bus()));
        scene.lend("next", 1);
        scene.check();
    }
}

//! Resets by every method, as the daemon orders them, and what can come in between. Orders are
//! written here as the daemon writes them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what goes wrong here fails the test"
)]

use std::time::Duration;

use pcidom_loan::{LoanReport, Outcome};
use pcidom_pci::Sbdf;
use pcidom_pci::fake::{FakeBackend, FakeFunction, Fault};
use pcidom_pci::reset::Method;
use pcidom_sim::Scene;
use pcidom_sim::linux_guest::Command;
use pcidom_sim::scene::{NVME, card};
use pcidom_sim::world::World;
use pcidom_sim::xen::devices::Hand;
use pcidom_sim::xen::errno::EPERM;
use pcidom_xenbus::pciif::{self, FRONT_ACTIVE, RawOp, word};
use pcidom_xenbus::{DomId, SharedPage};

/// The number of the card's port, and of another one's.
const PORT: u8 = 2;
const OTHER: u8 = 3;

/// A guest that is nobody: what is ordered for it is only prepared.
const NOBODY: u16 = 77;

/// How long a reset may take, and then some.
const PATIENCE: Duration = Duration::from_secs(90);

/// A host that serves, with devices of `make`.
fn host(make: impl FnOnce(&World) -> Vec<Sbdf>) -> Scene {
    let mut scene = Scene::with(1, make);
    scene.serve();
    for device in scene.devices.clone() {
        scene.world.xen().with_hardware(device, Hand::Dom0, |backend| {
            // Slot Status of the ports, which the daemon arms too.
            backend.arms().quirks.push((0x6a, 2));
            backend.hardware_mut().take_writes();
        });
    }
    scene
}

/// A port and a card of two functions.
fn two_functions(methods: &[Method]) -> Scene {
    host(|world| card(world, PORT, 2, methods))
}

fn node(scene: &Scene, path: &str) -> String {
    format!("/local/domain/{}/{path}", scene.pcidom_id)
}

/// Writes an order with the rest of its text.
fn order(scene: &Scene, loan: u16, generation: u64, text: &str) {
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let path = node(scene, &format!("pcidom/loans/{loan}"));
    dom0.write(&path, &format!("gen={generation} {text}")).unwrap();
}

/// The order is over.
fn forget(scene: &mut Scene, loan: u16) {
    let dom0 = scene.world.store().connect(DomId::DOM0);
    dom0.remove(&node(scene, &format!("pcidom/loans/{loan}"))).unwrap();
    scene.world.run_for(Duration::from_millis(100));
}

fn report(scene: &Scene, loan: u16, generation: u64) -> Option<Outcome> {
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let text = dom0.read(&node(scene, &format!("data/pcidom/loans/{loan}"))).ok()?;
    let report: LoanReport = text.parse().unwrap();
    (report.generation.0 == generation).then_some(report.outcome)
}

/// Runs until the order is answered.
fn wait(scene: &mut Scene, loan: u16, generation: u64) -> Outcome {
    let path = node(scene, &format!("data/pcidom/loans/{loan}"));
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let start = format!("gen={generation} ");
    scene.world.run_until(PATIENCE, |_| {
        dom0.read(&path).is_ok_and(|text| text.starts_with(&start))
    });
    report(scene, loan, generation).expect("an answer")
}

/// Orders, waits for the answer, and takes the order away.
fn obey(scene: &mut Scene, text: &str) -> Outcome {
    order(scene, 250, 1, text);
    let outcome = wait(scene, 250, 1);
    forget(scene, 250);
    outcome
}

#[track_caller]
fn failed(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn ready(outcome: Outcome) -> String {
    match outcome {
        Outcome::Ready(text) => text,
        other => panic!("{other:?}"),
    }
}

/// Config space of every device of the host, and what was written to it.
fn config_space(scene: &Scene) -> Vec<(Vec<u8>, usize)> {
    let xen = scene.world.xen();
    let of = |device| {
        xen.with_hardware(device, Hand::Dom0, |backend| {
            let hardware = backend.hardware();
            (hardware.bytes().to_vec(), hardware.writes().len())
        })
    };
    xen.devices().into_iter().filter_map(of).collect()
}

fn bytes(scene: &Scene) -> Vec<Vec<u8>> {
    config_space(scene).into_iter().map(|(bytes, _)| bytes).collect()
}

fn hardware<T>(
    scene: &Scene,
    device: Sbdf,
    act: impl FnOnce(&mut FakeFunction) -> T,
) -> T {
    let xen = scene.world.xen();
    xen.with_hardware(device, Hand::Dom0, |b| act(b.hardware_mut())).unwrap()
}

fn resets(scene: &Scene, device: Sbdf) -> u32 {
    hardware(scene, device, |hardware| hardware.resets())
}

#[test]
fn each_method_works_from_the_order_to_the_report() {
    for method in Method::ALL {
        let mut scene = two_functions(&[method]);
        let (port, first, second) = (scene.device(0), scene.device(1), scene.device(2));
        let fresh = bytes(&scene);
        hardware(&scene, first, |nvme| nvme.set_bytes(0x42, &[0x40, 0x80]));
        let before = resets(&scene, second);
        let order = format!("phase=prepare guest={NOBODY} dev={first} port={port}");
        let text = ready(obey(&mut scene, &order));
        let told = match method.is_of_port() {
            true => format!("{method} at {port} of {first} and {second}, "),
            false => format!("{method} of {first}, "),
        };
        let time = text.strip_prefix(&told).and_then(|rest| rest.strip_suffix(" ms"));
        let time: u64 = time.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
        assert!((20..1000).contains(&time), "{text}");
        assert_eq!(resets(&scene, second) - before, u32::from(method.is_of_port()));
        let alarms = hardware(&scene, port, |port| port.alarms());
        assert_eq!(alarms, 0, "{method}");
        assert_eq!(bytes(&scene), fresh, "{method}");
        scene.check_nothing_lent();
    }
}

#[test]
fn a_method_that_has_no_effect_is_told_and_the_port_is_used() {
    let mut scene = two_functions(&[Method::FunctionLevel]);
    let (port, first) = (scene.device(0), scene.device(1));
    hardware(&scene, first, |nvme| {
        nvme.set_fault(Fault::Ignores(Method::FunctionLevel));
    });
    let order = format!("phase=reset guest=0 dev={first} port={port}");
    let text = ready(obey(&mut scene, &order));
    assert!(text.starts_with("secondary bus reset at 0000:00:02.0 of "), "{text}");
    let end = " ms, after function level reset had no effect on 0000:22:00.0";
    assert!(text.ends_with(end), "{text}");
    // And only what was asked for.
    let order = format!("phase=reset guest=0 dev={first} port={port} method=flr");
    assert_eq!(
        failed(obey(&mut scene, &order)),
        "no reset works: function level reset had no effect on 0000:22:00.0"
    );
    scene.check_nothing_lent();
}

/// Orders this, which is refused with the reason, and nothing has been touched.
fn refused(scene: &mut Scene, text: &str, reason: &str) {
    let before = config_space(scene);
    assert_eq!(failed(obey(scene, text)), reason, "{text}");
    assert!(config_space(scene) == before, "{text}: something was touched");
}

#[test]
fn a_reset_that_a_rule_forbids_touches_nothing_and_says_which() {
    let mut scene = host(|world| {
        let mut all = card(world, PORT, 2, &[]);
        all.extend(card(world, OTHER, 1, &[Method::FunctionLevel]));
        all
    });
    let device = scene.device(1);
    // Anything done to it would show.
    hardware(&scene, device, |nvme| nvme.set_bytes(0x42, &[0x40, 0x80]));
    for phase in ["prepare", "reset"] {
        let mut refused = |rest: &str, reason: &str| {
            let guest = if phase == "reset" { 0 } else { NOBODY };
            let text = format!("phase={phase} guest={guest} dev={device}{rest}");
            refused(&mut scene, &text, reason);
        };
        let own = "no reset works: the device can't reset itself";
        let port = format!("{own}; no slot or bus reset:");
        refused("", &format!("{port} no port above it was named"));
        refused(
            " port=0000:00:1f.0",
            &format!(
                "{port} 0000:00:1f.0 is not in the pool: add it to pci= of this pcidom"
            ),
        );
        refused(" port=0000:23:00.0", &format!("{port} 0000:23:00.0 is no port"));
        refused(
            " port=0000:00:03.0",
            &format!("{port} port 0000:00:03.0 leads to bus 23, where {device} is not"),
        );
        refused(
            " port=0000:00:02.0 method=slot",
            "no reset works: no slot or bus reset: port 0000:00:02.0 has no hot-plug slot",
        );
        refused(
            " port=0000:00:02.0 method=af",
            &format!(
                "no reset works: {device} has no function level reset by Advanced Features"
            ),
        );
    }
    let text = format!("phase=prepare guest={NOBODY} dev=0000:00:02.0");
    let reason =
        "0000:00:02.0 is a port or bridge: it is there to reset what is below it";
    refused(&mut scene, &text, reason);
    // Where there is no way, a person may say that being quiet is enough; but not to a reset.
    let text = format!("phase=reset guest=0 dev={device} lax");
    let reason = "no reset works: the device can't reset itself; \
                  no slot or bus reset: no port above it was named";
    refused(&mut scene, &text, reason);
    let text = format!("phase=prepare guest={NOBODY} dev={device} lax");
    assert_eq!(ready(obey(&mut scene, &text)), "no reset, made quiet only");
    scene.check_nothing_lent();
}

#[test]
fn a_neighbour_that_is_not_scanned_or_is_a_bridge_forbids_a_reset_of_the_bus() {
    let mut scene = Scene::with(1, |world| card(world, PORT, 2, &[]));
    let (first, second) = (scene.device(1), scene.device(2));
    hardware(&scene, second, |nvme| nvme.set_fault(Fault::Gone));
    scene.serve();
    let text = format!("phase=reset guest=0 dev={first} port=0000:00:02.0");
    let before = bytes(&scene);
    let reason = failed(obey(&mut scene, &text));
    assert!(reason.contains(&format!("reset: {second} not scanned: ")), "{reason}");
    assert_eq!(bytes(&scene), before);

    let mut scene = host(|world| {
        let mut all = card(world, PORT, 1, &[]);
        let bridge = FakeFunction::port_like(0x30, 0x30, false);
        let bridge = FakeBackend::new("0000:22:00.1".parse().unwrap(), bridge);
        all.push(world.xen().add_device(bridge, None));
        all
    });
    refused(
        &mut scene,
        &text,
        "no reset works: the device can't reset itself; no slot or bus reset: \
         0000:22:00.1 below port 0000:00:02.0 is a bridge, and would lose its buses",
    );
}

/// A card whose second function a guest uses.
fn neighbour_lent() -> (Scene, DomId) {
    let mut scene = two_functions(&[Method::FunctionLevel]);
    let guest = scene.lend("neighbour", 2);
    let domain = guest.borrow().domain_id();
    (scene, domain)
}

#[test]
fn a_neighbour_that_is_lent_forbids_it_unless_a_person_forces_it() {
    let (mut scene, domain) = neighbour_lent();
    let (first, second) = (scene.device(1), scene.device(2));
    let text = format!("dev={first} port=0000:00:02.0 method=bus");
    let reason = format!(
        "no reset works: no slot or bus reset: {second} is lent to domain {domain}: \
         detach it there first, or force it"
    );
    let own = format!("phase=prepare guest={domain} {text}");
    for text in [
        format!("phase=prepare guest={NOBODY} {text}"),
        format!("phase=reset guest=0 {text}"),
        // To be lent to the same guest is no reason to take what it uses from it.
        own,
    ] {
        refused(&mut scene, &text, &reason);
    }
    assert!(scene.world.xen().send_message(second, 0));
    scene.check();
}

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
    let text =
        format!("phase=reset guest=0 dev={first} port=0000:00:02.0 method=bus force");
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
    guest: &pcidom_sim::linux_guest::LinuxGuest,
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
fn what_was_reset_with_a_neighbour_is_clean_until_it_is_lent() {
    let mut scene = two_functions(&[]);
    let (first, second) = (scene.device(1), scene.device(2));
    let text = |phase: &str, device| {
        format!("phase={phase} guest={NOBODY} dev={device} port=0000:00:02.0")
    };
    order(&scene, 200, 1, &text("prepare", first));
    assert!(ready(wait(&mut scene, 200, 1)).starts_with("secondary bus reset at"));
    // The first one is on its way to a guest.
    let before = bytes(&scene);
    order(&scene, 201, 2, &text("prepare", second));
    let clean = ready(wait(&mut scene, 201, 2));
    assert_eq!(clean, format!("secondary bus reset, with {first}"));
    assert_eq!(bytes(&scene), before);
    // What a person asks for by name is not that.
    forget(&mut scene, 201);
    let asked = format!("{} method=bus", text("prepare", second));
    assert!(failed(obey(&mut scene, &asked)).contains("is lent to domain 77"));
    order(&scene, 201, 3, &text("prepare", second));
    ready(wait(&mut scene, 201, 3));
    // It comes back, and nothing can reset it; then it is quiet at least, and not clean.
    hardware(&scene, second, |nvme| nvme.set_bytes(0x42, &[0x40, 0x80]));
    order(&scene, 201, 3, &text("ending", second));
    scene.world.run_for(Duration::from_secs(1));
    assert!(failed(wait(&mut scene, 201, 3)).contains("is lent to domain 77"));
    assert_eq!(scene.world.xen().msix_control(second), 0x40);
    forget(&mut scene, 201);
    order(&scene, 201, 4, &text("prepare", second));
    assert!(failed(wait(&mut scene, 201, 4)).contains("is lent to domain 77"));
    forget(&mut scene, 201);
    // With the first one back, both are reset; that one is clean by its own reset.
    order(&scene, 200, 1, &text("ending", first));
    scene.world.run_for(Duration::from_secs(1));
    let Some(Outcome::Returned(told)) = report(&scene, 200, 1) else { panic!() };
    assert!(told.starts_with("secondary bus reset at"), "{told}");
    forget(&mut scene, 200);
    order(&scene, 201, 5, &text("prepare", second));
    assert!(ready(wait(&mut scene, 201, 5)).starts_with("secondary bus reset at"));
    order(&scene, 200, 6, &text("prepare", first));
    assert_eq!(
        ready(wait(&mut scene, 200, 6)),
        format!("secondary bus reset, with {second}")
    );
    forget(&mut scene, 200);
    forget(&mut scene, 201);
    scene.check_nothing_lent();
}

#[test]
fn a_reset_that_failed_leaves_nobody_clean() {
    let mut scene = two_functions(&[]);
    let (first, second) = (scene.device(1), scene.device(2));
    let text =
        |device| format!("phase=prepare guest={NOBODY} dev={device} port=0000:00:02.0");
    ready(obey(&mut scene, &text(first)));
    hardware(&scene, first, |nvme| nvme.set_fault(Fault::KeepsMsix));
    let reason = failed(obey(&mut scene, &text(second)));
    assert!(reason.starts_with("0000:22:00.0: MSI-X Message Control"), "{reason}");
    hardware(&scene, first, |nvme| nvme.set_fault(Fault::None));
    let text = format!("phase=prepare guest={NOBODY} dev={second}");
    assert!(failed(obey(&mut scene, &text)).starts_with("no reset works"));
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
    order(&scene, 200, 1, &format!("phase=reset guest=0 dev={first} port=0000:00:02.0"));
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
    let bus =
        |device| format!("phase=reset guest=0 dev={device} port=0000:00:02.0 method=bus");
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
    let bus = format!("phase=reset guest=0 dev={second} port=0000:00:02.0 method=bus");
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
fn a_device_that_lost_its_bars_is_noticed_where_pcidom_can_look_past_dom0() {
    let mut scene = two_functions(&[Method::FunctionLevel]);
    let first = scene.device(1);
    hardware(&scene, first, |nvme| nvme.set_fault(Fault::LosesBars));
    let text = format!("phase=prepare guest={NOBODY} dev={first}");
    let reason = failed(obey(&mut scene, &text));
    assert!(reason.starts_with("Base Address Register (0x10) is 0x00000004"), "{reason}");
}

#[test]
fn a_device_that_is_unplugged_at_any_moment_of_its_reset_ends_it_with_an_error() {
    for gone in [1, 2] {
        for millis in [0, 1, 2, 3, 4, 5, 6, 8, 15, 30, 100, 105, 108] {
            let mut scene = two_functions(&[]);
            let (first, gone) = (scene.device(1), scene.device(gone));
            let text = format!("phase=reset guest=0 dev={first} port=0000:00:02.0");
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
            let text = format!("phase=reset guest=0 dev={first} port=0000:00:02.0");
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
            "phase=reset guest={domain} dev={first} port=0000:00:02.0 method=bus"
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
        scene.ask(|daemon| daemon.attach(domain, first, pcidom_sim::scene::PCIDOM));
        let bus = format!("phase=reset guest=0 dev={first} port=0000:00:02.0 method=bus");
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

#[test]
fn a_port_is_reported_as_one() {
    let mut scene = two_functions(&[Method::Slot]);
    let dom0 = scene.world.store().connect(DomId::DOM0);
    dom0.write(&node(&scene, "pcidom/query"), "12345").unwrap();
    scene.world.run_for(Duration::from_secs(1));
    let text = dom0.read(&node(&scene, "data/pcidom/report/pool/0")).unwrap();
    assert!(text.starts_with("0000:00:02.0 1b36:000c class 06.04.00"), "{text}");
    assert!(text.contains(", port of buses 22 to 22, hot-plug slot"), "{text}");
}

//! The pool as stock xl fills and empties it, and what dom0 says of its devices.

use std::time::Duration;

use pcidom_kernel::machine::Halt;
use pcidom_pci::{Register, Width};
use pcidom_sim::Scene;
use pcidom_sim::scene::NVME;
use pcidom_sim::world::World;
use pcidom_sim::xen::DOM_IO;
use pcidom_sim::xen::devices::Hand;
use pcidom_sim::xen::ecam;
use pcidom_toolstack::verb::{Reply, Verb};
use pcidom_xenbus::DomId;
use pcidom_xenbus::pciif::command;

#[test]
fn a_device_in_the_pool_is_in_quarantine_and_pcidom_may_only_read_its_config_space() {
    let scene = Scene::ready(1, 3);
    let (xen, pcidom) = (scene.world.xen(), scene.pcidom_id);
    for device in &scene.devices {
        assert_eq!(xen.owner(*device), Some(DOM_IO));
    }
    let rights = xen.rights(pcidom);
    let config = scene.devices.iter().map(|device| ecam::frame(*device).0);
    assert_eq!(rights.iomem, config.collect());
    assert!(rights.ports.is_empty() && rights.irqs.is_empty());
    assert_eq!(xen.pirqs(pcidom), []);
    scene.check_nothing_lent();
}

#[test]
fn devices_come_and_go_while_others_are_lent() {
    let mut scene = Scene::ready(2, 3);
    let pcidom = scene.pcidom_id;
    let guest = scene.lend("guest", 1);
    for device in [scene.device(0), scene.device(2)] {
        assert!(scene.xl.pci_detach(&mut scene.world, pcidom, device));
        scene.world.run_for(Duration::from_secs(1));
        assert!(scene.guest_uses(&guest, NVME));
        assert!(scene.world.xen().send_message(scene.device(1), 0));
        assert!(scene.xl.pci_attach(&mut scene.world, pcidom, device));
        scene.world.run_for(Duration::from_secs(1));
        scene.check();
    }
    scene.lend("first", 0);
    scene.lend("last", 2);
    assert_eq!(guest.borrow().state().given_up(), 0);
    scene.check();
}

/// Nobody has a device, and pcidom has nothing of it but its config space.
fn check_quarantined(scene: &Scene, n: usize) {
    let (xen, device) = (scene.world.xen(), scene.device(n));
    assert_eq!(xen.owner(device), Some(DOM_IO));
    assert_eq!(xen.vectors_of(device), []);
    let rights = xen.rights(scene.pcidom_id);
    assert!(rights.iomem.is_disjoint(&xen.bar_pages(device)));
    assert!(rights.irqs.is_empty(), "{:?}", rights.irqs);
    assert_eq!(xen.pirqs(scene.pcidom_id), []);
}

/// `xl pci-detach` and `xl pci-attach`, one after the other, as fast as a person is. dom0's
/// pciback sees a link that goes and comes back; the daemon need not. Returns whether pcidom
/// got it.
fn leave_and_come_back(scene: &mut Scene, n: usize) -> bool {
    let (pcidom, device) = (scene.pcidom_id, scene.device(n));
    assert!(scene.xl.pci_detach(&mut scene.world, pcidom, device));
    scene.world.run_for(Duration::from_secs(1));
    scene.xl.pci_attach(&mut scene.world, pcidom, device)
}

#[test]
fn a_device_that_left_and_came_back_unseen_is_taken_into_quarantine_again() {
    // With others in the pool the link stays, and the entries move up.
    for (count, n) in [(1, 0), (3, 0), (3, 1), (3, 2)] {
        let mut scene = Scene::ready(1, count);
        let daemon = scene.daemon.clone().unwrap();
        daemon.borrow_mut().set_silent(true);
        assert!(leave_and_come_back(&mut scene, n));
        assert_eq!(scene.world.xen().owner(scene.device(n)), Some(scene.pcidom_id));
        daemon.borrow_mut().set_silent(false);
        scene.world.run_for(Duration::from_secs(5));
        check_quarantined(&scene, n);
        scene.check_nothing_lent();
        scene.lend("guest", n);
    }
}

#[test]
fn a_lent_device_that_another_ones_leaving_moves_up_stays_lent() {
    let mut scene = Scene::ready(6, 3);
    let guest = scene.lend("guest", 1);
    let daemon = scene.daemon.clone().unwrap();
    daemon.borrow_mut().set_silent(true);
    assert!(leave_and_come_back(&mut scene, 0));
    daemon.borrow_mut().set_silent(false);
    scene.world.run_for(Duration::from_secs(5));
    check_quarantined(&scene, 0);
    assert!(scene.guest_uses(&guest, NVME));
    assert!(scene.world.xen().send_message(scene.device(1), 0));
    scene.check();
}

#[test]
fn an_attach_that_was_refused_leaves_pcidom_nothing_of_a_device_that_left() {
    // Lent, and the guest lives: Xen refuses pcidom the device, after libxl's first steps.
    let mut scene = Scene::ready(2, 1);
    let (pcidom, device) = (scene.pcidom_id, scene.device(0));
    let guest = scene.lend("guest", 0);
    let daemon = scene.daemon.clone().unwrap();
    daemon.borrow_mut().set_silent(true);
    assert!(!leave_and_come_back(&mut scene, 0));
    daemon.borrow_mut().set_silent(false);
    scene.world.run_for(Duration::from_secs(40));
    check_quarantined(&scene, 0);
    assert!(scene.xl.pci_attach(&mut scene.world, pcidom, device));
    scene.world.run_for(Duration::from_secs(5));
    check_quarantined(&scene, 0);
    let domain = guest.borrow().domain_id();
    let reply = scene.attach(domain, device);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    assert!(scene.guest_uses(&guest, NVME));
}

#[test]
fn the_loan_of_a_device_that_left_and_came_back_unseen_ends() {
    let mut scene = Scene::ready(3, 1);
    let (pcidom, device) = (scene.pcidom_id, scene.device(0));
    let guest = scene.lend("guest", 0).borrow().domain_id();
    let daemon = scene.daemon.clone().unwrap();
    daemon.borrow_mut().set_silent(true);
    assert!(scene.xl.pci_detach(&mut scene.world, pcidom, device));
    scene.xl.destroy_at_once(guest);
    scene.world.run_for(Duration::from_secs(20));
    assert_eq!(scene.world.xen().owner(device), Some(DOM_IO), "Xen took it back");
    assert!(scene.xl.pci_attach(&mut scene.world, pcidom, device));
    assert_eq!(scene.world.xen().owner(device), Some(pcidom));
    daemon.borrow_mut().set_silent(false);
    scene.world.run_for(Duration::from_secs(40));
    check_quarantined(&scene, 0);
    scene.check_nothing_lent();
    scene.lend("next", 0);
}

#[test]
fn a_device_that_left_and_came_back_while_it_was_prepared_is_not_lent() {
    let mut scene = Scene::ready(4, 1);
    let (pcidom, device) = (scene.pcidom_id, scene.device(0));
    let guest = scene.guest("guest");
    let domain = guest.borrow().domain_id();
    let daemon = scene.daemon.clone().unwrap();
    let asked = scene.ask(|daemon| daemon.attach(domain, device, "pcidom"));
    // The order is there, and pcidom is on it.
    let order = format!("/local/domain/{pcidom}/pcidom/loans/0");
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let ordered = |_: &World| dom0.read(&order).is_ok();
    assert!(scene.world.run_until(Duration::from_secs(5), ordered));
    daemon.borrow_mut().set_silent(true);
    assert!(leave_and_come_back(&mut scene, 0));
    daemon.borrow_mut().set_silent(false);
    let reply = scene.wait_for(asked);
    assert!(matches!(reply, Reply::Failed { .. }), "{reply:?}");
    scene.world.run_for(Duration::from_secs(40));
    check_quarantined(&scene, 0);
    scene.check_nothing_lent();
    let reply = scene.attach(domain, device);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    assert!(scene.guest_uses(&guest, NVME));
}

#[test]
fn a_device_that_came_back_without_a_daemon_is_taken_by_the_next_one() {
    let mut scene = Scene::ready(5, 1);
    let (pcidom, device) = (scene.pcidom_id, scene.device(0));
    let guest = scene.lend("guest", 0).borrow().domain_id();
    scene.kill_daemon();
    assert!(scene.xl.pci_detach(&mut scene.world, pcidom, device));
    scene.xl.destroy_at_once(guest);
    scene.world.run_for(Duration::from_secs(20));
    assert!(scene.xl.pci_attach(&mut scene.world, pcidom, device));
    assert_eq!(scene.world.xen().owner(device), Some(pcidom));
    scene.start_daemon();
    scene.world.run_for(Duration::from_secs(40));
    check_quarantined(&scene, 0);
    scene.check_nothing_lent();
    scene.lend("next", 0);
}

#[test]
fn a_device_can_be_lent_as_soon_as_xl_has_put_it_into_the_pool() {
    for pause in [0, 1, 3, 10, 30, 60, 100, 200] {
        let mut scene = Scene::ready(pause, 1);
        let (pcidom, device) = (scene.pcidom_id, scene.device(0));
        assert!(scene.xl.pci_detach(&mut scene.world, pcidom, device));
        assert!(scene.xl.pci_attach(&mut scene.world, pcidom, device));
        scene.world.run_for(Duration::from_millis(pause));
        scene.lend("guest", 0);
        scene.check();
    }
}

#[test]
fn a_device_whose_scan_failed_is_scanned_again_when_it_is_wanted() {
    let mut scene = Scene::ready(1, 1);
    let (pcidom, device) = (scene.pcidom_id, scene.device(0));
    assert!(scene.xl.pci_detach(&mut scene.world, pcidom, device));
    scene.pciback.borrow_mut().behave(|b| b.mute = true);
    assert!(scene.xl.pci_attach(&mut scene.world, pcidom, device));
    // Four scans have failed, and the next is 8 s after the last.
    scene.world.run_for(Duration::from_secs(50));
    scene.pciback.borrow_mut().behave(|b| b.mute = false);
    let before = scene.world.now();
    scene.lend("guest", 0);
    assert!(scene.world.now().since(before) < Duration::from_secs(3));
}

/// What pcidom says of its first device; nothing if it does not report.
fn report(scene: &mut Scene) -> String {
    let asked = scene.ask(|daemon| daemon.ask(Verb::Status { pcidom: None }));
    let Reply::Status { status } = scene.wait_for(asked) else { return String::new() };
    let pcidom = status.pcidoms.into_iter().next();
    let report = pcidom.and_then(|pcidom| pcidom.report);
    report.and_then(|report| report.get("pool/0").cloned()).unwrap_or_default()
}

#[test]
fn a_failed_scan_is_told_and_repeated_and_an_order_does_not_wait_for_it_for_ever() {
    let mut scene = Scene::ready(1, 1);
    let (pcidom, device) = (scene.pcidom_id, scene.device(0));
    assert!(scene.xl.pci_detach(&mut scene.world, pcidom, device));
    scene.pciback.borrow_mut().behave(|b| b.mute = true);
    assert!(scene.xl.pci_attach(&mut scene.world, pcidom, device));
    scene.world.run_for(Duration::from_secs(20));
    let why = format!("{device} not scanned: config space access failed");
    assert!(report(&mut scene).contains(&why));
    let (guest, before) = (scene.guest("guest").borrow().domain_id(), scene.world.now());
    let reply = scene.attach(guest, device);
    let Reply::Failed { text } = reply else { panic!("{reply:?}") };
    assert!(text.contains(&why), "{text}");
    let waited = scene.world.now().since(before);
    assert!((20..22).contains(&waited.as_secs()), "{waited:?}");
    // Nobody wants it, and it is found all the same.
    scene.pciback.borrow_mut().behave(|b| b.mute = false);
    scene.world.run_for(Duration::from_secs(65));
    assert!(report(&mut scene).contains("1b36:0010"));
    scene.lend("next", 0);
    scene.check();
}

#[test]
fn an_error_that_dom0_reports_is_answered_at_once() {
    let mut scene = Scene::ready(3, 1);
    let guest = scene.lend("guest", 0);
    let device = scene.device(0);
    let steps = [
        command::AER_DETECTED,
        command::AER_MMIO,
        command::AER_SLOT_RESET,
        command::AER_RESUME,
    ];
    for step in steps {
        assert!(scene.pciback.borrow_mut().report_error(device, step, 1));
        let (pciback, pcidom) = (scene.pciback.clone(), scene.pcidom_id);
        let answered = scene.world.run_until(Duration::from_secs(5), |_| {
            pciback.borrow().error_answer(pcidom).is_some()
        });
        assert!(answered, "step {step}");
    }
    // Config accesses of the guest go on over the same page.
    scene.reload(&guest);
    assert!(scene.guest_uses(&guest, NVME));
    assert_eq!(guest.borrow().state().given_up(), 0);
}

#[test]
fn xl_shutdown_ends_pcidom() {
    let mut scene = Scene::ready(4, 1);
    assert_eq!(scene.pcidom.borrow().halt(), None);
    scene.xl.shutdown(scene.pcidom_id);
    scene.world.run_for(Duration::from_secs(1));
    assert_eq!(scene.pcidom.borrow().halt(), Some(Halt::PowerOff));
}

#[test]
fn the_hardware_decodes_memory_whatever_a_guest_writes_to_command() {
    let mut scene = Scene::ready(5, 1);
    let device = scene.device(0);
    let xen = scene.world.xen().clone();
    let command_register = Register::new(4, Width::Word).unwrap();
    xen.with_hardware(device, Hand::Dom0, |b| b.hardware_mut().take_writes());
    let guest = scene.lend("guest", 0);
    scene.reload(&guest);
    // Between a reset and the restore decode is off: look at what came after the last one.
    let writes = xen.with_hardware(device, Hand::Dom0, |backend| {
        assert!(backend.hardware().bytes()[4] & 2 != 0);
        backend.hardware_mut().take_writes()
    });
    let commands = writes.unwrap().into_iter().filter(|(at, _)| *at == command_register);
    assert!(commands.skip(1).all(|(_, value)| value & 2 != 0), "memory decode stays on");
}

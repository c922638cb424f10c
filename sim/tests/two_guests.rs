//! Guests next to each other: what one does is no business of the other.

use std::time::Duration;

use pcidom_pci::regs::{command, header};
use pcidom_sim::Scene;
use pcidom_sim::linux_guest::Command;
use pcidom_sim::scene::NVME;
use pcidom_sim::xen::devices::Hand;
use pcidom_sim::xen::pirqs::Mapped;
use pcidom_toolstack::verb::Reply;

#[test]
fn one_of_two_guests_is_destroyed_and_the_other_is_served() {
    for seed in 0..10 {
        let mut scene = Scene::ready(seed, 2);
        let two = scene.device(1);
        let victim_id = scene.lend("victim", 0).borrow().domain_id();
        let other = scene.guest("other");
        let other_id = other.borrow().domain_id();
        // The victim dies at some moment of the other's probe.
        let asked = scene.ask(|daemon| daemon.attach(other_id, two, "pcidom"));
        scene.world.run_for(Duration::from_millis(150 + 13 * seed));
        scene.xl.destroy_at_once(victim_id);
        assert!(matches!(scene.wait_for(asked), Reply::Done { .. }), "seed {seed}");
        assert!(scene.guest_uses(&other, NVME), "seed {seed}");
        scene.world.run_for(Duration::from_secs(3));
        scene.check();
        assert!(scene.world.xen().zombies().is_empty());
        assert_eq!(other.borrow().state().timeouts(), 0);
        // The first device goes to a third guest.
        scene.lend("third", 0);
        assert!(scene.world.xen().send_message(two, 0));
        scene.check();
    }
}

#[test]
fn two_controllers_of_one_guest_are_probed_and_given_back_one_by_one() {
    let mut scene = Scene::ready(3, 2);
    let (one, two) = (scene.device(0), scene.device(1));
    let guest = scene.guest("guest");
    let domain = guest.borrow().domain_id();
    assert!(matches!(scene.attach(domain, one), Reply::Done { .. }));
    let reply = scene.attach(domain, two);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    assert!(scene.guest_uses(&guest, NVME));
    scene.world.run_for(Duration::from_secs(2));
    assert_eq!(guest.borrow().state().found.len(), 2);
    for device in [one, two] {
        assert!(scene.world.xen().send_message(device, 2), "{device}");
    }
    // The first one goes; what was behind it moves up in the directory.
    assert!(matches!(scene.detach(domain, one, false), Reply::Done { .. }));
    scene.world.run_for(Duration::from_secs(2));
    assert_eq!(guest.borrow().state().found.len(), 1);
    assert!(scene.world.xen().send_message(two, 2));
    scene.check();
    assert!(matches!(scene.attach(domain, one), Reply::Done { .. }));
    scene.world.run_for(Duration::from_secs(2));
    assert_eq!(guest.borrow().state().found.len(), 2);
    for device in [two, one] {
        let reply = scene.detach(domain, device, false);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    }
    scene.world.run_for(Duration::from_secs(2));
    scene.check_nothing_lent();
}

#[test]
fn a_device_is_lent_once() {
    let mut scene = Scene::ready(1, 1);
    let device = scene.device(0);
    let (one, two) = (scene.guest("one"), scene.guest("two"));
    let ids = (one.borrow().domain_id(), two.borrow().domain_id());
    let first = scene.ask(|daemon| daemon.attach(ids.0, device, "pcidom"));
    let second = scene.ask(|daemon| daemon.attach(ids.1, device, "pcidom"));
    assert!(matches!(scene.wait_for(first), Reply::Done { .. }));
    assert!(matches!(scene.wait_for(second), Reply::Failed { .. }));
    assert_eq!(scene.world.xen().owner(device), Some(ids.0));
    scene.check();
}

#[test]
fn two_guests_reload_their_drivers_at_the_same_time() {
    let mut scene = Scene::ready(5, 2);
    let devices = scene.devices.clone();
    let guests = [scene.lend("one", 0), scene.lend("two", 1)];
    for _ in 0..5 {
        for guest in &guests {
            guest.borrow().reload();
        }
        scene.world.run_for(Duration::from_secs(2));
        for (guest, device) in guests.iter().zip(&devices) {
            assert!(scene.guest_uses(guest, NVME));
            assert!(scene.world.xen().send_message(*device, 2));
            assert_eq!(guest.borrow().state().timeouts(), 0);
        }
        scene.check();
    }
}

/// Devices 0 and 8 have the same line, and the first guest has that.
#[test]
fn a_second_guest_on_a_line_works_with_messages_and_never_has_the_line() {
    let mut scene = Scene::ready(4, 9);
    let one = scene.lend("one", 0);
    let two = scene.lend("two", 8);
    let (first, second) = (one.borrow().domain_id(), two.borrow().domain_id());
    let device = scene.device(8);
    let xen = scene.world.xen().clone();
    assert_eq!(xen.gsi(device), xen.gsi(scene.device(0)));
    let has_line = |domain| {
        let mut pirqs = xen.pirqs(domain).into_iter();
        pirqs.any(|(_, mapped)| matches!(mapped, Mapped::Line(_)))
    };
    assert!(has_line(first) && !has_line(second));
    let intx_is_off = || {
        xen.with_hardware(device, Hand::Dom0, |backend| {
            backend.hardware().word(header::COMMAND) & u32::from(command::INTX_DISABLE)
        }) != Some(0)
    };
    // With messages, without, and again.
    let (at, _) = two.borrow().state().by_ids(NVME).unwrap();
    assert_eq!(two.borrow().state().found[&at].line, 0, "no line is shown");
    assert!(intx_is_off());
    two.borrow().command(Command::Unload(at));
    scene.world.run_for(Duration::from_secs(2));
    assert_eq!(xen.vectors_of(device), []);
    assert!(intx_is_off());
    two.borrow().command(Command::Load(at));
    assert!(scene.guest_uses(&two, NVME) && xen.send_message(device, 2));
    assert!(intx_is_off());
    // The first one never noticed, and a later guest gets the line.
    assert!(xen.send_message(scene.device(0), 2) && has_line(first));
    for (domain, device) in [(second, device), (first, scene.device(0))] {
        assert!(matches!(scene.detach(domain, device, false), Reply::Done { .. }));
    }
    assert!(!has_line(first));
    scene.check_nothing_lent();
    let third = scene.lend("third", 8);
    assert!(has_line(third.borrow().domain_id()));
}

//! Every way a loan can end: the device is quiet and in quarantine, no vector is left, no
//! dead domain lingers, and the device can be lent again.

use std::time::Duration;

use pcidom_pci::Sbdf;
use pcidom_sim::linux_guest::{Command, LinuxGuest};
use pcidom_sim::scene::NVME;
use pcidom_sim::xen::record::Deed;
use pcidom_sim::{Scene, Shared};
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::DomId;

/// A host with one device, lent to a guest that uses it.
fn lent(seed: u64) -> (Scene, Shared<LinuxGuest>, DomId, Sbdf) {
    let mut scene = Scene::ready(seed, 1);
    let device = scene.device(0);
    let guest = scene.lend("first", 0);
    let domain = guest.borrow().domain_id();
    (scene, guest, domain, device)
}

/// The device can be lent to the next guest, and its interrupts work there.
fn lend_again(scene: &mut Scene) {
    scene.lend("next", 0);
    scene.check();
}

fn mask_all(scene: &Scene) -> usize {
    let records = scene.world.xen().records();
    records.iter().filter(|record| matches!(record.deed, Deed::MaskAll { .. })).count()
}

#[test]
fn a_destroyed_guest_gives_its_device_back() {
    for seed in 0..20 {
        let (mut scene, _, domain, _) = lent(seed);
        scene.xl.destroy_at_once(domain);
        scene.world.run_for(Duration::from_secs(5));
        scene.check_nothing_lent();
        assert_eq!(mask_all(&scene), 0, "seed {seed}");
        lend_again(&mut scene);
    }
}

#[test]
fn a_crashed_guest_gives_its_device_back() {
    for seed in 0..20 {
        let (mut scene, _, domain, _) = lent(seed);
        scene.xl.crash(domain);
        scene.world.run_for(Duration::from_secs(5));
        scene.check_nothing_lent();
        assert_eq!(mask_all(&scene), 0, "seed {seed}");
        lend_again(&mut scene);
    }
}

#[test]
fn a_guest_that_shuts_down_gives_its_device_back() {
    let (mut scene, guest, domain, _) = lent(1);
    guest.borrow().command(Command::Shutdown);
    scene.world.run_for(Duration::from_secs(6));
    scene.check();
    scene.xl.destroy_at_once(domain);
    scene.world.run_for(Duration::from_secs(5));
    scene.check_nothing_lent();
    lend_again(&mut scene);
}

#[test]
fn a_forced_detach_takes_the_device_from_a_guest_that_hangs() {
    let (mut scene, guest, domain, device) = lent(1);
    scene.world.remove(&guest);
    let reply = scene.detach(domain, device, true);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    scene.world.run_for(Duration::from_secs(5));
    scene.check_nothing_lent();
    lend_again(&mut scene);
}

#[test]
fn a_detach_that_the_guest_does_not_answer_changes_nothing() {
    let (mut scene, guest, domain, device) = lent(1);
    scene.world.remove(&guest);
    let reply = scene.detach(domain, device, false);
    assert!(matches!(reply, Reply::Failed { .. }), "{reply:?}");
    assert_eq!(scene.world.xen().owner(device), Some(domain));
    assert!(scene.world.xen().send_message(device, 0));
    scene.check();
}

#[test]
fn a_device_that_leaves_the_pool_is_taken_from_its_guest() {
    let (mut scene, guest, _, device) = lent(1);
    let pcidom = scene.pcidom_id;
    assert!(scene.xl.pci_detach(&mut scene.world, pcidom, device));
    scene.world.run_for(Duration::from_secs(5));
    scene.check_nothing_lent();
    assert!(guest.borrow().finds(NVME).is_none());
    // And comes back: stock xl again.
    assert!(scene.xl.pci_attach(&mut scene.world, pcidom, device));
    scene.world.run_for(Duration::from_secs(2));
    lend_again(&mut scene);
}

#[test]
fn the_end_of_pcidom_takes_every_device_from_its_guest() {
    let (mut scene, guest, domain, _) = lent(1);
    let pcidom = scene.pcidom_id;
    scene.xl.destroy(&mut scene.world, pcidom);
    scene.world.run_for(Duration::from_secs(40));
    scene.check_nothing_lent();
    assert!(scene.world.xen().is_running(domain));
    assert!(guest.borrow().finds(NVME).is_none());
    assert!(scene.world.xen().life(pcidom).is_none());
}

#[test]
fn a_rebooted_guest_is_another_domain_and_starts_without_the_device() {
    let (mut scene, _, domain, device) = lent(1);
    // `on_reboot="restart"`: a new domain of the same name as soon as the old one dies.
    scene.xl.destroy_at_once(domain);
    let again = scene.guest("first");
    scene.world.run_for(Duration::from_secs(5));
    scene.check_nothing_lent();
    let domain = again.borrow().domain_id();
    let reply = scene.attach(domain, device);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    assert!(scene.guest_uses(&again, NVME));
}

#[test]
fn a_guest_without_an_iommu_context_is_refused_and_nothing_is_left_of_the_try() {
    let mut scene = Scene::ready(1, 1);
    let device = scene.device(0);
    let config =
        pcidom_sim::xen::domains::DomainConfig { iommu: false, ..Default::default() };
    let domain = scene.xl.create("plain", config);
    let reply = scene.attach(domain, device);
    assert!(matches!(reply, Reply::Failed { .. }), "{reply:?}");
    scene.world.run_for(Duration::from_secs(5));
    scene.check_nothing_lent();
    lend_again(&mut scene);
}

//! pcidom's own end, and devices that leave its pool while they are lent: nobody else gets a
//! device before its loan is over, and all works again afterwards.

use std::time::Duration;

use pcidom_kernel::machine::Halt;
use pcidom_pci::Sbdf;
use pcidom_sim::linux_guest::LinuxGuest;
use pcidom_sim::pcidom::Pcidom;
use pcidom_sim::scene::{NVME, PCIDOM};
use pcidom_sim::xen::DOM_IO;
use pcidom_sim::xen::devices::Hand;
use pcidom_sim::xen::domains::DomainConfig;
use pcidom_sim::{Scene, Shared};
use pcidom_toolstack::verb::{Bdf, Reply, Verb};
use pcidom_xenbus::{DomId, XenbusState};

fn lent(seed: u64) -> (Scene, Shared<LinuxGuest>, Sbdf) {
    let mut scene = Scene::ready(seed, 1);
    let guest = scene.lend("guest", 0);
    let device = scene.device(0);
    (scene, guest, device)
}

/// `xl create pcidom.cfg`, once more.
fn create_again(scene: &mut Scene) {
    let devices = scene.devices.clone();
    let old = scene.pcidom.clone();
    scene.world.remove(&old);
    let domain = scene.xl.create_with_devices(PCIDOM, DomainConfig::default(), &devices);
    scene.pcidom_id = domain;
    let pcidom = Pcidom::boot(scene.world.xen(), scene.world.store(), domain);
    scene.pcidom = scene.world.add(pcidom);
    let path = format!("/local/domain/{domain}/data/pcidom/state");
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let ready = |_: &pcidom_sim::World| dom0.read(&path).as_deref() == Ok("ready");
    assert!(scene.world.run_until(Duration::from_secs(30), ready), "pcidom serves");
    scene.world.run_for(Duration::from_secs(1));
}

/// The same guest gets the device again, and uses it.
fn lend_again(scene: &mut Scene, guest: &Shared<LinuxGuest>) {
    let (domain, device) = (guest.borrow().domain_id(), scene.device(0));
    let reply = scene.attach(domain, device);
    assert!(scene.guest_uses(guest, NVME), "{reply:?}");
    scene.check();
}

#[test]
fn a_destroyed_pcidom_ends_its_loans_and_its_successor_lends_to_the_same_guest() {
    for seed in 0..10 {
        let (mut scene, guest, device) = lent(seed);
        let pcidom = scene.pcidom_id;
        scene.xl.destroy(&mut scene.world, pcidom);
        scene.world.run_for(Duration::from_secs(15));
        scene.check_nothing_lent();
        assert_eq!(scene.world.xen().owner(device), Some(DOM_IO));
        create_again(&mut scene);
        lend_again(&mut scene, &guest);
    }
}

#[test]
fn xl_does_not_give_a_device_away_while_it_is_lent_and_leaves_no_right_behind() {
    let (mut scene, guest, device) = lent(1);
    let other = scene.guest("other").borrow().domain_id();
    let owner = guest.borrow().domain_id();
    let node = device.to_string().replace([':', '.'], "-");
    let lock = format!("/libxl/pci/{node}/domid");
    let dom0 = scene.world.store().connect(DomId::DOM0);
    // libxl looks at the lock before the daemon has put it back.
    dom0.remove(&lock).unwrap();
    assert!(!scene.xl.pci_attach(&mut scene.world, other, device));
    scene.world.run_for(Duration::from_secs(1));
    assert!(scene.world.xen().rights(other).iomem.is_empty());
    assert_eq!(scene.world.xen().owner(device), Some(owner));
    assert_eq!(dom0.read(&lock).unwrap(), owner.to_string());
    // From now on it does not get that far.
    let before = scene.world.xen().violations();
    assert!(!scene.xl.pci_attach(&mut scene.world, other, device));
    assert_eq!(scene.world.xen().violations(), before);
}

#[test]
fn after_xl_pci_detach_the_next_domain_has_the_device_alone() {
    for seed in 0..10 {
        let (mut scene, guest, device) = lent(seed);
        let other = scene.guest("other").borrow().domain_id();
        let pcidom = scene.pcidom_id;
        assert!(scene.xl.pci_detach(&mut scene.world, pcidom, device));
        let got = scene.world.run_until(Duration::from_secs(1), |_| false)
            || (0..100).any(|_| {
                scene.world.run_for(Duration::from_millis(100));
                scene.xl.pci_attach(&mut scene.world, other, device)
            });
        assert!(got, "seed {seed}: the lock is never dropped");
        scene.world.run_for(Duration::from_secs(1));
        scene.check();
        assert_eq!(scene.world.xen().owner(device), Some(other));
        assert_eq!(guest.borrow().state().by_ids(NVME).map(|(at, _)| at), None);
    }
}

/// A forced detach is asked for, and the world runs until the guest is told. Returns how long
/// that took, and whether pcidom had reported the end of the loan by then.
fn forced_until_told(scene: &mut Scene, guest: &Shared<LinuxGuest>) -> (Duration, bool) {
    let (domain, device) = (guest.borrow().domain_id(), scene.device(0));
    let report = format!("/local/domain/{}/data/pcidom/loans/0", scene.pcidom_id);
    let back = format!("/local/domain/{}/backend/pci/{domain}/0/state", scene.pcidom_id);
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let before = scene.world.now();
    let asked = scene.ask(|daemon| {
        daemon.ask(Verb::Detach {
            guest: domain.to_string(),
            device: Bdf(device),
            force: true,
            pcidom: None,
        })
    });
    let told = |_: &pcidom_sim::World| {
        XenbusState::parse(dom0.read(&back).ok().as_deref()) == XenbusState::Closing
    };
    assert!(scene.world.run_until(Duration::from_secs(20), told), "the guest is told");
    let took = scene.world.now().since(before);
    let reported = dom0.read(&report).is_ok_and(|text| text.contains("returned"));
    let reply = scene.wait_for(asked);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    (took, reported)
}

#[test]
fn a_guest_hears_of_a_loss_when_pcidom_serves_the_device_no_more() {
    for seed in 0..10 {
        let (mut scene, guest, _) = lent(seed);
        let (_, reported) = forced_until_told(&mut scene, &guest);
        assert!(reported, "seed {seed}: told while pcidom still served the device");
        scene.check_nothing_lent();
    }
}

#[test]
fn a_guest_does_not_wait_for_a_slow_reset_to_hear_of_a_loss() {
    let (mut scene, guest, device) = lent(1);
    scene.world.xen().with_hardware(device, Hand::Dom0, |backend| {
        backend.hardware_mut().set_ready_after(Duration::from_secs(8));
    });
    let (took, reported) = forced_until_told(&mut scene, &guest);
    assert!(!reported && took < Duration::from_secs(2), "told after {took:?}");
    scene.check_nothing_lent();
}

#[test]
fn xl_shutdown_waits_until_the_guest_has_let_go() {
    for seed in 0..10 {
        let (mut scene, guest, _) = lent(seed);
        scene.xl.shutdown(scene.pcidom_id);
        let pcidom = scene.pcidom.clone();
        let halts = |_: &pcidom_sim::World| pcidom.borrow().halt().is_some();
        assert!(scene.world.run_until(Duration::from_secs(10), halts));
        assert_eq!(pcidom.borrow().halt(), Some(Halt::PowerOff));
        assert_eq!(guest.borrow().state().by_ids(NVME).map(|(at, _)| at), None);
        scene.world.run_for(Duration::from_secs(1));
        scene.check_nothing_lent();
    }
}

#[test]
fn xl_shutdown_does_not_wait_for_ever_without_a_daemon() {
    let (mut scene, _, _) = lent(1);
    scene.kill_daemon();
    scene.xl.shutdown(scene.pcidom_id);
    let pcidom = scene.pcidom.clone();
    scene.world.run_for(Duration::from_secs(20));
    assert_eq!(pcidom.borrow().halt(), None);
    scene.world.run_for(Duration::from_secs(6));
    assert_eq!(pcidom.borrow().halt(), Some(Halt::PowerOff));
}

#[test]
fn a_device_that_comes_back_before_its_loan_is_over_is_in_the_pool_afterwards() {
    let (mut scene, _, device) = lent(1);
    let daemon = scene.daemon.clone().unwrap();
    daemon.borrow_mut().set_silent(true);
    // Both ends of the A-link start anew, with the same device.
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let pcidom = scene.pcidom_id;
    let back = format!("/local/domain/0/backend/pci/{pcidom}/0");
    let initialising = XenbusState::Initialising.number().to_string();
    dom0.write(&format!("{back}/state"), &initialising).unwrap();
    dom0.write(&format!("/local/domain/{pcidom}/device/pci/0/state"), &initialising)
        .unwrap();
    scene.world.run_for(Duration::from_secs(1));
    // dom0 has it in the pool again, while pcidom still waits for the loan to end.
    let connected = XenbusState::Connected.number().to_string();
    dom0.write(&format!("{back}/state"), &connected).unwrap();
    scene.world.run_for(Duration::from_secs(12));
    daemon.borrow_mut().set_silent(false);
    scene.world.run_for(Duration::from_secs(1));
    let asked = scene.ask(|daemon| daemon.ask(Verb::Status { pcidom: None }));
    let Reply::Status { status } = scene.wait_for(asked) else { panic!("no status") };
    let report = status.pcidoms[0].report.clone().expect("pcidom reports");
    let pool = report.get("pool/0").expect("the pool has a device");
    assert!(pool.contains(&device.to_string()), "{pool}");
}

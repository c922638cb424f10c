//! A guest that is HVM, and has devices by way of its stub domain.

use std::time::Duration;

use pcidom_pci::Sbdf;
use pcidom_sim::Scene;
use pcidom_sim::linux_guest::LinuxGuest;
use pcidom_sim::scene::NVME;
use pcidom_sim::world::Shared;
use pcidom_sim::xen::domains::DomainConfig;
use pcidom_sim::xen::pirqs::Mapped;
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::{DomId, XenbusState};

/// An HVM guest, which does nothing here, and its stub domain, a Linux.
fn pair(scene: &mut Scene) -> (DomId, Shared<LinuxGuest>) {
    let config = DomainConfig { hvm: true, ..DomainConfig::default() };
    let owner = scene.xl.create("win", config);
    let stub = scene.guest("win-dm");
    let domain = stub.borrow().domain_id();
    assert!(scene.world.xen().set_target(DomId::DOM0, domain, owner).is_ok());
    (owner, stub)
}

fn lend(scene: &mut Scene, n: usize) -> (DomId, Shared<LinuxGuest>, Sbdf) {
    let device = scene.device(n);
    let (owner, stub) = pair(scene);
    let domain = stub.borrow().domain_id();
    let asked = scene.ask_for_owner(owner, domain, device);
    let reply = scene.wait_for(asked);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    scene.world.run_for(Duration::from_secs(2));
    (owner, stub, device)
}

/// Who has what while it is lent.
#[track_caller]
fn check_lent(scene: &Scene, owner: DomId, stub: DomId, device: Sbdf) {
    scene.check();
    let xen = scene.world.xen();
    assert_eq!(xen.owner(device), Some(owner));
    assert!(xen.bar_pages(device).is_subset(&xen.rights(stub).iomem));
    assert_eq!(xen.pirqs(stub), []);
    let line = xen.gsi(device).map(|gsi| (gsi, Mapped::Line(gsi)));
    assert!(line.is_some_and(|line| xen.pirqs(owner).contains(&line)));
}

/// The device is free: another guest has it next.
#[track_caller]
fn check_free(scene: &mut Scene) {
    scene.world.run_for(Duration::from_secs(5));
    scene.check_nothing_lent();
    let xen = scene.world.xen();
    for domain in xen.domains().into_iter().filter(|domain| *domain != DomId::DOM0) {
        assert!(xen.rights(domain).irqs.is_empty(), "domain {domain} may bind a line");
        assert_eq!(xen.pirqs(domain), [], "domain {domain}");
    }
    scene.lend("next", 0);
    scene.check();
}

#[test]
fn a_stub_domain_sees_the_device_and_its_guest_owns_it() {
    let mut scene = Scene::ready(1, 1);
    let (owner, stub, device) = lend(&mut scene, 0);
    let domain = stub.borrow().domain_id();
    check_lent(&scene, owner, domain, device);
    assert_eq!(stub.borrow().link_state(), XenbusState::Connected);
    assert!(stub.borrow().finds(NVME).is_some(), "it is on the stub domain's bus");
    // Its driver has asked for vectors, got its guest's, and could bind none of them.
    let vectors = scene.world.xen().vectors_of(device);
    assert!(!vectors.is_empty() && stub.borrow().state().interrupts.is_empty());
    assert!(vectors.iter().all(|(domain, _)| *domain == owner), "{vectors:?}");
    let reply = scene.detach(domain, device, false);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    assert!(stub.borrow().finds(NVME).is_none());
    check_free(&mut scene);
}

#[test]
fn the_end_of_either_at_any_moment_frees_the_device() {
    for moment in 0..24 {
        let mut scene = Scene::ready(moment, 1);
        let device = scene.device(0);
        let (owner, stub) = pair(&mut scene);
        let domain = stub.borrow().domain_id();
        let asked = scene.ask_for_owner(owner, domain, device);
        scene.world.run_for(Duration::from_millis(25 * moment));
        let victim = if moment % 2 == 0 { owner } else { domain };
        if moment % 3 == 0 {
            scene.xl.crash(victim);
        } else {
            scene.xl.destroy_at_once(victim);
        }
        scene.wait_for(asked);
        check_free(&mut scene);
    }
}

#[test]
fn the_end_of_either_while_it_is_lent_frees_the_device() {
    for (seed, of_owner) in [(1, true), (2, false)] {
        let mut scene = Scene::ready(seed, 1);
        let (owner, stub, device) = lend(&mut scene, 0);
        let domain = stub.borrow().domain_id();
        check_lent(&scene, owner, domain, device);
        scene.xl.destroy_at_once(if of_owner { owner } else { domain });
        scene.world.run_for(Duration::from_secs(5));
        if of_owner {
            assert!(stub.borrow().finds(NVME).is_none(), "the stub domain was told");
        }
        check_free(&mut scene);
    }
}

#[test]
fn the_next_daemon_knows_both() {
    for of_owner in [true, false] {
        let mut scene = Scene::ready(4, 1);
        let (owner, stub, device) = lend(&mut scene, 0);
        let domain = stub.borrow().domain_id();
        scene.kill_daemon();
        scene.world.run_for(Duration::from_secs(1));
        scene.start_daemon();
        scene.world.run_for(Duration::from_secs(1));
        check_lent(&scene, owner, domain, device);
        scene.xl.destroy_at_once(if of_owner { owner } else { domain });
        check_free(&mut scene);
    }
}

#[test]
fn a_daemon_that_dies_while_it_lends_leaves_neither_with_anything() {
    for moment in 0..24 {
        let mut scene = Scene::ready(moment, 1);
        let device = scene.device(0);
        let (owner, stub) = pair(&mut scene);
        let domain = stub.borrow().domain_id();
        scene.ask_for_owner(owner, domain, device);
        scene.world.run_for(Duration::from_millis(25 * moment));
        scene.kill_daemon();
        scene.start_daemon();
        scene.world.run_for(Duration::from_secs(5));
        scene.check();
        if scene.world.xen().owner(device) == Some(owner) {
            check_lent(&scene, owner, domain, device);
            let reply = scene.detach(domain, device, false);
            assert!(matches!(reply, Reply::Done { .. }), "{moment}: {reply:?}");
        }
        check_free(&mut scene);
    }
}

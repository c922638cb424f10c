//! Our pcifront against our pciback: a guest that runs the one on a link of the other.

use std::time::Duration;

use pcidom_sim::Scene;
use pcidom_sim::own_front::OwnFront;
use pcidom_toolstack::verb::Reply;
use pcifront::State;

#[test]
fn our_frontend_scans_over_our_backend_what_the_pool_has() {
    let mut scene = Scene::ready(1, 2);
    let domain =
        scene.xl.create("guest", pcidom_sim::xen::domains::DomainConfig::default());
    let (xen, store) = (scene.world.xen().clone(), scene.world.store().clone());
    let front = scene.world.add(OwnFront::boot(&xen, &store, domain));
    let devices = scene.devices.clone();
    for device in &devices {
        let reply = scene.attach(domain, *device);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
        scene.world.run_for(Duration::from_secs(1));
    }
    assert_eq!(front.borrow().state(), State::Connected);
    assert_eq!(front.borrow().devices(), devices);
    for (device, found) in front.borrow().found() {
        let (found, real) = (found.clone().unwrap(), xen.function(*device).unwrap());
        // The guest sees the same device: ids, BARs with addresses and sizes, the MSI-X
        // table. What pcidom hides or makes up is its policy's business.
        assert_eq!((found.vendor, found.device), (real.vendor, real.device));
        assert_eq!((found.class, found.revision), (real.class, real.revision));
        assert_eq!(found.bars, real.bars);
        assert_eq!(found.msix.map(|msix| msix.table_size), Some(65));
        assert_eq!(found.list_cut_at, None);
    }
    assert_eq!(front.borrow().found().len(), 2);
    for device in devices {
        let reply = scene.detach(domain, device, false);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
        scene.world.run_for(Duration::from_secs(1));
        assert!(!front.borrow().devices().contains(&device));
    }
    assert_eq!(front.borrow().state(), State::Down);
    scene.check_nothing_lent();
    // And once more from the start, on a new directory.
    let device = scene.device(1);
    assert!(matches!(scene.attach(domain, device), Reply::Done { .. }));
    scene.world.run_for(Duration::from_secs(1));
    assert_eq!(front.borrow().devices(), [device]);
    assert_eq!(front.borrow().found().len(), 3);
    scene.check();
}

#[test]
fn our_frontend_survives_the_end_of_our_backend() {
    let mut scene = Scene::ready(2, 1);
    let domain =
        scene.xl.create("guest", pcidom_sim::xen::domains::DomainConfig::default());
    let (xen, store) = (scene.world.xen().clone(), scene.world.store().clone());
    let front = scene.world.add(OwnFront::boot(&xen, &store, domain));
    let device = scene.device(0);
    assert!(matches!(scene.attach(domain, device), Reply::Done { .. }));
    scene.world.run_for(Duration::from_secs(1));
    let pcidom = scene.pcidom_id;
    scene.xl.destroy(&mut scene.world, pcidom);
    scene.world.run_for(Duration::from_secs(60));
    assert_eq!(front.borrow().state(), State::Down);
    assert_eq!(xen.grants_in_use(domain), 0);
    scene.check_nothing_lent();
}

//! Config space that guests read without dom0.

use std::time::Duration;

use pcidom_sim::Scene;
use pcidom_sim::scene::NVME;
use pcidom_sim::world::Actor;
use pcidom_sim::xen::ecam;
use pcidom_sim::xen::errno::EPERM;

#[test]
fn every_pool_device_has_a_window_until_it_leaves_the_pool() {
    let mut scene = Scene::ready(61, 2);
    let (first, second) = (scene.device(0), scene.device(1));
    let (xen, pcidom) = (scene.world.xen().clone(), scene.pcidom_id);
    let mut maps = xen.config_maps();
    maps.sort_unstable();
    assert_eq!(maps, [(pcidom, first), (pcidom, second)]);
    let [one, two] = [first, second].map(|device| ecam::frame(device).0);
    assert_eq!(xen.rights(pcidom).iomem, [one, two].into());
    scene.lend("guest", 0);
    assert!(scene.xl.pci_detach(&mut scene.world, pcidom, second));
    scene.world.run_for(Duration::from_secs(5));
    assert_eq!(xen.config_maps(), [(pcidom, first)]);
    assert_eq!(xen.rights(pcidom).iomem, [one].into());
    scene.check();
}

/// What dom0 had to do until a guest uses its device.
fn ops_of_a_loan(windows: bool) -> u64 {
    let mut scene = Scene::new(62, 1);
    if !windows {
        scene.pcidom.borrow().failures().borrow_mut().insert("map_config", EPERM);
    }
    scene.serve();
    assert_eq!(scene.world.xen().config_maps().is_empty(), !windows);
    let ops = |scene: &Scene| scene.pciback.borrow().ops_served(scene.pcidom_id);
    let before = ops(&scene);
    let guest = scene.lend("guest", 0);
    assert!(guest.borrow().finds(NVME).is_some());
    scene.check();
    ops(&scene) - before
}

#[test]
fn where_no_window_can_be_opened_reads_go_through_dom0() {
    let (with, without) = (ops_of_a_loan(true), ops_of_a_loan(false));
    assert!(with < without, "{with} ops with a window, {without} without");
}

#[test]
fn idle_means_that_nothing_is_due() {
    let mut scene = Scene::ready(63, 2);
    assert_eq!(scene.pcidom.borrow().deadline(), None);
    scene.lend("guest", 0);
    scene.world.run_for(Duration::from_secs(5));
    assert_eq!(scene.pcidom.borrow().deadline(), None);
}

//! Resets that somebody asks for: by the verb, and through XenStore.

use std::time::Duration;

use pcidom_pci::fake::Fault;
use pcidom_pci::reset::Method;
use pcidom_sim::Scene;
use pcidom_sim::scene::{NVME, card};
use pcidom_sim::xen::devices::Hand;
use pcidom_toolstack::verb::{Bdf, Reply, Verb};
use pcidom_xenbus::DomId;

const REQUEST: &str = "/tool/pcidom/reset/test";

fn verb(scene: &Scene) -> Verb {
    let device = Bdf(scene.device(0));
    Verb::Reset { device, method: None, force: false, pcidom: None }
}

/// The device can be lent and used, so nothing of the reset is in the way.
fn lend(scene: &mut Scene) {
    let guest = scene.lend("guest", 0);
    assert!(scene.guest_uses(&guest, NVME));
    scene.check();
}

#[test]
fn the_verb_resets_a_free_device_and_tells_how() {
    let mut scene = Scene::ready(1, 1);
    let device = scene.device(0);
    let asked = scene.ask(|daemon| daemon.ask(verb(&scene)));
    let Reply::Done { text } = scene.wait_for(asked) else { panic!("not done") };
    assert!(text.starts_with(&format!("{device} was reset in 0.")), "{text}");
    assert!(text.contains("function level reset"), "{text}");
    scene.check_nothing_lent();
    lend(&mut scene);
    // Now it is somebody's.
    let asked = scene.ask(|daemon| daemon.ask(verb(&scene)));
    let Reply::Failed { text } = scene.wait_for(asked) else { panic!("not refused") };
    assert!(text.contains("is lent to guest"), "{text}");
    scene.check();
}

#[test]
fn another_toolstack_asks_through_xenstore() {
    let mut scene = Scene::ready(2, 1);
    let dom0 = scene.world.store().connect(DomId::DOM0);
    dom0.write(REQUEST, &scene.device(0).to_string()).unwrap();
    let result = format!("{REQUEST}/result");
    let done = |_: &pcidom_sim::World| {
        dom0.read(&result).is_ok_and(|text| text.starts_with("ok "))
    };
    assert!(scene.world.run_until(Duration::from_secs(5), done));
    scene.check_nothing_lent();
    lend(&mut scene);
}

#[test]
fn a_reset_that_outlives_its_daemon_is_in_nobodys_way() {
    for time in [0, 1, 50, 500] {
        let mut scene = Scene::ready(3, 1);
        scene.ask(|daemon| daemon.ask(verb(&scene)));
        scene.world.run_for(Duration::from_millis(time));
        scene.kill_daemon();
        scene.start_daemon();
        scene.check_nothing_lent();
        let order = format!("/local/domain/{}/pcidom/loans/0", scene.pcidom_id);
        let dom0 = scene.world.store().connect(DomId::DOM0);
        assert!(dom0.read(&order).is_err(), "{time}");
        lend(&mut scene);
    }
}

/// Its guest's driver, or its firmware, has hung it: it reads all ones.
#[test]
fn a_hung_device_comes_back_by_its_port_and_is_lent() {
    for watched in [true, false] {
        let mut scene =
            Scene::with(4, |world| card(world, 2, 1, &[Method::FunctionLevel]));
        scene.serve();
        let (device, xen) = (scene.device(1), scene.world.xen().clone());
        let hang = || {
            let set = |b: &mut pcidom_pci::fake::FakeBackend| {
                b.hardware_mut().set_fault(Fault::Hangs);
            };
            xen.with_hardware(device, Hand::Dom0, set).unwrap();
        };
        let resets = || {
            let count = |b: &mut pcidom_pci::fake::FakeBackend| b.hardware().resets();
            xen.with_hardware(device, Hand::Dom0, count).unwrap()
        };
        let guest = scene.lend("first", 1);
        let domain = guest.borrow().domain_id();
        if watched {
            // Its return is a reset, and that is by the port.
            hang();
        }
        let before = resets();
        let reply = scene.detach(domain, device, true);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
        scene.check_nothing_lent();
        assert_eq!(resets(), before + 1);
        if !watched {
            hang();
        }
        let reply = scene.attach(domain, device);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
        assert!(scene.guest_uses(&guest, NVME));
        scene.check();
    }
}

//! The A-link whatever order its events come in, and what is missed of them.

use std::time::Duration;

use pcidom_sim::Scene;
use pcidom_sim::pciback::back_dir;
use pcidom_sim::xen::devices::Hand;
use pcidom_sim::xen::errno::ENOSPC;
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::DomId;
use pcidom_xenbus::pciif::command;

/// The whole pool leaves, and all of it or only pcidom has seen that when it comes back.
#[test]
fn the_pool_ends_as_dom0_exports_it_whenever_pcidom_looks() {
    for seed in 0..24 {
        let mut scene = Scene::ready(seed, 1 + u32::try_from(seed % 3).unwrap());
        let (pcidom, devices) = (scene.pcidom_id, scene.devices.clone());
        for round in 0..3 {
            for device in &devices {
                assert!(scene.xl.pci_detach(&mut scene.world, pcidom, *device));
            }
            let moment = Duration::from_micros((seed * 137 + round * 500) % 3000);
            scene.world.run_for(moment);
            scene.pcidom.borrow_mut().set_paused(true);
            for device in &devices {
                let back = scene.xl.pci_attach(&mut scene.world, pcidom, *device);
                assert!(back, "seed {seed} round {round}");
                // The next one waits until the link is connected.
                scene.pcidom.borrow_mut().set_paused(false);
            }
            scene.world.run_for(Duration::from_secs(1));
        }
        for n in 0..devices.len() {
            scene.lend(&format!("guest-{n}"), n);
        }
        scene.check();
    }
}

/// Only pcidom has not seen that the toolstack took the link away and made it anew, and it
/// was about to write something.
#[test]
fn a_link_made_anew_is_taken_up_whatever_pcidom_was_about_to_do() {
    for step in 0..140 {
        let mut scene = Scene::ready(step, 2);
        let (pcidom, devices) = (scene.pcidom_id, scene.devices.clone());
        let (dom0, back) =
            (scene.world.store().connect(DomId::DOM0), back_dir(scene.pcidom_id));
        let ports = scene.world.xen().open_ports(pcidom).len();
        if step % 2 == 0 {
            // A change that pcidom takes up with 7 and 4.
            dom0.write(&format!("{back}/state-1"), "5").unwrap();
            dom0.write(&format!("{back}/state"), "7").unwrap();
        } else {
            // A link that it opens with its details and 3.
            scene.xl.drop_link(pcidom, &devices);
            scene.world.run_for(Duration::from_millis(10));
            scene.xl.make_link(pcidom, &devices);
        }
        scene.world.run_for(Duration::from_millis(step));
        scene.pcidom.borrow_mut().set_paused(true);
        scene.world.run_for(Duration::from_millis(20));
        scene.xl.drop_link(pcidom, &devices);
        for device in devices.iter().rev() {
            let back = scene.xl.pci_attach(&mut scene.world, pcidom, *device);
            assert!(back, "step {step}");
            scene.pcidom.borrow_mut().set_paused(false);
        }
        scene.world.run_for(Duration::from_secs(1));
        // The page and the port of the old link are gone.
        assert_eq!(scene.world.xen().grants_in_use(pcidom), 1);
        assert_eq!(scene.world.xen().open_ports(pcidom).len(), ports);
        for n in 0..2 {
            scene.lend(&format!("guest-{n}"), n);
        }
        scene.check();
    }
}

#[test]
fn an_access_in_flight_when_the_link_starts_anew_has_failed() {
    let mut accesses = 0;
    for moment in 0..40 {
        let mut scene = Scene::through_dom0(1, 1);
        let guest = scene.lend("guest", 0);
        guest.borrow().reload();
        scene.world.run_for(Duration::from_millis(moment));
        scene.pciback.borrow_mut().behave(|b| b.mute = true);
        scene.world.run_for(Duration::from_millis(50));
        let before = guest.borrow().state().ops.len();
        // pcidom leaves one page and opens the next at once.
        let dom0 = scene.world.store().connect(DomId::DOM0);
        let front = format!("/local/domain/{}/device/pci/0", scene.pcidom_id);
        for dir in [back_dir(scene.pcidom_id), front] {
            dom0.write(&format!("{dir}/state"), "1").unwrap();
            scene.world.run_for(Duration::from_millis(30));
        }
        let guest = guest.borrow();
        if let Some(first) = guest.state().ops.get(before)
            && matches!(first.op.cmd, command::CONF_READ | command::CONF_WRITE)
        {
            accesses += 1;
            assert_ne!(first.err, 0, "{first:?}");
        }
    }
    assert!(accesses > 10, "{accesses}");
}

#[test]
fn a_loan_that_ends_on_the_next_link_resets_its_own_device_or_none() {
    for comes_back in [true, false] {
        let mut scene = Scene::ready(2, 2);
        let [lent, other] = [scene.device(0), scene.device(1)];
        let pcidom = scene.pcidom_id;
        let guest = scene.lend("guest", 0).borrow().domain_id();
        let daemon = scene.daemon.clone().unwrap();
        daemon.borrow_mut().set_silent(true);
        scene.xl.drop_link(pcidom, &[]);
        scene.world.run_for(Duration::from_millis(20));
        // The other one is now where the lent one was.
        let devices = [other, lent];
        let there = if comes_back { &devices[..] } else { &devices[..1] };
        scene.xl.make_link(pcidom, there);
        scene.world.run_for(Duration::from_secs(1));
        let xen = scene.world.xen().clone();
        let writes = |device| {
            let taken = xen.with_hardware(device, Hand::Dom0, |backend| {
                backend.hardware_mut().take_writes().len()
            });
            taken.unwrap()
        };
        writes(lent);
        writes(other);
        daemon.borrow_mut().set_silent(false);
        let _: Reply = scene.detach(guest, lent, true);
        assert_eq!(writes(lent) > 0, comes_back, "the loan's end resets its device");
        assert_eq!(writes(other), 0, "and no other");
        scene.world.run_for(Duration::from_secs(5));
        scene.lend("next", usize::from(!comes_back));
    }
}

#[test]
fn a_page_or_port_that_xen_refuses_for_a_while_is_asked_for_again() {
    for call in ["grant", "alloc_unbound"] {
        let mut scene = Scene::ready(3, 1);
        let (pcidom, device) = (scene.pcidom_id, scene.device(0));
        assert!(scene.xl.pci_detach(&mut scene.world, pcidom, device));
        let failures = scene.pcidom.borrow().failures();
        failures.borrow_mut().insert(call, ENOSPC);
        assert!(scene.xl.pci_attach(&mut scene.world, pcidom, device));
        scene.world.run_for(Duration::from_secs(10));
        assert_eq!(scene.world.xen().grants_in_use(pcidom), 0, "{call}");
        failures.borrow_mut().clear();
        scene.lend("guest", 0);
        scene.check();
    }
}

/// pciback's virtual bus has 32 slots, and Linux closes a link that does not fit.
#[test]
fn a_pool_has_as_many_devices_as_the_link_has_slots() {
    let mut scene = Scene::ready(4, 32);
    scene.lend("first", 0);
    scene.lend("last", 31);
    scene.check();
}

#[test]
fn a_pool_that_does_not_fit_the_link_leaves_pcidom_idle() {
    let mut scene = Scene::new(4, 33);
    scene.start_daemon();
    scene.world.run_until_quiet(Duration::from_secs(30));
    assert_eq!(scene.world.xen().grants_in_use(scene.pcidom_id), 0);
}

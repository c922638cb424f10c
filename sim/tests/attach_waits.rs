//! When an attach waits for the link to be Connected (document "PV hotplug and stubdom
//! coldplug"): only if the guest is a PV guest (there are no others), runs, and has a link
//! that is not on its way to Connected by itself. Everywhere else waiting would never end.
#![expect(clippy::panic, reason = "helpers of tests: what is not there fails the test")]

use std::time::Duration;

use pcidom_sim::linux_guest::{Command, LinuxGuest};
use pcidom_sim::scene::{NVME, PCIDOM, QUEUES};
use pcidom_sim::xen::DOM_IO;
use pcidom_sim::xen::domains::DomainConfig;
use pcidom_sim::{Scene, Shared, World};
use pcidom_toolstack::daemon::Client;
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::DomId;

/// What an attach takes that waits for nobody: the reset of the device above all.
const AT_ONCE: Duration = Duration::from_secs(2);

fn ask(scene: &Scene, domain: DomId, n: usize) -> Client {
    let device = scene.device(n);
    scene.ask(|daemon| daemon.attach(domain, device, PCIDOM))
}

#[track_caller]
fn done(reply: &Reply) {
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
}

#[track_caller]
fn failed(reply: Reply) -> String {
    match reply {
        Reply::Failed { text } => text,
        other => panic!("{other:?}"),
    }
}

fn back(scene: &Scene, domain: DomId, key: &str) -> Option<String> {
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let pcidom = scene.pcidom_id;
    dom0.read(&format!("/local/domain/{pcidom}/backend/pci/{domain}/0/{key}")).ok()
}

fn state(scene: &Scene, domain: DomId) -> Option<String> {
    back(scene, domain, "state")
}

fn follow(scene: &Scene, domain: DomId) {
    let pcidom = scene.pcidom_id;
    let path = format!("/local/domain/{pcidom}/backend/pci/{domain}/0/state");
    scene.world.store().follow(&path);
}

/// What pcidom's state was since the last call; "-" if the directory went.
fn states(scene: &Scene) -> Vec<String> {
    let seen = scene.world.store().take_history().into_iter();
    seen.map(|seen| seen.value.unwrap_or_else(|| "-".into())).collect()
}

/// A guest that runs and has so many of the devices.
fn lent(seed: u64, devices: u32, lent: usize) -> (Scene, Shared<LinuxGuest>, DomId) {
    let mut scene = Scene::ready(seed, devices);
    let guest = scene.guest("guest");
    let domain = guest.borrow().domain_id();
    for n in 0..lent {
        let device = scene.device(n);
        done(&scene.attach(domain, device));
    }
    scene.world.run_for(Duration::from_secs(2));
    (scene, guest, domain)
}

/// No link yet: the attach makes it, and there is nothing to wait for, whoever the guest is.
#[test]
fn an_attach_that_makes_the_link_does_not_wait_for_it_first() {
    for paused in [false, true] {
        let mut scene = Scene::ready(1, 1);
        let config = DomainConfig { paused, ..DomainConfig::default() };
        let domain = scene.xl.create("guest", config);
        let asked = ask(&scene, domain, 0);
        scene.world.run_for(AT_ONCE);
        assert_eq!(scene.world.xen().owner(scene.device(0)), Some(domain));
        assert_eq!(back(&scene, domain, "num_devs").as_deref(), Some("1"));
        // Only whoever asked waits for a guest that runs to see it.
        let replied =
            scene.daemon.as_ref().is_some_and(|d| d.borrow().reply(asked).is_some());
        assert_eq!(replied, paused);
    }
}

/// Its frontend waits for pcidom, and pcidom for it: Connected comes after both have it all.
#[test]
fn an_attach_does_not_wait_for_a_frontend_that_is_still_starting() {
    for paused in [false, true] {
        let mut scene = Scene::ready(2, 2);
        let config = DomainConfig { paused, ..DomainConfig::default() };
        let domain = scene.xl.create("guest", config);
        follow(&scene, domain);
        let asked = [ask(&scene, domain, 0), ask(&scene, domain, 1)];
        scene.world.run_for(AT_ONCE);
        assert_eq!(state(&scene, domain).as_deref(), Some("3"));
        assert_eq!(back(&scene, domain, "num_devs").as_deref(), Some("2"));
        assert_eq!(back(&scene, domain, "state-1").as_deref(), Some("3"));
        assert_eq!(scene.world.xen().owner(scene.device(1)), Some(domain));
        let (xen, store) = (scene.world.xen().clone(), scene.world.store().clone());
        let guest = scene.world.add(LinuxGuest::boot(&xen, &store, domain, QUEUES));
        for client in asked {
            done(&scene.wait_for(client));
        }
        assert!(scene.guest_uses(&guest, NVME));
        scene.world.run_for(Duration::from_secs(2));
        assert_eq!(guest.borrow().state().found.len(), 2);
        assert_eq!(states(&scene), ["1", "2", "3", "4"], "nobody had to look again");
        scene.check();
    }
}

/// Linux before 5.19 never answers a 7 that comes before it has seen our 4.
#[test]
fn a_frontend_that_connects_just_now_is_not_asked_to_look_before_it_has() {
    let mut asked_to_look = 0;
    for step in 0..40 {
        let mut scene = Scene::ready(step, 2);
        let domain = scene.xl.create("guest", DomainConfig::default());
        let first = ask(&scene, domain, 0);
        scene.world.run_for(AT_ONCE);
        follow(&scene, domain);
        let front = format!("/local/domain/{domain}/device/pci/0/state");
        scene.world.store().follow(&front);
        let second = ask(&scene, domain, 1);
        scene.world.run_for(Duration::from_millis(7 * step));
        let (xen, store) = (scene.world.xen().clone(), scene.world.store().clone());
        let guest = scene.world.add(LinuxGuest::boot(&xen, &store, domain, QUEUES));
        for client in [first, second] {
            done(&scene.wait_for(client));
        }
        scene.world.run_for(Duration::from_secs(3));
        assert_eq!(guest.borrow().state().found.len(), 2, "step {step}");
        let mut front_is = None;
        for seen in scene.world.store().take_history() {
            if seen.path == front {
                front_is = seen.value;
            } else if seen.value.as_deref() == Some("7") {
                assert_eq!(front_is.as_deref(), Some("4"), "step {step}");
                asked_to_look += 1;
            }
        }
        scene.check();
    }
    assert!((5..40).contains(&asked_to_look), "{asked_to_look} of 40");
}

/// A guest that runs and is connected: one change after the other.
#[test]
fn two_attaches_at_the_same_time_are_two_handshakes_one_after_the_other() {
    for seed in 0..10 {
        let (mut scene, guest, domain) = lent(seed, 3, 1);
        follow(&scene, domain);
        let asked = [ask(&scene, domain, 1), ask(&scene, domain, 2)];
        for client in asked {
            done(&scene.wait_for(client));
        }
        scene.world.run_for(Duration::from_secs(2));
        assert_eq!(states(&scene), ["7", "8", "4", "7", "8", "4"], "seed {seed}");
        assert_eq!(guest.borrow().state().found.len(), 3);
        for device in &scene.devices {
            assert!(scene.world.xen().send_message(*device, 2), "{device}");
        }
        scene.check();
    }
}

#[test]
fn two_attaches_at_the_same_time_make_one_link() {
    for seed in 0..10 {
        let (mut scene, guest, domain) = lent(seed, 2, 0);
        follow(&scene, domain);
        let asked = [ask(&scene, domain, 0), ask(&scene, domain, 1)];
        for client in asked {
            done(&scene.wait_for(client));
        }
        scene.world.run_for(Duration::from_secs(2));
        let states = states(&scene);
        assert_eq!(states.iter().filter(|state| *state == "1").count(), 1, "{states:?}");
        assert_eq!(states.last().map(String::as_str), Some("4"));
        assert_eq!(guest.borrow().state().found.len(), 2);
        scene.check();
    }
}

/// A link that is being reconfigured and stays so: the attach waits, and gives nothing.
#[test]
fn an_attach_waits_for_a_reconfiguration_and_gives_nothing_if_that_never_ends() {
    let (mut scene, guest, domain) = lent(4, 3, 1);
    // The guest hangs in the middle of a hot-add.
    scene.world.remove(&guest);
    let stuck = ask(&scene, domain, 1);
    scene.world.run_for(AT_ONCE);
    assert_eq!(state(&scene, domain).as_deref(), Some("7"));
    let asked = ask(&scene, domain, 2);
    scene.world.run_for(Duration::from_secs(25));
    assert_eq!(back(&scene, domain, "num_devs").as_deref(), Some("2"));
    assert_eq!(scene.world.xen().owner(scene.device(2)), Some(DOM_IO));
    let text = failed(scene.wait_for(stuck));
    assert!(text.contains("did not take 0000:02:00.0 in 30 s"), "{text}");
    let text = failed(scene.wait_for(asked));
    assert!(text.contains("still busy with another change"), "{text}");
    assert_eq!(scene.world.xen().owner(scene.device(2)), Some(DOM_IO));
    scene.check();
}

/// The last device goes while another one comes: the link is kept for that, since a guest
/// that sees its directory go and come at once may not see that it is another one.
#[test]
fn an_attach_that_races_the_end_of_the_link_keeps_it() {
    let mut kept = 0;
    for step in 0..20 {
        let (mut scene, guest, domain) = lent(step, 2, 1);
        let force = step % 4 == 3;
        follow(&scene, domain);
        let first = scene.device(0);
        let attach = ask(&scene, domain, 1);
        scene.world.run_for(Duration::from_millis(8 * step));
        let detach = scene.ask(|daemon| daemon.detach(domain, first, force, PCIDOM));
        let replies = [attach, detach].map(|client| scene.wait_for(client));
        done(&replies[0]);
        // A detach says so if a change is under way; it never breaks into it.
        if let Reply::Failed { text } = &replies[1] {
            assert!(text.contains("busy with another change"), "{text}");
        }
        scene.world.run_for(Duration::from_secs(3));
        let states = states(&scene);
        assert!(!states.contains(&"-".to_owned()), "step {step}: {states:?}");
        kept += u32::from(matches!(replies[1], Reply::Done { .. }));
        assert_eq!(
            states.last().map(String::as_str),
            Some("4"),
            "step {step}: {states:?}"
        );
        let left = if matches!(replies[1], Reply::Done { .. }) { 1 } else { 2 };
        assert_eq!(guest.borrow().state().found.len(), left, "step {step}");
        assert!(scene.world.xen().send_message(scene.device(1), 2), "step {step}");
        scene.check();
    }
    assert!(kept > 10, "{kept} of 20");
}

/// A guest that closes its end while a device is on its way to it gets nothing.
#[test]
fn an_attach_waits_for_a_closed_link_and_gives_nothing_if_it_stays_closed() {
    let (mut scene, guest, domain) = lent(6, 2, 1);
    guest.borrow().command(Command::Shutdown);
    let store = scene.world.store().connect(domain);
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let path = format!("/local/domain/{domain}/device/pci/0/state");
    let closing = |_: &World| dom0.read(&path).as_deref() == Ok("5");
    assert!(scene.world.run_until(Duration::from_secs(5), closing));
    for own in ["5", "6"] {
        if own == "6" {
            assert_eq!(store.write("device/pci/0/state", own), Ok(()));
        }
        scene.world.run_for(AT_ONCE);
        assert_eq!(state(&scene, domain).as_deref(), Some(own));
        let asked = ask(&scene, domain, 1);
        scene.world.run_for(Duration::from_secs(25));
        assert_eq!(scene.world.xen().owner(scene.device(1)), Some(DOM_IO));
        assert_eq!(back(&scene, domain, "num_devs").as_deref(), Some("1"));
        let text = failed(scene.wait_for(asked));
        assert!(text.starts_with("guest has closed its PCI link"), "{text}");
    }
    // If it comes back, the device joins.
    ask(&scene, domain, 1);
    scene.world.run_for(AT_ONCE);
    assert_eq!(scene.world.xen().owner(scene.device(1)), Some(DOM_IO));
    assert_eq!(store.write("device/pci/0/state", "1"), Ok(()));
    scene.world.run_for(AT_ONCE);
    assert_eq!(scene.world.xen().owner(scene.device(1)), Some(domain));
    assert_eq!(state(&scene, domain).as_deref(), Some("3"));
    assert_eq!(back(&scene, domain, "state-1").as_deref(), Some("3"));
    scene.check();
}

//! The virtual bus of a guest, by each policy: which addresses a Linux guest finds, and that
//! hotplug works at all of them.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: what is not there fails the test"
)]

use std::time::Duration;

use pcidom_loan::BusPolicy;
use pcidom_pci::Sbdf;
use pcidom_pci::regs::header;
use pcidom_sim::linux_guest::LinuxGuest;
use pcidom_sim::{Scene, Shared};
use pcidom_toolstack::verb::{Reply, Verb};
use pcidom_xenbus::pciif::{FRONT_ACTIVE, RawOp, load_op, store_op, word};
use pcidom_xenbus::{DomId, SharedPage};

/// Three controllers on buses of their own, and a guest that runs.
fn three(seed: u64) -> (Scene, Shared<LinuxGuest>, DomId) {
    let mut scene = Scene::ready(seed, 3);
    let guest = scene.guest("guest");
    let domain = guest.borrow().domain_id();
    (scene, guest, domain)
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

/// Where the guest's PCI core has found something, once it has nothing more to do.
fn found(scene: &mut Scene, guest: &Shared<LinuxGuest>) -> Vec<String> {
    scene.world.run_for(Duration::from_secs(3));
    assert!(guest.borrow().is_idle());
    let guest = guest.borrow();
    let state = guest.state();
    assert_eq!(state.timeouts(), 0);
    state.found.keys().map(|at| at.0.to_string()).collect()
}

/// A node of pcidom's end of the link.
fn back(scene: &Scene, domain: DomId, key: &str) -> Option<String> {
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let pcidom = scene.pcidom_id;
    dom0.read(&format!("/local/domain/{pcidom}/backend/pci/{domain}/0/{key}")).ok()
}

fn roots(scene: &Scene, domain: DomId) -> Vec<String> {
    let count: u32 = back(scene, domain, "root_num").unwrap().parse().unwrap();
    (0..count).map(|n| back(scene, domain, &format!("root-{n}")).unwrap()).collect()
}

/// What a function's Header Type says to the guest now.
fn header_type(scene: &mut Scene, guest: &Shared<LinuxGuest>, at: &str) -> u32 {
    let at: Sbdf = at.parse().unwrap();
    let (page, port) = (guest.borrow().page().unwrap(), guest.borrow().link_port());
    let op = RawOp {
        domain: at.segment().into(),
        bus: at.bus().into(),
        devfn: at.devfn().into(),
        offset: header::HEADER_TYPE.into(),
        size: 1,
        ..RawOp::default()
    };
    store_op(&page, &op);
    page.fetch_or(word::FLAGS, FRONT_ACTIVE);
    let domain = guest.borrow().domain_id();
    scene.world.xen().notify(domain, port.unwrap()).unwrap();
    scene.world.run_for(Duration::from_millis(50));
    assert_eq!(page.load(word::FLAGS) & FRONT_ACTIVE, 0);
    let answer = load_op(&page);
    assert_eq!(answer.err, 0, "{at}");
    answer.value
}

/// One by one to a guest that runs, each used as soon as it is there; the second goes and
/// comes back; then all go.
fn by_hotplug(policy: BusPolicy, expected: [&str; 3], expected_roots: &[&str]) {
    let (mut scene, guest, domain) = three(1);
    let devices = scene.devices.clone();
    for (n, device) in devices.iter().enumerate() {
        // Said with the first one: it holds for the others.
        let bus = (n == 0).then_some(policy);
        done(&scene.attach_at(domain, *device, None, bus));
        let mut so_far: Vec<&str> = expected.iter().take(n + 1).copied().collect();
        so_far.sort_unstable();
        assert_eq!(found(&mut scene, &guest), so_far);
        assert!(scene.world.xen().send_message(*device, 2), "{device}");
        let vdev = back(&scene, domain, &format!("vdev-{n}")).unwrap();
        let vdev: Sbdf = vdev.parse().unwrap();
        assert_eq!(vdev.to_string(), expected.get(n).copied().unwrap());
    }
    assert_eq!(roots(&scene, domain), expected_roots);
    let [first, second, third] = devices.try_into().unwrap();
    done(&scene.detach(domain, second, false));
    assert_eq!(found(&mut scene, &guest), [expected[0], expected[2]]);
    for device in [first, third] {
        assert!(scene.world.xen().send_message(device, 2), "{device}");
    }
    done(&scene.attach(domain, second));
    assert_eq!(found(&mut scene, &guest), expected);
    assert_eq!(roots(&scene, domain), expected_roots);
    scene.check();
    for device in [third, first, second] {
        done(&scene.detach(domain, device, false));
    }
    assert_eq!(found(&mut scene, &guest), Vec::<String>::new());
    scene.check_nothing_lent();
}

#[test]
fn with_vpci_devices_get_the_slots_of_one_bus() {
    let expected = ["0000:00:00.0", "0000:00:01.0", "0000:00:02.0"];
    by_hotplug(BusPolicy::Vpci, expected, &["0000:00"]);
}

#[test]
fn with_slot_devices_get_the_slots_of_one_bus_as_well() {
    let expected = ["0000:00:00.0", "0000:00:01.0", "0000:00:02.0"];
    by_hotplug(BusPolicy::Slot, expected, &["0000:00"]);
}

#[test]
fn with_passthrough_devices_have_their_physical_addresses_and_each_bus_is_a_root() {
    let expected = ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"];
    by_hotplug(BusPolicy::Passthrough, expected, &["0000:01", "0000:02", "0000:03"]);
}

#[test]
fn functions_of_one_device_share_a_slot_with_vpci_and_have_one_each_with_slot() {
    let several = ["0000:00:00.0", "0000:00:00.1", "0000:00:00.5"];
    let single = ["0000:00:00.0", "0000:00:01.0", "0000:00:02.0"];
    let physical = ["0000:01:00.0", "0000:01:00.1", "0000:01:00.5"];
    for (policy, at, more) in [
        (BusPolicy::Vpci, several, true),
        (BusPolicy::Slot, single, false),
        (BusPolicy::Passthrough, physical, true),
    ] {
        let mut scene = Scene::crowded(2, 8);
        let guest = scene.guest("guest");
        let domain = guest.borrow().domain_id();
        let [first, second, third] = [0, 1, 5].map(|n| scene.device(n));
        // The first to come is not function 0.
        done(&scene.attach_at(domain, second, None, Some(policy)));
        let alone = found(&mut scene, &guest);
        let [alone] = alone.as_slice() else { panic!("{alone:?}") };
        assert_eq!(header_type(&mut scene, &guest, alone), 0, "{policy:?}: alone");
        done(&scene.attach(domain, first));
        done(&scene.attach(domain, third));
        assert_eq!(found(&mut scene, &guest), at, "{policy:?}");
        for at in at {
            let bit = if more { 0x80 } else { 0 };
            assert_eq!(header_type(&mut scene, &guest, at), bit, "{policy:?}: {at}");
        }
        for device in [first, second, third] {
            assert!(scene.world.xen().send_message(device, 2), "{device}");
        }
        // And alone again.
        for device in [second, third] {
            done(&scene.detach(domain, device, false));
        }
        let alone = found(&mut scene, &guest);
        let [alone] = alone.as_slice() else { panic!("{alone:?}") };
        assert_eq!(header_type(&mut scene, &guest, alone), 0, "{policy:?}: alone again");
        scene.check();
    }
}

#[test]
fn with_slot_a_guest_has_more_than_one_bus_of_devices() {
    let mut scene = Scene::crowded(3, 34);
    let guest = scene.guest("guest");
    let domain = guest.borrow().domain_id();
    // A vector each is enough.
    guest.borrow().set_vectors(1);
    for device in scene.devices.clone() {
        done(&scene.attach_at(domain, device, None, Some(BusPolicy::Slot)));
    }
    let expected = |n: u32| format!("0000:{:02x}:{:02x}.0", n / 32, n % 32);
    assert_eq!(found(&mut scene, &guest), (0..34).map(expected).collect::<Vec<_>>());
    assert_eq!(roots(&scene, domain), ["0000:00", "0000:01"]);
    let last = scene.device(33);
    done(&scene.detach(domain, last, false));
    assert_eq!(found(&mut scene, &guest).len(), 33);
    scene.check();
}

#[test]
fn a_slot_that_was_asked_for_is_given_or_refused_with_the_reason() {
    for policy in [BusPolicy::Vpci, BusPolicy::Slot] {
        let (mut scene, guest, domain) = three(4);
        let [one, two, three] = [0, 1, 2].map(|n| scene.device(n));
        done(&scene.attach_at(domain, one, Some(5), Some(policy)));
        done(&scene.attach_at(domain, two, Some(0x1f), None));
        assert_eq!(found(&mut scene, &guest), ["0000:00:05.0", "0000:00:1f.0"]);
        let text = failed(scene.attach_at(domain, three, Some(5), None));
        let reason = "slot 05 of the guest's bus is taken (pcidomctl list guest)";
        assert!(text.ends_with(reason), "{text}");
        assert!(
            text.contains("could not put 0000:03:00.0 on the bus of guest"),
            "{text}"
        );
        // Nothing is left of it, and the others never noticed.
        assert_eq!(found(&mut scene, &guest), ["0000:00:05.0", "0000:00:1f.0"]);
        assert_eq!(back(&scene, domain, "state").as_deref(), Some("4"));
        assert_eq!(back(&scene, domain, "num_devs").as_deref(), Some("2"));
        assert_eq!(back(&scene, domain, "error-2"), None);
        assert!(scene.world.xen().send_message(one, 2));
        assert!(scene.world.xen().send_message(two, 2));
        scene.check();
        done(&scene.attach_at(domain, three, Some(6), None));
        assert_eq!(found(&mut scene, &guest).len(), 3);
    }
}

#[test]
fn a_function_gets_no_other_slot_than_its_neighbours_with_vpci() {
    let mut scene = Scene::crowded(5, 8);
    let guest = scene.guest("guest");
    let domain = guest.borrow().domain_id();
    let [one, two] = [0, 1].map(|n| scene.device(n));
    done(&scene.attach_at(domain, one, Some(3), None));
    let text = failed(scene.attach_at(domain, two, Some(4), None));
    assert!(text.contains("no slot but 03"), "{text}");
    done(&scene.attach_at(domain, two, Some(3), None));
    assert_eq!(found(&mut scene, &guest), ["0000:00:03.0", "0000:00:03.1"]);
}

#[test]
fn the_policy_of_a_guest_survives_the_daemon_and_ends_with_its_last_device() {
    let (mut scene, guest, domain) = three(6);
    let [one, two, three] = [0, 1, 2].map(|n| scene.device(n));
    done(&scene.attach_at(domain, one, None, Some(BusPolicy::Passthrough)));
    scene.kill_daemon();
    scene.world.run_for(Duration::from_secs(1));
    scene.start_daemon();
    scene.world.run_for(Duration::from_secs(1));
    done(&scene.attach(domain, two));
    assert_eq!(found(&mut scene, &guest), ["0000:01:00.0", "0000:02:00.0"]);
    let text = failed(scene.attach_at(domain, three, None, Some(BusPolicy::Vpci)));
    assert!(text.contains("guest's bus is passthrough"), "{text}");
    let text = failed(scene.attach_at(domain, three, Some(7), None));
    assert!(text.contains("slot 07 can't be had for 0000:03:00.0"), "{text}");
    let asked = scene.ask(|daemon| daemon.ask(Verb::List { guest: None, pcidom: None }));
    let Reply::List { lines } = scene.wait_for(asked) else { panic!("no list") };
    let shown: Vec<_> =
        lines.into_iter().filter_map(|line| line.virtual_device).collect();
    assert_eq!(shown, ["0000:01:00.0", "0000:02:00.0"]);
    // Another guest is another bus.
    let other = scene.guest("other");
    let other_id = other.borrow().domain_id();
    done(&scene.attach_at(other_id, three, Some(9), Some(BusPolicy::Slot)));
    assert_eq!(found(&mut scene, &other), ["0000:00:09.0"]);
    for device in [one, two] {
        done(&scene.detach(domain, device, false));
    }
    done(&scene.attach(domain, one));
    assert_eq!(found(&mut scene, &guest), ["0000:00:00.0"]);
    assert_eq!(roots(&scene, domain), ["0000:00"]);
    scene.check();
}

#[test]
fn the_config_of_a_pcidom_says_what_holds_where_nobody_says_anything() {
    let (mut scene, guest, domain) = three(7);
    let devices = scene.devices.clone();
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let vm = dom0.read(&format!("/local/domain/{}/vm", scene.pcidom_id)).unwrap();
    // As libxl writes what xl was told in extra=.
    let extra = "loglevel=info bus=passthrough bus.other=slot";
    dom0.write(&format!("{vm}/image/cmdline"), extra).unwrap();
    let other = scene.guest("other");
    let other_id = other.borrow().domain_id();
    for (domain, device) in [(domain, devices[0]), (other_id, devices[1])] {
        done(&scene.attach(domain, device));
    }
    assert_eq!(found(&mut scene, &guest), ["0000:01:00.0"]);
    assert_eq!(found(&mut scene, &other), ["0000:00:00.0"]);
    done(&scene.detach(domain, devices[0], false));
    done(&scene.attach_at(domain, devices[0], None, Some(BusPolicy::Vpci)));
    assert_eq!(found(&mut scene, &guest), ["0000:00:00.0"]);
}

//! What forbids a reset, and what stands for one.

use std::time::Duration;

use pcidom_loan::Outcome;
use pcidom_pci::fake::{FakeBackend, FakeFunction, Fault};
use pcidom_pci::reset::Method;
use pcidom_sim::Scene;
use pcidom_sim::scene::card;
use pcidom_xenbus::DomId;

use super::{
    NOBODY, OTHER, PORT, bytes, config_space, failed, forget, hardware, host, node, obey,
    order, ready, report, two_functions, wait,
};

/// Orders this, which is refused with the reason, and nothing has been touched.
fn refused(scene: &mut Scene, text: &str, reason: &str) {
    let before = config_space(scene);
    assert_eq!(failed(obey(scene, text)), reason, "{text}");
    assert!(config_space(scene) == before, "{text}: something was touched");
}

#[test]
fn a_reset_that_a_rule_forbids_touches_nothing_and_says_which() {
    let mut scene = host(|world| {
        let mut all = card(world, PORT, 2, &[]);
        all.extend(card(world, OTHER, 1, &[Method::FunctionLevel]));
        all
    });
    let device = scene.device(1);
    // Anything done to it would show.
    hardware(&scene, device, |nvme| nvme.set_bytes(0x42, &[0x40, 0x80]));
    for phase in ["prepare", "reset"] {
        let mut refused = |rest: &str, reason: &str| {
            let guest = if phase == "reset" { 0 } else { NOBODY };
            let text = format!("phase={phase} guest={guest} dev={device}{rest}");
            refused(&mut scene, &text, reason);
        };
        let own = "no reset works: the device can't reset itself";
        let port = format!("{own}; no slot or bus reset:");
        refused("", &format!("{port} no port above it was named"));
        refused(
            " port=0000:00:1f.0",
            &format!(
                "{port} 0000:00:1f.0 is not in the pool: add it to pci= of this pcidom"
            ),
        );
        refused(" port=0000:23:00.0", &format!("{port} 0000:23:00.0 is no port"));
        refused(
            " port=0000:00:03.0",
            &format!("{port} port 0000:00:03.0 leads to bus 23, where {device} is not"),
        );
        refused(
            " port=0000:00:02.0 below=2 method=slot",
            "no reset works: no slot or bus reset: port 0000:00:02.0 has no hot-plug slot",
        );
        refused(
            " port=0000:00:02.0 below=2 method=af",
            &format!(
                "no reset works: {device} has no function level reset by Advanced Features"
            ),
        );
    }
    let text = format!("phase=prepare guest={NOBODY} dev=0000:00:02.0");
    let reason =
        "0000:00:02.0 is a port or bridge: it is there to reset what is below it";
    refused(&mut scene, &text, reason);
    // Where there is no way, a person may say that being quiet is enough; but not to a reset.
    let text = format!("phase=reset guest=0 dev={device} lax");
    let reason = "no reset works: the device can't reset itself; \
                  no slot or bus reset: no port above it was named";
    refused(&mut scene, &text, reason);
    let text = format!("phase=prepare guest={NOBODY} dev={device} lax");
    assert_eq!(ready(obey(&mut scene, &text)), "no reset, made quiet only");
    scene.check_nothing_lent();
}

#[test]
fn a_neighbour_that_is_not_scanned_or_is_a_bridge_forbids_a_reset_of_the_bus() {
    let mut scene = Scene::with(1, |world| card(world, PORT, 2, &[]));
    let (first, second) = (scene.device(1), scene.device(2));
    hardware(&scene, second, |nvme| nvme.set_fault(Fault::Gone));
    scene.serve();
    let text = format!("phase=reset guest=0 dev={first} port=0000:00:02.0 below=2");
    let before = bytes(&scene);
    let reason = failed(obey(&mut scene, &text));
    assert!(reason.contains(&format!("reset: {second} not scanned: ")), "{reason}");
    assert_eq!(bytes(&scene), before);

    let mut scene = host(|world| {
        let mut all = card(world, PORT, 1, &[]);
        let bridge = FakeFunction::port_like(0x30, 0x30, false);
        let bridge = FakeBackend::new("0000:22:00.1".parse().unwrap(), bridge);
        all.push(world.xen().add_device(bridge, None));
        all
    });
    refused(
        &mut scene,
        &text,
        "no reset works: the device can't reset itself; no slot or bus reset: \
         0000:22:00.1 below port 0000:00:02.0 is a bridge, and would lose its buses",
    );
}

/// A card whose second function a guest uses.
fn neighbour_lent() -> (Scene, DomId) {
    let mut scene = two_functions(&[Method::FunctionLevel]);
    let guest = scene.lend("neighbour", 2);
    let domain = guest.borrow().domain_id();
    (scene, domain)
}

#[test]
fn a_neighbour_that_is_lent_forbids_it_unless_a_person_forces_it() {
    let (mut scene, domain) = neighbour_lent();
    let (first, second) = (scene.device(1), scene.device(2));
    let text = format!("dev={first} port=0000:00:02.0 below=2 method=bus");
    let reason = format!(
        "no reset works: no slot or bus reset: {second} is lent to domain {domain}: \
         detach it there first, or force it"
    );
    let own = format!("phase=prepare guest={domain} {text}");
    for text in [
        format!("phase=prepare guest={NOBODY} {text}"),
        format!("phase=reset guest=0 {text}"),
        // To be lent to the same guest is no reason to take what it uses from it.
        own,
    ] {
        refused(&mut scene, &text, &reason);
    }
    assert!(scene.world.xen().send_message(second, 0));
    scene.check();
}

/// Advisory 461, and a person who insists on a reset.
#[test]
fn a_forced_reset_does_not_give_back_a_line_that_is_another_guests() {
    let mut scene = two_functions(&[Method::FunctionLevel]);
    let first = scene.device(1);
    let text = |phase: &str| format!("phase={phase} guest={NOBODY} dev={first}");
    order(&scene, 200, 1, &text("prepare"));
    ready(wait(&mut scene, 200, 1));
    order(&scene, 200, 1, &format!("{} line=none", text("lent")));
    scene.world.run_for(Duration::from_secs(1));
    let count = |scene: &Scene| hardware(scene, first, |nvme| nvme.resets());
    let before = count(&scene);
    ready(obey(&mut scene, &format!("{} method=flr force", text("reset"))));
    assert_eq!(count(&scene), before + 1);
    let command = hardware(&scene, first, |nvme| nvme.word(0x04) & 0xffff);
    assert_eq!(command & 0x0400, 0x0400, "COMMAND is {command:#06x}");
}

#[test]
fn what_was_ready_and_then_forgotten_may_have_been_lent() {
    let mut scene = two_functions(&[]);
    let (first, second) = (scene.device(1), scene.device(2));
    let text = |device| {
        format!("phase=prepare guest={NOBODY} dev={device} port=0000:00:02.0 below=2")
    };
    order(&scene, 200, 1, &text(first));
    ready(wait(&mut scene, 200, 1));
    order(&scene, 201, 2, &text(second));
    assert_eq!(
        ready(wait(&mut scene, 201, 2)),
        format!("secondary bus reset, with {first}")
    );
    // A daemon that lent it and took it back while we slept leaves no more than this.
    forget(&mut scene, 201);
    order(&scene, 201, 3, &text(second));
    assert!(failed(wait(&mut scene, 201, 3)).contains("is lent to domain 77"));
}

/// Who reads sysfs and who reads the link can see a device come or go at different times.
#[test]
fn a_port_is_not_used_while_daemon_and_pcidom_know_of_different_functions() {
    for (below, told) in [(" below=1", 1), (" below=3", 3), ("", 0)] {
        let mut scene = two_functions(&[]);
        let first = scene.device(1);
        let text = format!("phase=reset guest=0 dev={first} port=0000:00:02.0{below}");
        let reason = format!(
            "no reset works: the device can't reset itself; no slot or bus reset: \
             2 functions below port 0000:00:02.0 are known here, and {told} to the \
             daemon: one has just come or gone, try it again"
        );
        refused(&mut scene, &text, &reason);
    }
}

#[test]
fn what_was_reset_with_a_neighbour_is_clean_until_it_is_lent() {
    let mut scene = two_functions(&[]);
    let (first, second) = (scene.device(1), scene.device(2));
    let text = |phase: &str, device| {
        format!("phase={phase} guest={NOBODY} dev={device} port=0000:00:02.0 below=2")
    };
    order(&scene, 200, 1, &text("prepare", first));
    assert!(ready(wait(&mut scene, 200, 1)).starts_with("secondary bus reset at"));
    // The first one is on its way to a guest.
    let before = bytes(&scene);
    // What a person asks for by name is not that.
    let asked = format!("{} method=bus", text("prepare", second));
    assert!(failed(obey(&mut scene, &asked)).contains("is lent to domain 77"));
    order(&scene, 201, 3, &text("prepare", second));
    let clean = ready(wait(&mut scene, 201, 3));
    assert_eq!(clean, format!("secondary bus reset, with {first}"));
    assert_eq!(bytes(&scene), before);
    // It comes back, and nothing can reset it; then it is quiet at least, and not clean.
    hardware(&scene, second, |nvme| nvme.set_bytes(0x42, &[0x40, 0x80]));
    order(&scene, 201, 3, &text("ending", second));
    scene.world.run_for(Duration::from_secs(1));
    assert!(failed(wait(&mut scene, 201, 3)).contains("is lent to domain 77"));
    assert_eq!(scene.world.xen().msix_control(second), 0x40);
    forget(&mut scene, 201);
    order(&scene, 201, 4, &text("prepare", second));
    assert!(failed(wait(&mut scene, 201, 4)).contains("is lent to domain 77"));
    forget(&mut scene, 201);
    // With the first one back, both are reset; that one is clean by its own reset.
    order(&scene, 200, 1, &text("ending", first));
    scene.world.run_for(Duration::from_secs(1));
    let Some(Outcome::Returned(told)) = report(&scene, 200, 1) else { panic!() };
    assert!(told.starts_with("secondary bus reset at"), "{told}");
    forget(&mut scene, 200);
    order(&scene, 201, 5, &text("prepare", second));
    assert!(ready(wait(&mut scene, 201, 5)).starts_with("secondary bus reset at"));
    order(&scene, 200, 6, &text("prepare", first));
    assert_eq!(
        ready(wait(&mut scene, 200, 6)),
        format!("secondary bus reset, with {second}")
    );
    forget(&mut scene, 200);
    forget(&mut scene, 201);
    scene.check_nothing_lent();
}

#[test]
fn a_reset_that_failed_leaves_nobody_clean() {
    let mut scene = two_functions(&[]);
    let (first, second) = (scene.device(1), scene.device(2));
    let text = |device| {
        format!("phase=prepare guest={NOBODY} dev={device} port=0000:00:02.0 below=2")
    };
    ready(obey(&mut scene, &text(first)));
    hardware(&scene, first, |nvme| nvme.set_fault(Fault::KeepsMsix));
    let reason = failed(obey(&mut scene, &text(second)));
    assert!(reason.starts_with("0000:22:00.0: MSI-X Message Control"), "{reason}");
    hardware(&scene, first, |nvme| nvme.set_fault(Fault::None));
    let text = format!("phase=prepare guest={NOBODY} dev={second}");
    assert!(failed(obey(&mut scene, &text)).starts_with("no reset works"));
}

#[test]
fn what_comes_to_the_bus_while_a_reset_waits_for_its_turn_is_not_taken_along() {
    let mut scene = two_functions(&[Method::PowerState]);
    let (first, second, pcidom) = (scene.device(1), scene.device(2), scene.pcidom_id);
    assert!(scene.xl.pci_detach(&mut scene.world, pcidom, second));
    hardware(&scene, first, |nvme| nvme.set_ready_after(Duration::from_secs(5)));
    let bus =
        format!("phase=reset guest=0 dev={first} port=0000:00:02.0 below=2 method=bus");
    order(&scene, 200, 1, &format!("phase=reset guest=0 dev={first} method=pm"));
    order(&scene, 201, 2, &bus);
    assert!(scene.xl.pci_attach(&mut scene.world, pcidom, second));
    scene.world.run_for(Duration::from_secs(1));
    let before = bytes(&scene)[2].clone();
    assert_eq!(
        failed(wait(&mut scene, 201, 2)),
        format!(
            "no reset works: no slot or bus reset: {second} has just come: try it again"
        )
    );
    assert_eq!(bytes(&scene)[2], before);
    assert!(ready(obey(&mut scene, &bus)).contains(&format!("and {second}, ")));
}

#[test]
fn who_was_clean_only_until_its_turn_came_is_not() {
    let mut scene = two_functions(&[]);
    let (first, second) = (scene.device(1), scene.device(2));
    let bus = format!("phase=reset guest=0 dev={first} port=0000:00:02.0 below=2");
    ready(obey(&mut scene, &bus));
    hardware(&scene, first, |nvme| {
        nvme.set_ready_after(Duration::from_secs(3));
        nvme.set_fault(Fault::KeepsMsix);
    });
    order(&scene, 200, 1, &bus);
    order(&scene, 201, 2, &format!("phase=prepare guest={NOBODY} dev={second}"));
    failed(wait(&mut scene, 200, 1));
    assert!(failed(wait(&mut scene, 201, 2)).starts_with("no reset works"));
}

#[test]
fn a_daemon_of_another_version_is_refused_by_name_and_what_it_has_begun_ends() {
    let mut scene = two_functions(&[Method::FunctionLevel]);
    let first = scene.device(1);
    let dom0 = scene.world.store().connect(DomId::DOM0);
    assert_eq!(dom0.read(&node(&scene, "data/pcidom/protocol")).unwrap(), "1");
    let text = |phase: &str| format!("phase={phase} guest={NOBODY} dev={first}");
    order(&scene, 201, 1, &text("prepare"));
    ready(wait(&mut scene, 201, 1));
    dom0.write(&node(&scene, "pcidom/protocol"), "2").unwrap();
    for phase in ["prepare", "reset"] {
        refused(
            &mut scene,
            &text(phase),
            "the daemon speaks version 2 of the loan protocol, and this pcidom 1: install \
             both of one release, then xl shutdown and xl create this pcidom",
        );
    }
    order(&scene, 201, 1, &text("ending"));
    scene.world.run_for(Duration::from_secs(1));
    assert!(matches!(report(&scene, 201, 1), Some(Outcome::Returned(_))));
    dom0.write(&node(&scene, "pcidom/protocol"), "1").unwrap();
    forget(&mut scene, 201);
    ready(obey(&mut scene, &text("prepare")));
}

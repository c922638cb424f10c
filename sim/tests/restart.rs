//! The daemon is killed and started anew, at any moment: it takes up what was, and what was
//! asked of it half-way is either done or undone.

use std::time::Duration;

use pcidom_sim::Scene;
use pcidom_sim::linux_guest::Command;
use pcidom_sim::scene::NVME;
use pcidom_sim::xen::domains::DomainConfig;
use pcidom_toolstack::verb::{Reply, Verb};
use pcidom_xenbus::DomId;

#[test]
fn a_new_daemon_serves_the_leases_of_a_loan_that_it_did_not_make() {
    let mut scene = Scene::ready(1, 1);
    let device = scene.device(0);
    let guest = scene.lend("guest", 0);
    let domain = guest.borrow().domain_id();
    scene.kill_daemon();
    scene.world.run_for(Duration::from_secs(1));
    // What runs needs no daemon.
    assert!(scene.world.xen().send_message(device, 0));
    scene.start_daemon();
    scene.world.run_for(Duration::from_secs(1));
    let at = guest.borrow().finds(NVME).unwrap();
    guest.borrow().command(Command::Unload(at));
    scene.world.run_for(Duration::from_secs(1));
    assert_eq!(scene.world.xen().vectors_of(device), []);
    guest.borrow().command(Command::Load(at));
    assert!(scene.guest_uses(&guest, NVME));
    assert!(scene.world.xen().send_message(device, 2));
    let reply = scene.detach(domain, device, false);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    scene.world.run_for(Duration::from_secs(2));
    scene.check_nothing_lent();
}

#[test]
fn a_guest_that_dies_while_there_is_no_daemon_is_cleaned_up_by_the_next() {
    let mut scene = Scene::ready(2, 1);
    let guest = scene.lend("guest", 0);
    let domain = guest.borrow().domain_id();
    scene.kill_daemon();
    scene.xl.destroy_at_once(domain);
    scene.world.run_for(Duration::from_secs(3));
    scene.start_daemon();
    scene.world.run_for(Duration::from_secs(10));
    scene.check_nothing_lent();
    scene.lend("next", 0);
}

#[test]
fn a_daemon_may_be_killed_at_any_moment_of_an_attach() {
    for moment in 0..40 {
        let mut scene = Scene::ready(moment, 1);
        let device = scene.device(0);
        let guest = scene.guest("guest");
        let domain = guest.borrow().domain_id();
        scene.ask(|daemon| daemon.attach(domain, device, "pcidom"));
        scene.world.run_for(Duration::from_micros(14_500 * moment));
        scene.kill_daemon();
        scene.world.run_for(Duration::from_millis(500));
        scene.start_daemon();
        scene.world.run_for(Duration::from_secs(40));
        scene.check();
        assert_eq!(guest.borrow().state().timeouts(), 0, "moment {moment}");
        // Whatever came of it, the device can be taken back and lent.
        let _: Reply = scene.detach(domain, device, true);
        scene.world.run_for(Duration::from_secs(3));
        scene.check_nothing_lent();
        let reply = scene.attach(domain, device);
        assert!(matches!(reply, Reply::Done { .. }), "moment {moment}: {reply:?}");
        assert!(scene.guest_uses(&guest, NVME), "moment {moment}");
    }
}

#[test]
fn a_daemon_may_be_killed_at_any_moment_of_a_detach() {
    for moment in 0..20 {
        let mut scene = Scene::ready(moment, 1);
        let device = scene.device(0);
        let guest = scene.lend("guest", 0);
        let domain = guest.borrow().domain_id();
        scene.ask(|daemon| daemon.detach(domain, device, false, "pcidom"));
        scene.world.run_for(Duration::from_micros(19_900 * moment));
        scene.kill_daemon();
        scene.world.run_for(Duration::from_millis(500));
        scene.start_daemon();
        scene.world.run_for(Duration::from_secs(40));
        scene.check();
        assert_eq!(guest.borrow().state().timeouts(), 0, "moment {moment}");
        let _: Reply = scene.detach(domain, device, true);
        scene.world.run_for(Duration::from_secs(3));
        scene.check_nothing_lent();
    }
}

#[test]
fn a_request_left_over_from_an_earlier_loan_is_not_served_for_the_next() {
    let mut scene = Scene::ready(3, 1);
    let device = scene.device(0);
    let first = scene.lend("first", 0);
    let domain = first.borrow().domain_id();
    let store = scene.world.store().connect(scene.pcidom_id);
    // As a pcidom that was restarted at the wrong moment leaves it.
    let left_over = "gen=1 seq=1000 map msix 0,1,2";
    let path = "data/pcidom/requests/0";
    let reply = scene.detach(domain, device, false);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    scene.world.run_for(Duration::from_secs(1));
    store.write(path, left_over).unwrap();
    // The next loan has the same number, and its guest does not look at the device.
    let paused = DomainConfig { paused: true, ..DomainConfig::default() };
    let next = scene.xl.create("next", paused);
    let reply = scene.attach(next, device);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    store.write(path, left_over).unwrap();
    scene.world.run_for(Duration::from_secs(1));
    scene.kill_daemon();
    scene.start_daemon();
    scene.world.run_for(Duration::from_secs(1));
    assert_eq!(scene.world.xen().vectors_of(device), []);
    assert_eq!(scene.world.xen().owner(device), Some(next));
}

/// Runs `verb` on a daemon that dies `calls` calls later, starts the next one, and looks
/// whether all that was begun is done or undone. Returns whether the first one died of it.
fn dies_after(calls: u32, lent: bool, verb: impl FnOnce(&mut Scene)) -> bool {
    let mut scene = Scene::ready(calls.into(), 1);
    let device = scene.device(0);
    let guest = if lent { scene.lend("guest", 0) } else { scene.guest("guest") };
    let domain = guest.borrow().domain_id();
    scene.ask(|daemon| {
        daemon.dies_after(calls);
        daemon.ask(Verb::Status { pcidom: None })
    });
    verb(&mut scene);
    scene.world.run_for(Duration::from_secs(3));
    let died = scene.daemon.as_ref().is_some_and(|daemon| daemon.borrow().is_dead());
    scene.kill_daemon();
    scene.world.run_for(Duration::from_millis(500));
    scene.start_daemon();
    scene.world.run_for(Duration::from_secs(40));
    scene.check();
    let _: Reply = scene.detach(domain, device, true);
    scene.world.run_for(Duration::from_secs(5));
    scene.check_nothing_lent();
    if scene.world.xen().is_running(domain) {
        let reply = scene.attach(domain, device);
        assert!(matches!(reply, Reply::Done { .. }), "{calls} calls: {reply:?}");
        assert!(scene.guest_uses(&guest, NVME), "{calls} calls");
    } else {
        scene.lend("next", 0);
    }
    died
}

#[test]
fn a_daemon_may_die_between_any_two_calls_of_an_attach() {
    let attach = |scene: &mut Scene| {
        let device = scene.device(0);
        let guest = DomId(scene.pcidom_id.0 + 1);
        scene.ask(|daemon| daemon.attach(guest, device, "pcidom"));
    };
    let died = (0..).take_while(|calls| dies_after(*calls, false, attach)).count();
    assert!(died > 50, "{died} calls");
}

#[test]
fn a_daemon_may_die_between_any_two_calls_of_a_detach() {
    let detach = |scene: &mut Scene| {
        let device = scene.device(0);
        let guest = DomId(scene.pcidom_id.0 + 1);
        scene.ask(|daemon| daemon.detach(guest, device, false, "pcidom"));
    };
    let died = (0..).take_while(|calls| dies_after(*calls, true, detach)).count();
    assert!(died > 50, "{died} calls");
}

#[test]
fn a_daemon_may_die_between_any_two_calls_of_a_guests_end() {
    let destroy = |scene: &mut Scene| {
        let guest = DomId(scene.pcidom_id.0 + 1);
        scene.xl.destroy_at_once(guest);
    };
    let died = (0..).take_while(|calls| dies_after(*calls, true, destroy)).count();
    assert!(died > 30, "{died} calls");
}

#[test]
fn status_names_a_record_that_differs_from_what_pcidom_holds() {
    let mut scene = Scene::ready(9, 1);
    let guest = scene.lend("guest", 0);
    let differences = |scene: &mut Scene| -> Vec<_> {
        let asked = scene.ask(|daemon| daemon.ask(Verb::Status { pcidom: None }));
        let Reply::Status { status } = scene.wait_for(asked) else { panic!("no status") };
        let loans = status.pcidoms.iter().flat_map(|pcidom| &pcidom.loans);
        loans.filter_map(|loan| loan.difference.clone()).collect()
    };
    assert_eq!(differences(&mut scene), Vec::<String>::new());
    // The record loses a lease while no daemon runs.
    scene.kill_daemon();
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let path = "/tool/pcidom/loans/0";
    let record = dom0.read(path).unwrap();
    assert!(record.contains("[[0,55],[1,54],[2,53]]"), "{record}");
    dom0.write(path, &record.replace(",[2,53]", "")).unwrap();
    scene.start_daemon();
    scene.world.run_for(Duration::from_secs(1));
    let found = differences(&mut scene).join("\n");
    let told = "pcidom holds pirqs 55,54,53, the daemon's record has 55,54: ";
    assert!(found.starts_with(told), "{found}");
    assert!(found.contains("pcidomctl detach guest 0000:01:00.0"), "{found}");
    // The next enable brings both together again.
    scene.reload(&guest);
    assert_eq!(differences(&mut scene), Vec::<String>::new());
}

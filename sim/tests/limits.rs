//! Many, often, or not enough: quotas, leaks, calls that fail.

use std::time::Duration;

use pcidom_sim::linux_guest::{Interrupts, LinuxGuest};
use pcidom_sim::scene::{NVME, PCIDOM};
use pcidom_sim::xen::domains::DomainConfig;
use pcidom_sim::xen::errno::EINVAL;
use pcidom_sim::xen::record::Deed;
use pcidom_sim::{Scene, World};
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::DomId;

#[test]
fn fifty_reloads_leave_nothing_behind() {
    let mut scene = Scene::ready(1, 1);
    let device = scene.device(0);
    let guest = scene.lend("guest", 0);
    let (xen, pcidom) = (scene.world.xen().clone(), scene.pcidom_id);
    let holdings = || {
        let domain = guest.borrow().domain_id();
        let ports = xen.open_ports(pcidom).len() + xen.open_ports(domain).len();
        (
            xen.grants_in_use(pcidom),
            xen.mapped_pages(domain),
            ports,
            xen.pirqs(domain).len(),
        )
    };
    let before = holdings();
    for _ in 0..50 {
        scene.reload(&guest);
    }
    assert!(scene.guest_uses(&guest, NVME));
    assert_eq!(holdings(), before);
    let deeds: Vec<Deed> = xen.records().iter().map(|record| record.deed).collect();
    let maps = deeds.iter().filter(|deed| matches!(deed, Deed::Map { .. })).count();
    let unmaps = deeds.iter().filter(|deed| matches!(deed, Deed::Unmap { .. })).count();
    // All but the vectors in use, and the line of pcidom that the daemon took away.
    assert_eq!(maps + 1, unmaps + xen.vectors_of(device).len());
    assert_eq!(guest.borrow().state().given_up(), 0);
}

#[test]
fn a_guest_gets_exactly_one_event_for_each_answer() {
    let mut scene = Scene::ready(2, 1);
    let guest = scene.lend("guest", 0);
    scene.reload(&guest);
    let (xen, domain) = (scene.world.xen().clone(), guest.borrow().domain_id());
    let port = guest.borrow().link_port().unwrap();
    let peer = xen.peer_port(domain, port).unwrap();
    let ops = u32::try_from(guest.borrow().state().ops.len()).unwrap();
    assert_eq!(xen.events_sent(scene.pcidom_id, peer), ops);
}

#[test]
fn a_guest_with_too_few_vectors_falls_back_to_its_line_and_nothing_stays_mapped() {
    let mut scene = Scene::ready(3, 1);
    let device = scene.device(0);
    // Room for the admin queue's one vector and one more, of the three that are wanted.
    let config = DomainConfig { extra_irqs: 2, ..DomainConfig::default() };
    let domain = scene.xl.create("poor", config);
    let (xen, store) = (scene.world.xen().clone(), scene.world.store().clone());
    let guest = scene.world.add(LinuxGuest::boot(&xen, &store, domain, 3));
    assert!(matches!(scene.attach(domain, device), Reply::Done { .. }));
    assert!(scene.guest_uses(&guest, NVME));
    let line = xen.gsi(device).unwrap();
    assert_eq!(guest.borrow().interrupts(NVME), Some(Interrupts::Line(line)));
    assert_eq!(xen.vectors_of(device), []);
    // With fewer it works.
    guest.borrow().set_vectors(2);
    scene.reload(&guest);
    assert!(matches!(guest.borrow().interrupts(NVME), Some(Interrupts::Msix(_))));
    scene.check();
}

#[test]
fn eight_guests_probe_at_the_same_time() {
    let mut scene = Scene::ready(4, 8);
    let guests: Vec<_> = (0..8).map(|n| scene.guest(&format!("guest-{n}"))).collect();
    let asked: Vec<_> = guests
        .iter()
        .zip(scene.devices.clone())
        .map(|(guest, device)| {
            let domain = guest.borrow().domain_id();
            scene.ask(|daemon| daemon.attach(domain, device, "pcidom"))
        })
        .collect();
    for client in asked {
        assert!(matches!(scene.wait_for(client), Reply::Done { .. }));
    }
    for guest in &guests {
        assert!(scene.guest_uses(guest, NVME));
        let guest = guest.borrow();
        assert_eq!(guest.state().given_up(), 0);
        assert!(matches!(guest.interrupts(NVME), Some(Interrupts::Msix(_))));
        assert!(guest.state().worst_latency() < Duration::from_secs(1));
    }
    for device in &scene.devices {
        assert!(scene.world.xen().send_message(*device, 2));
    }
    scene.check();
    for guest in &guests {
        scene.xl.destroy_at_once(guest.borrow().domain_id());
    }
    scene.world.run_for(Duration::from_secs(10));
    scene.check_nothing_lent();
}

#[test]
fn a_guest_that_rewrites_its_state_without_end_holds_up_nobody() {
    let mut scene = Scene::ready(5, 2);
    let flooder = scene.lend("flooder", 0);
    let calm = scene.lend("calm", 1);
    let domain = flooder.borrow().domain_id();
    scene.world.remove(&flooder);
    let store = scene.world.store().connect(domain);
    calm.borrow().reload();
    for n in 0..10_000 {
        let state = if n % 2 == 0 { "4" } else { "8" };
        store.write("device/pci/0/state", state).unwrap();
        scene.world.run_for(Duration::from_micros(100));
    }
    assert!(scene.guest_uses(&calm, NVME));
    let guest = calm.borrow();
    assert_eq!(guest.state().given_up(), 0);
    assert!(matches!(guest.interrupts(NVME), Some(Interrupts::Msix(_))));
}

#[test]
fn a_page_or_port_that_xen_refuses_ends_the_link_and_not_pcidom() {
    for call in ["map_grant", "bind_interdomain"] {
        let mut scene = Scene::ready(6, 2);
        let failures = scene.pcidom.borrow().failures();
        let good = scene.lend("good", 0);
        failures.borrow_mut().insert(call, EINVAL);
        let bad = scene.guest("bad");
        let (domain, device) = (bad.borrow().domain_id(), scene.device(1));
        let _: Reply = scene.attach(domain, device);
        scene.world.run_for(Duration::from_secs(5));
        failures.borrow_mut().clear();
        scene.reload(&good);
        assert!(scene.guest_uses(&good, NVME), "{call}");
        let _: Reply = scene.detach(domain, device, true);
        scene.world.run_for(Duration::from_secs(5));
        assert_eq!(scene.world.xen().mapped_pages(domain), 0, "{call}");
        scene.lend("next", 1);
        scene.check();
    }
}

#[test]
fn a_pcidom_that_may_write_no_more_nodes_does_not_ask_the_guest_again_and_again() {
    let mut scene = Scene::ready(1, 2);
    let guest = scene.lend("guest", 0);
    let (domain, device) = (guest.borrow().domain_id(), scene.device(1));
    let asked = scene.ask(|daemon| daemon.attach(domain, device, PCIDOM));
    let order = format!("/local/domain/{}/pcidom/loans/1", scene.pcidom_id);
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let lent = |_: &World| dom0.read(&order).is_ok_and(|text| text.contains("=lent"));
    assert!(scene.world.run_until(Duration::from_secs(5), lent));
    scene.world.store().set_quotas(128, 1);
    let before = scene.world.store().requests();
    let reply = scene.wait_for(asked);
    assert!(matches!(reply, Reply::Failed { .. }), "{reply:?}");
    let requests = scene.world.store().requests() - before;
    assert!(requests < 400, "{requests} requests for a device that can't be shown");
    assert!(scene.guest_uses(&guest, NVME), "what it had it keeps");
    scene.world.store().set_quotas(128, 1000);
    let reply = scene.attach(domain, device);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    scene.world.run_for(Duration::from_secs(2));
    scene.check();
}

//! The main job: a guest drives its NVMe through pcidom, with MSI-X.

use std::time::Duration;

use pcidom_pci::fake::{FakeBackend, FakeFunction};
use pcidom_sim::Scene;
use pcidom_sim::linux_guest::{Command, Interrupts, LinuxGuest};
use pcidom_sim::scene::{NVME, QUEUES};
use pcidom_sim::xen::domains::DomainConfig;
use pcidom_sim::xen::record::Deed;
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::{Pirq, XenbusState};

#[test]
fn a_linux_guest_drives_an_nvme_through_pcidom_with_msix() {
    let mut scene = Scene::ready(1, 1);
    let device = scene.device(0);
    let guest = scene.guest("guest");
    let domain = guest.borrow().domain_id();
    let reply = scene.attach(domain, device);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    assert!(scene.guest_uses(&guest, NVME));
    scene.check();
    let xen = scene.world.xen().clone();
    {
        let guest = guest.borrow();
        let state = guest.state();
        let (_, found) = state.by_ids(NVME).unwrap();
        assert_eq!(found.bars, [(0, 0x4000)].into());
        let Interrupts::Msix(pirqs) = &found.interrupts else {
            panic!("{:?}", found.interrupts)
        };
        assert_eq!(pirqs.len(), usize::try_from(QUEUES).unwrap());
        assert_eq!(state.timeouts(), 0);
        assert!(state.worst_latency() < Duration::from_millis(200));
    }
    // Every vector reaches the guest.
    for entry in 0..u16::try_from(QUEUES).unwrap() {
        assert!(xen.send_message(device, entry), "entry {entry}");
    }
    scene.world.run_for(Duration::from_millis(10));
    assert_eq!(guest.borrow().state().interrupts.values().sum::<u32>(), QUEUES);
    // The second enable mapped anew: one vector, unmapped, then all of them.
    let deeds: Vec<Deed> = xen.records().iter().map(|record| record.deed).collect();
    let maps = |deed: &&Deed| matches!(deed, Deed::Map { .. });
    let unmaps = |deed: &&Deed| matches!(deed, Deed::Unmap { .. });
    assert_eq!(deeds.iter().filter(maps).count(), 1 + usize::try_from(QUEUES).unwrap());
    let first = deeds.iter().position(|deed| maps(&deed)).unwrap();
    assert!(unmaps(&deeds.get(first + 1).unwrap()));
    // rmmod and modprobe.
    let at = guest.borrow().finds(NVME).unwrap();
    guest.borrow().command(Command::Unload(at));
    scene.world.run_for(Duration::from_secs(1));
    assert_eq!(xen.vectors_of(device), []);
    guest.borrow().command(Command::Load(at));
    assert!(scene.guest_uses(&guest, NVME));
    assert!(xen.send_message(device, 0));
    // And back.
    let reply = scene.detach(domain, device, false);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    scene.world.run_for(Duration::from_secs(5));
    assert!(guest.borrow().state().by_ids(NVME).is_none());
    assert_eq!(guest.borrow().link_state(), XenbusState::Unknown);
    scene.check_nothing_lent();
}

#[test]
fn a_guest_that_boots_after_the_attach_finds_its_device() {
    let mut scene = Scene::ready(2, 1);
    let device = scene.device(0);
    let paused = DomainConfig { paused: true, ..DomainConfig::default() };
    let domain = scene.xl.create("guest", paused);
    let reply = scene.attach(domain, device);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    scene.world.run_for(Duration::from_secs(10));
    let (xen, store) = (scene.world.xen().clone(), scene.world.store().clone());
    let guest = scene.world.add(LinuxGuest::boot(&xen, &store, domain, QUEUES));
    assert!(scene.guest_uses(&guest, NVME));
    assert!(xen.send_message(device, 0));
    scene.check();
}

#[test]
fn a_dead_guests_page_is_let_go_after_the_reset_and_not_before() {
    let mut scene = Scene::ready(3, 1);
    let guest = scene.lend("guest", 0);
    let (xen, domain) = (scene.world.xen().clone(), guest.borrow().domain_id());
    let before = xen.records().len();
    scene.xl.destroy_at_once(domain);
    scene.world.run_for(Duration::from_secs(5));
    let records = xen.records();
    let place = |wanted: &dyn Fn(&Deed) -> bool| {
        let found = records.iter().skip(before).find(|record| wanted(&record.deed));
        found.map(|record| record.number).unwrap()
    };
    let unmapped = place(&|deed| matches!(deed, Deed::Unmap { .. }));
    let deassigned = place(&|deed| matches!(deed, Deed::Deassign { .. }));
    let reset = place(&|deed| matches!(deed, Deed::Reset { .. }));
    let let_go = place(
        &|deed| matches!(deed, Deed::PageUnmapped { owner, .. } if *owner == domain),
    );
    assert!(unmapped < deassigned && deassigned < reset && reset < let_go);
    assert!(let_go < place(&|deed| *deed == Deed::Gone(domain)));
    scene.check_nothing_lent();
}

#[test]
fn a_device_without_flr_is_lent_and_comes_back_quiet() {
    let mut scene = Scene::with(4, |world| {
        let at = "0000:02:00.0".parse().unwrap();
        let mut function = FakeFunction::e1000e_losing_state();
        function.set_bytes(0x3c, &[17]);
        vec![world.xen().add_device(FakeBackend::new(at, function), Some(Pirq(17)))]
    });
    scene.serve();
    let device = scene.device(0);
    let guest = scene.guest("guest");
    let domain = guest.borrow().domain_id();
    let reply = scene.attach(domain, device);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    assert!(scene.guest_uses(&guest, 0x10d3_8086));
    assert!(scene.world.xen().send_message(device, 2));
    let reply = scene.detach(domain, device, false);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    scene.world.run_for(Duration::from_secs(5));
    scene.check_nothing_lent();
}

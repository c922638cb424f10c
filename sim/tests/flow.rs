//! The main job: a guest drives its NVMe through pcidom, with MSI-X.

use std::time::Duration;

use pcidom_sim::Scene;
use pcidom_sim::linux_guest::{Command, Interrupts};
use pcidom_sim::scene::{NVME, QUEUES};
use pcidom_sim::xen::record::Deed;
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::XenbusState;

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

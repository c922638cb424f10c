//! The rules of protocol.md 6.7 about pirqs, one test each, through whole guests, pcidom and
//! daemon. Fresh and cached are told apart by map and unmap events, never by number: Xen may
//! give the same one again.

use std::collections::BTreeSet;
use std::time::Duration;

use pcidom_pci::regs::{command, header, msix};
use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_sim::linux_guest::{Command, Interrupts, LinuxGuest};
use pcidom_sim::scene::{NVME, QUEUES};
use pcidom_sim::xen::devices::Hand;
use pcidom_sim::xen::domains::DomainConfig;
use pcidom_sim::xen::record::Deed;
use pcidom_sim::{Scene, Shared};
use pcidom_toolstack::verb::{Reply, Verb};
use pcidom_xenbus::{DomId, Pirq};

const SECOND: Duration = Duration::from_secs(1);

/// A guest with the first `count` devices, all in use.
fn guest_with(scene: &mut Scene, name: &str, devices: &[usize]) -> Shared<LinuxGuest> {
    let guest = scene.guest(name);
    let domain = guest.borrow().domain_id();
    for n in devices {
        let device = scene.device(*n);
        assert!(matches!(scene.attach(domain, device), Reply::Done { .. }));
    }
    assert!(scene.guest_uses(&guest, NVME));
    scene.world.run_for(SECOND * 2);
    guest
}

/// What the guest's drivers were given, by device in the order of their addresses.
fn given(guest: &Shared<LinuxGuest>) -> Vec<(VirtualBdf, Vec<Pirq>)> {
    let guest = guest.borrow();
    let state = guest.state();
    let pirqs = |interrupts: &Interrupts| match interrupts {
        Interrupts::Msix(pirqs) => pirqs.clone(),
        _ => Vec::new(),
    };
    state.found.iter().map(|(at, found)| (*at, pirqs(&found.interrupts))).collect()
}

/// The vectors of a device by Xen's events number `from` and later: `+` a map of an entry,
/// `-` an unmap.
fn events(scene: &Scene, of: Sbdf, from: usize) -> String {
    let (mut text, mut live) = (String::new(), BTreeSet::new());
    for (number, record) in scene.world.xen().records().iter().enumerate() {
        match record.deed {
            Deed::Map { domain, device, entry: Some(entry), pirq } if device == of => {
                live.insert((domain, pirq));
                text += &if number < from { String::new() } else { format!("+{entry}") };
            }
            Deed::Unmap { domain, pirq } if live.remove(&(domain, pirq)) => {
                text += if number < from { "" } else { "-" };
            }
            _ => {}
        }
    }
    text
}

#[expect(clippy::panic, reason = "a daemon that tells nothing fails the test")]
fn recorded(scene: &mut Scene, device: Sbdf) -> Vec<u16> {
    let asked = scene.ask(|daemon| daemon.ask(Verb::Status { pcidom: None }));
    let Reply::Status { status } = scene.wait_for(asked) else { panic!("no status") };
    let mut loans = status.pcidoms.into_iter().flat_map(|pcidom| pcidom.loans);
    let loan = loans.find(|loan| loan.device.0 == device);
    loan.map(|loan| loan.pirqs).unwrap_or_default()
}

#[test]
fn rule_1_a_number_is_forgotten_at_its_unmap_since_another_device_may_get_it() {
    let mut scene = Scene::ready(1, 2);
    let guest = guest_with(&mut scene, "guest", &[0, 1]);
    let domain = guest.borrow().domain_id();
    let (one, two) = (scene.device(0), scene.device(1));
    let before = given(&guest);
    let [(first, had), (second, _)] = before.as_slice() else { panic!("{before:?}") };
    guest.borrow().command(Command::Unload(*first));
    scene.world.run_for(SECOND);
    // On every layer: guest, pcidom and daemon (compared by status), Xen.
    assert_eq!(given(&guest)[0].1, []);
    assert_eq!(
        (recorded(&mut scene, one), scene.world.xen().vectors_of(one)),
        (vec![], vec![])
    );
    guest.borrow().command(Command::Unload(*second));
    guest.borrow().command(Command::Load(*second));
    scene.world.run_for(SECOND);
    assert_eq!(given(&guest)[1].1, *had, "the same numbers, for the other device");
    // Whatever still comes for the first one leaves them alone.
    guest.borrow().command(Command::Load(*first));
    guest.borrow().command(Command::Unload(*first));
    scene.world.run_for(SECOND * 2);
    assert!(matches!(scene.detach(domain, one, true), Reply::Done { .. }));
    let kept: BTreeSet<Pirq> =
        scene.world.xen().vectors_of(two).into_iter().map(|(_, pirq)| pirq).collect();
    assert_eq!(kept, had.iter().copied().collect());
    assert!(scene.world.xen().send_message(two, 2));
    scene.check();
}

#[test]
fn rule_2_every_enable_maps_anew_and_is_told_what_xen_returned() {
    let mut scene = Scene::ready(2, 1);
    let guest = guest_with(&mut scene, "guest", &[0]);
    let device = scene.device(0);
    let mut numbers = BTreeSet::new();
    for _ in 0..5 {
        let from = scene.world.xen().records().len();
        scene.reload(&guest);
        let made = scene.world.xen().records();
        let mut made: Vec<Pirq> = made[from..]
            .iter()
            .filter_map(|record| match record.deed {
                Deed::Map { pirq, .. } => Some(pirq),
                _ => None,
            })
            .collect();
        let last = made.split_off(made.len() - usize::try_from(QUEUES).unwrap());
        assert_eq!(given(&guest)[0].1, last, "in the order of the entries");
        assert!(scene.world.xen().send_message(device, 0));
        numbers.insert(last);
    }
    assert_eq!(numbers.len(), 1, "a test that looked at numbers would see no difference");
}

#[test]
fn rule_3_every_lease_is_unmapped_once_and_a_dead_guests_are_no_error() {
    let mut scene = Scene::ready(3, 1);
    let guest = guest_with(&mut scene, "guest", &[0]);
    let (domain, device) = (guest.borrow().domain_id(), scene.device(0));
    scene.reload(&guest);
    assert!(matches!(scene.detach(domain, device, true), Reply::Done { .. }));
    let told = events(&scene, device, 0);
    let maps = told.matches('+').count();
    assert_eq!((maps, told.matches('-').count()), (8, 8), "{told}");
    // Two more calls would be refused by Xen; a guest that is gone refuses all.
    assert!(matches!(scene.attach(domain, device), Reply::Done { .. }));
    assert!(scene.guest_uses(&guest, NVME));
    scene.xl.destroy_at_once(domain);
    scene.world.run_for(SECOND * 5);
    scene.check_nothing_lent();
    scene.lend("next", 0);
}

#[test]
fn rule_4_many_devices_and_guests_enable_at_once_and_nobody_gets_anothers_vector() {
    for seed in 0..5 {
        let mut scene = Scene::ready(seed, 6);
        let guests = [
            guest_with(&mut scene, "one", &[0, 1, 2, 3]),
            guest_with(&mut scene, "two", &[4, 5]),
        ];
        for _ in 0..3 {
            guests.iter().for_each(|guest| guest.borrow().reload());
            let busy = |guest: &Shared<LinuxGuest>| !guest.borrow().is_idle();
            assert!(scene.world.run_until(SECOND * 60, |_| !guests.iter().any(busy)));
            for guest in &guests {
                let given = given(guest);
                let all: Vec<Pirq> = given.into_iter().flat_map(|(_, p)| p).collect();
                let different: BTreeSet<Pirq> = all.iter().copied().collect();
                assert_eq!(all.len(), different.len(), "seed {seed}: {all:?}");
                assert_eq!(guest.borrow().state().given_up(), 0);
            }
            for device in scene.devices.clone() {
                assert_eq!(scene.world.xen().vectors_of(device).len(), 3, "{device}");
                assert!(scene.world.xen().send_message(device, 2), "{device}");
            }
        }
        scene.check();
    }
}

#[test]
fn rule_5_one_vector_then_none_then_many_is_how_nvme_starts() {
    let mut scene = Scene::ready(5, 3);
    let guest = guest_with(&mut scene, "guest", &[0, 1, 2]);
    for device in scene.devices.clone() {
        assert_eq!(events(&scene, device, 0), "+0-+0+1+2", "{device}");
    }
    let from = scene.world.xen().records().len();
    scene.reload(&guest);
    for device in scene.devices.clone() {
        assert_eq!(events(&scene, device, from), "---+0-+0+1+2", "{device}");
    }
}

#[test]
fn rule_6_a_number_that_the_guest_still_has_bound_is_not_waited_for() {
    let mut scene = Scene::ready(6, 2);
    let guest = guest_with(&mut scene, "guest", &[0, 1]);
    let (domain, one) = (guest.borrow().domain_id(), scene.device(0));
    let xen = scene.world.xen().clone();
    let before = given(&guest);
    let [(_, held), (second, _)] = before.as_slice() else { panic!("{before:?}") };
    guest.borrow().command(Command::Unload(*second));
    scene.world.run_for(SECOND);
    // Taken by force: Xen keeps each number until the guest has closed its port.
    let asked = scene.ask(|daemon| daemon.detach(domain, one, true, "pcidom"));
    assert!(scene.world.run_until(SECOND, |_| xen.vectors_of(one).is_empty()));
    let is_bound = |pirq: &Pirq| xen.bind_pirq(domain, *pirq).is_err();
    assert!(held.iter().all(is_bound), "the guest does not know yet");
    guest.borrow().command(Command::Load(*second));
    assert!(matches!(scene.wait_for(asked), Reply::Done { .. }));
    assert!(scene.guest_uses(&guest, NVME), "enabling works all the same");
    let at = |guest: &Shared<LinuxGuest>| {
        given(guest).into_iter().find(|(at, _)| at == second).unwrap().1
    };
    let now = at(&guest);
    assert!(now.len() == 3 && !now.iter().any(|pirq| held.contains(pirq)), "{now:?}");
    scene.world.run_for(SECOND);
    scene.reload(&guest);
    assert_eq!(at(&guest), *held, "free again");
    scene.check();
}

#[test]
fn rule_7_a_map_that_fails_half_way_is_undone_and_the_line_is_left() {
    let mut scene = Scene::ready(7, 1);
    let device = scene.device(0);
    let config = DomainConfig { extra_irqs: 2, ..DomainConfig::default() };
    let domain = scene.xl.create("small", config);
    let (xen, store) = (scene.world.xen().clone(), scene.world.store().clone());
    let guest = scene.world.add(LinuxGuest::boot(&xen, &store, domain, QUEUES));
    assert!(matches!(scene.attach(domain, device), Reply::Done { .. }));
    let idle = |_: &_| guest.borrow().is_idle();
    scene.world.run_for(SECOND);
    assert!(scene.world.run_until(SECOND * 60, idle));
    // One vector, none, then two of three, which go again.
    let told = events(&scene, device, 0);
    assert!(told.starts_with("+0-+0+1--"), "{told}");
    assert_eq!(
        xen.vectors_of(device).len(),
        told.matches('+').count() - told.matches('-').count()
    );
    assert_eq!(recorded(&mut scene, device), Vec::<u16>::new());
    assert_eq!(xen.msix_control(device) & (msix::ENABLE | msix::MASKALL), 0);
    let word =
        xen.with_hardware(device, Hand::Dom0, |b| b.hardware().word(header::COMMAND));
    assert_eq!(word.unwrap() & u32::from(command::INTX_DISABLE), 0);
    scene.check();
}

#[test]
fn rule_8_the_end_of_a_guest_its_link_or_its_loan_drops_all_leases() {
    type End = fn(&mut Scene, &Shared<LinuxGuest>, DomId);
    let ends: [End; 4] = [
        |scene, _, domain| scene.xl.destroy_at_once(domain),
        |scene, _, domain| scene.xl.crash(domain),
        |_, guest, _| guest.borrow().command(Command::Shutdown),
        |scene, _, domain| {
            for device in scene.devices.clone() {
                let reply = scene.detach(domain, device, false);
                assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
            }
        },
    ];
    for (n, end) in ends.into_iter().enumerate() {
        let mut scene = Scene::ready(8, 2);
        let guest = guest_with(&mut scene, "guest", &[0, 1]);
        let domain = guest.borrow().domain_id();
        end(&mut scene, &guest, domain);
        scene.world.run_for(SECOND * 5);
        for device in scene.devices.clone() {
            let told = events(&scene, device, 0);
            let ended = told.matches('-').count();
            assert_eq!(told.matches('+').count(), ended, "end {n}, {device}: {told}");
            assert_eq!(recorded(&mut scene, device), Vec::<u16>::new());
        }
        assert_eq!(scene.world.xen().violations(), Vec::<String>::new());
    }
}

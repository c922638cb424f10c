//! How long lease requests take, as `status` tells it for each guest, and that requests of
//! different guests wait for the daemon at the same time.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests: what is not there fails the test"
)]

use std::time::Duration;

use pcidom_loan::{LeaseAnswer, LeaseAsk, LeaseRequest};
use pcidom_pci::VirtualBdf;
use pcidom_sim::linux_guest::{Command, LinuxGuest};
use pcidom_sim::scene::NVME;
use pcidom_sim::{Scene, Shared};
use pcidom_toolstack::verb::{Reply, Verb};
use pcidom_xenbus::DomId;

/// Far more than the ways between pcidom and the daemon take, both together.
const WAYS: u32 = 60;

/// What `status` says of a guest: exchanges, milliseconds of 99 in 100, of the slowest, and
/// the words.
#[derive(Debug)]
struct Said {
    count: u32,
    within: u32,
    slowest: u32,
    text: String,
}

fn said(scene: &mut Scene, guest: &Shared<LinuxGuest>) -> Said {
    let asked = scene.ask(|daemon| daemon.ask(Verb::Status { pcidom: None }));
    let Reply::Status { status } = scene.wait_for(asked) else { panic!("no status") };
    let key = format!("guests/{}/leases", guest.borrow().domain_id());
    let text = status.pcidoms[0].report.as_ref().unwrap()[&key].clone();
    assert!(pcidom_toolstack::print::status(&status).contains(&format!("{key}: {text}")));
    let words: Vec<&str> = text.split(' ').collect();
    let number = |at: usize| words[at].parse().unwrap();
    Said { count: number(0), within: number(6), slowest: number(9), text }
}

/// The request of a loan, as it stands.
fn request(scene: &Scene, loan: u32) -> LeaseRequest {
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let path = format!("/local/domain/{}/data/pcidom/requests/{loan}", scene.pcidom_id);
    dom0.read(&path).unwrap().parse().unwrap()
}

fn set_silent(scene: &Scene, silent: bool) {
    scene.daemon.as_ref().unwrap().borrow_mut().set_silent(silent);
}

/// Has the guest's driver unload, so that it waits for its unmap.
fn unload(guest: &Shared<LinuxGuest>) -> VirtualBdf {
    let at = guest.borrow().finds(NVME).unwrap();
    guest.borrow().command(Command::Unload(at));
    at
}

#[test]
fn each_exchange_is_counted_with_the_time_it_took() {
    let mut scene = Scene::ready(1, 1);
    let guest = scene.lend("guest", 0);
    for _ in 0..50 {
        scene.reload(&guest);
    }
    let before = said(&mut scene, &guest);
    assert_eq!(before.count, request(&scene, 0).sequence);
    assert!(before.count > 150 && before.slowest < WAYS, "{before:?}");
    assert!((5..=before.slowest).contains(&before.within), "{before:?}");
    // One takes 700 ms: it is the slowest, and 99 of 100 are as before.
    let at = unload(&guest);
    set_silent(&scene, true);
    scene.world.run_for(Duration::from_millis(700));
    set_silent(&scene, false);
    scene.world.run_for(Duration::from_millis(200));
    let after = said(&mut scene, &guest);
    assert_eq!(after.count, before.count + 1);
    assert!(after.within < WAYS * 2, "{after:?}");
    assert!((690..700 + WAYS).contains(&after.slowest), "{after:?}");
    // Another loan begins anew.
    guest.borrow().command(Command::Load(at));
    assert!(scene.guest_uses(&guest, NVME));
    let (domain, device) = (guest.borrow().domain_id(), scene.device(0));
    assert!(matches!(scene.detach(domain, device, false), Reply::Done { .. }));
    assert!(matches!(scene.attach(domain, device), Reply::Done { .. }));
    assert!(scene.guest_uses(&guest, NVME));
    let anew = said(&mut scene, &guest);
    assert!(anew.count < 10 && anew.slowest < WAYS, "{anew:?}");
}

#[test]
fn what_the_daemon_does_not_answer_in_time_is_said() {
    let mut scene = Scene::ready(2, 1);
    let guest = scene.lend("guest", 0);
    let before = said(&mut scene, &guest);
    assert!(!before.text.contains("not answered"), "{before:?}");
    unload(&guest);
    set_silent(&scene, true);
    scene.world.run_for(Duration::from_secs(2));
    set_silent(&scene, false);
    scene.world.run_for(Duration::from_secs(1));
    let after = said(&mut scene, &guest);
    assert!(after.text.ends_with(", 1 not answered in time"), "{after:?}");
    // The answer has come after all; what cleans up behind it is an exchange as well.
    assert!((1950..2000 + WAYS).contains(&after.slowest), "{after:?}");
    assert_eq!(after.within, after.slowest);
    assert_eq!(after.count, request(&scene, 0).sequence);
    scene.check();
}

#[test]
fn a_guest_whose_request_is_answered_late_does_not_delay_anothers() {
    let mut scene = Scene::ready(3, 2);
    let guests = [scene.lend("slow", 0), scene.lend("quick", 1)];
    let pcidom = scene.pcidom_id;
    let before = guests.each_ref().map(|guest| said(&mut scene, guest));
    // The test answers in the daemon's place.
    set_silent(&scene, true);
    unload(&guests[0]);
    scene.world.run_for(Duration::from_millis(100));
    unload(&guests[1]);
    scene.world.run_for(Duration::from_millis(100));
    // Both wait, and the one that came second is answered first.
    let requests = [0, 1].map(|loan| request(&scene, loan));
    assert!(requests.iter().all(|request| request.ask == LeaseAsk::Unmap));
    assert!(guests.iter().all(|guest| !guest.borrow().is_idle()));
    let dom0 = scene.world.store().connect(DomId::DOM0);
    let answer = |loan: usize| {
        let LeaseRequest { generation, sequence, .. } = requests[loan];
        let answer = LeaseAnswer { generation, sequence, result: Ok(Vec::new()) };
        let path = format!("/local/domain/{pcidom}/pcidom/answers/{loan}");
        dom0.write(&path, &answer.to_string()).unwrap();
    };
    answer(1);
    scene.world.run_for(Duration::from_millis(300));
    assert!(guests[1].borrow().is_idle() && !guests[0].borrow().is_idle());
    answer(0);
    scene.world.run_for(Duration::from_millis(300));
    assert!(guests[0].borrow().is_idle());
    set_silent(&scene, false);
    scene.world.run_for(Duration::from_secs(1));
    let after = guests.each_ref().map(|guest| said(&mut scene, guest));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.count, before.count + 1);
    }
    assert!((490..500 + WAYS).contains(&after[0].slowest), "{after:?}");
    assert!((90..100 + WAYS).contains(&after[1].slowest), "{after:?}");
    scene.check();
}

#[test]
fn a_guest_that_rewrites_its_link_without_end_does_not_slow_down_anothers_requests() {
    let mut scene = Scene::ready(4, 2);
    let flooder = scene.lend("flooder", 0);
    let calm = scene.lend("calm", 1);
    for _ in 0..20 {
        scene.reload(&calm);
    }
    let quiet = said(&mut scene, &calm);
    let domain = flooder.borrow().domain_id();
    scene.world.remove(&flooder);
    let store = scene.world.store().connect(domain);
    // Begins anew, so that what is said is of the flood alone.
    let (calm_id, device) = (calm.borrow().domain_id(), scene.device(1));
    assert!(matches!(scene.detach(calm_id, device, false), Reply::Done { .. }));
    assert!(matches!(scene.attach(calm_id, device), Reply::Done { .. }));
    assert!(scene.guest_uses(&calm, NVME));
    for n in 0..10_000 {
        if calm.borrow().is_idle() {
            calm.borrow().reload();
        }
        let state = if n % 2 == 0 { "4" } else { "8" };
        store.write("device/pci/0/state", state).unwrap();
        scene.world.run_for(Duration::from_micros(100));
    }
    let flooded = said(&mut scene, &calm);
    assert!(flooded.count > 50, "{flooded:?}");
    assert!(flooded.slowest <= quiet.slowest * 2, "{quiet:?}, {flooded:?}");
    assert_eq!(calm.borrow().state().timeouts(), 0);
    scene.check();
}

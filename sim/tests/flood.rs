//! A guest that writes to XenStore without end: what that costs pcidom in memory and in
//! requests, and the other guests in time.
#![expect(clippy::panic, reason = "helpers of tests: what is not there fails the test")]

use std::time::Duration;

use pcidom_sim::linux_guest::LinuxGuest;
use pcidom_sim::scene::NVME;
use pcidom_sim::store::Connection;
use pcidom_sim::{Scene, Shared};
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::{DomId, XenbusState};

/// How often it writes.
const WRITES: u32 = 100_000;
/// Pause between two writes: ten for each request of pcidom's, about.
const PAUSE: Duration = Duration::from_micros(50);

/// A guest that writes, one that works, and the connection of the first.
fn scene(seed: u64) -> (Scene, Shared<LinuxGuest>, DomId, Connection) {
    let mut scene = Scene::ready(seed, 2);
    let flooder = scene.lend("flooder", 0);
    let calm = scene.lend("calm", 1);
    let domain = flooder.borrow().domain_id();
    scene.world.remove(&flooder);
    scene.world.run_for(Duration::from_secs(2));
    let store = scene.world.store().connect(domain);
    (scene, calm, domain, store)
}

/// What pcidom holds, as far as it depends on what happens: all its tables and queues,
/// written out, and how many XenStore jobs it has.
fn held(scene: &Scene) -> (usize, u32) {
    let text = format!("{:?}", scene.pcidom.borrow());
    let number = |key: &str| -> u32 {
        let Some((_, rest)) = text.split_once(key) else { panic!("no {key} in {text}") };
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(u32::MAX)
    };
    (text.len(), number("waiting: ") + number("in_flight: "))
}

/// How the calm guest fares in a time.
#[derive(Debug)]
struct Calm {
    reloads: u32,
    worst: Duration,
}

/// Lets a guest reload its driver again and again while `disturb` is called so often.
fn reloads(
    scene: &mut Scene,
    calm: &Shared<LinuxGuest>,
    mut disturb: impl FnMut(&mut Scene, u32),
) -> Calm {
    let before = calm.borrow().state().ops.len();
    let mut reloads = 0;
    for n in 0..WRITES {
        if calm.borrow().is_idle() {
            calm.borrow().reload();
            reloads += 1;
        }
        disturb(scene, n);
        scene.world.run_for(PAUSE);
    }
    assert!(scene.guest_uses(calm, NVME));
    let calm = calm.borrow();
    let state = calm.state();
    assert_eq!(state.given_up(), 0);
    let latency = state.ops.iter().skip(before).map(|op| op.latency);
    Calm { reloads, worst: latency.max().unwrap_or_default() }
}

/// In turn: what means nothing, what closes the link and opens it again, and nonsense.
const STATES: [[&str; 2]; 5] =
    [["4", "8"], ["6", "3"], ["1", "4"], ["7", "4"], ["5", "junk"]];

#[test]
fn a_state_that_is_rewritten_100_000_times_costs_constant_memory_and_nobody_elses_time() {
    let (mut scene, calm, domain, store) = scene(1);
    let pcidom = scene.pcidom_id;
    let alone = reloads(&mut scene, &calm, |_, _| {});
    let quiet = held(&scene);
    let requests = scene.world.store().requests_of(pcidom);
    let (mut early, mut late) = ((0, 0), (0, 0));
    let flooded = reloads(&mut scene, &calm, |scene, n| {
        let mut states = STATES.iter().cycle().skip((n / 1000 % 5) as usize);
        let state = states.next().and_then(|pair| pair.get((n % 2) as usize));
        assert_eq!(store.write("device/pci/0/state", state.unwrap_or(&"")), Ok(()));
        if n % 200 == 199 {
            let most = if n < WRITES / 10 { &mut early } else { &mut late };
            let (text, jobs) = held(scene);
            *most = (most.0.max(text), most.1.max(jobs));
        }
    });
    // Nothing grows with the number of writes: a tenth of them takes all there is.
    assert!(late.0 <= early.0 + early.0 / 20, "{quiet:?}, {early:?}, {late:?}");
    assert!(late.1 <= early.1 + 2 && late.1 < 12, "{quiet:?}, {early:?}, {late:?}");
    assert!(late.0 <= quiet.0 * 2, "{quiet:?}, {early:?}, {late:?}");
    // They are looked at together: far less than one look for each.
    let requests = scene.world.store().requests_of(pcidom) - requests;
    assert!(requests < u64::from(WRITES) / 2, "{requests} requests");
    assert!(flooded.reloads * 10 >= alone.reloads * 7, "{alone:?}, {flooded:?}");
    assert!(flooded.worst <= alone.worst * 2, "{alone:?}, {flooded:?}");
    scene.check();
    // Its device can be taken, and pcidom is as it was.
    let device = scene.device(0);
    let reply = scene.detach(domain, device, true);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    assert_eq!(scene.world.xen().mapped_pages(domain), 0);
    scene.lend("next", 0);
    scene.check();
}

#[test]
fn nodes_that_mean_nothing_to_pcidom_cost_it_nothing_however_often_they_are_written() {
    let (mut scene, _calm, _, store) = scene(2);
    let pcidom = scene.pcidom_id;
    let before = (held(&scene), scene.world.store().requests_of(pcidom));
    let dom0 = scene.world.store().requests_of(DomId::DOM0);
    let nodes =
        ["device/pci/0/junk", "device/pci/0/pci-op-ref", "data/junk", "error/junk"];
    for node in nodes.into_iter().cycle().take(WRITES as usize) {
        assert_eq!(store.write(node, "8"), Ok(()));
        scene.world.run_for(PAUSE);
    }
    assert_eq!((held(&scene), scene.world.store().requests_of(pcidom)), before);
    assert_eq!(scene.world.store().requests_of(DomId::DOM0), dom0, "the daemon neither");
    assert_eq!(store.read("device/pci/0/state").as_deref(), Ok("4"));
    let state = XenbusState::parse(store.read("device/pci/0/state").ok().as_deref());
    assert_eq!(state, XenbusState::Connected);
}

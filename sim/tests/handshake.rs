//! Attach and detach, state by state: what both ends of a link and the entries in it say on
//! the way (documents: "PV passthrough hotplug", states 7 and 8).

use std::time::Duration;

use pcidom_pci::Sbdf;
use pcidom_script::Instant;
use pcidom_sim::linux_guest::LinuxGuest;
use pcidom_sim::scene::{NVME, QUEUES};
use pcidom_sim::xen::DOM_IO;
use pcidom_sim::xen::domains::DomainConfig;
use pcidom_sim::xen::record::Deed;
use pcidom_sim::{Scene, Shared};
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::{DomId, XenbusState};

/// One device more or less on a link that is connected, by back and front.
const ONE_CHANGE: [&str; 5] = ["b7", "f7", "b8", "f4", "b4"];

/// A link whose states are taken down.
struct Bed {
    scene: Scene,
    domain: DomId,
    back: String,
    front: String,
}

impl Bed {
    fn new(scene: Scene, domain: DomId) -> Self {
        let back = format!("/local/domain/{}/backend/pci/{domain}/0", scene.pcidom_id);
        let front = format!("/local/domain/{domain}/device/pci/0");
        for dir in [&back, &front] {
            scene.world.store().follow(&format!("{dir}/state"));
        }
        Self { scene, domain, back, front }
    }

    /// Some devices, and a guest that runs.
    fn running(seed: u64, devices: u32) -> (Self, Shared<LinuxGuest>) {
        let mut scene = Scene::ready(seed, devices);
        let guest = scene.guest("guest");
        let domain = guest.borrow().domain_id();
        (Self::new(scene, domain), guest)
    }

    /// A guest that uses the first so many of them.
    fn lent(seed: u64, devices: u32, lent: usize) -> (Self, Shared<LinuxGuest>) {
        let (mut bed, guest) = Self::running(seed, devices);
        for n in 0..lent {
            bed.attach(n);
        }
        bed.taken_down();
        (bed, guest)
    }

    #[track_caller]
    fn attach(&mut self, n: usize) {
        let device = self.scene.device(n);
        let reply = self.scene.attach(self.domain, device);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
        self.settle();
    }

    #[track_caller]
    fn detach(&mut self, n: usize, force: bool) {
        let device = self.scene.device(n);
        let reply = self.scene.detach(self.domain, device, force);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
        self.settle();
    }

    fn settle(&mut self) {
        self.scene.world.run_for(Duration::from_secs(2));
    }

    /// All states since the last call, of both ends and in their order: `b7` is back in 7,
    /// `b-` that its directory went.
    fn taken_down(&self) -> Vec<String> {
        self.timed().into_iter().map(|(_, word)| word).collect()
    }

    fn timed(&self) -> Vec<(Instant, String)> {
        let seen = self.scene.world.store().take_history();
        let words = seen.into_iter().filter_map(|seen| {
            let dir = seen.path.strip_suffix("/state")?;
            let end = if dir == self.back { "b" } else { "f" };
            assert!(dir == self.back || dir == self.front);
            Some((seen.at, format!("{end}{}", seen.value.as_deref().unwrap_or("-"))))
        });
        words.collect()
    }

    /// Those of one end.
    fn of(words: &[String], end: char) -> Vec<&str> {
        words.iter().filter_map(|word| word.strip_prefix(end)).collect()
    }

    fn back(&self, key: &str) -> Option<String> {
        let dom0 = self.scene.world.store().connect(DomId::DOM0);
        dom0.read(&format!("{}/{key}", self.back)).ok()
    }

    /// The entries of the link are these devices, exported at these slots, and no more.
    #[track_caller]
    fn assert_entries(&self, entries: &[(usize, u8)]) {
        let get = |key: &str, n: usize| self.back(&format!("{key}-{n}"));
        assert_eq!(self.back("num_devs"), Some(entries.len().to_string()));
        for (n, (device, slot)) in entries.iter().enumerate() {
            let device = self.scene.device(*device).to_string();
            let at = format!("0000:00:{slot:02x}.00");
            assert_eq!(get("dev", n).as_ref(), Some(&device), "dev-{n}");
            assert_eq!(get("key", n).as_ref(), Some(&device), "key-{n}");
            assert_eq!(get("state", n).as_deref(), Some("3"), "state-{n}");
            assert_eq!(get("vdev", n), Some(at), "vdev-{n}");
        }
        for key in ["dev", "key", "opts", "state", "vdev", "error"] {
            assert_eq!(get(key, entries.len()), None, "{key}-{}", entries.len());
        }
        assert_eq!(self.back("root_num").as_deref(), Some("1"));
        assert_eq!(self.back("root-0").as_deref(), Some("0000:00"));
    }

    /// Which devices interrupt their guest: those that it drives.
    fn driven(&self) -> Vec<usize> {
        let works = |device: &Sbdf| self.scene.world.xen().send_message(*device, 2);
        let all = self.scene.devices.iter().enumerate();
        all.filter(|(_, device)| works(device)).map(|(n, _)| n).collect()
    }
}

#[test]
fn the_first_device_of_a_running_guest_makes_the_link_and_the_next_ones_join_by_7_and_8()
{
    let (mut bed, guest) = Bed::running(1, 3);
    bed.attach(0);
    let states = bed.taken_down();
    assert_eq!(Bed::of(&states, 'b'), ["1", "2", "3", "4"]);
    assert_eq!(Bed::of(&states, 'f'), ["1", "3", "4"]);
    bed.assert_entries(&[(0, 0)]);
    bed.attach(1);
    assert_eq!(bed.taken_down(), ONE_CHANGE);
    bed.assert_entries(&[(0, 0), (1, 1)]);
    bed.attach(2);
    assert_eq!(bed.taken_down(), ONE_CHANGE);
    bed.assert_entries(&[(0, 0), (1, 1), (2, 2)]);
    assert_eq!(guest.borrow().state().found.len(), 3);
    assert_eq!(bed.driven(), [0, 1, 2]);
    bed.scene.check();
}

#[test]
fn an_entry_goes_1_3_when_it_is_attached_and_5_6_when_it_is_detached() {
    let (mut bed, _guest) = Bed::lent(2, 2, 1);
    bed.scene.world.store().follow(&format!("{}/state-1", bed.back));
    let entry = |bed: &Bed| -> Vec<_> {
        let seen = bed.scene.world.store().take_history();
        let of_entry = seen.into_iter().filter(|seen| seen.path.ends_with("/state-1"));
        of_entry.map(|seen| seen.value.unwrap_or_default()).collect()
    };
    bed.attach(1);
    assert_eq!(entry(&bed), ["1", "3"]);
    bed.detach(1, false);
    assert_eq!(entry(&bed), ["5", "6", ""]);
}

#[test]
fn a_device_in_the_middle_goes_by_7_and_8_and_the_entries_behind_it_move_up() {
    let (mut bed, guest) = Bed::lent(3, 3, 3);
    bed.detach(1, false);
    assert_eq!(bed.taken_down(), ONE_CHANGE);
    bed.assert_entries(&[(0, 0), (2, 2)]);
    assert_eq!(guest.borrow().state().found.len(), 2);
    assert_eq!(bed.driven(), [0, 2]);
    // What comes next takes the free slot, behind the others in the directory.
    bed.attach(1);
    assert_eq!(bed.taken_down(), ONE_CHANGE);
    bed.assert_entries(&[(0, 0), (2, 2), (1, 1)]);
    assert_eq!(bed.driven(), [0, 1, 2]);
    bed.scene.check();
}

/// Document 000: no Closing between two times Connected.
#[test]
fn the_last_device_goes_like_any_other_then_the_link_and_both_come_back() {
    let (mut bed, guest) = Bed::lent(4, 1, 1);
    for _ in 0..3 {
        bed.detach(0, false);
        let states = bed.taken_down();
        let (change, end) = states.split_at(ONE_CHANGE.len());
        assert_eq!(change, ONE_CHANGE);
        assert_eq!(Bed::of(end, 'b'), ["-"]);
        assert_eq!(Bed::of(end, 'f'), ["-"]);
        assert!(guest.borrow().state().found.is_empty());
        bed.scene.check_nothing_lent();
        bed.attach(0);
        let states = bed.taken_down();
        assert_eq!(Bed::of(&states, 'b'), ["1", "2", "3", "4"]);
        assert_eq!(Bed::of(&states, 'f'), ["1", "3", "4"]);
        bed.assert_entries(&[(0, 0)]);
        assert_eq!(bed.driven(), [0]);
    }
    bed.scene.check();
}

#[test]
fn devices_attached_before_the_guest_starts_are_all_there_when_it_connects() {
    let scene = Scene::ready(5, 3);
    let paused = DomainConfig { paused: true, ..DomainConfig::default() };
    let domain = scene.xl.create("guest", paused);
    let mut bed = Bed::new(scene, domain);
    for n in 0..3 {
        bed.attach(n);
    }
    bed.assert_entries(&[(0, 0), (1, 1), (2, 2)]);
    assert_eq!(bed.taken_down(), ["b1", "f1", "b2", "b3"], "nobody is asked to look");
    let (xen, store) = (bed.scene.world.xen().clone(), bed.scene.world.store().clone());
    let guest = bed.scene.world.add(LinuxGuest::boot(&xen, &store, domain, QUEUES));
    assert!(bed.scene.guest_uses(&guest, NVME));
    bed.settle();
    assert_eq!(bed.taken_down(), ["f3", "b4", "f4"]);
    assert_eq!(guest.borrow().state().found.len(), 3);
    assert_eq!(bed.driven(), [0, 1, 2]);
    bed.scene.check();
}

#[test]
fn a_guest_that_does_not_answer_keeps_its_device_until_it_is_taken_by_force() {
    let (mut bed, guest) = Bed::lent(6, 3, 2);
    bed.scene.world.remove(&guest);
    let [one, two, three] = [0, 1, 2].map(|n| bed.scene.device(n));
    let domain = bed.domain;
    let reply = bed.scene.detach(domain, two, false);
    let Reply::Failed { text } = reply else { panic!("{reply:?}") };
    assert!(text.contains("did not let 0000:02:00.0 go in 10 s"), "{text}");
    assert_eq!(bed.scene.world.xen().owner(two), Some(domain));
    bed.detach(1, true);
    assert_eq!(bed.scene.world.xen().owner(two), Some(DOM_IO));
    assert_eq!(bed.scene.world.xen().owner(one), Some(domain));
    assert_eq!(bed.driven(), [0], "what it has still works");
    bed.scene.check();
    assert_eq!(bed.taken_down(), ["b7"], "it was asked, and never answered");
    // Nothing can join, and that is said; nothing is given meanwhile.
    let reply = bed.scene.attach(domain, three);
    let Reply::Failed { text } = reply else { panic!("{reply:?}") };
    assert!(text.contains("busy with another change"), "{text}");
    assert_eq!(bed.scene.world.xen().owner(three), Some(DOM_IO));
    // The last one: it is told that the link closes, and has some time.
    bed.detach(0, true);
    bed.scene.world.run_for(Duration::from_secs(15));
    let states = bed.taken_down();
    assert_eq!(Bed::of(&states, 'b'), ["5", "6", "-"]);
    assert_eq!(Bed::of(&states, 'f'), ["-"]);
    bed.scene.check_nothing_lent();
}

#[test]
fn a_guest_that_lives_forgets_a_device_that_was_taken_by_force() {
    for seed in 0..10 {
        let (mut bed, guest) = Bed::lent(seed, 3, 3);
        let device = bed.scene.device(1);
        bed.detach(1, true);
        assert_eq!(bed.taken_down(), ONE_CHANGE, "seed {seed}");
        assert_eq!(guest.borrow().state().found.len(), 2, "seed {seed}");
        bed.assert_entries(&[(0, 0), (2, 2)]);
        assert_eq!(bed.scene.world.xen().owner(device), Some(DOM_IO));
        assert_eq!(bed.driven(), [0, 2]);
        bed.attach(1);
        assert_eq!(bed.driven(), [0, 1, 2]);
        bed.scene.check();
    }
}

/// `xl pci-detach pcidom BDF` under a guest that has others: it is told like any other, and
/// libxl, which waits 10 s, does not wait in vain for a guest that hangs.
#[test]
fn a_device_that_leaves_the_pool_leaves_its_guest_and_a_guest_that_hangs_stops_nobody() {
    for hangs in [false, true] {
        let (mut bed, guest) = Bed::lent(7, 3, 3);
        if hangs {
            bed.scene.world.remove(&guest);
        }
        let (pcidom, device) = (bed.scene.pcidom_id, bed.scene.device(1));
        let xl = &bed.scene.xl;
        assert!(xl.pci_detach(&mut bed.scene.world, pcidom, device), "hangs: {hangs}");
        assert_eq!(bed.scene.world.xen().owner(device), Some(DOM_IO));
        bed.scene.world.run_for(Duration::from_secs(12));
        assert_eq!(bed.back("num_devs").as_deref(), Some("2"));
        if hangs {
            assert_eq!(bed.taken_down(), ["b7"]);
        } else {
            assert_eq!(bed.taken_down(), ONE_CHANGE);
            assert_eq!(guest.borrow().state().found.len(), 2);
            bed.assert_entries(&[(0, 0), (2, 2)]);
        }
        assert_eq!(bed.driven(), [0, 2]);
        bed.scene.check();
    }
}

/// Document 004: the handshake first, and only then vectors, rights and the device.
#[test]
fn rights_go_after_the_guest_has_let_go_and_never_before() {
    for seed in 0..10 {
        let (mut bed, _guest) = Bed::lent(seed, 2, 2);
        let device = bed.scene.device(1);
        let xen = bed.scene.world.xen().clone();
        let before = xen.records().len();
        let rights = xen.rights(bed.domain).iomem;
        let domain = bed.domain;
        let asked =
            bed.scene.ask(|daemon| daemon.detach(domain, device, false, "pcidom"));
        let back = format!("{}/state", bed.back);
        let dom0 = bed.scene.world.store().connect(DomId::DOM0);
        let is_asked = |_: &_| dom0.read(&back).as_deref() == Ok("7");
        assert!(bed.scene.world.run_until(Duration::from_secs(5), is_asked));
        // Its driver may use all of it, until it says that it does no more.
        assert_eq!(xen.rights(domain).iomem, rights);
        assert_eq!(xen.owner(device), Some(domain));
        assert!(matches!(bed.scene.wait_for(asked), Reply::Done { .. }));
        let states = bed.timed();
        let told = |word| states.iter().find(|(_, seen)| seen == word).unwrap().0;
        let let_go = told("f7");
        assert!(let_go < told("b8") && told("b8") < told("b4"));
        let records = xen.records();
        let mut deeds = records.iter().skip(before);
        let taken = deeds.find(|r| matches!(r.deed, Deed::Deassign { .. })).unwrap();
        assert!(taken.at >= told("b4"), "seed {seed}: taken during the handshake");
        assert_ne!(xen.rights(domain).iomem, rights);
        bed.scene.check();
    }
}

/// A slot that is taken is a failure of pcidom's to export.
#[test]
fn a_device_that_can_not_be_exported_is_marked_and_told_and_the_link_comes_back_to_4() {
    let (mut bed, guest) = Bed::lent(8, 3, 1);
    for key in ["state-1", "error-1"] {
        bed.scene.world.store().follow(&format!("{}/{key}", bed.back));
    }
    let (two, three, domain) = (bed.scene.device(1), bed.scene.device(2), bed.domain);
    let reply = bed.scene.attach_at(domain, two, Some(0), None);
    let Reply::Failed { text } = reply else { panic!("{reply:?}") };
    assert!(text.contains("slot 00 of the guest's bus is taken"), "{text}");
    bed.settle();
    let seen = bed.scene.world.store().take_history();
    let of = |key: &str| -> Vec<_> {
        let of_key = seen.iter().filter(|seen| seen.path.ends_with(key));
        of_key.map(|seen| seen.value.clone().unwrap_or_else(|| "-".into())).collect()
    };
    // The guest has never seen it, so it isn't asked to let it go.
    assert_eq!(of(&format!("{}/state", bed.back)), ["7", "8", "4"]);
    assert_eq!(of("/state-1"), ["1", "6", "-"]);
    assert_eq!(of("/error-1"), ["slot 00 of the guest's bus is taken", "-"]);
    bed.assert_entries(&[(0, 0)]);
    assert_eq!(bed.scene.world.xen().owner(two), Some(DOM_IO));
    assert_eq!(guest.borrow().link_state(), XenbusState::Connected);
    assert_eq!(bed.driven(), [0]);
    // The link works for others, and for this one elsewhere.
    for device in [three, two] {
        let reply = bed.scene.attach(domain, device);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    }
    bed.settle();
    bed.assert_entries(&[(0, 0), (2, 1), (1, 2)]);
    assert_eq!(bed.driven(), [0, 1, 2]);
    bed.scene.check();
}

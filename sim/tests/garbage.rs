//! Peers that do anything they can: pcidom and the daemon do not panic, nothing forbidden
//! happens, and nobody else notices.

use std::time::Duration;

use pcidom_sim::scene::NVME;
use pcidom_sim::store::Connection;
use pcidom_sim::xen::record::Deed;
use pcidom_sim::{Scene, SimPage};
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::pciif::{self, FRONT_ACTIVE, RawMsixEntry, RawOp, word};
use pcidom_xenbus::{DomId, Port, SharedPage};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// What a hostile guest does.
#[derive(Clone, Debug)]
enum Mischief {
    /// Writes a word of the page.
    Word(usize, u32),
    /// Asks for something, in its own way.
    Op(RawOp, Vec<u16>),
    /// Lets every word that is loaded be another one at the next load.
    Changing(u32),
    /// Sends events for nothing.
    Storm(u16),
    /// Writes a key of its front directory.
    Key(&'static str, String),
    /// Goes through states, as fast as it can.
    States(Vec<u8>),
    /// Removes its front directory.
    Vanish,
    /// Closes its end of the port.
    Close,
    /// Opens a new page and port and publishes them.
    Open,
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..16_u32, 1 => any::<u32>(), 1 => Just(0xffff_ffff)]
}

fn op() -> impl Strategy<Value = RawOp> {
    let place = prop_oneof![3 => Just((0, 0, 0)), 1 => (small(), small(), small())];
    let offset = prop_oneof![6 => 0..0x110_i32, 1 => any::<i32>(), 1 => 0..0x1010_i32];
    let size = prop_oneof![6 => prop::sample::select(vec![1, 2, 4]), 1 => any::<i32>()];
    let value = prop_oneof![3 => any::<u32>(), 2 => 0..8_u32, 1 => 0x8000..0xc100_u32];
    (0..12_u32, place, offset, size, value).prop_map(
        |(cmd, (domain, bus, devfn), offset, size, value)| RawOp {
            cmd,
            err: 0,
            domain,
            bus,
            devfn,
            offset,
            size,
            value,
        },
    )
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{1,12}",
        "[ -~]{0,40}",
        Just(String::new()),
        Just("7".into()),
        Just("-1".into()),
        "\\PC{0,20}",
    ]
}

fn mischief() -> impl Strategy<Value = Mischief> {
    let keys = vec!["state", "pci-op-ref", "event-channel", "magic", "backend", "x/y"];
    prop_oneof![
        2 => (0..1100_usize, any::<u32>()).prop_map(|(word, value)| Mischief::Word(word, value)),
        8 => (op(), prop::collection::vec(prop_oneof![0..70_u16, any::<u16>()], 0..5))
            .prop_map(|(op, entries)| Mischief::Op(op, entries)),
        1 => any::<u32>().prop_map(Mischief::Changing),
        1 => (1..300_u16).prop_map(Mischief::Storm),
        3 => (prop::sample::select(keys), text()).prop_map(|(key, text)| Mischief::Key(key, text)),
        2 => prop::collection::vec(0..10_u8, 1..8).prop_map(Mischief::States),
        1 => Just(Mischief::Vanish),
        1 => Just(Mischief::Close),
        2 => Just(Mischief::Open),
    ]
}

struct Hostile {
    domain: DomId,
    store: Connection,
    page: SimPage,
    port: Port,
}

const FRONT: &str = "device/pci/0";

impl Hostile {
    fn act(&mut self, scene: &Scene, mischief: &Mischief) {
        let xen = scene.world.xen();
        // What XenStore or Xen refuse him is no news.
        let ignore = |_: bool| ();
        match mischief {
            Mischief::Word(word, value) => self.page.store(*word, *value),
            Mischief::Op(op, entries) => {
                pciif::store_op(&self.page, op);
                let entries: Vec<RawMsixEntry> = entries
                    .iter()
                    .map(|entry| RawMsixEntry { vector: 0xffff, entry: *entry })
                    .collect();
                pciif::store_msix(&self.page, &entries);
                self.page.fetch_or(word::FLAGS, FRONT_ACTIVE);
                ignore(xen.notify(self.domain, self.port).is_ok());
            }
            Mischief::Changing(seed) => {
                let mut value = *seed;
                self.page.set_hook(Some(Box::new(move |_| {
                    value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (value & 0x100 != 0).then_some(value >> 3)
                })));
            }
            Mischief::Storm(count) => {
                for _ in 0..*count {
                    ignore(xen.notify(self.domain, self.port).is_ok());
                }
            }
            Mischief::Key(key, text) => {
                ignore(self.store.write(&format!("{FRONT}/{key}"), text).is_ok());
            }
            Mischief::States(states) => {
                for state in states {
                    let path = format!("{FRONT}/state");
                    ignore(self.store.write(&path, &state.to_string()).is_ok());
                }
            }
            Mischief::Vanish => ignore(self.store.remove(FRONT).is_ok()),
            Mischief::Close => ignore(xen.close(self.domain, self.port).is_ok()),
            Mischief::Open => {
                let Ok((reference, page)) = xen.grant(self.domain, scene.pcidom_id)
                else {
                    return;
                };
                let Ok(port) = xen.alloc_unbound(self.domain, scene.pcidom_id) else {
                    return;
                };
                (self.page, self.port) = (page, port);
                for (key, value) in [
                    ("pci-op-ref", reference.to_string()),
                    ("event-channel", port.to_string()),
                    ("magic", pciif::MAGIC.into()),
                    ("state", "3".into()),
                ] {
                    ignore(self.store.write(&format!("{FRONT}/{key}"), &value).is_ok());
                }
            }
        }
    }
}

fn config(cases: u32) -> ProptestConfig {
    let mut config =
        ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(1);
    }
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    config.max_shrink_iters = 500;
    config
}

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn a_hostile_guest_harms_nobody(
        seed in any::<u64>(),
        acts in prop::collection::vec((mischief(), 0..60_u64), 1..60),
    ) {
        let mut scene =
            if seed & 1 == 0 { Scene::through_dom0(seed, 2) } else { Scene::ready(seed, 2) };
        let bad = scene.lend("bad", 0);
        let good = scene.lend("good", 1);
        let good_id = good.borrow().domain_id();
        scene.world.remove(&bad);
        let domain = bad.borrow().domain_id();
        let mut hostile = Hostile {
            domain,
            store: scene.world.store().connect(domain),
            page: bad.borrow().page().unwrap(),
            port: bad.borrow().link_port().unwrap(),
        };
        let (device, other) = (scene.device(0), scene.device(1));
        good.borrow().reload();
        let before = scene.world.xen().records().len();
        for (act, pause) in &acts {
            hostile.act(&scene, act);
            scene.world.run_for(Duration::from_millis(*pause));
        }
        scene.world.run_for(Duration::from_secs(5));
        hostile.page.set_hook(None);
        // The other guest went through its reload and works.
        prop_assert!(scene.guest_uses(&good, NVME));
        prop_assert!(scene.world.xen().send_message(other, 2));
        prop_assert_eq!(good.borrow().state().given_up(), 0);
        scene.check();
        // The bad one got vectors of its own device only, and never two kinds at a time.
        for record in scene.world.xen().records().iter().skip(before) {
            match record.deed {
                Deed::Map { domain, device: of, .. } => prop_assert!(
                    (domain, of) == (hostile.domain, device) || (domain, of) == (good_id, other)
                ),
                Deed::Reset { device: of } => prop_assert_ne!(of, other),
                _ => {}
            }
        }
        // In hardware, its device never stopped decoding memory while it had vectors.
        scene.xl.destroy_at_once(hostile.domain);
        scene.world.run_for(Duration::from_secs(10));
        prop_assert!(scene.world.xen().zombies().is_empty());
        prop_assert_eq!(scene.world.xen().vectors_of(device), vec![]);
        let next = scene.guest("next");
        let next_id = next.borrow().domain_id();
        let reply = scene.attach(next_id, device);
        prop_assert!(matches!(reply, Reply::Done { .. }), "{:?}", reply);
        prop_assert!(scene.guest_uses(&next, NVME));
        scene.check();
    }
}

/// What a pcidom that was taken over writes.
fn word_of_pcidom() -> impl Strategy<Value = (String, String)> {
    let node = prop_oneof![
        Just("state".to_string()),
        (0..4_u16).prop_map(|id| format!("requests/{id}")),
        (0..4_u16).prop_map(|id| format!("loans/{id}")),
        "requests/[0-9a-z]{1,6}",
        "report/[a-z]{1,6}",
    ];
    let number = || prop_oneof![3 => 0..4_u64, 1 => any::<u64>()];
    let entries = prop::collection::vec(prop_oneof![0..70_u16, any::<u16>()], 0..6)
        .prop_map(|list| list.iter().map(u16::to_string).collect::<Vec<_>>().join(","));
    let text = prop_oneof![
        (number(), number(), entries)
            .prop_map(|(g, s, e)| format!("gen={g} seq={s} map msix {e}")),
        (number(), number()).prop_map(|(g, s)| format!("gen={g} seq={s} map msi")),
        (number(), number()).prop_map(|(g, s)| format!("gen={g} seq={s} unmap")),
        number().prop_map(|g| format!("gen={g} ready flr")),
        number().prop_map(|g| format!("gen={g} returned flr")),
        number().prop_map(|g| format!("gen={g} failed \u{1b}[2J")),
        "\\PC{0,60}",
        Just("ready".to_string()),
    ];
    (node, text)
}

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn a_pcidom_that_was_taken_over_gets_nothing_but_its_own_loans_vectors(
        seed in any::<u64>(),
        words in prop::collection::vec((word_of_pcidom(), 0..400_u64), 1..40),
    ) {
        let mut scene = Scene::ready(seed, 2);
        let guest = scene.lend("guest", 0);
        let domain = guest.borrow().domain_id();
        let (lent, free) = (scene.device(0), scene.device(1));
        let pcidom = scene.pcidom.clone();
        scene.world.remove(&pcidom);
        let store = scene.world.store().connect(scene.pcidom_id);
        for ((node, text), pause) in words {
            let path = format!("data/pcidom/{node}");
            if store.write(&path, &text).is_err() {
                continue;
            }
            scene.world.run_for(Duration::from_millis(pause));
            let xen = scene.world.xen();
            prop_assert_eq!(xen.vectors_of(free), vec![]);
            prop_assert!(xen.vectors_of(lent).iter().all(|(to, _)| *to == domain));
            // Rights go with the ownership, and what is not lent is in quarantine.
            scene.check();
            prop_assert_eq!(xen.owner(free), Some(pcidom_sim::xen::DOM_IO));
        }
        // Without pcidom's help the daemon ends the loan alone.
        scene.xl.destroy_at_once(domain);
        scene.world.run_for(Duration::from_secs(60));
        prop_assert_eq!(scene.world.xen().vectors_of(lent), vec![]);
        prop_assert_eq!(scene.world.xen().owner(lent), Some(pcidom_sim::xen::DOM_IO));
    }
}

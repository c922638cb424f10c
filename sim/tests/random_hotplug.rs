//! 200 random sequences of 20 operations over four devices and three guests: whatever was
//! asked for, however it was interleaved, at the end what each guest has found, who Xen says
//! owns each device and what the nodes say are the same, and nothing is leaked.

use std::collections::BTreeMap;
use std::time::Duration;

use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_sim::linux_guest::LinuxGuest;
use pcidom_sim::xen::DOM_IO;
use pcidom_sim::{Scene, Shared};
use pcidom_toolstack::daemon::Client;
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::{DomId, XenbusState};

const SEQUENCES: u64 = 200;
const OPERATIONS: u32 = 20;
const DEVICES: usize = 4;
const GUESTS: usize = 3;

/// Longer than whatever waits for somebody: a device's way back, then another one's.
const AT_REST: Duration = Duration::from_secs(120);

/// Of one seed always the same.
struct Dice(u64);

impl Dice {
    /// One of so many.
    fn throw(&mut self, sides: usize) -> usize {
        // Knuth's constants; the upper bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap_or(0) % sides
    }
}

struct Play {
    scene: Scene,
    guests: Vec<Shared<LinuxGuest>>,
    asked: Vec<Client>,
    names: u32,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut scene = Scene::ready(seed, u32::try_from(DEVICES).unwrap_or(0));
        let name = |n| format!("guest-{n}");
        let guests = (0..GUESTS).map(|n| scene.guest(&name(n))).collect();
        Self { scene, guests, asked: Vec::new(), names: 0 }
    }

    fn id(&self, guest: usize) -> DomId {
        self.guests.get(guest).map_or(DomId::DOM0, |guest| guest.borrow().domain_id())
    }

    fn operation(&mut self, dice: &mut Dice) {
        let (g, device) = (dice.throw(GUESTS), self.scene.device(dice.throw(DEVICES)));
        let (guest, pcidom) = (self.id(g), self.scene.pcidom_id);
        let kind = dice.throw(20);
        match kind {
            0..=9 => {
                let asked = |d: &mut pcidom_sim::daemon::DaemonProcess| {
                    d.attach(guest, device, "pcidom")
                };
                self.asked.push(self.scene.ask(asked));
            }
            10..=15 => {
                // From whom it is lent to, as far as Xen knows.
                let owner = self.scene.world.xen().owner(device).unwrap_or(guest);
                let (from, force) =
                    (if owner == DOM_IO { guest } else { owner }, kind > 13);
                let asked = |d: &mut pcidom_sim::daemon::DaemonProcess| {
                    d.detach(from, device, force, "pcidom")
                };
                self.asked.push(self.scene.ask(asked));
            }
            16 | 17 => {
                let xl = &self.scene.xl;
                let _done = match xl.devices(pcidom).contains(&device) {
                    true => xl.pci_detach(&mut self.scene.world, pcidom, device),
                    false => xl.pci_attach(&mut self.scene.world, pcidom, device),
                };
            }
            18 => {
                self.scene.xl.destroy_at_once(guest);
                self.names += 1;
                let next = self.scene.guest(&format!("next-{}", self.names));
                if let Some(place) = self.guests.get_mut(g) {
                    *place = next;
                }
            }
            _ => {
                if let Some(guest) = self.guests.get(g) {
                    guest.borrow().reload();
                }
            }
        }
        let pause = match dice.throw(3) {
            0 => dice.throw(20),
            1 => dice.throw(400),
            _ => dice.throw(4_000),
        };
        let pause = u64::try_from(pause).unwrap_or(0);
        self.scene.world.run_for(Duration::from_millis(pause));
    }

    /// What the nodes of a guest's link say: each device and where it is shown.
    fn nodes(&self, guest: DomId) -> BTreeMap<Sbdf, VirtualBdf> {
        let dom0 = self.scene.world.store().connect(DomId::DOM0);
        let pcidom = self.scene.pcidom_id;
        let back = format!("/local/domain/{pcidom}/backend/pci/{guest}/0");
        let front = format!("/local/domain/{guest}/device/pci/0");
        let get = |path: String| dom0.read(&path).ok();
        let count = get(format!("{back}/num_devs")).and_then(|n| n.parse::<u32>().ok());
        let Some(count) = count else {
            assert_eq!(get(format!("{front}/state")), None, "a front without a back");
            return BTreeMap::new();
        };
        assert!(count > 0, "domain {guest}: a link was left");
        for end in [&back, &front] {
            assert_eq!(get(format!("{end}/state")).as_deref(), Some("4"), "{end}");
        }
        let entries = (0..count).map(|n| {
            assert_eq!(get(format!("{back}/state-{n}")).as_deref(), Some("3"), "{n}");
            let dev = get(format!("{back}/dev-{n}")).and_then(|text| text.parse().ok());
            let at = get(format!("{back}/vdev-{n}")).unwrap_or_default();
            // A slot and a function of two digits, as libxl writes them.
            let at = at.replacen(".0", ".", 1).parse::<Sbdf>().ok().map(VirtualBdf);
            dev.zip(at)
        });
        let entries: Option<BTreeMap<Sbdf, VirtualBdf>> = entries.collect();
        let entries = entries.unwrap_or_default();
        assert_eq!(u32::try_from(entries.len()), Ok(count), "{entries:?}");
        entries
    }

    /// All agree. Returns how many devices are lent.
    fn agree(&self) -> usize {
        let mut owners = BTreeMap::new();
        for guest in &self.guests {
            let guest = guest.borrow();
            let nodes = self.nodes(guest.domain_id());
            let found: Vec<VirtualBdf> = guest.state().found.keys().copied().collect();
            let mut shown: Vec<VirtualBdf> = nodes.values().copied().collect();
            shown.sort_unstable();
            assert_eq!(found, shown, "{}", guest.domain_id());
            for device in nodes.into_keys() {
                assert_eq!(owners.insert(device, guest.domain_id()), None, "{device}");
                let drives = self.scene.world.xen().send_message(device, 0);
                assert!(drives, "{device} interrupts nobody");
                assert_eq!(guest.link_state(), XenbusState::Connected);
            }
        }
        for device in &self.scene.devices {
            let pooled = self.scene.xl.devices(self.scene.pcidom_id).contains(device);
            let owner = owners.get(device).copied().unwrap_or(DOM_IO);
            if pooled {
                assert_eq!(
                    self.scene.world.xen().owner(*device),
                    Some(owner),
                    "{device}"
                );
            } else {
                assert!(!owners.contains_key(device), "{device} is lent and in no pool");
            }
        }
        self.scene.check();
        owners.len()
    }

    /// All replies came; each device goes back, and nothing is left.
    fn end(&mut self, seed: u64) {
        for guest in &self.guests {
            let late =
                guest.borrow().state().ops.iter().filter(|op| op.timed_out).count();
            assert_eq!(late, 0, "seed {seed}: {}", guest.borrow().domain_id());
        }
        let owners = self.scene.devices.clone().into_iter().filter_map(|device| {
            let owner = self.scene.world.xen().owner(device)?;
            self.guests
                .iter()
                .any(|guest| guest.borrow().domain_id() == owner)
                .then_some((owner, device))
        });
        for (owner, device) in owners.collect::<Vec<_>>() {
            let reply = self.scene.detach(owner, device, false);
            assert!(matches!(reply, Reply::Done { .. }), "{device}: {reply:?}");
        }
        self.scene.world.run_for(Duration::from_secs(5));
        assert_eq!(self.agree(), 0);
        let dom0 = self.scene.world.store().connect(DomId::DOM0);
        let orders = format!("/local/domain/{}/pcidom/loans", self.scene.pcidom_id);
        for left in ["/tool/pcidom/loans", &orders] {
            assert_eq!(dom0.directory(left).unwrap_or_default(), Vec::<String>::new());
        }
        for guest in 0..GUESTS {
            assert_eq!(self.scene.world.xen().mapped_pages(self.id(guest)), 0);
        }
    }
}

#[test]
fn after_200_random_sequences_guests_xen_and_xenstore_agree_and_nothing_is_left() {
    let (mut lent, mut replied) = (0, 0);
    for seed in 0..SEQUENCES {
        let mut dice = Dice(seed);
        let mut play = Play::new(seed);
        for _ in 0..OPERATIONS {
            play.operation(&mut dice);
        }
        play.scene.world.run_for(AT_REST);
        for client in std::mem::take(&mut play.asked) {
            let reply = play.scene.ask(|daemon| {
                let reply = daemon.reply(client);
                replied += u32::from(matches!(reply, Some(Reply::Done { .. })));
                assert!(reply.is_some(), "seed {seed}: {client:?} waits in vain");
                client
            });
            assert_eq!(reply, client);
        }
        lent += play.agree();
        play.end(seed);
    }
    // It was worth while: most ends find something lent, and much was done.
    assert!(lent > 200 && replied > 1_000, "{lent} lent at the end, {replied} done");
}

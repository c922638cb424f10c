//! A host with one pcidom (domain 1), its pool, and two PV guests (2 and 3).

use std::time::Duration;

use pcidom_loan::{
    LeaseAnswer, LeaseAsk, LeaseRequest, LoanOrder, LoanReport, Outcome, Phase,
};
use pcidom_pci::Sbdf;
use pcidom_script::Instant;
use pcidom_xenbus::DomId;

use crate::daemon::{Client, Daemon, Env};
use crate::fake::{FakeHost, FakeStore, FakeXen, Owner, nvme};
use crate::hypervisor::DomainInfo;
use crate::store::{Nodes, Permissions, Store};
use crate::verb::{Bdf, Reply, Verb, Wish};

pub(super) const DOM0: DomId = DomId::DOM0;
pub(super) const P: DomId = DomId(1);
pub(super) const G: DomId = DomId(2);
pub(super) const G2: DomId = DomId(3);
/// Two more domains, for other pcidoms.
pub(super) const P2: DomId = DomId(4);
pub(super) const P3: DomId = DomId(5);
pub(super) const BACK: &str = "/local/domain/1/backend/pci/2/0";
pub(super) const FRONT: &str = "/local/domain/2/device/pci/0";
pub(super) const POOL: &str = "/local/domain/0/backend/pci/1/0";

pub(super) struct Bed {
    pub(super) xen: FakeXen,
    pub(super) host: FakeHost,
    pub(super) store: FakeStore,
    pub(super) now: Instant,
    pub(super) daemon: Daemon,
    /// Whether pcidom answers orders.
    pub(super) pcidom_serves: bool,
    /// Whether guests' frontends are loaded, and answer.
    pub(super) guests_answer: bool,
    next_client: u64,
}

pub(super) fn device(number: u8) -> Sbdf {
    Sbdf::new(0, number, 0, 0).unwrap()
}

pub(super) fn lock(number: u8) -> String {
    format!("/libxl/pci/0000-{number:02x}-00-0/domid")
}

/// A port above some devices.
pub(super) fn port() -> Sbdf {
    Sbdf::new(0, 0, 2, 0).unwrap()
}

macro_rules! env {
    ($bed:expr) => {
        &mut Env {
            xen: &mut $bed.xen,
            host: &mut $bed.host,
            store: &mut $bed.store,
            now: $bed.now,
        }
    };
}

impl Bed {
    /// Everything runs, the pool has devices 1 and 2, nothing is lent.
    pub(super) fn new() -> Self {
        let mut bed = Self {
            xen: FakeXen::default(),
            host: FakeHost::default(),
            store: FakeStore::default(),
            now: Instant::from_nanos(1),
            daemon: Daemon::new(vec!["pcidom".into()]),
            pcidom_serves: true,
            guests_answer: true,
            next_client: 0,
        };
        for (domain, name) in [(DomId::DOM0, "Domain-0"), (G, "g1"), (G2, "g2")] {
            bed.create(domain, name);
        }
        bed.create(P, "pcidom");
        bed.set(&format!("{}/data", "/local/domain/1"), "");
        bed.store
            .set_permissions("/local/domain/1/data", Permissions::private(P))
            .unwrap();
        bed.give_to_pool(&[1, 2]);
        bed.set("/local/domain/1/data/pcidom/state", "ready");
        bed.start();
        bed
    }

    pub(super) fn create(&mut self, domain: DomId, name: &str) {
        self.xen.domains.insert(domain, DomainInfo::default());
        let home = format!("/local/domain/{domain}");
        self.set(&format!("{home}/name"), name);
        self.set(&format!("{home}/vm"), &format!("/vm/{name}-{domain}"));
    }

    /// Puts these devices below a port, which is in the pool.
    pub(super) fn give_port(&mut self, below: &[u8]) {
        self.wire(below);
        self.xen.owners.insert(port(), Owner::Domain(P));
        let count = self.get(&format!("{POOL}/num_devs")).unwrap();
        self.set(&format!("{POOL}/dev-{count}"), &port().to_string());
        self.set(&format!("{POOL}/state-{count}"), "3");
        let more = count.parse::<u8>().unwrap() + 1;
        self.set(&format!("{POOL}/num_devs"), &more.to_string());
        self.settle();
    }

    /// Puts these devices below a port, which is not in the pool.
    pub(super) fn wire(&mut self, below: &[u8]) {
        self.host.devices.insert(port(), crate::fake::port());
        self.host.ports.extend(below.iter().map(|number| (device(*number), port())));
    }

    /// What libxl does for `pci=[...]`: rights first, XenStore last.
    pub(super) fn give_to_pool(&mut self, numbers: &[u8]) {
        for number in numbers {
            let mut raw = nvme();
            let base = 0xfe60_0000 + 0x10_0000 * u64::from(*number);
            raw.resources[0] = [base, base + 0x3fff, 0x14_0204];
            let bar = u32::try_from(base).unwrap() | 4;
            raw.config[0x10..0x14].copy_from_slice(&bar.to_le_bytes());
            self.host.devices.insert(device(*number), raw);
            let path = format!("/local/domain/1/pcidom/pool/0000-{number:02x}-00-0");
            if self.get(&path).is_some() {
                continue;
            }
            self.set(&lock(*number), "1");
            self.xen.owners.insert(device(*number), Owner::Domain(P));
            let holdings = self.xen.holdings.entry(P).or_default();
            holdings.pages.extend((base >> 12)..(base >> 12) + 4);
            holdings.lines.insert(16);
            holdings.pirqs.insert(16, None);
        }
        for (entry, number) in numbers.iter().enumerate() {
            self.set(&format!("{POOL}/dev-{entry}"), &device(*number).to_string());
            self.set(&format!("{POOL}/state-{entry}"), "3");
        }
        self.set(&format!("{POOL}/num_devs"), &numbers.len().to_string());
    }

    pub(super) fn set(&mut self, path: &str, value: &str) {
        // Other writers have faults of their own.
        let faults = (self.store.fault.take(), self.store.death.take());
        self.store.write(path, value).unwrap();
        (self.store.fault, self.store.death) = faults;
    }

    pub(super) fn remove(&mut self, path: &str) {
        let faults = (self.store.fault.take(), self.store.death.take());
        self.store.remove(path).unwrap();
        (self.store.fault, self.store.death) = faults;
    }

    pub(super) fn get(&self, path: &str) -> Option<String> {
        self.store.get(path).map(Into::into)
    }

    /// The daemon begins, or begins again after its predecessor was killed.
    pub(super) fn start(&mut self) {
        self.xen.death = None;
        self.start_to_die();
    }

    /// The same with a daemon that will be killed when the fakes say.
    pub(super) fn start_to_die(&mut self) {
        self.daemon = Daemon::new(vec!["pcidom".into()]);
        self.start_again();
    }

    /// The same with a daemon of the test's own.
    pub(super) fn start_again(&mut self) {
        self.store.disconnect();
        self.daemon.start(env!(self)).unwrap();
        self.settle();
    }

    /// Lets everybody do what there is to do, without time passing.
    pub(super) fn settle(&mut self) {
        for _ in 0..1000 {
            if let Some(fired) = self.store.next_fired() {
                self.daemon.fired(env!(self), &fired);
                continue;
            }
            if !self.play_pcidom() && !self.play_guest(G) && !self.play_guest(G2) {
                return;
            }
        }
        panic!("never settles");
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.daemon.tick(env!(self));
        self.settle();
    }

    pub(super) fn ask(&mut self, verb: &Verb) -> Client {
        let client = Client(self.next_client);
        self.next_client += 1;
        self.daemon.ask(env!(self), client, verb);
        self.settle();
        client
    }

    pub(super) fn attach(&mut self, guest: &str, number: u8) -> Client {
        // Who types this is slower than the pause between two links.
        self.pass(1);
        self.ask(&Verb::Attach {
            guest: guest.into(),
            owner: None,
            device: Bdf(device(number)),
            slot: None,
            bus: None,
            share_line: false,
            lax: false,
            wait: None,
            wish: Wish::default(),
            pcidom: None,
        })
    }

    pub(super) fn detach(&mut self, guest: &str, number: u8, force: bool) -> Client {
        self.ask(&Verb::Detach {
            guest: guest.into(),
            device: Bdf(device(number)),
            force,
            pcidom: None,
        })
    }

    /// The only reply there is.
    pub(super) fn reply(&mut self) -> Reply {
        let (_, reply) = self.daemon.next_reply().expect("no reply");
        assert_eq!(self.daemon.next_reply(), None);
        reply
    }

    #[track_caller]
    pub(super) fn done(&mut self) -> String {
        match self.reply() {
            Reply::Done { text } => text,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn failed(&mut self) -> String {
        match self.reply() {
            Reply::Failed { text } => text,
            other => panic!("{other:?}"),
        }
    }

    /// Lends device 1 to g1.
    pub(super) fn lent() -> Self {
        let mut bed = Self::new();
        bed.attach("g1", 1);
        assert_eq!(bed.done(), "");
        bed
    }

    pub(super) fn order(&self, id: u16) -> Option<LoanOrder> {
        let path = format!("/local/domain/1/pcidom/loans/{id}");
        self.get(&path).map(|text| text.parse().unwrap())
    }

    /// pcidom asks for or gives back leases of loan 0.
    pub(super) fn request(&mut self, sequence: u32, ask: LeaseAsk) {
        let generation = self.order(0).expect("no loan").generation;
        let text = LeaseRequest { generation, sequence, ask }.to_string();
        self.set("/local/domain/1/data/pcidom/requests/0", &text);
        self.settle();
    }

    pub(super) fn answer(&self) -> Option<LeaseAnswer> {
        let text = self.get("/local/domain/1/pcidom/answers/0")?;
        Some(text.parse().unwrap())
    }

    /// pcidom, one step: whether there was something to do.
    fn play_pcidom(&mut self) -> bool {
        if !self.pcidom_serves || !self.xen.domains.contains_key(&P) {
            return false;
        }
        for (path, text) in self.store.below("/local/domain/1/pcidom/loans") {
            let Ok(order) = text.parse::<LoanOrder>() else { continue };
            let id = path.rsplit('/').next().unwrap();
            let outcome = match order.phase {
                Phase::Prepare | Phase::Reset => Outcome::Ready("flr".into()),
                Phase::Ending => Outcome::Returned("flr".into()),
                Phase::Lent => continue,
            };
            let report = LoanReport { generation: order.generation, outcome }.to_string();
            let said = format!("/local/domain/1/data/pcidom/loans/{id}");
            if self.get(&said).as_ref() != Some(&report) {
                self.set(&said, &report);
                return true;
            }
        }
        false
    }

    /// A guest's frontend and pcidom's end of its link, one step.
    fn play_guest(&mut self, guest: DomId) -> bool {
        let back = format!("/local/domain/1/backend/pci/{guest}/0");
        let front = format!("/local/domain/{guest}/device/pci/0");
        let Some(state) = self.get(&format!("{back}/state")) else { return false };
        if !self.guests_answer || self.get(&format!("{front}/state")).is_none() {
            return false;
        }
        let entries: u8 = self.get(&format!("{back}/num_devs")).unwrap().parse().unwrap();
        match state.as_str() {
            "1" | "2" | "3" => {
                self.export(&back, entries);
                self.set(&format!("{front}/state"), "4");
            }
            "7" => self.export(&back, entries),
            "5" if self.get(&format!("{front}/state")).as_deref() != Some("6") => {
                self.set(&format!("{front}/state"), "6");
                return true;
            }
            _ => return false,
        }
        self.set(&format!("{back}/state"), "4");
        true
    }

    fn export(&mut self, back: &str, entries: u8) {
        for entry in 0..entries {
            let sub = format!("{back}/state-{entry}");
            if self.get(&sub).as_deref() == Some("1") {
                self.set(&sub, "3");
                let vdev = format!("0000:00:{entry:02x}.00");
                self.set(&format!("{back}/vdev-{entry}"), &vdev);
            } else if self.get(&sub).as_deref() == Some("5") {
                self.set(&sub, "6");
            }
        }
    }

    /// The first half of `xl destroy`: XenStore goes before the domain does.
    pub(super) fn remove_home(&mut self, domain: DomId) {
        self.remove(&format!("/local/domain/{domain}"));
        self.settle();
    }

    pub(super) fn fire(&mut self, path: &str) {
        self.store.fire(path);
        self.settle();
    }

    /// Nothing is lent and nothing is left of a loan.
    #[track_caller]
    pub(super) fn assert_clean(&self) {
        assert_eq!(self.store.below("/tool/pcidom/loans").len(), 1, "record");
        assert_eq!(self.xen.of(G).pages.len(), 0, "pages of the guest");
        assert_eq!(self.xen.of(G).lines.len(), 0, "lines of the guest");
        assert_eq!(self.xen.of(G).pirqs.len(), 0, "pirqs of the guest");
        assert!(self.xen.owners.values().all(|owner| *owner == Owner::Quarantine));
        assert_eq!(self.get(&format!("{BACK}/state")), None, "back");
        assert_eq!(self.get(&format!("{FRONT}/state")), None, "front");
        assert_eq!(self.order(0), None, "order");
        assert!(
            self.store.watches().iter().all(|(path, _)| !path.contains("device/pci")),
            "watch"
        );
    }

    pub(super) fn lent_to(&self, guest: DomId, number: u8) -> bool {
        self.xen.owners.get(&device(number)) == Some(&Owner::Domain(guest))
    }

    pub(super) fn unwatch_everything(&mut self) {
        for (path, token) in self.store.watches().to_vec() {
            self.store.unwatch(&path, &token).unwrap();
        }
    }
}

//! A host with two pcidoms and two guests, and what the honest ones among them do.

use std::cell::RefCell;
use std::time::Duration;

use pcidom_loan::{LoanOrder, LoanReport, Outcome, PROTOCOL, Phase};
use pcidom_pci::Sbdf;
use pcidom_script::Instant;
use pcidom_toolstack::daemon::{Client, Daemon, Env};
use pcidom_toolstack::fake::{FakeHost, FakeStore, FakeXen, Owner, nvme};
use pcidom_toolstack::hypervisor::DomainInfo;
use pcidom_toolstack::store::{Nodes, Permissions};
use pcidom_toolstack::verb::{Bdf, Verb, Wish};
use pcidom_xenbus::DomId;

/// The pcidom that is taken over.
pub(crate) const BAD: DomId = DomId(1);
/// Its guest.
pub(crate) const GUEST: DomId = DomId(2);
/// Another guest.
pub(crate) const NEIGHBOUR: DomId = DomId(3);
/// An honest pcidom.
pub(crate) const GOOD: DomId = DomId(4);

/// Events that may follow from one step: more is a loop.
const MAX_EVENTS: usize = 2000;

pub(crate) fn device(number: u8) -> Sbdf {
    Sbdf::new(0, number, 0, 0).unwrap()
}

/// All of it.
pub(crate) struct Host {
    pub(crate) xen: FakeXen,
    host: FakeHost,
    pub(crate) store: FakeStore,
    now: Instant,
    pub(crate) daemon: Daemon,
    clients: u64,
}

macro_rules! env {
    ($host:expr) => {
        &mut Env {
            xen: &mut $host.xen,
            host: &mut $host.host,
            store: &mut $host.store,
            now: $host.now,
        }
    };
}

fn new_daemon() -> Daemon {
    Daemon::new(vec!["pcidom".into(), "other".into()])
}

impl Host {
    /// Device 1 is lent by the bad pcidom to its guest, device 3 by the good one to the other.
    pub(crate) fn lent() -> Self {
        thread_local! {
            static START: RefCell<Option<(FakeXen, FakeHost, FakeStore, Instant)>> =
                const { RefCell::new(None) };
        }
        START.with_borrow_mut(|start| {
            let (xen, host, store, now) = start.get_or_insert_with(|| {
                let made = Self::make();
                (made.xen, made.host, made.store, made.now)
            });
            let (xen, host, store) = (xen.clone(), host.clone(), store.clone());
            let mut host =
                Self { xen, host, store, now: *now, daemon: new_daemon(), clients: 0 };
            host.start();
            host
        })
    }

    fn make() -> Self {
        let mut host = Self {
            xen: FakeXen::default(),
            host: FakeHost::default(),
            store: FakeStore::default(),
            now: Instant::from_nanos(1),
            daemon: new_daemon(),
            clients: 0,
        };
        let domains = [
            (DomId::DOM0, "Domain-0"),
            (BAD, "pcidom"),
            (GUEST, "g1"),
            (NEIGHBOUR, "g2"),
            (GOOD, "other"),
        ];
        for (domain, name) in domains {
            host.xen.domains.insert(domain, DomainInfo::default());
            let home = format!("/local/domain/{domain}");
            host.set(&format!("{home}/name"), name);
            host.set(&format!("{home}/vm"), &format!("/vm/{name}-{domain}"));
        }
        for pcidom in [BAD, GOOD] {
            let data = format!("/local/domain/{pcidom}/data");
            host.set(&data, "");
            host.store.set_permissions(&data, Permissions::private(pcidom)).unwrap();
        }
        host.give_to_pool(BAD, &[1, 2]);
        host.give_to_pool(GOOD, &[3]);
        for pcidom in [BAD, GOOD] {
            let said = format!("/local/domain/{pcidom}/data/pcidom");
            host.set(&format!("{said}/protocol"), PROTOCOL);
            host.set(&format!("{said}/state"), "ready");
        }
        host.start();
        for (guest, number, pcidom) in [("g1", 1, "pcidom"), ("g2", 3, "other")] {
            host.ask(&Verb::Attach {
                guest: guest.into(),
                owner: None,
                device: Bdf(device(number)),
                slot: None,
                bus: None,
                share_line: true,
                lax: false,
                wait: None,
                wish: Wish::default(),
                pcidom: Some(pcidom.into()),
            });
            for _ in 0..8 {
                host.play(BAD);
                host.settle();
                host.play_guest(BAD, GUEST);
                host.settle();
            }
            host.pass(1000);
        }
        while let Some((_, reply)) = host.daemon.next_reply() {
            log::trace!("{reply:?}");
        }
        for (number, guest) in [(1, GUEST), (3, NEIGHBOUR)] {
            let owner = host.xen.owners.get(&device(number));
            assert_eq!(owner, Some(&Owner::Domain(guest)), "the start is wrong");
        }
        host.xen.log.clear();
        host
    }

    fn start(&mut self) {
        self.store.disconnect();
        self.daemon.start(env!(self)).unwrap();
        self.settle();
    }

    /// What libxl does for `pci=[...]`.
    fn give_to_pool(&mut self, pcidom: DomId, numbers: &[u8]) {
        let pool = format!("/local/domain/0/backend/pci/{pcidom}/0");
        for (entry, number) in numbers.iter().enumerate() {
            let mut raw = nvme();
            let base = 0xfe60_0000 + 0x10_0000 * u64::from(*number);
            raw.resources[0] = [base, base + 0x3fff, 0x14_0204];
            raw.config[0x10..0x14].copy_from_slice(&(base as u32 | 4).to_le_bytes());
            self.host.devices.insert(device(*number), raw);
            self.xen.owners.insert(device(*number), Owner::Domain(pcidom));
            let holdings = self.xen.holdings.entry(pcidom).or_default();
            holdings.pages.extend((base >> 12)..(base >> 12) + 4);
            holdings.lines.insert(16);
            holdings.pirqs.insert(16, None);
            let lock = format!("/libxl/pci/0000-{number:02x}-00-0/domid");
            self.set(&lock, &pcidom.to_string());
            self.set(&format!("{pool}/dev-{entry}"), &device(*number).to_string());
            self.set(&format!("{pool}/state-{entry}"), "3");
        }
        self.set(&format!("{pool}/num_devs"), &numbers.len().to_string());
    }

    pub(crate) fn set(&mut self, path: &str, value: &str) {
        log::trace!("{path} = {value:?}");
        self.store.write(path, value).unwrap();
    }

    pub(crate) fn remove(&mut self, path: &str) {
        log::trace!("{path} is removed");
        self.store.remove(path).unwrap();
    }

    /// Lets the daemon and those who are honest do what there is to do.
    pub(crate) fn settle(&mut self) {
        for _ in 0..MAX_EVENTS {
            if let Some(fired) = self.store.next_fired() {
                self.daemon.fired(env!(self), &fired);
            } else if !self.play(GOOD) && !self.play_guest(GOOD, NEIGHBOUR) {
                return;
            }
        }
        panic!("never settles");
    }

    pub(crate) fn pass(&mut self, millis: u64) {
        self.now = self.now.after(Duration::from_millis(millis));
        self.daemon.tick(env!(self));
        self.settle();
    }

    pub(crate) fn ask(&mut self, verb: &Verb) {
        log::trace!("{verb:?}");
        self.clients += 1;
        self.daemon.ask(env!(self), Client(self.clients), verb);
        self.settle();
    }

    /// What the daemon orders.
    pub(crate) fn order(&self, pcidom: DomId, id: u8) -> Option<LoanOrder> {
        let path = format!("/local/domain/{pcidom}/pcidom/loans/{id}");
        self.store.get(&path).map(|text| text.parse().unwrap())
    }

    /// A pcidom obeys, one step: whether there was something to do.
    pub(crate) fn play(&mut self, pcidom: DomId) -> bool {
        for id in 0..4 {
            let Some(order) = self.order(pcidom, id) else { continue };
            let outcome = match order.phase {
                Phase::Prepare | Phase::Reset => Outcome::Ready("flr".into()),
                Phase::Ending => Outcome::Returned("flr".into()),
                Phase::Lent => continue,
            };
            let report = LoanReport { generation: order.generation, outcome }.to_string();
            let said = format!("/local/domain/{pcidom}/data/pcidom/loans/{id}");
            if self.store.get(&said) != Some(&report) {
                self.set(&said, &report);
                return true;
            }
        }
        false
    }

    /// A guest's frontend and its pcidom's end of the link, one step.
    pub(crate) fn play_guest(&mut self, pcidom: DomId, guest: DomId) -> bool {
        let back = format!("/local/domain/{pcidom}/backend/pci/{guest}/0");
        let front = format!("/local/domain/{guest}/device/pci/0");
        let state = self.store.get(&format!("{back}/state")).map(str::to_owned);
        let there = self.store.get(&format!("{front}/state")).is_some();
        match state.as_deref() {
            Some("1" | "2" | "3" | "7") if there => {}
            _ => return false,
        }
        for entry in 0..2 {
            let sub = format!("{back}/state-{entry}");
            match self.store.get(&sub) {
                Some("1") => {
                    self.set(&sub, "3");
                    self.set(&format!("{back}/vdev-{entry}"), "0000:00:00.00");
                }
                Some("5") => self.set(&sub, "6"),
                _ => {}
            }
        }
        self.set(&format!("{front}/state"), "4");
        self.set(&format!("{back}/state"), "4");
        true
    }
}

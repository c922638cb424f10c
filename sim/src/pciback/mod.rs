//! dom0's Linux xen-pciback: the backend of the A-link.
//!
//! A port of the behaviour of drivers/xen/xen-pciback as of Linux 6.1, oddities included:
//! raw errno on the wire, no reconnect, a link that stays in Reconfiguring when an export
//! fails. Config space itself is the filter of `pcidom_pci::fake`.

mod link;
mod serve;
mod stub;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use pcidom_pci::Sbdf;
use pcidom_script::Instant;
use pcidom_xenbus::{DomId, XenbusState};

use crate::store::{Connection, XenStore};
use crate::world::Actor;
use crate::xen::Xen;
use link::BackLink;
use stub::Stub;
pub(crate) use stub::reset as reset_by_dom0;

/// How it behaves, beyond what Linux does.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Time from the event to the answer of one op.
    pub op: Range<Duration>,
    /// Never answers an op.
    pub mute: bool,
    /// Does not follow state changes any more.
    pub deaf: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        // With two events of 60 to 180 us this gives the bed's 320 to 520 us of one hop.
        let op = Duration::from_micros(120)..Duration::from_micros(240);
        Self { op, mute: false, deaf: false }
    }
}

/// The backend, with all its links.
pub struct LinuxPciback {
    xen: Xen,
    store: Connection,
    links: BTreeMap<DomId, BackLink>,
    stub: Stub,
    behaviour: Behaviour,
}

impl fmt::Debug for LinuxPciback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinuxPciback").field("links", &self.links).finish_non_exhaustive()
    }
}

/// Where backends are: libxl knows no other domain and no other number.
const BACKENDS: &str = "/local/domain/0/backend/pci";

/// The directory of the backend for a frontend.
pub fn back_dir(frontend: DomId) -> String {
    format!("{BACKENDS}/{frontend}/0")
}

impl LinuxPciback {
    /// Loads the module. All devices of the host are bound to it.
    pub fn new(xen: &Xen, store: &XenStore) -> Self {
        let store = store.connect(DomId::DOM0);
        let _: Result<(), _> = store.watch(BACKENDS, "bus");
        Self {
            xen: xen.clone(),
            store,
            links: BTreeMap::new(),
            stub: Stub::new(xen),
            behaviour: Behaviour::default(),
        }
    }

    /// Changes how it behaves from now on. What it did not look at meanwhile, it sees now.
    pub fn behave(&mut self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour);
        self.xen.wake(DomId::DOM0);
    }

    /// Ops served for a frontend so far.
    pub fn ops_served(&self, frontend: DomId) -> u64 {
        self.links.get(&frontend).map_or(0, |link| link.served)
    }

    /// Reports an error of a device to its frontend, as the PCI core's handlers do: `cmd`
    /// is one of the `AER_` commands, `state` the channel's. Returns whether the device is
    /// on a connected link.
    pub fn report_error(&mut self, device: Sbdf, cmd: u32, state: i32) -> bool {
        let mut links = self.links.values_mut();
        links.any(|link| link.report_error(&self.xen, device, cmd, state))
    }

    /// The frontend's answer to the last error report, once it is there.
    pub fn error_answer(&self, frontend: DomId) -> Option<i32> {
        self.links.get(&frontend)?.error_answer()
    }

    fn mail(&mut self) {
        while let Some((path, token)) = self.store.next_mail() {
            if self.behaviour.deaf {
                continue;
            }
            match token.split_once(' ') {
                Some(("front", frontend)) => self.front_changed(frontend),
                Some(("back", frontend)) => self.back_changed(frontend),
                _ => self.bus_changed(&path),
            }
        }
    }

    /// `xenbus_dev_changed`: a new directory in state 1 is probed, one that is gone ends
    /// its device.
    fn bus_changed(&mut self, path: &str) {
        let below = path.strip_prefix(BACKENDS).unwrap_or_default();
        let named =
            below.trim_matches('/').split('/').next().and_then(|id| id.parse().ok());
        let all: Vec<DomId> = match named {
            Some(frontend) => vec![frontend],
            None => {
                let there = self.store.directory(BACKENDS).unwrap_or_default();
                let there = there.iter().filter_map(|name| name.parse().ok());
                there.chain(self.links.keys().copied()).collect()
            }
        };
        for frontend in all {
            let dir = back_dir(frontend);
            let exists = self.store.read(&dir).is_ok();
            let state = self.state_of(&dir);
            match self.links.contains_key(&frontend) {
                true if !exists => self.unregister(frontend),
                false if state == XenbusState::Initialising => self.probe(frontend),
                _ => {}
            }
        }
    }

    fn state_of(&self, dir: &str) -> XenbusState {
        XenbusState::parse(self.store.read(&format!("{dir}/state")).ok().as_deref())
    }
}

impl Actor for LinuxPciback {
    fn domain(&self) -> DomId {
        DomId::DOM0
    }

    fn step(&mut self) {
        self.mail();
        let now = self.xen.now();
        for link in self.links.values_mut() {
            link.look(&self.xen, &self.behaviour, now);
            link.serve_due(&self.xen, &self.behaviour, now);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.links.values().filter_map(BackLink::deadline).min()
    }
}

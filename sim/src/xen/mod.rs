//! Xen: domains, event channels, grants, pirqs, device ownership, rights.
//!
//! The rules are those of `docs/` and of Xen's sources as far as they matter to a PCI
//! backend: who may call what, what is refused with which errno, and what outlives a
//! domain. What Xen would let happen but pcidom must never cause is noted as a violation;
//! [`Xen::violations`] has to be empty at the end of a run.

pub mod devices;
pub mod domains;
pub mod ecam;
pub mod events;
pub mod grants;
pub mod pirqs;
pub mod record;

use std::cell::{Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use pcidom_kernel::XenError;
use pcidom_pci::Sbdf;
use pcidom_script::Instant;
use pcidom_xenbus::DomId;

use crate::agenda::Agenda;
use devices::Device;
use domains::Domain;
use record::{Deed, Record};

/// Errno values that Xen returns (public/errno.h).
pub mod errno {
    /// Not permitted.
    pub const EPERM: i32 = -1;
    /// No such object.
    pub const ENOENT: i32 = -2;
    /// No such domain.
    pub const ESRCH: i32 = -3;
    /// No such register or address.
    pub const ENXIO: i32 = -6;
    /// In use.
    pub const EBUSY: i32 = -16;
    /// There already.
    pub const EEXIST: i32 = -17;
    /// The domain does not have this device.
    pub const ENODEV: i32 = -19;
    /// Makes no sense.
    pub const EINVAL: i32 = -22;
    /// None left.
    pub const ENOSPC: i32 = -28;
    /// Not for this domain.
    pub const EOPNOTSUPP: i32 = -95;
}

/// The domain that owns quarantined devices (`DOMID_IO`, xen.h).
pub const DOM_IO: DomId = DomId(0x7ff1);

/// How long things take.
#[derive(Clone, Debug)]
pub struct Delays {
    /// From a notification to the peer's look at it. In the bed an op over one hop takes
    /// 320 to 520 us, two of these and some work.
    pub event: Range<Duration>,
    /// XenStore's time for one request. An exchange with the daemon, some requests on both
    /// sides, takes 10 to 60 ms in the bed.
    pub store: Range<Duration>,
    /// From the start of a domain's teardown until its devices are in DomIO: 0.15 to 0.4 s
    /// in the bed.
    pub relinquish: Range<Duration>,
}

impl Default for Delays {
    fn default() -> Self {
        let range = |from, to| Duration::from_micros(from)..Duration::from_micros(to);
        Self {
            event: range(60, 180),
            store: range(800, 4_000),
            relinquish: range(150_000, 400_000),
        }
    }
}

/// Everything Xen knows.
#[derive(Debug)]
struct State {
    domains: BTreeMap<DomId, Domain>,
    devices: BTreeMap<Sbdf, Device>,
    config_maps: Vec<(DomId, Sbdf)>,
    records: Vec<Record>,
    violations: Vec<String>,
    delays: Delays,
    next_domain: u16,
}

/// The hypervisor. Clones are the same one.
#[derive(Clone)]
pub struct Xen {
    agenda: Agenda,
    state: Rc<RefCell<State>>,
}

impl fmt::Debug for Xen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Xen")
    }
}

/// What a call returns.
pub type XenResult<T> = Result<T, XenError>;

pub(crate) const fn refused<T>(call: &'static str, errno: i32) -> XenResult<T> {
    Err(XenError { call, errno })
}

impl Xen {
    /// A host with dom0 and nothing else.
    pub fn new(agenda: &Agenda, delays: Delays) -> Self {
        let state = State {
            domains: BTreeMap::from([(DomId::DOM0, Domain::dom0())]),
            devices: BTreeMap::new(),
            config_maps: Vec::new(),
            records: Vec::new(),
            violations: Vec::new(),
            delays,
            next_domain: 1,
        };
        Self { agenda: agenda.clone(), state: Rc::new(RefCell::new(state)) }
    }

    /// Time now.
    pub fn now(&self) -> Instant {
        self.agenda.now()
    }

    /// The clock.
    pub const fn agenda(&self) -> &Agenda {
        &self.agenda
    }

    /// The delays, as they are now.
    pub fn delays(&self) -> Delays {
        self.state.borrow().delays.clone()
    }

    /// Changes the delays from now on.
    pub fn set_delays(&self, delays: Delays) {
        self.state.borrow_mut().delays = delays;
    }

    /// What was done to devices and vectors so far, in order.
    pub fn records(&self) -> Vec<Record> {
        self.state.borrow().records.clone()
    }

    /// What was done that must never be done.
    pub fn violations(&self) -> Vec<String> {
        self.state.borrow().violations.clone()
    }

    fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }

    fn state_mut(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    fn note(&self, deed: Deed) {
        let at = self.now();
        let mut state = self.state.borrow_mut();
        let number = state.records.len();
        log::debug!("xen: {deed:?}");
        state.records.push(Record { number, at, deed });
    }

    pub(crate) fn violation(&self, text: String) {
        log::error!("violation: {text}");
        self.state.borrow_mut().violations.push(text);
    }
}

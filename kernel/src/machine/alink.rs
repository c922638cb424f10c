//! The pool: our frontend towards dom0, driven on the platform.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use pcidom_pci::function::Function;
use pcidom_pci::reset::Method;
use pcidom_pci::scan::ScanError;
use pcidom_pci::{AccessError, Sbdf, VirtualBdf};
use pcidom_script::Instant;
use pcidom_xenbus::{GrantRef, Port, XenbusState, pciif};
use pcifront::exports::{Export, fill_gaps, is_torn, parse_exports};
use pcifront::link::{self, Link};
use vecmap::{VecMap, VecSet};

use super::Machine;
use super::backoff::Backoff;
use super::bus::{Customer, Started};
use super::chain::{Chain, LinkDone, LinkId, LinkJob};
use super::jobs::{self, Back, FRONT_DIR};
use super::tasks::Work;
use super::trace::Trace;
use crate::platform::Platform;

/// What is read of either end while the link works.
const STATE_KEYS: &[&str] = &["state"];

/// The node of our page: where it is, the directory is ours and not made anew.
const PAGE_KEY: &str = "pci-op-ref";

/// How long the end of a loan may keep a device from leaving the pool. The toolstack waits
/// 10 s for us (libxl's `LIBXL_DESTROY_TIMEOUT`).
const LEAVE_TIMEOUT: Duration = Duration::from_secs(8);

/// A device that dom0 exports to us.
#[derive(Debug)]
pub(super) struct PoolDevice {
    /// Where the A-link has it; known once dom0's backend has exported it.
    pub(super) at: Option<VirtualBdf>,
    /// What it is; known once it is scanned.
    pub(super) function: Option<Function>,
    /// How the last scan failed, if it did.
    pub(super) failed: Option<ScanError>,
    /// A reset of the port above, for a loan of this device or of a neighbour, and it has not
    /// been lent since.
    pub(super) clean: Option<(Method, Sbdf)>,
    /// When that is repeated.
    rescan: Backoff,
}

impl PoolDevice {
    /// A scan has ended, well or not.
    const fn is_settled(&self) -> bool {
        self.function.is_some() || self.failed.is_some()
    }
}

/// The A-link and what it holds of the platform.
#[derive(Debug)]
pub(super) struct Alink<P: Platform> {
    link: Link,
    chain: Chain,
    /// The other end, once the toolstack has made one.
    back: Option<Back>,
    searched: bool,
    /// When to look again after something went wrong on our side, which nobody tells us of.
    again: Backoff,
    /// When the directory was read last, an entry was missing. Nobody tells us when it is not.
    torn: bool,
    /// Devices that dom0 takes away while they are lent, and until when that may wait.
    leaving: VecMap<Sbdf, Instant>,
    /// Those of them that dom0 has given us again meanwhile: they are taken in once their
    /// loans have ended.
    returning: VecMap<Sbdf, Export>,
    open: Option<Open<P>>,
}

#[derive(Debug)]
struct Open<P: Platform> {
    reference: GrantRef,
    page: P::GrantedPage,
    port: Port,
}

impl<P: Platform> Alink<P> {
    pub(super) fn new() -> Self {
        let chain = Chain::new(LinkId::Dom0);
        let link = Link::new();
        Self {
            link,
            chain,
            back: None,
            searched: false,
            again: Backoff::default(),
            torn: false,
            leaving: VecMap::new(),
            returning: VecMap::new(),
            open: None,
        }
    }

    /// Gives back the room of what waited.
    pub(super) fn give_back_room(&mut self) {
        self.chain.give_back_room();
        self.leaving.shrink_to_fit();
        self.returning.shrink_to_fit();
    }

    pub(super) fn port(&self) -> Option<Port> {
        self.open.as_ref().map(|open| open.port)
    }
}

/// Our state node, and what it is to say.
fn front_state_node(state: XenbusState) -> (String, String) {
    (format!("{FRONT_DIR}/state"), state.number().to_string())
}

impl<P: Platform> Machine<P> {
    /// The watch on our own state has fired.
    pub(super) fn read_front_state(&mut self) {
        let job = LinkJob::ReadKeys { dir: FRONT_DIR.into(), keys: STATE_KEYS };
        self.alink.chain.push(job, &mut self.store);
    }

    /// The watch on the backend's state has fired.
    pub(super) fn read_back_state(&mut self) {
        if let Some(Back { dir, .. }) = self.alink.back.clone() {
            let job = LinkJob::ReadKeys { dir, keys: STATE_KEYS };
            self.alink.chain.push(job, &mut self.store);
        }
    }

    /// The search for the backend's directory has ended.
    pub(super) fn back_found(&mut self, back: Option<Back>, platform: &mut P) {
        self.alink.searched = true;
        let gone = back.is_none() && self.alink.back.is_some();
        self.alink.back = back;
        if gone {
            self.alink_event(link::Event::Backend(XenbusState::Unknown), platform);
        }
        self.read_back_state();
        self.check_ready();
    }

    /// XenStore work of the A-link has ended.
    pub(super) fn alink_job_done(&mut self, done: LinkDone, platform: &mut P) {
        self.alink.chain.ended(&mut self.store);
        let event = match done {
            LinkDone::Keys(dir, keys) => {
                let state = XenbusState::parse(keys.get("state").map(String::as_str));
                if dir == FRONT_DIR {
                    link::Event::Front(state)
                } else if self.alink.back.as_ref().is_some_and(|back| back.dir == dir) {
                    self.warn_if_closed(state);
                    link::Event::Backend(state)
                } else {
                    return;
                }
            }
            LinkDone::Dir(Some(nodes)) => {
                let get = |key: &str| nodes.get(key).map(String::as_str);
                let mut exports = parse_exports(get);
                self.alink.torn = is_torn(get);
                if self.alink.torn {
                    fill_gaps(&mut exports, self.alink.link.devices());
                }
                link::Event::Devices(exports)
            }
            LinkDone::Dir(None) => link::Event::ReadFailed,
            LinkDone::Opened(Ok(())) => link::Event::Opened,
            LinkDone::Opened(Err(error)) => {
                log::error!("cannot open the link to dom0: {error}");
                self.close_alink(platform);
                link::Event::OpenFailed
            }
            LinkDone::Wrote(Err(error)) => {
                log::error!("cannot write our side of the link to dom0: {error}");
                return;
            }
            LinkDone::Wrote(Ok(())) => return,
        };
        self.alink_event(event, platform);
    }

    /// Without the link pcidom is never ready: say why.
    fn warn_if_closed(&self, state: XenbusState) {
        if !self.ready && matches!(state, XenbusState::Closing | XenbusState::Closed) {
            log::error!(
                "dom0 has closed the link of the pool: see its kernel log \
                 (a pool has room for 32 devices)"
            );
        }
    }

    fn alink_event(&mut self, event: link::Event, platform: &mut P) {
        match event {
            link::Event::OpenFailed | link::Event::ReadFailed => {
                self.alink.again.failed(platform.now());
            }
            link::Event::Devices(_) if self.alink.torn => {
                self.alink.again.failed(platform.now());
            }
            link::Event::Opened | link::Event::Devices(_) => {
                self.alink.again = Backoff::default();
            }
            _ => {}
        }
        for action in self.alink.link.handle(event) {
            self.alink_action(action, platform);
        }
    }

    fn alink_action(&mut self, action: link::Action, platform: &mut P) {
        match action {
            link::Action::Open => self.open_alink(platform),
            link::Action::SetState(state) => {
                self.trace.keep(platform.now(), Trace::Link(None, state));
                log::info!("link to dom0 goes to state {state}");
                self.set_alink_state(state);
            }
            link::Action::ReadDevices => {
                if let Some(Back { dir, .. }) = self.alink.back.clone() {
                    let job = LinkJob::ReadDir { dir, limit: jobs::MAX_BACK_NODES };
                    self.alink.chain.push(job, &mut self.store);
                }
            }
            link::Action::Added(export) => self.device_added(&export, platform),
            link::Action::Removed(device) => self.device_leaves(device, platform),
            link::Action::Close => self.close_alink(platform),
        }
        self.check_ready();
    }

    /// Writes our state into our directory, and not into one made in its place: dom0's
    /// backend would take "Connected" there for the answer to what it never said.
    fn set_alink_state(&mut self, state: XenbusState) {
        let open = self.alink.open.as_ref();
        let page = open.map(|open| open.reference.to_string());
        let beside = page.map(|page| (format!("{FRONT_DIR}/{PAGE_KEY}"), page));
        let nodes = [front_state_node(state)].into();
        self.alink.chain.push(LinkJob::WriteAll { beside, nodes }, &mut self.store);
    }

    fn close_alink(&mut self, platform: &mut P) {
        if let Some(Open { reference, page, port }) = self.alink.open.take() {
            platform.close(port);
            platform.end_grant(reference, page);
        }
        // The next page may be open before anybody looks at the bus again.
        self.fail_accesses();
        // And who is where on the next link is not known yet.
        for known in self.pool.values_mut() {
            known.at = None;
        }
    }

    /// Without a link nobody's access ends well. Returns whether there were any.
    fn fail_accesses(&mut self) -> bool {
        let mut any = false;
        for customer in self.bus.take_all() {
            self.access_answers.push_back((customer, Err(AccessError::LinkDown)));
            any = true;
        }
        any
    }

    /// Grants the page, makes the port, and publishes both.
    fn open_alink(&mut self, platform: &mut P) {
        let Some(Back { domain: peer, .. }) = self.alink.back else {
            return self.alink_event(link::Event::OpenFailed, platform);
        };
        let (reference, page) = match platform.grant(peer) {
            Ok(granted) => granted,
            Err(error) => {
                log::error!("no page for the link to dom0: {error}");
                return self.alink_event(link::Event::OpenFailed, platform);
            }
        };
        let port = match platform.alloc_unbound(peer) {
            Ok(port) => port,
            Err(error) => {
                platform.end_grant(reference, page);
                log::error!("no port for the link to dom0: {error}");
                return self.alink_event(link::Event::OpenFailed, platform);
            }
        };
        pcifront::aer::announce_aer(&page);
        self.alink.open = Some(Open { reference, page, port });
        let details = [
            (PAGE_KEY, reference.to_string()),
            ("event-channel", port.to_string()),
            ("magic", pciif::MAGIC.to_string()),
        ];
        let details =
            details.map(|(key, value)| (format!("{FRONT_DIR}/{key}"), value)).to_vec();
        let state = front_state_node(XenbusState::Initialised);
        let job = LinkJob::Open { details, state };
        self.alink.chain.push(job, &mut self.store);
    }

    /// The port of the A-link has fired: dom0 may want something of its own.
    pub(super) fn alink_port(&mut self, platform: &mut P) {
        let Some(open) = &self.alink.open else { return };
        if let Some(served) = pcifront::aer::serve_aer(&open.page) {
            platform.notify(open.port);
            log::warn!("dom0 reports a PCI error: {served}");
        }
    }

    /// Moves the A-link's slot on; whether anything moved.
    pub(super) fn pump_bus(&mut self, platform: &mut P) -> bool {
        let now = platform.now();
        let Some(open) = &self.alink.open else { return self.fail_accesses() };
        let mut moved = false;
        if let Some(ended) = self.bus.poll(&open.page, now) {
            self.access_answers.push_back(ended);
            moved = true;
        }
        match self.bus.start(&open.page, now) {
            Started::Nothing => {}
            Started::Notify => platform.notify(open.port),
            Started::Failed(customer) => {
                self.access_answers.push_back((customer, Err(AccessError::TimedOut)));
                moved = true;
            }
        }
        moved
    }

    fn device_added(&mut self, export: &Export, platform: &mut P) {
        let device = export.device;
        if self.alink.leaving.contains_key(&device) {
            if let Some(known) = self.pool.get_mut(&device) {
                known.at = export.at;
            }
            self.alink.returning.insert(device, *export);
            return;
        }
        log::info!("{device} is in the pool");
        let rescan = Backoff::default();
        let known = PoolDevice {
            at: export.at,
            function: None,
            failed: None,
            clean: None,
            rescan,
        };
        self.pool.insert(device, known);
        self.fit_windows(platform);
        self.scan(device, platform);
    }

    fn scan(&mut self, device: Sbdf, platform: &mut P) {
        let steps = self.tasks.start(device, Vec::new(), Work::Scan, platform.now());
        self.task_steps(steps, platform);
    }

    /// Somebody wants a device whose scan has failed: try it now.
    pub(super) fn scan_at_once(&mut self, device: Sbdf, platform: &mut P) {
        let known = self.pool.get_mut(&device);
        if known.is_some_and(|known| known.rescan.cut_short()) {
            self.scan(device, platform);
        }
    }

    /// Dom0 takes a device away: at once if it is not lent, else when its loan is over.
    fn device_leaves(&mut self, device: Sbdf, platform: &mut P) {
        if self.alink.returning.remove(&device).is_some() {
            // It still waits to leave for the first time.
            return;
        }
        if self.is_in_use(device) {
            log::warn!("{device} is taken from the pool while it is in use");
            self.alink.leaving.insert(device, platform.now().after(LEAVE_TIMEOUT));
        } else {
            self.device_left(device, platform);
        }
    }

    /// A loan of the device is over: if dom0 waits for that, it may go now.
    pub(super) fn device_is_unused(&mut self, device: Sbdf, platform: &mut P) {
        if self.alink.leaving.contains_key(&device) && !self.is_in_use(device) {
            self.device_left(device, platform);
        }
    }

    fn device_left(&mut self, device: Sbdf, platform: &mut P) {
        log::info!("{device} has left the pool");
        self.alink.leaving.remove(&device);
        self.pool.remove(&device);
        self.fit_windows(platform);
        let (steps, alone) = self.tasks.drop_device(device, platform.now());
        self.drop_dump(device);
        if alone {
            self.bus.forget(Customer::Task(device));
        }
        self.task_steps(steps, platform);
        self.alink_event(link::Event::Released(device), platform);
        if let Some(export) = self.alink.returning.remove(&device) {
            self.device_added(&export, platform);
        }
    }

    /// A device whose loan did not end in time, and what is to be tried again. Of each one
    /// at a time: the next one is due as well.
    pub(super) fn tick_alink(&mut self, now: Instant, platform: &mut P) {
        if self.alink.again.is_over(now) {
            self.read_back_state();
        }
        let is_over =
            |known: &PoolDevice| known.rescan.until().is_some_and(|at| at <= now);
        if let Some((device, _)) = self.pool.iter().find(|(_, known)| is_over(known)) {
            self.scan_at_once(*device, platform);
        }
        let mut leaving = self.alink.leaving.iter();
        if let Some((device, _)) = leaving.find(|(_, until)| **until <= now) {
            let device = *device;
            log::error!(
                "{device} leaves the pool, and its loan has not ended; is the daemon there?"
            );
            self.device_left(device, platform);
        }
    }

    /// When the next of each is due.
    pub(super) fn alink_deadlines(&self) -> [Option<Instant>; 3] {
        let scan = self.pool.values().filter_map(|known| known.rescan.until()).min();
        let leaving = self.alink.leaving.values().min().copied();
        [scan, leaving, self.alink.again.until()]
    }

    /// A scan has ended.
    pub(super) fn scanned(
        &mut self,
        device: Sbdf,
        result: Result<Function, ScanError>,
        platform: &mut P,
    ) {
        let Some(known) = self.pool.get_mut(&device) else { return };
        match result {
            Ok(function) => {
                log::info!("{function}");
                (known.function, known.failed) = (Some(function), None);
                self.became_ready(device);
                self.go_on(device, platform);
            }
            Err(error) => {
                known.failed = Some(error);
                let wait = known.rescan.failed(platform.now()).as_secs();
                log::error!(
                    "{device} cannot be used: {error}; scanned again in {wait} s"
                );
            }
        }
        self.check_ready();
    }

    /// The daemon has (or no longer has) these devices in quarantine.
    pub(super) fn quarantine(&mut self, devices: VecSet<Sbdf>) {
        let new: Vec<Sbdf> = devices.difference(&self.quarantined).copied().collect();
        self.quarantined = devices;
        for device in new {
            log::info!("{device} is in quarantine");
            self.became_ready(device);
        }
    }

    fn became_ready(&mut self, device: Sbdf) {
        let function = self.pool.get(&device).and_then(|known| known.function.clone());
        if self.quarantined.contains(&device)
            && let Some(function) = function
        {
            self.newly_ready.push(function);
        }
    }

    /// Whether everything that dom0 exported at the start is scanned.
    pub(super) fn pool_is_settled(&self) -> bool {
        let connected = self.alink.link.state() == link::State::Connected
            || self.alink.back.is_none();
        self.alink.searched && connected && self.pool.values().all(PoolDevice::is_settled)
    }
}

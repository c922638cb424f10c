//! Our own pcifront as a guest's frontend: both of our drivers on one link.
//!
//! What a Linux frontend never does, this one does: it speaks our reading of the protocol,
//! so a mistake on one side does not hide behind the same mistake in the test's peer.

use std::collections::VecDeque;
use std::fmt;

use pcidom_pci::scan::{ScanError, scan};
use pcidom_pci::{Answer, Config, Function, Question, Sbdf, VirtualBdf};
use pcidom_script::{Instant, Progress, Script};
use pcidom_xenbus::{DomId, GrantRef, Port, XenbusState, pciif};
use pcifront::{Action, Event, Link, OpSlot, parse_exports};

use crate::page::SimPage;
use crate::store::{Connection, XenStore};
use crate::world::Actor;
use crate::xen::Xen;

const FRONT: &str = "device/pci/0";

/// What a scan found.
pub type Found = Result<Function, ScanError>;

/// One scan, and what it waits for.
struct Scanning {
    device: Sbdf,
    at: VirtualBdf,
    script: Script<Question, Answer, Found>,
    until: Option<Instant>,
}

/// The frontend.
pub struct OwnFront {
    domain: DomId,
    xen: Xen,
    store: Connection,
    link: Link,
    open: Option<(GrantRef, SimPage, Port)>,
    slot: OpSlot,
    waiting: VecDeque<(Sbdf, VirtualBdf)>,
    scanning: Option<Scanning>,
    found: Vec<(Sbdf, Found)>,
}

impl fmt::Debug for OwnFront {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnFront").field("link", &self.link).finish_non_exhaustive()
    }
}

impl OwnFront {
    /// A guest in `domain` that waits for its link.
    pub fn boot(xen: &Xen, store: &XenStore, domain: DomId) -> Self {
        let store = store.connect(domain);
        let _: Result<(), _> = store.watch("device", "front");
        Self {
            domain,
            xen: xen.clone(),
            store,
            link: Link::new(),
            open: None,
            slot: OpSlot::new(),
            waiting: VecDeque::new(),
            scanning: None,
            found: Vec::new(),
        }
    }

    /// What the scans found so far.
    pub fn found(&self) -> &[(Sbdf, Found)] {
        &self.found
    }

    /// The devices that are on the link now.
    pub fn devices(&self) -> Vec<Sbdf> {
        self.link.devices().map(|export| export.device).collect()
    }

    /// The state of the link.
    pub const fn state(&self) -> pcifront::State {
        self.link.state()
    }

    fn back(&self) -> Option<String> {
        self.store.read(&format!("{FRONT}/backend")).ok()
    }

    fn state_of(&self, dir: &str) -> XenbusState {
        XenbusState::parse(self.store.read(&format!("{dir}/state")).ok().as_deref())
    }

    fn mail(&mut self) {
        while let Some((_, token)) = self.store.next_mail() {
            if token == "front" {
                let state = self.state_of(FRONT);
                if state == XenbusState::Initialising
                    && let Some(back) = self.back()
                {
                    let _: Result<(), _> =
                        self.store.watch(&format!("{back}/state"), "back");
                }
                self.handle(Event::Front(state));
            } else if let Some(back) = self.back() {
                let state = self.state_of(&back);
                self.handle(Event::Backend(state));
            } else {
                self.handle(Event::Backend(XenbusState::Unknown));
            }
        }
    }

    fn handle(&mut self, event: Event) {
        for action in self.link.handle(event) {
            match action {
                Action::Open => {
                    let event =
                        if self.open() { Event::Opened } else { Event::OpenFailed };
                    self.handle(event);
                }
                Action::SetState(state) => {
                    let path = format!("{FRONT}/state");
                    if self.store.read(&path).is_ok() {
                        let _: Result<(), _> =
                            self.store.write(&path, &state.number().to_string());
                    }
                }
                Action::ReadDevices => {
                    let event = self.read_devices();
                    self.handle(event);
                }
                Action::Added(export) => {
                    self.waiting.extend(export.at.map(|at| (export.device, at)));
                }
                Action::Removed(device) => self.handle(Event::Released(device)),
                Action::Close => {
                    self.scanning = None;
                    self.waiting.clear();
                    self.slot = OpSlot::new();
                    if let Some((reference, _, port)) = self.open.take() {
                        let _: Result<(), _> = self.xen.close(self.domain, port);
                        let _: Result<(), _> = self.xen.end_grant(self.domain, reference);
                    }
                }
            }
        }
    }

    fn open(&mut self) -> bool {
        let backend = self.store.get(&format!("{FRONT}/backend-id"));
        let Some(backend) = backend else { return false };
        let Ok((reference, page)) = self.xen.grant(self.domain, backend) else {
            return false;
        };
        let Ok(port) = self.xen.alloc_unbound(self.domain, backend) else { return false };
        let published = self.store.transaction(|inside| {
            inside.write(&format!("{FRONT}/pci-op-ref"), &reference.to_string())?;
            inside.write(&format!("{FRONT}/event-channel"), &port.to_string())?;
            inside.write(&format!("{FRONT}/magic"), pciif::MAGIC)?;
            inside.write(&format!("{FRONT}/state"), "3")
        });
        self.open = Some((reference, page, port));
        published.is_ok()
    }

    fn read_devices(&self) -> Event {
        let Some(back) = self.back() else { return Event::ReadFailed };
        let Ok(names) = self.store.directory(&back) else { return Event::ReadFailed };
        let nodes = names.iter().filter_map(|name| {
            let value = self.store.read(&format!("{back}/{name}")).ok()?;
            Some((name.as_str(), value))
        });
        let nodes: std::collections::BTreeMap<&str, String> = nodes.collect();
        Event::Devices(parse_exports(|key| nodes.get(key).map(String::as_str)))
    }

    /// Moves the scans on as far as they go.
    fn work(&mut self) {
        let now = self.xen.now();
        if self.scanning.is_none()
            && let Some((device, at)) = self.waiting.pop_front()
        {
            let start =
                Script::start(async move |asker| scan(&Config::new(asker, device)).await);
            self.take_up(device, at, start);
        }
        let Some((_, page, _)) = &self.open else { return };
        let answer = match &self.scanning {
            Some(Scanning { until: Some(until), .. }) if *until <= now => Some(Ok(0)),
            Some(Scanning { until: Some(_), .. }) | None => None,
            Some(Scanning { until: None, .. }) => self.slot.poll(page, now),
        };
        if let Some(answer) = answer
            && let Some(Scanning { device, at, script, .. }) = self.scanning.take()
        {
            self.take_up(device, at, script.resume(answer));
            self.work();
        }
    }

    fn take_up(
        &mut self,
        device: Sbdf,
        at: VirtualBdf,
        progress: Progress<Question, Answer, Found>,
    ) {
        let now = self.xen.now();
        match progress {
            Progress::Done(found) => self.found.push((device, found)),
            Progress::Asks(Question::Wait(time), script) => {
                let until = Some(now.after(time));
                self.scanning = Some(Scanning { device, at, script, until });
            }
            // Only resets look past the backend, and this frontend resets nothing.
            Progress::Asks(Question::Look(..), _) => {}
            Progress::Asks(Question::Access(_, access), script) => {
                let Some((_, page, port)) = &self.open else { return };
                // One scan at a time, so the slot is free, or stuck, and then all is lost.
                if self.slot.submit(page, now, at, access).is_ok() {
                    let _: Result<(), _> = self.xen.notify(self.domain, *port);
                    self.scanning = Some(Scanning { device, at, script, until: None });
                }
            }
        }
    }
}

impl Actor for OwnFront {
    fn domain(&self) -> DomId {
        self.domain
    }

    fn step(&mut self) {
        while self.xen.take_pending(self.domain).is_some() {}
        self.mail();
        self.work();
    }

    fn deadline(&self) -> Option<Instant> {
        let wait = self.scanning.as_ref().and_then(|scanning| scanning.until);
        wait.into_iter().chain(self.slot.deadline()).min()
    }
}

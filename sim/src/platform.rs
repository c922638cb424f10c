//! One domain as the event loop sees it: [`Platform`] on the simulated Xen.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;

use log::LevelFilter;
use pcidom_kernel::{ConfigPage, Console, HeapUse, Platform, XenError};
use pcidom_pci::{Register, Sbdf};
use pcidom_script::Instant;
use pcidom_xenbus::{DomId, GrantRef, Mfn, Port, SharedPage};

use crate::page::SimPage;
use crate::store::{RingEnd, XenStore};
use crate::xen::errno::EBUSY;
use crate::xen::grants::Mapping;
use crate::xen::{Xen, refused};

impl SharedPage for Mapping {
    fn load(&self, word: usize) -> u32 {
        self.page().load(word)
    }

    fn store(&self, word: usize, value: u32) {
        self.page().store(word, value);
    }

    fn fetch_or(&self, word: usize, bits: u32) -> u32 {
        self.page().fetch_or(word, bits)
    }

    fn fetch_and(&self, word: usize, bits: u32) -> u32 {
        self.page().fetch_and(word, bits)
    }

    fn barrier(&self) {}
}

/// A device's config space, mapped by a domain.
#[derive(Clone)]
pub struct ConfigWindow {
    xen: Xen,
    domain: DomId,
    device: Sbdf,
    frame: Mfn,
}

impl fmt::Debug for ConfigWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "config space of {}", self.device)
    }
}

impl ConfigPage for ConfigWindow {
    fn read(&self, register: Register) -> u32 {
        self.xen.read_config_frame(self.domain, self.frame, register)
    }
}

/// Calls that are to fail: name and errno. Shared with the test that fills it.
pub type Failures = Rc<RefCell<BTreeMap<&'static str, i32>>>;

/// A console: what was typed and not yet read, what was shown, and how much more it takes.
#[derive(Debug)]
pub struct Screen {
    /// Typed, not yet read.
    pub input: VecDeque<u8>,
    /// Shown so far.
    pub output: String,
    /// How many more bytes it takes.
    pub room: usize,
    /// Bytes that were refused, and for which there will be an event.
    refused: Option<usize>,
}

impl Screen {
    pub(crate) fn has_event(&self) -> bool {
        self.refused.map_or(!self.input.is_empty(), |wanted| wanted <= self.room)
    }
}

/// A console, shared with the test that types on it.
pub type Terminal = Rc<RefCell<Screen>>;

/// A domain's hypercalls and its XenStore ring.
pub struct SimPlatform {
    xen: Xen,
    domain: DomId,
    ring: RingEnd,
    failures: Failures,
    terminal: Terminal,
    /// Grants taken back while the peer still had them mapped, to be tried again.
    parked: Vec<GrantRef>,
}

impl fmt::Debug for SimPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimPlatform")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

impl SimPlatform {
    /// The platform of `domain`, which must be there.
    pub fn new(xen: &Xen, store: &XenStore, domain: DomId) -> Self {
        Self {
            xen: xen.clone(),
            domain,
            ring: store.connect_ring(domain),
            failures: Failures::default(),
            terminal: Rc::new(RefCell::new(Screen {
                input: VecDeque::new(),
                output: String::new(),
                room: usize::MAX,
                refused: None,
            })),
            parked: Vec::new(),
        }
    }

    /// Which calls fail from now on.
    pub fn failures(&self) -> Failures {
        Rc::clone(&self.failures)
    }

    /// The domain's PV console.
    pub fn terminal(&self) -> Terminal {
        Rc::clone(&self.terminal)
    }

    fn may(&self, call: &'static str) -> Result<(), XenError> {
        match self.failures.borrow().get(call) {
            Some(errno) => refused(call, *errno),
            None => Ok(()),
        }
    }

    fn retry_parked(&mut self) {
        let (xen, domain) = (&self.xen, self.domain);
        self.parked.retain(|reference| {
            let ended = xen.end_grant(domain, *reference);
            ended.is_err_and(|error| error.errno == EBUSY)
        });
    }
}

impl Platform for SimPlatform {
    type GrantedPage = SimPage;
    type MappedPage = Mapping;
    type ConfigPage = ConfigWindow;

    fn now(&self) -> Instant {
        self.xen.now()
    }

    fn grant(&mut self, peer: DomId) -> Result<(GrantRef, SimPage), XenError> {
        self.retry_parked();
        self.may("grant")?;
        self.xen.grant(self.domain, peer)
    }

    fn end_grant(&mut self, reference: GrantRef, _page: SimPage) {
        self.parked.push(reference);
        self.retry_parked();
    }

    fn map_grant(
        &mut self,
        peer: DomId,
        reference: GrantRef,
    ) -> Result<Mapping, XenError> {
        self.may("map_grant")?;
        self.xen.map_grant(self.domain, peer, reference)
    }

    fn unmap_grant(&mut self, page: Mapping) -> Result<(), XenError> {
        self.may("unmap_grant")?;
        self.xen.unmap_grant(&page)
    }

    fn map_config(&mut self, frame: Mfn) -> Result<ConfigWindow, XenError> {
        self.may("map_config")?;
        let device = self.xen.map_config_frame(self.domain, frame)?;
        Ok(ConfigWindow { xen: self.xen.clone(), domain: self.domain, device, frame })
    }

    fn unmap_config(&mut self, page: ConfigWindow) -> Result<(), XenError> {
        self.may("unmap_config")?;
        self.xen.unmap_config_frame(self.domain, page.frame)
    }

    fn alloc_unbound(&mut self, peer: DomId) -> Result<Port, XenError> {
        self.may("alloc_unbound")?;
        self.xen.alloc_unbound(self.domain, peer)
    }

    fn bind_interdomain(&mut self, peer: DomId, port: Port) -> Result<Port, XenError> {
        self.may("bind_interdomain")?;
        self.xen.bind_interdomain(self.domain, peer, port)
    }

    fn notify(&mut self, port: Port) {
        if self.xen.notify(self.domain, port).is_err() {
            self.xen.violation(format!("{} notified a port it has not", self.domain));
        }
    }

    fn set_masked(&mut self, port: Port, masked: bool) {
        self.xen.set_masked(self.domain, port, masked);
    }

    fn close(&mut self, port: Port) {
        if self.xen.close(self.domain, port).is_err() {
            self.xen.violation(format!("{} closed a port it has not", self.domain));
        }
    }

    fn store_send(&mut self, message: &[u8]) -> bool {
        self.ring.send(message)
    }

    fn store_receive(&mut self) -> Option<Vec<u8>> {
        self.ring.receive()
    }

    fn heap(&self) -> HeapUse {
        // The simulation's memory is the host's.
        HeapUse::default()
    }

    fn typed(&mut self, _: Console, into: &mut [u8]) -> usize {
        let mut screen = self.terminal.borrow_mut();
        let count = into.len().min(screen.input.len());
        for (place, byte) in into.iter_mut().zip(screen.input.drain(..count)) {
            *place = byte;
        }
        count
    }

    fn say(&mut self, _: Console, text: &str) -> bool {
        let mut screen = self.terminal.borrow_mut();
        screen.refused = (screen.room < text.len()).then_some(text.len());
        if screen.refused.is_none() {
            screen.room -= text.len();
            screen.output.push_str(text);
        }
        screen.refused.is_none()
    }

    fn set_log_level(&mut self, _: Option<&str>, _: LevelFilter) -> bool {
        // The log is that of the whole test.
        true
    }
}

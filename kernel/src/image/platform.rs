//! [`Platform`] with hypercalls.

use alloc::vec::Vec;

use pcidom_boot::info::StartInfo;
use pcidom_boot::memory::AddressSpace;
use pcidom_kernel::{Event, Platform, XenError};
use pcidom_script::Instant;
use pcidom_xenbus::{DomId, GrantRef, Mfn, Port};

use super::config::{ConfigWindows, MappedConfig};
use super::events::Events;
use super::grants::{GrantedPage, Grants, MappedPage};
use super::store::Store;
use super::{logger, shared};

/// How long to sleep at most while COM2 has text to send: it has no event. 16 bytes take
/// 1.4 ms at 115200 baud.
const COM2_INTERVAL: core::time::Duration = core::time::Duration::from_millis(1);

/// The domain on real Xen.
#[derive(Debug)]
pub(crate) struct XenPlatform {
    events: Events,
    grants: Grants,
    config: ConfigWindows,
    store: Option<Store>,
    console: Option<Port>,
}

impl XenPlatform {
    /// Sets up grants and the ports of XenStore and console.
    pub(crate) fn new(info: &StartInfo, space: AddressSpace) -> Result<Self, XenError> {
        let grants = Grants::new(space)?;
        let mut events = Events::new();
        let store = info.store.and_then(|ring| Store::new(&space, ring));
        let console = info.console.map(|ring| Port(ring.port));
        if let Some(store) = &store {
            events.add(store.port())?;
        }
        if let Some(console) = console {
            events.add(console)?;
        }
        let config = ConfigWindows::new(space);
        Ok(Self { events, grants, config, store, console })
    }

    /// The next event that is there; `None` if nothing has happened.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        loop {
            let port = self.events.take()?;
            if Some(port) == self.console {
                logger::drain_input();
            } else if self.store.as_ref().is_some_and(|store| store.port() == port) {
                return Some(Event::Store);
            } else {
                return Some(Event::Port(port));
            }
        }
    }

    /// Sends the log on its way, and sleeps until an event or `deadline`. May return early.
    pub(crate) fn wait(&mut self, deadline: Option<Instant>) {
        let deadline = if logger::pump() {
            let soon = self.now().after(COM2_INTERVAL);
            Some(deadline.map_or(soon, |deadline| deadline.min(soon)))
        } else {
            deadline
        };
        self.events.wait(deadline);
    }
}

impl Platform for XenPlatform {
    type GrantedPage = GrantedPage;
    type MappedPage = MappedPage;
    type ConfigPage = MappedConfig;

    fn now(&self) -> Instant {
        shared::now()
    }

    fn grant(&mut self, peer: DomId) -> Result<(GrantRef, GrantedPage), XenError> {
        self.grants.grant(peer)
    }

    fn end_grant(&mut self, _: GrantRef, page: GrantedPage) {
        // The page knows its reference.
        self.grants.end_grant(&page);
    }

    fn map_grant(
        &mut self,
        peer: DomId,
        reference: GrantRef,
    ) -> Result<MappedPage, XenError> {
        self.grants.map(peer, reference)
    }

    fn unmap_grant(&mut self, page: MappedPage) -> Result<(), XenError> {
        self.grants.unmap(page)
    }

    fn map_config(&mut self, frame: Mfn) -> Result<MappedConfig, XenError> {
        self.config.map(frame)
    }

    fn unmap_config(&mut self, page: MappedConfig) -> Result<(), XenError> {
        self.config.unmap(page)
    }

    fn alloc_unbound(&mut self, peer: DomId) -> Result<Port, XenError> {
        self.events.alloc_unbound(peer)
    }

    fn bind_interdomain(&mut self, peer: DomId, port: Port) -> Result<Port, XenError> {
        self.events.bind_interdomain(peer, port)
    }

    fn notify(&mut self, port: Port) {
        Events::notify(port);
    }

    fn set_masked(&mut self, port: Port, masked: bool) {
        self.events.set_masked(port, masked);
    }

    fn close(&mut self, port: Port) {
        self.events.close(port);
    }

    fn store_send(&mut self, message: &[u8]) -> bool {
        self.store.as_mut().is_some_and(|store| store.send(message))
    }

    fn store_receive(&mut self) -> Option<Vec<u8>> {
        self.store.as_mut()?.receive()
    }
}

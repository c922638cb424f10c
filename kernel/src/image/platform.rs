//! [`Platform`] with hypercalls.

use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use log::LevelFilter;
use pcidom_boot::info::StartInfo;
use pcidom_boot::memory::AddressSpace;
use pcidom_kernel::linger::{Linger, Lingered, Next};
use pcidom_kernel::{Console, Event, HeapUse, Platform, XenError};
use pcidom_script::Instant;
use pcidom_xenbus::{DomId, GrantRef, Mfn, Port};

use super::config::{ConfigWindows, MappedConfig};
use super::console::{COM2_IRQ, Com2};
use super::events::Events;
use super::grants::{GrantedPage, Grants, MappedPage};
use super::store::Store;
use super::{heap, logger, shared};

/// How long to sleep at most while COM2 has text to send: it has no event. 16 bytes take
/// 1.4 ms at 115200 baud.
const COM2_INTERVAL: Duration = Duration::from_millis(1);

/// How often COM2 is looked at while somebody types there and it has no interrupt. Its FIFO
/// takes what a person types meanwhile. Each look is a trap into Xen.
const COM2_LOOK: Duration = Duration::from_millis(50);
/// How long after the last key somebody still types there.
const COM2_SESSION: Duration = Duration::from_secs(30);

/// The domain on real Xen.
#[derive(Debug)]
pub(crate) struct XenPlatform {
    events: Events,
    grants: Grants,
    config: ConfigWindows,
    store: Option<Store>,
    console: Option<Port>,
    com2: Com2Input,
    linger: Linger,
    /// A port of a link has fired since the last wait.
    served: bool,
}

/// How input of COM2 is noticed.
#[derive(Clone, Copy, Debug)]
enum Com2Input {
    /// COM2 is not ours.
    None,
    /// By its interrupt (`irqs=[3]`), which may have to be acknowledged.
    Interrupt { port: Port, needs_eoi: bool },
    /// By looking: at wake-ups, and often while somebody types. Nothing wakes an idle pcidom
    /// for the first key then.
    Polled { looked: Instant, until: Instant },
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
        let com2 = listen_to_com2(&mut events);
        Ok(Self {
            events,
            grants,
            config,
            store,
            console,
            com2,
            linger: Linger::new(),
            served: false,
        })
    }

    /// The next event that is there; `None` if nothing has happened.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        let Some(port) = self.events.take() else { return self.com2_event() };
        if Some(port) == self.console {
            logger::pump();
            return Some(Event::Console(Console::Pv));
        }
        if let Com2Input::Interrupt { port: com2, needs_eoi } = self.com2
            && port == com2
        {
            if needs_eoi {
                Events::served(COM2_IRQ);
            }
            return Some(Event::Console(Console::Com2));
        }
        if self.store.as_ref().is_some_and(|store| store.port() == port) {
            return Some(Event::Store);
        }
        self.served = true;
        Some(Event::Port(port))
    }

    /// How long to sleep at most because somebody types on COM2.
    fn com2_pause(&self) -> Option<Duration> {
        let Com2Input::Polled { until, .. } = self.com2 else { return None };
        (shared::now() < until).then_some(COM2_LOOK)
    }

    /// What COM2 has without an event of its own.
    fn com2_event(&mut self) -> Option<Event> {
        if logger::com2_has_room() {
            return Some(Event::Console(Console::Com2));
        }
        if let Com2Input::Polled { looked, until } = &mut self.com2
            && shared::now().since(*looked) >= COM2_LOOK
        {
            *looked = shared::now();
            if logger::with_com2(Com2::has_input) == Some(true) {
                *until = shared::now().after(COM2_SESSION);
                return Some(Event::Console(Console::Com2));
            }
        }
        None
    }

    /// Sends the log on its way, and sleeps until an event or `deadline`. May return early.
    /// With an `answer` on its way it stays awake for longer at first.
    pub(crate) fn wait(&mut self, deadline: Option<Instant>, answer: bool) {
        let pause = if logger::pump() { Some(COM2_INTERVAL) } else { self.com2_pause() };
        let soon = pause.map(|pause| self.now().after(pause));
        let deadline = deadline.into_iter().chain(soon).min();
        if !mem::take(&mut self.served) {
            return self.events.wait(deadline);
        }
        let start = self.now();
        let next = if answer { Next::Answer } else { Next::Request };
        let awake = self.linger.awake(next, start);
        if let Some(awake) = awake {
            let end = start.after(awake);
            match self.events.linger(deadline.map_or(end, |deadline| deadline.min(end))) {
                Lingered::Came => return self.linger.came(next),
                Lingered::Crowded => {
                    self.linger.crowded(self.now());
                    return self.events.wait(deadline);
                }
                Lingered::Quiet => {}
            }
        }
        self.events.wait(deadline);
        self.linger.slept(next, awake.is_some(), self.now().since(start));
    }
}

fn listen_to_com2(events: &mut Events) -> Com2Input {
    if logger::with_com2(|_| ()).is_none() {
        return Com2Input::None;
    }
    match events.bind_pirq(COM2_IRQ) {
        Ok((port, needs_eoi)) => {
            logger::with_com2(Com2::listen);
            Com2Input::Interrupt { port, needs_eoi }
        }
        Err(error) => {
            log::info!("COM2 has no interrupt (irqs=[3]): {error}");
            Com2Input::Polled { looked: Instant::default(), until: Instant::default() }
        }
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

    fn heap(&self) -> HeapUse {
        heap::usage()
    }

    fn typed(&mut self, console: Console, into: &mut [u8]) -> usize {
        logger::typed(console, into)
    }

    fn say(&mut self, console: Console, text: &str) -> bool {
        logger::say(console, text)
    }

    fn set_log_level(&mut self, part: Option<&str>, level: LevelFilter) -> bool {
        logger::set_level(part, level)
    }
}

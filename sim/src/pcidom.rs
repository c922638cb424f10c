//! pcidom itself: its event loop in a domain of the simulation.

use std::fmt;
use std::rc::Rc;

use pcidom_kernel::Console;
use pcidom_kernel::machine::{Event, Halt, Machine};
use pcidom_kernel::trace::Ring;
use pcidom_script::Instant;
use pcidom_xenbus::DomId;

use crate::platform::{Failures, SimPlatform, Terminal};
use crate::store::XenStore;
use crate::world::Actor;
use crate::xen::Xen;

/// The image, running.
pub struct Pcidom {
    domain: DomId,
    xen: Xen,
    machine: Machine<SimPlatform>,
    platform: SimPlatform,
    /// `xl pause`
    paused: bool,
}

impl fmt::Debug for Pcidom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pcidom").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl Pcidom {
    /// Boots in `domain`.
    pub fn boot(xen: &Xen, store: &XenStore, domain: DomId) -> Self {
        let mut platform = SimPlatform::new(xen, store, domain);
        let machine = Machine::start(1, Rc::new(Ring::new(xen.now())), &mut platform);
        Self { domain, xen: xen.clone(), machine, platform, paused: false }
    }

    /// `xl pause` and `xl unpause`: what happens meanwhile it sees later, or never.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        self.xen.wake(self.domain);
    }

    /// How the domain is to end, once that was asked for.
    pub const fn halt(&self) -> Option<Halt> {
        self.machine.halt()
    }

    /// Which calls fail from now on.
    pub fn failures(&self) -> Failures {
        self.platform.failures()
    }

    /// Its PV console.
    pub fn terminal(&self) -> Terminal {
        self.platform.terminal()
    }
}

impl Actor for Pcidom {
    fn domain(&self) -> DomId {
        self.domain
    }

    fn step(&mut self) {
        if self.paused {
            return;
        }
        while let Some(port) = self.xen.take_pending(self.domain) {
            self.machine.handle(Event::Port(port), &mut self.platform);
        }
        if self.xen.take_store_event(self.domain) {
            self.machine.handle(Event::Store, &mut self.platform);
        }
        if self.platform.terminal().borrow().has_event() {
            self.machine.handle(Event::Console(Console::Pv), &mut self.platform);
        }
        let due = self.machine.next_deadline();
        if due.is_some_and(|deadline| deadline <= self.xen.now()) {
            self.machine.tick(&mut self.platform);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.paused {
            return None;
        }
        // The console has no event channel here: what is typed is noticed at once.
        if self.platform.terminal().borrow().has_event() {
            return Some(self.xen.now());
        }
        self.machine.next_deadline()
    }
}

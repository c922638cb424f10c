//! A Linux PV guest with xen-pcifront and a small NVMe-like driver.
//!
//! The guest's kernel is one procedure ([`kernel`]) that blocks where Linux blocks: an op
//! occupies the vCPU until it is answered or 2 s are over. Behaviour follows
//! drivers/pci/xen-pcifront.c of Linux 6.1, the driver what nvme_probe() does.

mod driver;
mod kernel;
mod pci;
mod state;
mod transport;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use pcidom_pci::VirtualBdf;
use pcidom_script::{Instant, Progress, Script};
use pcidom_xenbus::{DomId, Port, XenbusState};

use crate::page::SimPage;
use crate::store::{Connection, XenStore};
use crate::world::Actor;
use crate::xen::Xen;
use kernel::Kernel;
pub use state::{Found, GuestState, Interrupts, OpRecord};
use transport::{OpAnswer, OpInFlight, Transport};

/// xen-pcifront gives an op up after this (`do_pci_op`, 2 s).
pub const OP_TIMEOUT: Duration = Duration::from_secs(2);

/// What the guest's kernel waits for.
#[derive(Debug)]
enum Blocked {
    /// The answer to an op.
    Op(Box<transport::Op>),
    /// Anything to do.
    Idle,
    /// A while.
    Sleep(Duration),
}

/// What it gets.
#[derive(Debug)]
enum Woken {
    Answer(Box<OpAnswer>),
    Again,
}

/// What the test tells the guest to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `rmmod` of the driver of this device.
    Unload(VirtualBdf),
    /// `modprobe` again.
    Load(VirtualBdf),
    /// Shut down: xenbus closes its devices.
    Shutdown,
}

#[derive(Debug)]
enum Waiting {
    Op(OpInFlight),
    Idle,
    Until(Instant),
}

/// The guest.
pub struct LinuxGuest {
    domain: DomId,
    xen: Xen,
    mail: Connection,
    state: Rc<RefCell<GuestState>>,
    transport: Rc<RefCell<Transport>>,
    waiting: Option<(Waiting, Script<Blocked, Woken, ()>)>,
}

impl fmt::Debug for LinuxGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinuxGuest").field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl LinuxGuest {
    /// Boots in `domain`. `vectors` is how many queues its NVMe driver wants.
    pub fn boot(xen: &Xen, store: &XenStore, domain: DomId, vectors: u32) -> Self {
        let mail = store.connect(domain);
        let _: Result<(), _> = mail.watch("device", "device");
        let state = Rc::new(RefCell::new(GuestState::new(vectors)));
        let transport = Rc::new(RefCell::new(Transport::default()));
        let kernel = Kernel {
            domain,
            xen: xen.clone(),
            store: mail.clone(),
            state: Rc::clone(&state),
            transport: Rc::clone(&transport),
        };
        let mut guest =
            Self { domain, xen: xen.clone(), mail, state, transport, waiting: None };
        guest.take_up(Script::start(|asker| kernel.run(asker)));
        guest
    }

    /// The guest's number.
    pub const fn domain_id(&self) -> DomId {
        self.domain
    }

    /// What the guest has seen and found.
    pub fn state(&self) -> std::cell::Ref<'_, GuestState> {
        self.state.borrow()
    }

    /// Tells the guest's user to do something.
    pub fn command(&self, command: Command) {
        self.state.borrow_mut().commands.push_back(command);
        self.xen.wake(self.domain);
    }

    /// `rmmod` and `modprobe` for every device it has found.
    pub fn reload(&self) {
        let all: Vec<VirtualBdf> = self.state.borrow().found.keys().copied().collect();
        for at in all {
            self.command(Command::Unload(at));
            self.command(Command::Load(at));
        }
    }

    /// Where it has found a function with these ids.
    pub fn finds(&self, ids: u32) -> Option<VirtualBdf> {
        self.state.borrow().by_ids(ids).map(|(at, _)| at)
    }

    /// How the driver of the function with these ids gets its interrupts.
    pub fn interrupts(&self, ids: u32) -> Option<Interrupts> {
        self.state.borrow().by_ids(ids).map(|(_, found)| found.interrupts.clone())
    }

    /// Changes how many vectors the driver asks for from now on.
    pub fn set_vectors(&self, vectors: u32) {
        self.state.borrow_mut().wanted = vectors;
    }

    /// The page of its link, while there is one.
    pub fn page(&self) -> Option<SimPage> {
        self.transport.borrow().page()
    }

    /// The port of its link, while there is one.
    pub fn link_port(&self) -> Option<Port> {
        self.transport.borrow().open.as_ref().map(|(_, port)| *port)
    }

    /// The state of its end of the link.
    pub fn link_state(&self) -> XenbusState {
        let text = self.mail.read("device/pci/0/state");
        XenbusState::parse(text.ok().as_deref())
    }

    /// Whether its kernel waits for something to do, and no op is open.
    pub fn is_idle(&self) -> bool {
        let state = self.state.borrow();
        let nothing = state.commands.is_empty() && state.mail.is_empty();
        nothing && matches!(&self.waiting, Some((Waiting::Idle, _)))
    }

    fn take_up(&mut self, progress: Progress<Blocked, Woken, ()>) {
        let now = self.xen.now();
        self.waiting = match progress {
            Progress::Done(()) => None,
            Progress::Asks(Blocked::Idle, script) => Some((Waiting::Idle, script)),
            Progress::Asks(Blocked::Sleep(time), script) => {
                Some((Waiting::Until(now.after(time)), script))
            }
            Progress::Asks(Blocked::Op(op), script) => {
                let in_flight = self.transport.borrow().send(&self.xen, self.domain, *op);
                Some((Waiting::Op(in_flight), script))
            }
        };
    }

    /// What the kernel waits for is there.
    fn ready(&mut self, waiting: &Waiting) -> Option<Woken> {
        let now = self.xen.now();
        match waiting {
            Waiting::Op(op) => {
                let answer =
                    self.transport.borrow().poll(&self.xen, self.domain, op, now)?;
                self.state.borrow_mut().record(op, &answer, now);
                Some(Woken::Answer(Box::new(answer)))
            }
            Waiting::Idle => {
                while let Some((path, token)) = self.mail.next_mail() {
                    self.state.borrow_mut().mail.push_back((path, token));
                }
                let state = self.state.borrow();
                let aer = self.transport.borrow().error_reported();
                let something =
                    !state.mail.is_empty() || !state.commands.is_empty() || aer;
                something.then_some(Woken::Again)
            }
            Waiting::Until(time) => (*time <= now).then_some(Woken::Again),
        }
    }
}

impl Actor for LinuxGuest {
    fn domain(&self) -> DomId {
        self.domain
    }

    fn step(&mut self) {
        // Interrupts of devices: counted, so that tests see them arrive.
        let link = self.transport.borrow().open.as_ref().map(|(_, port)| *port);
        while let Some(port) = self.xen.take_pending(self.domain) {
            if Some(port) != link {
                self.state.borrow_mut().interrupted(port);
            }
        }
        while let Some((waiting, script)) = self.waiting.take() {
            match self.ready(&waiting) {
                Some(woken) => self.take_up(script.resume(woken)),
                None => {
                    self.waiting = Some((waiting, script));
                    return;
                }
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.waiting {
            Some((Waiting::Op(op), _)) => Some(op.deadline),
            Some((Waiting::Until(time), _)) => Some(*time),
            _ => None,
        }
    }
}

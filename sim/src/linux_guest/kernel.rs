//! xen-pcifront's state machine, and the loop that everything else runs in.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_script::Asker;
use pcidom_xenbus::pciif::{self, RawOp, word};
use pcidom_xenbus::{DomId, SharedPage, XenbusState};

use super::pci::Bus;
use super::state::GuestState;
use super::transport::{Op, OpAnswer, Transport};
use super::{Blocked, Command, Woken, driver};
use crate::store::Connection;
use crate::xen::Xen;

/// How long xenbus waits at shutdown for the backend to follow (`xenbus_dev_shutdown`).
const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);

/// The channel result that a driver without handlers ends up with
/// (`PCI_ERS_RESULT_NONE`).
const AER_NONE: u32 = 1;

const FRONT: &str = "device/pci/0";

/// What the kernel works with.
#[derive(Clone)]
pub(super) struct Kernel {
    pub(super) domain: DomId,
    pub(super) xen: Xen,
    pub(super) store: Connection,
    pub(super) state: Rc<RefCell<GuestState>>,
    pub(super) transport: Rc<RefCell<Transport>>,
}

/// The vCPU: what may block.
#[derive(Clone)]
pub(super) struct Cpu(Asker<Blocked, Woken>);

impl Cpu {
    pub(super) async fn op(&self, op: Op) -> OpAnswer {
        let raw = op.raw;
        match self.0.ask(Blocked::Op(Box::new(op))).await {
            Woken::Answer(answer) => *answer,
            Woken::Again => OpAnswer::none(raw, true),
        }
    }

    async fn idle(&self) {
        self.0.ask(Blocked::Idle).await;
    }

    async fn sleep(&self, time: Duration) {
        self.0.ask(Blocked::Sleep(time)).await;
    }
}

impl Kernel {
    pub(super) fn run(self, asker: Asker<Blocked, Woken>) -> impl Future<Output = ()> {
        let cpu = Cpu(asker);
        async move {
            loop {
                let mail = self.state.borrow_mut().mail.pop_front();
                let command = self.state.borrow_mut().commands.pop_front();
                if self.transport.borrow().error_reported() {
                    self.serve_error();
                }
                if let Some((_, token)) = &mail {
                    match token.as_str() {
                        "back" => self.back_changed(&cpu).await,
                        _ => self.bus_changed(&cpu).await,
                    }
                }
                match command {
                    Some(Command::Unload(at)) => driver::remove(&self, &cpu, at).await,
                    Some(Command::Load(at)) => driver::probe(&self, &cpu, at).await,
                    Some(Command::Shutdown) => {
                        self.shut_down(&cpu).await;
                        return;
                    }
                    None => {}
                }
                if mail.is_none() && command.is_none() {
                    cpu.idle().await;
                }
            }
        }
    }

    fn own_state(&self) -> XenbusState {
        let text = self.store.read(&format!("{FRONT}/state"));
        XenbusState::parse(text.ok().as_deref())
    }

    fn switch(&self, state: XenbusState) {
        if self.own_state() != XenbusState::Unknown && self.own_state() != state {
            let number = state.number().to_string();
            let _: Result<(), _> = self.store.write(&format!("{FRONT}/state"), &number);
        }
    }

    fn back(&self, key: &str) -> Option<String> {
        let dir = self.store.read(&format!("{FRONT}/backend")).ok()?;
        self.store.read(&format!("{dir}/{key}")).ok()
    }

    fn back_state(&self) -> XenbusState {
        XenbusState::parse(self.back("state").as_deref())
    }

    /// The bus: a new device in state 1 is probed, one that is gone is removed.
    async fn bus_changed(&self, cpu: &Cpu) {
        let open = self.transport.borrow().open.is_some();
        match self.own_state() {
            XenbusState::Initialising if !open => self.probe(),
            XenbusState::Unknown if open => {
                self.disconnect(cpu).await;
            }
            _ => {}
        }
    }

    /// `pcifront_xenbus_probe`
    fn probe(&self) {
        let Some(backend) = self.store.get(&format!("{FRONT}/backend-id")) else {
            return;
        };
        let Ok((reference, page)) = self.xen.grant(self.domain, backend) else { return };
        let Ok(port) = self.xen.alloc_unbound(self.domain, backend) else { return };
        page.fetch_or(word::FLAGS, pciif::AER_HANDLER);
        self.transport.borrow_mut().open = Some((page, port));
        let published = self.store.transaction(|inside| {
            inside.write(&format!("{FRONT}/pci-op-ref"), &reference.to_string())?;
            inside.write(&format!("{FRONT}/event-channel"), &port.to_string())?;
            inside.write(&format!("{FRONT}/magic"), pciif::MAGIC)
        });
        if published.is_ok() {
            self.switch(XenbusState::Initialised);
        }
        if let Ok(dir) = self.store.read(&format!("{FRONT}/backend")) {
            let _: Result<(), _> = self.store.watch(&format!("{dir}/state"), "back");
        }
    }

    /// `pcifront_backend_changed`
    async fn back_changed(&self, cpu: &Cpu) {
        if self.transport.borrow().open.is_none() {
            return;
        }
        match self.back_state() {
            XenbusState::Connected => self.connect(cpu).await,
            XenbusState::Closed if self.own_state() == XenbusState::Closed => {}
            XenbusState::Closed | XenbusState::Closing => self.disconnect(cpu).await,
            XenbusState::Reconfiguring => self.detach_devices(cpu).await,
            XenbusState::Reconfigured => self.attach_devices(cpu).await,
            _ => {}
        }
    }

    async fn connect(&self, cpu: &Cpu) {
        if self.own_state() == XenbusState::Initialised {
            self.scan(cpu).await;
            self.switch(XenbusState::Connected);
        }
    }

    /// `pcifront_detach_devices`: a missed Connected is made up for (Linux 5.19).
    async fn detach_devices(&self, cpu: &Cpu) {
        let own = self.own_state();
        if !matches!(own, XenbusState::Connected | XenbusState::Initialised) {
            return;
        }
        let count =
            self.back("num_devs").and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
        for n in 0..count {
            let state = XenbusState::parse(self.back(&format!("state-{n}")).as_deref());
            let at = self.back(&format!("vdev-{n}")).and_then(|text| text.parse().ok());
            if let (XenbusState::Closing, Some(at)) = (state, at) {
                self.remove(cpu, VirtualBdf(at)).await;
            }
        }
        self.switch(XenbusState::Reconfiguring);
    }

    /// `pcifront_attach_devices`
    async fn attach_devices(&self, cpu: &Cpu) {
        if self.own_state() == XenbusState::Reconfiguring {
            self.scan(cpu).await;
            self.switch(XenbusState::Connected);
        }
    }

    /// Scans every published root, all 256 functions of it.
    async fn scan(&self, cpu: &Cpu) {
        let count = self.back("root_num").and_then(|n| n.parse::<u32>().ok());
        let roots = (0..count.unwrap_or(1)).map(|n| match count {
            // "No PCI Roots found, trying 0000:00"
            None => Some((0, 0)),
            Some(_) => {
                let root = self.back(&format!("root-{n}"))?;
                let (segment, bus) = root.split_once(':')?;
                let segment = u16::from_str_radix(segment, 16).ok()?;
                Some((segment, u8::from_str_radix(bus, 16).ok()?))
            }
        });
        for (segment, bus) in roots.flatten().collect::<Vec<_>>() {
            for devfn in 0..=u8::MAX {
                let at = Sbdf::new(segment, bus, devfn >> 3, devfn & 7).map(VirtualBdf);
                let Some(at) = at else { continue };
                if self.state.borrow().found.contains_key(&at) {
                    continue;
                }
                let found = Bus { cpu, at }.discover().await;
                if let Some(found) = found {
                    log::info!("guest {}: found {at}: {found:x?}", self.domain);
                    self.state.borrow_mut().found.insert(at, found);
                    driver::probe(self, cpu, at).await;
                }
            }
        }
    }

    async fn remove(&self, cpu: &Cpu, at: VirtualBdf) {
        driver::remove(self, cpu, at).await;
        self.state.borrow_mut().found.remove(&at);
    }

    /// `pcifront_try_disconnect`, then the bus forgets the device if it is gone.
    async fn disconnect(&self, cpu: &Cpu) {
        let own = self.own_state();
        if !matches!(own, XenbusState::Closing | XenbusState::Closed) {
            let all: Vec<VirtualBdf> =
                self.state.borrow().found.keys().copied().collect();
            for at in all {
                self.remove(cpu, at).await;
            }
            self.switch(XenbusState::Closed);
        }
        self.free();
        // A directory that came back meanwhile is a new device.
        if self.own_state() == XenbusState::Initialising {
            self.probe();
        }
    }

    /// `free_pdev`. The grant is ended when the backend lets go; Linux leaks it else.
    fn free(&self) {
        if let Some((page, port)) = self.transport.borrow_mut().open.take() {
            let _: Result<(), _> = self.xen.close(self.domain, port);
            self.xen.end_grant_of(self.domain, &page);
        }
    }

    async fn shut_down(&self, cpu: &Cpu) {
        if self.own_state() == XenbusState::Connected {
            self.switch(XenbusState::Closing);
            // It ends earlier if the backend follows.
            cpu.sleep(SHUTDOWN_WAIT).await;
        }
    }

    /// `pcifront_do_aer`, for a driver without handlers.
    fn serve_error(&self) {
        let transport = self.transport.borrow();
        let Some((page, port)) = &transport.open else { return };
        let request = pciif::load_aer(page);
        self.state.borrow_mut().errors.push((request.cmd, request.err));
        page.store(word::AER_ERR, AER_NONE);
        page.fetch_and(word::FLAGS, !pciif::BACK_ACTIVE);
        let _: Result<(), _> = self.xen.notify(self.domain, *port);
    }
}

/// A request without entries.
pub(super) fn plain(raw: RawOp) -> Op {
    Op { raw, entries: Vec::new() }
}

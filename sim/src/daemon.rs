//! The daemon of dom0 in the simulation: its own core over the simulated Xen, dom0 and
//! XenStore.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;

use pcidom_pci::fake::FakeBackend;
use pcidom_pci::regs::{command, header};
use pcidom_pci::{BarKind, Sbdf};
use pcidom_script::Instant;
use pcidom_toolstack::daemon::{Client, Daemon, Env};
use pcidom_toolstack::host::{
    Above, Armed, Below, EcamRegion, Host, HostError, Quirk, RawDevice,
};
use pcidom_toolstack::hypervisor::{DomainInfo, Hypervisor, Right, XenError};
use pcidom_toolstack::store::{Body, Fired, Nodes, Permissions, Store};
use pcidom_toolstack::verb::{Bdf, Reply, Verb, Wish};
use pcidom_xenbus::store::StoreError;
use pcidom_xenbus::{DomId, Pirq};

use crate::store::{Connection, Errno, XenStore};
use crate::world::Actor;
use crate::xen::devices::Hand;
use crate::xen::{Xen, XenResult, domains};

/// Calls that the process has left before it dies; `None` for a long life.
type Life = Rc<Cell<Option<u32>>>;

/// Takes one call off it. Returns whether the call is still made.
fn lives(life: &Life) -> bool {
    match life.get() {
        None => true,
        Some(0) => false,
        Some(left) => {
            life.set(Some(left - 1));
            true
        }
    }
}

/// What a daemon does wrong on purpose: tests of its interrupts must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A pirq that an entry had once is used again, without a map.
    CachedPirqs,
    /// Nothing is unmapped.
    KeepsMapped,
}

/// A message interrupt as a map names it.
type Vector = (DomId, Sbdf, u16, u64);

/// How calls about interrupts are spoilt, and what a cache would remember.
#[derive(Debug, Default)]
struct Spoilt {
    how: Option<Sabotage>,
    cache: BTreeMap<Vector, Pirq>,
}

/// The daemon's process.
pub struct DaemonProcess {
    core: Daemon,
    xen: SimHypervisor,
    host: SimHost,
    store: SimStore,
    clock: Xen,
    life: Life,
    /// Does nothing any more, as a process that is stopped.
    silent: bool,
    asked: VecDeque<(Client, Verb)>,
    next_client: u64,
    replies: Vec<(Client, Reply)>,
}

impl fmt::Debug for DaemonProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaemonProcess").field("core", &self.core).finish_non_exhaustive()
    }
}

impl DaemonProcess {
    /// Starts `pcidomctl daemon` for a pcidom of this name.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(xen: &Xen, store: &XenStore, name: &str) -> Self {
        Self::start_for(xen, store, &[name])
    }

    /// The same for several of them.
    ///
    /// # Panics
    /// If it does not start.
    #[expect(
        clippy::expect_used,
        reason = "a daemon that does not start is a failed test"
    )]
    pub fn start_for(xen: &Xen, store: &XenStore, names: &[&str]) -> Self {
        let life = Life::default();
        let mut process = Self {
            core: Daemon::new(names.iter().map(|name| (*name).into()).collect()),
            xen: SimHypervisor(xen.clone(), Rc::clone(&life), Spoilt::default()),
            host: SimHost(xen.clone(), Rc::clone(&life)),
            store: SimStore(store.connect(DomId::DOM0), Rc::clone(&life)),
            clock: xen.clone(),
            life,
            silent: false,
            asked: VecDeque::new(),
            next_client: 0,
            replies: Vec::new(),
        };
        process.with_env(|core, env| core.start(env)).expect("the daemon starts");
        process
    }

    /// Lets it stop doing anything, or go on.
    pub fn set_silent(&mut self, silent: bool) {
        self.silent = silent;
        self.clock.wake(DomId::DOM0);
    }

    /// Lets it do this wrong from now on.
    pub fn sabotage(&mut self, how: Sabotage) {
        self.xen.2.how = Some(how);
    }

    /// Lets the process die after this many more calls: from then on nothing it tries has
    /// any effect. Its body is to be removed with [`DaemonProcess::kill`].
    pub fn dies_after(&mut self, calls: u32) {
        self.life.set(Some(calls));
    }

    /// Whether that has happened.
    pub fn is_dead(&self) -> bool {
        self.life.get() == Some(0)
    }

    /// `pcidomctl attach`: the reply comes out of [`DaemonProcess::reply`].
    pub fn attach(&mut self, guest: DomId, device: Sbdf, pcidom: &str) -> Client {
        self.ask(Verb::Attach {
            guest: guest.to_string(),
            owner: None,
            device: Bdf(device),
            slot: None,
            bus: None,
            share_line: false,
            lax: false,
            wait: None,
            wish: Wish::default(),
            pcidom: Some(pcidom.into()),
        })
    }

    /// `pcidomctl detach`
    pub fn detach(
        &mut self,
        guest: DomId,
        device: Sbdf,
        force: bool,
        pcidom: &str,
    ) -> Client {
        self.ask(Verb::Detach {
            guest: guest.to_string(),
            device: Bdf(device),
            force,
            pcidom: Some(pcidom.into()),
        })
    }

    /// Any verb.
    pub fn ask(&mut self, verb: Verb) -> Client {
        let client = Client(self.next_client);
        self.next_client += 1;
        self.asked.push_back((client, verb));
        self.clock.wake(DomId::DOM0);
        client
    }

    /// The reply to what was asked, once it is there; that it goes on is none.
    pub fn reply(&self, client: Client) -> Option<Reply> {
        let is_last = |reply: &Reply| !matches!(reply, Reply::Progress { .. });
        let mut replies = self.replies.iter();
        let last = replies.find(|(of, reply)| *of == client && is_last(reply));
        last.map(|(_, reply)| reply.clone())
    }

    /// Ends the process: XenStore forgets its watches.
    pub fn kill(&mut self) {
        self.store.0.clone().close();
        self.silent = true;
    }

    fn with_env<T>(&mut self, act: impl FnOnce(&mut Daemon, &mut Env<'_>) -> T) -> T {
        let mut env = Env {
            xen: &mut self.xen,
            host: &mut self.host,
            store: &mut self.store,
            now: self.clock.now(),
        };
        act(&mut self.core, &mut env)
    }
}

impl Actor for DaemonProcess {
    fn domain(&self) -> DomId {
        DomId::DOM0
    }

    fn step(&mut self) {
        if self.silent || self.is_dead() {
            return;
        }
        while let Some((path, token)) = self.store.0.next_mail() {
            self.with_env(|core, env| core.fired(env, &Fired { path, token }));
        }
        while let Some((client, verb)) = self.asked.pop_front() {
            self.with_env(|core, env| core.ask(env, client, &verb));
        }
        if self.deadline().is_some_and(|deadline| deadline <= self.clock.now()) {
            self.with_env(|core, env| core.tick(env));
        }
        while let Some(reply) = self.core.next_reply() {
            log::info!("daemon: reply {reply:?}");
            self.replies.push(reply);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.silent || self.is_dead() { None } else { self.core.next_deadline() }
    }
}

struct SimHypervisor(Xen, Life, Spoilt);

/// What a dead process's calls are answered with (`EIO`); it never sees it.
const DEAD: i32 = 5;

impl SimHypervisor {
    /// Does a call, if the process lives. Xen's negative numbers are errno's positive ones
    /// in C.
    fn call<T>(
        &self,
        call: &'static str,
        act: impl FnOnce(&Xen) -> XenResult<T>,
    ) -> Result<T, XenError> {
        if !lives(&self.1) {
            return Err(XenError { call, errno: DEAD });
        }
        act(&self.0).map_err(|error| XenError { call, errno: -error.errno })
    }
}

impl Hypervisor for SimHypervisor {
    fn domain(&mut self, domain: DomId) -> Result<Option<DomainInfo>, XenError> {
        self.call("xc_domain_getinfolist", |xen| {
            let life = xen.life(domain);
            Ok(life.map(|life| DomainInfo {
                dying: life == domains::Life::Dying,
                paused: xen.is_paused(domain),
                hvm: xen.is_hvm(domain),
                ..DomainInfo::default()
            }))
        })
    }

    fn iomem_permission(
        &mut self,
        domain: DomId,
        first_page: u64,
        pages: u64,
        right: Right,
    ) -> Result<(), XenError> {
        let allow = right == Right::Grant;
        self.call("xc_domain_iomem_permission", |xen| {
            let device = xen.bar_at(first_page).filter(|_| allow);
            let owner = device.and_then(|device| xen.owner(device));
            if let Some(device) = device
                && owner != Some(domain)
                && !xen.serves(domain, owner)
            {
                // Rights without an IOMMU context end in VT-d faults.
                xen.violation(format!("{domain} got the BARs of {device} before it"));
            }
            xen.iomem_permission(DomId::DOM0, domain, first_page, pages, allow)
        })
    }

    fn guards_ecam(&mut self, _region: &EcamRegion) -> Result<(), XenError> {
        Ok(())
    }

    fn ioport_permission(
        &mut self,
        domain: DomId,
        first: u32,
        ports: u32,
        right: Right,
    ) -> Result<(), XenError> {
        let allow = right == Right::Grant;
        self.call("xc_domain_ioport_permission", |xen| {
            xen.ioport_permission(DomId::DOM0, domain, first, ports, allow)
        })
    }

    fn irq_permission(
        &mut self,
        domain: DomId,
        gsi: Pirq,
        right: Right,
    ) -> Result<(), XenError> {
        let allow = right == Right::Grant;
        self.call("xc_domain_irq_permission", |xen| {
            xen.irq_permission(DomId::DOM0, domain, gsi, allow)
        })
    }

    fn map_gsi(&mut self, domain: DomId, gsi: Pirq) -> Result<Pirq, XenError> {
        self.call("xc_physdev_map_pirq", |xen| xen.map_gsi(DomId::DOM0, domain, gsi))
    }

    fn map_msi(
        &mut self,
        domain: DomId,
        device: Sbdf,
        entry: u16,
        table_base: u64,
    ) -> Result<Pirq, XenError> {
        let vector = (domain, device, entry, table_base);
        if self.2.how == Some(Sabotage::CachedPirqs)
            && let Some(pirq) = self.2.cache.get(&vector)
        {
            return Ok(*pirq);
        }
        let pirq = self.call("xc_physdev_map_pirq_msi", |xen| {
            xen.map_msi(DomId::DOM0, domain, device, entry, table_base)
        })?;
        self.2.cache.insert(vector, pirq);
        Ok(pirq)
    }

    fn unmap_pirq(&mut self, domain: DomId, pirq: Pirq) -> Result<(), XenError> {
        if self.2.how == Some(Sabotage::KeepsMapped) {
            return Ok(());
        }
        self.call("xc_physdev_unmap_pirq", |xen| {
            xen.unmap_pirq(DomId::DOM0, domain, pirq)
        })
    }

    fn assign(&mut self, domain: DomId, device: Sbdf) -> Result<(), XenError> {
        self.call("xc_assign_device", |xen| {
            xen.assign_device(DomId::DOM0, domain, device)
        })
    }

    fn deassign(&mut self, domain: DomId, device: Sbdf) -> Result<(), XenError> {
        self.call("xc_deassign_device", |xen| {
            xen.deassign_device(DomId::DOM0, domain, device)
        })
    }
}

struct SimHost(Xen, Life);

/// Flags of a memory resource in sysfs (`IORESOURCE_MEM`, linux/ioport.h).
const RESOURCE_MEMORY: u64 = 0x200;
/// Flags of a port resource (`IORESOURCE_IO`).
const RESOURCE_IO: u64 = 0x100;

impl SimHost {
    fn change_command(
        &self,
        device: Sbdf,
        change: impl FnOnce(u16) -> u16,
    ) -> Result<(), HostError> {
        if !lives(&self.1) {
            return Err(HostError("dead".into()));
        }
        self.0.with_hardware(device, Hand::Dom0, |backend| {
            let hardware = backend.hardware_mut();
            let [low, high, ..] = hardware.word(header::COMMAND).to_le_bytes();
            let changed = change(u16::from_le_bytes([low, high]));
            hardware.set_bytes(header::COMMAND, &changed.to_le_bytes());
        });
        Ok(())
    }
}

impl Host for SimHost {
    fn device(&mut self, device: Sbdf) -> Result<RawDevice, HostError> {
        let none = || HostError(format!("{device} is not there"));
        let function = self.0.function(device).filter(|_| lives(&self.1));
        let function = function.ok_or_else(none)?;
        let mut resources = vec![[0; 3]; 7];
        for bar in &function.bars {
            let flags = match bar.kind {
                BarKind::Memory { .. } => RESOURCE_MEMORY,
                BarKind::Io => RESOURCE_IO,
            };
            if let Some(line) = resources.get_mut(usize::from(bar.index)) {
                *line = [bar.address, bar.address + bar.size - 1, flags];
            }
        }
        // dom0's view has no resets in it, whose silence is short.
        let config = self
            .0
            .with_hardware(device, Hand::Dom0, |b| match b.hardware().is_dead() {
                true => vec![0xff; b.hardware().bytes().len()],
                false => b.hardware().bytes().to_vec(),
            })
            .ok_or_else(none)?;
        let irq = self.0.gsi(device).map_or(0, |gsi| gsi.0.into());
        Ok(RawDevice { resources, irq, config, on_pciback: true })
    }

    fn above(&mut self, device: Sbdf) -> Result<Above, HostError> {
        let right_above = |port: &Sbdf| {
            let buses = self.0.function(*port).and_then(|port| port.buses);
            port.segment() == device.segment()
                && buses.is_some_and(|buses| buses.secondary == device.bus())
        };
        let port = self.0.devices().into_iter().find(right_above);
        Ok(port.map_or(Above::RootBus, Above::Port))
    }

    fn below(&mut self, port: Sbdf) -> Result<Vec<Below>, HostError> {
        let function = self.0.function(port);
        let is_below = |device: &Sbdf| {
            function.as_ref().is_some_and(|function| function.is_above(*device))
        };
        let below = self.0.devices().into_iter().filter(is_below);
        let driver = || Some("pciback".into());
        Ok(below.map(|device| Below { device, driver: driver() }).collect())
    }

    fn ecam(&mut self) -> Result<Vec<EcamRegion>, HostError> {
        let base = crate::xen::ecam::BASE;
        Ok(vec![EcamRegion { base, segment: 0, first_bus: 0, last_bus: 0xff }])
    }

    fn stop_dma(&mut self, device: Sbdf) -> Result<(), HostError> {
        self.change_command(device, |word| word & !command::BUS_MASTER)
    }

    fn disable_line(&mut self, device: Sbdf) -> Result<(), HostError> {
        self.change_command(device, |word| word | command::INTX_DISABLE)
    }

    fn arm(&mut self, device: Sbdf, quirks: &[Quirk]) -> Result<(), HostError> {
        if !lives(&self.1) {
            return Err(HostError("dead".into()));
        }
        let armed = self.0.with_hardware(device, Hand::Dom0, |backend| {
            let arms = backend.arms();
            arms.interrupt_control = true;
            for quirk in quirks {
                let field = (quirk.offset, quirk.bytes.into());
                if !arms.quirks.contains(&field) {
                    arms.quirks.push(field);
                }
            }
        });
        armed.ok_or_else(|| HostError(format!("{device} is not there")))
    }

    fn permit(&mut self, device: Sbdf) -> Result<(), HostError> {
        if !lives(&self.1) {
            return Err(HostError("dead".into()));
        }
        let permit = |backend: &mut FakeBackend| backend.arms().permissive = true;
        let armed = self.0.with_hardware(device, Hand::Dom0, permit);
        armed.ok_or_else(|| HostError(format!("{device} is not there")))
    }

    fn armed(&mut self, device: Sbdf) -> Result<Armed, HostError> {
        let armed = self.0.with_hardware(device, Hand::Dom0, |backend| {
            let arms = backend.arms();
            let quirks = arms.quirks.iter().filter_map(|(offset, bytes)| {
                Some(Quirk { offset: *offset, bytes: u8::try_from(*bytes).ok()? })
            });
            Armed { permissive: arms.permissive, quirks: quirks.collect() }
        });
        armed.ok_or_else(|| HostError(format!("{device} is not there")))
    }
}

struct SimStore(Connection, Life);

impl SimStore {
    /// Does a request, if the process lives.
    fn call<T>(
        &self,
        act: impl FnOnce(&Connection) -> Result<T, Errno>,
    ) -> Result<T, StoreError> {
        if !lives(&self.1) {
            return Err(StoreError::Other("dead".into()));
        }
        act(&self.0).map_err(|errno| StoreError::from_word(errno.word()))
    }
}

/// What is not there is no error for the daemon.
fn unless_gone<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Nodes for SimStore {
    fn read(&mut self, path: &str) -> Result<Option<String>, StoreError> {
        unless_gone(self.call(|store| store.read(path)))
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, StoreError> {
        unless_gone(self.call(|store| store.directory(path)))
            .map(Option::unwrap_or_default)
    }

    fn write(&mut self, path: &str, value: &str) -> Result<(), StoreError> {
        self.call(|store| store.write(path, value))
    }

    fn remove(&mut self, path: &str) -> Result<(), StoreError> {
        unless_gone(self.call(|store| store.remove(path))).map(drop)
    }

    fn set_permissions(
        &mut self,
        path: &str,
        permissions: Permissions,
    ) -> Result<(), StoreError> {
        let owner = permissions.owner;
        let to = match permissions.reader {
            Some(reader) => crate::store::Permissions::shared(owner, reader),
            None => crate::store::Permissions::private(owner),
        };
        self.call(|store| store.set_permissions(path, to))
    }
}

impl Store for SimStore {
    fn transaction(&mut self, body: &mut Body<'_>) -> Result<(), StoreError> {
        let inside = self.call(Connection::begin)?;
        let result = body(&mut Self(inside.clone(), Rc::clone(&self.1)));
        // The end of a dead process's connection ends its transactions.
        let commit = result.is_ok() && lives(&self.1);
        let ended = inside.end(commit);
        result.and(ended.map_err(|errno| StoreError::from_word(errno.word())))
    }

    fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        match self.call(|store| store.watch(path, token)) {
            Err(StoreError::Other(word)) if word == Errno::Eexist.word() => Ok(()),
            result => result,
        }
    }

    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        unless_gone(self.call(|store| store.unwatch(path, token))).map(drop)
    }
}

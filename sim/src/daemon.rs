//! The daemon of dom0 in the simulation: its own core over the simulated Xen, dom0 and
//! XenStore.

use std::collections::VecDeque;
use std::fmt;

use pcidom_pci::{BarKind, Sbdf};
use pcidom_script::Instant;
use pcidom_toolstack::daemon::{Client, Daemon, Env};
use pcidom_toolstack::host::{Host, HostError, Quirk, RawDevice};
use pcidom_toolstack::hypervisor::{DomainInfo, Hypervisor, Right, XenError};
use pcidom_toolstack::store::{Body, Fired, Nodes, Permissions, Store};
use pcidom_toolstack::verb::{Bdf, Reply, Verb};
use pcidom_xenbus::store::StoreError;
use pcidom_xenbus::{DomId, Pirq};

use crate::store::{Connection, Errno, XenStore};
use crate::world::Actor;
use crate::xen::Xen;
use crate::xen::devices::Hand;
use crate::xen::domains::Life;

/// The daemon's process.
pub struct DaemonProcess {
    core: Daemon,
    xen: SimHypervisor,
    host: SimHost,
    store: SimStore,
    clock: Xen,
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
    #[expect(
        clippy::expect_used,
        reason = "a daemon that does not start is a failed test"
    )]
    pub fn start(xen: &Xen, store: &XenStore, name: &str) -> Self {
        let mut process = Self {
            core: Daemon::new(vec![name.into()]),
            xen: SimHypervisor(xen.clone()),
            host: SimHost(xen.clone()),
            store: SimStore(store.connect(DomId::DOM0)),
            clock: xen.clone(),
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

    /// `pcidomctl attach`: the reply comes out of [`DaemonProcess::reply`].
    pub fn attach(&mut self, guest: DomId, device: Sbdf, pcidom: &str) -> Client {
        self.ask(Verb::Attach {
            guest: guest.to_string(),
            device: Bdf(device),
            slot: None,
            pcidom: pcidom.into(),
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
            pcidom: pcidom.into(),
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

    /// The reply to what was asked, once it is there.
    pub fn reply(&self, client: Client) -> Option<Reply> {
        let mut replies = self.replies.iter();
        replies.find(|(of, _)| *of == client).map(|(_, reply)| reply.clone())
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
        if self.silent {
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
        if self.silent { None } else { self.core.next_deadline() }
    }
}

struct SimHypervisor(Xen);

/// Xen's negative numbers are errno's positive ones in C.
fn in_c<T>(call: &'static str, result: crate::xen::XenResult<T>) -> Result<T, XenError> {
    result.map_err(|error| XenError { call, errno: -error.errno })
}

impl Hypervisor for SimHypervisor {
    fn domain(&mut self, domain: DomId) -> Result<Option<DomainInfo>, XenError> {
        let life = self.0.life(domain);
        Ok(life.map(|life| DomainInfo {
            dying: life == Life::Dying,
            ..DomainInfo::default()
        }))
    }

    fn iomem_permission(
        &mut self,
        domain: DomId,
        first_page: u64,
        pages: u64,
        right: Right,
    ) -> Result<(), XenError> {
        let allow = right == Right::Grant;
        let done = self.0.iomem_permission(DomId::DOM0, domain, first_page, pages, allow);
        in_c("xc_domain_iomem_permission", done)
    }

    fn ioport_permission(
        &mut self,
        domain: DomId,
        first: u32,
        ports: u32,
        right: Right,
    ) -> Result<(), XenError> {
        let allow = right == Right::Grant;
        let done = self.0.ioport_permission(DomId::DOM0, domain, first, ports, allow);
        in_c("xc_domain_ioport_permission", done)
    }

    fn irq_permission(
        &mut self,
        domain: DomId,
        gsi: Pirq,
        right: Right,
    ) -> Result<(), XenError> {
        let allow = right == Right::Grant;
        let done = self.0.irq_permission(DomId::DOM0, domain, gsi, allow);
        in_c("xc_domain_irq_permission", done)
    }

    fn map_gsi(&mut self, domain: DomId, gsi: Pirq) -> Result<Pirq, XenError> {
        in_c("xc_physdev_map_pirq", self.0.map_gsi(DomId::DOM0, domain, gsi))
    }

    fn map_msi(
        &mut self,
        domain: DomId,
        device: Sbdf,
        entry: u16,
        table_base: u64,
    ) -> Result<Pirq, XenError> {
        let mapped = self.0.map_msi(DomId::DOM0, domain, device, entry, table_base, None);
        in_c("xc_physdev_map_pirq_msi", mapped)
    }

    fn unmap_pirq(&mut self, domain: DomId, pirq: Pirq) -> Result<(), XenError> {
        in_c("xc_physdev_unmap_pirq", self.0.unmap_pirq(DomId::DOM0, domain, pirq))
    }

    fn assign(&mut self, domain: DomId, device: Sbdf) -> Result<(), XenError> {
        in_c("xc_assign_device", self.0.assign_device(DomId::DOM0, domain, device))
    }

    fn deassign(&mut self, domain: DomId, device: Sbdf) -> Result<(), XenError> {
        in_c("xc_deassign_device", self.0.deassign_device(DomId::DOM0, domain, device))
    }
}

struct SimHost(Xen);

/// Flags of a memory resource in sysfs (`IORESOURCE_MEM`, linux/ioport.h).
const RESOURCE_MEMORY: u64 = 0x200;
/// Flags of a port resource (`IORESOURCE_IO`).
const RESOURCE_IO: u64 = 0x100;

impl Host for SimHost {
    fn device(&mut self, device: Sbdf) -> Result<RawDevice, HostError> {
        let none = || HostError(format!("{device} is not there"));
        let function = self.0.function(device).ok_or_else(none)?;
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
        let config = self
            .0
            .with_hardware(device, Hand::Dom0, |b| b.hardware().bytes().to_vec())
            .ok_or_else(none)?;
        let irq = self.0.gsi(device).map_or(0, |gsi| gsi.0.into());
        Ok(RawDevice { resources, irq, config, on_pciback: true })
    }

    fn arm(&mut self, device: Sbdf, quirks: &[Quirk]) -> Result<(), HostError> {
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
}

struct SimStore(Connection);

fn error(errno: Errno) -> StoreError {
    StoreError::from_word(errno.word())
}

/// What is not there is no error for the daemon.
fn unless_gone<T>(result: Result<T, Errno>) -> Result<Option<T>, StoreError> {
    match result.map_err(error) {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Nodes for SimStore {
    fn read(&mut self, path: &str) -> Result<Option<String>, StoreError> {
        unless_gone(self.0.read(path))
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, StoreError> {
        unless_gone(self.0.directory(path)).map(Option::unwrap_or_default)
    }

    fn write(&mut self, path: &str, value: &str) -> Result<(), StoreError> {
        self.0.write(path, value).map_err(error)
    }

    fn remove(&mut self, path: &str) -> Result<(), StoreError> {
        unless_gone(self.0.remove(path)).map(drop)
    }

    fn set_permissions(
        &mut self,
        path: &str,
        permissions: Permissions,
    ) -> Result<(), StoreError> {
        let to = match permissions.reader {
            Some(reader) => crate::store::Permissions::shared(permissions.owner, reader),
            None => crate::store::Permissions::private(permissions.owner),
        };
        self.0.set_permissions(path, to).map_err(error)
    }
}

impl Store for SimStore {
    fn transaction(&mut self, body: &mut Body<'_>) -> Result<(), StoreError> {
        let inside = self.0.begin().map_err(error)?;
        let result = body(&mut Self(inside.clone()));
        let ended = inside.end(result.is_ok()).map_err(error);
        result.and(ended)
    }

    fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        match self.0.watch(path, token) {
            Ok(()) | Err(Errno::Eexist) => Ok(()),
            Err(errno) => Err(error(errno)),
        }
    }

    fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        unless_gone(self.0.unwatch(path, token)).map(drop)
    }
}

//! Stock `xl` and libxl, as far as PCI devices and domains' lives go (Xen 4.17).
//!
//! What libxl does in one go is done at once; where it waits, the caller lets the world
//! run and goes on with the next step. It asks nobody whose a device is: what it breaks
//! is in the project's documentation.

use std::time::Duration;

use pcidom_pci::{BarKind, Sbdf};
use pcidom_xenbus::{DomId, XenbusState};

use crate::pciback::{back_dir, reset_by_dom0};
use crate::store::{Connection, Errno, Permissions, XenStore};
use crate::world::World;
use crate::xen::domains::DomainConfig;
use crate::xen::{DOM_IO, Xen, XenResult};

/// `LIBXL_INIT_TIMEOUT` and friends: how long libxl waits for a backend.
const WAIT: Duration = Duration::from_secs(10);

/// What a reset through sysfs takes: Linux waits this long after an FLR. Meanwhile dom0's
/// backend has seen what happened before.
const RESET: Duration = Duration::from_millis(100);

const OPTIONS: &str = "msitranslate=0,power_mgmt=0,permissive=0,rdm_policy=strict";

/// The tool.
#[derive(Clone, Debug)]
pub struct Xl {
    xen: Xen,
    store: Connection,
    whole_store: XenStore,
}

/// Writes that libxl checks; a failed one is a bug of the simulation.
fn must<T>(result: Result<T, Errno>) -> Option<T> {
    result.inspect_err(|error| log::error!("xl: XenStore said {error:?}")).ok()
}

/// Calls whose failure libxl only logs.
fn logged(result: XenResult<()>) {
    if let Err(error) = result {
        log::warn!("xl: libxl: error: {error}");
    }
}

impl Xl {
    /// The tool on this host.
    pub fn new(world: &World) -> Self {
        let whole_store = world.store().clone();
        let store = whole_store.connect(DomId::DOM0);
        must(store.write("/local/domain/0/name", "Domain-0"));
        must(store.write("/local/domain/0/domid", "0"));
        Self { xen: world.xen().clone(), store, whole_store }
    }

    /// `xl pci-assignable-add`: into quarantine.
    pub fn assignable_add(&self, device: Sbdf) {
        logged(self.xen.assign_device(DomId::DOM0, DOM_IO, device));
    }

    /// `xl create -p` up to the domain's home in XenStore. A unique name for each life.
    pub fn create(&self, name: &str, config: DomainConfig) -> DomId {
        let domain = self.xen.create_domain(config);
        let home = format!("/local/domain/{domain}");
        let uuid = format!("/vm/00000000-0000-0000-0000-{:012x}", domain.0);
        let readable = Permissions::shared(DomId::DOM0, domain);
        let own = Permissions::private(domain);
        must(self.store.make(&uuid, "", readable.clone()));
        must(self.store.write(&format!("{uuid}/name"), name));
        must(self.store.make(&home, "", readable.clone()));
        let nodes =
            [("vm", uuid.as_str()), ("name", name), ("domid", &domain.to_string())];
        for (key, value) in nodes {
            must(self.store.write(&format!("{home}/{key}"), value));
        }
        for key in ["data", "drivers", "feature", "attr", "error"] {
            must(self.store.make(&format!("{home}/{key}"), "", own.clone()));
        }
        for key in ["device", "control", "backend"] {
            must(self.store.make(&format!("{home}/{key}"), "", readable.clone()));
        }
        must(self.store.make(&format!("{home}/control/shutdown"), "", own));
        must(self.store.make(
            &format!("/libxl/{domain}"),
            "",
            Permissions::private(DomId::DOM0),
        ));
        self.whole_store.introduce_domain(domain);
        domain
    }

    /// `xl create` of a config with `pci=[...]`.
    pub fn create_with_devices(
        &self,
        name: &str,
        config: DomainConfig,
        devices: &[Sbdf],
    ) -> DomId {
        let domain = self.create(name, config);
        for device in devices {
            if self.give(domain, *device) {
                self.add_node(domain, *device, true);
            }
        }
        domain
    }

    /// `xl pci-attach`. Returns whether it worked.
    pub fn pci_attach(&self, world: &mut World, domain: DomId, device: Sbdf) -> bool {
        let lock = lock(device);
        if self.store.read(&lock).is_ok() {
            log::warn!("xl: PCI device already attached to a domain");
            return false;
        }
        if !self.give(domain, device) {
            must(self.store.remove(&lock));
            return false;
        }
        world.run_for(RESET);
        let first = self.store.read(&format!("{}/num_devs", back_dir(domain))).is_err();
        if !first && !self.wait_connected(world, domain) {
            must(self.store.remove(&lock));
            return false;
        }
        self.add_node(domain, device, false);
        true
    }

    /// `xl pci-detach`: rights, reset and owner first, and then the frontend is told.
    /// Returns whether the handshake was made.
    pub fn pci_detach(&self, world: &mut World, domain: DomId, device: Sbdf) -> bool {
        self.take(domain, device);
        let done = self.remove_node(world, domain, device);
        must(self.store.remove(&lock(device)));
        done
    }

    /// `xl destroy`: devices first, then the domain's nodes, and the domain last.
    pub fn destroy(&self, world: &mut World, domain: DomId) {
        for device in self.devices(domain) {
            self.take(domain, device);
            self.remove_node(world, domain, device);
            must(self.store.remove(&lock(device)));
        }
        self.destroy_at_once(domain);
    }

    /// `xl destroy` of a domain without `pci=`.
    pub fn destroy_at_once(&self, domain: DomId) {
        for path in [
            format!("/local/domain/0/backend/pci/{domain}"),
            format!("/local/domain/{domain}"),
            format!("/libxl/{domain}"),
            format!("/vm/00000000-0000-0000-0000-{:012x}", domain.0),
        ] {
            must(self.store.remove(&path));
        }
        logged(self.xen.destroy_domain(DomId::DOM0, domain));
    }

    /// The domain dies of itself, as by a crash with `on_crash="destroy"`: Xen first.
    pub fn crash(&self, domain: DomId) {
        logged(self.xen.destroy_domain(DomId::DOM0, domain));
        for path in [format!("/local/domain/{domain}"), format!("/libxl/{domain}")] {
            must(self.store.remove(&path));
        }
    }

    /// `xl shutdown`.
    pub fn shutdown(&self, domain: DomId) {
        must(
            self.store
                .write(&format!("/local/domain/{domain}/control/shutdown"), "poweroff"),
        );
    }

    /// The devices in a domain's back directory.
    pub fn devices(&self, domain: DomId) -> Vec<Sbdf> {
        let dir = back_dir(domain);
        let count = self.store.get::<u32>(&format!("{dir}/num_devs")).unwrap_or(0);
        (0..count).filter_map(|n| self.store.get(&format!("{dir}/dev-{n}"))).collect()
    }

    /// Steps 6 to 12 of an attach: lock, and all that comes with the device.
    fn give(&self, domain: DomId, device: Sbdf) -> bool {
        must(self.store.write(&lock(device), &domain.to_string()));
        self.hand_over(domain, device)
    }

    /// Reset, resources, interrupt, IOMMU. If the last one fails the rights stay, as they do
    /// with libxl.
    pub(crate) fn hand_over(&self, domain: DomId, device: Sbdf) -> bool {
        reset_by_dom0(&self.xen, device);
        self.rights(domain, device, true);
        let assigned = self.xen.assign_device(DomId::DOM0, domain, device);
        logged(assigned);
        assigned.is_ok()
    }

    /// Steps a to d of a detach, whoever has the device by now.
    pub(crate) fn take(&self, domain: DomId, device: Sbdf) {
        self.rights(domain, device, false);
        reset_by_dom0(&self.xen, device);
        logged(self.xen.deassign_device(DomId::DOM0, domain, device));
    }

    fn rights(&self, domain: DomId, device: Sbdf, allow: bool) {
        let dom0 = DomId::DOM0;
        let bars = self.xen.function(device).into_iter().flat_map(|f| f.bars);
        for bar in bars {
            logged(match bar.kind {
                BarKind::Memory { .. } => {
                    let (first, pages) = (bar.address >> 12, bar.size.div_ceil(0x1000));
                    self.xen.iomem_permission(dom0, domain, first, pages, allow)
                }
                BarKind::Io => {
                    let first = u32::try_from(bar.address).unwrap_or(0);
                    let ports = u32::try_from(bar.size).unwrap_or(0);
                    self.xen.ioport_permission(dom0, domain, first, ports, allow)
                }
            });
        }
        let Some(gsi) = self.xen.gsi(device) else { return };
        if allow {
            logged(self.xen.map_gsi(dom0, domain, gsi).map(drop));
        } else {
            logged(self.xen.unmap_pirq(dom0, domain, gsi));
        }
        logged(self.xen.irq_permission(dom0, domain, gsi, allow));
    }

    fn add_node(&self, domain: DomId, device: Sbdf, starting: bool) {
        let (dom0, back) = (DomId::DOM0, back_dir(domain));
        let front = format!("/local/domain/{domain}/device/pci/0");
        let count = self.store.get::<u32>(&format!("{back}/num_devs")).unwrap_or(0);
        let set = |dir: &str, key: &str, value: &str| {
            must(self.store.write(&format!("{dir}/{key}"), value));
        };
        let name = device.to_string();
        // The entry before the states: a backend that looks in between finds it.
        let entry = |n: u32| {
            set(&back, &format!("dev-{n}"), &name);
            set(&back, &format!("key-{n}"), &name);
            set(&back, &format!("opts-{n}"), OPTIONS);
            set(&back, &format!("state-{n}"), "1");
            set(&back, "num_devs", &(n + 1).to_string());
        };
        if count == 0 {
            must(self.store.make(&front, "", Permissions::shared(domain, dom0)));
            must(self.store.make(&back, "", Permissions::shared(dom0, domain)));
            set(&back, "frontend", &front);
            set(&back, "frontend-id", &domain.to_string());
            set(&back, "online", "1");
            set(&back, "domain", "guest");
            entry(0);
            set(&front, "backend", &back);
            set(&front, "backend-id", "0");
            set(&front, "state", "1");
            set(&back, "state", "1");
        } else {
            entry(count);
            if !starting {
                set(&back, "state", "7");
            }
        }
    }

    fn remove_node(&self, world: &mut World, domain: DomId, device: Sbdf) -> bool {
        let back = back_dir(domain);
        let Some(index) = self.devices(domain).iter().position(|d| *d == device) else {
            return false;
        };
        if !self.wait_connected(world, domain) {
            return false;
        }
        must(self.store.write(&format!("{back}/state-{index}"), "5"));
        must(self.store.write(&format!("{back}/state"), "7"));
        if !self.wait_connected(world, domain) {
            return false;
        }
        self.drop_entry(domain, index);
        true
    }

    /// Takes the entry out, and those behind it move up; with the last one all goes.
    fn drop_entry(&self, domain: DomId, index: usize) {
        let back = back_dir(domain);
        let count = self.devices(domain).len();
        if count <= 1 {
            return self.drop_directories(domain);
        }
        let keys = ["state", "dev", "key", "vdev", "opts", "vdevfn"];
        let moved = self.store.transaction(|inside| {
            for to in index..count - 1 {
                for key in keys {
                    let value = inside.read(&format!("{back}/{key}-{}", to + 1));
                    let target = format!("{back}/{key}-{to}");
                    match value {
                        Ok(value) => inside.write(&target, &value)?,
                        Err(_) => inside.remove(&target)?,
                    }
                }
            }
            for key in keys {
                inside.remove(&format!("{back}/{key}-{}", count - 1))?;
            }
            inside.write(&format!("{back}/num_devs"), &(count - 1).to_string())
        });
        must(moved);
    }

    /// What `xl pci-detach` of all `devices` leaves, without the handshakes: the link's
    /// directories are gone. So ends one whose toolstack has lost patience.
    pub fn drop_link(&self, domain: DomId, devices: &[Sbdf]) {
        for device in devices {
            self.take(domain, *device);
            must(self.store.remove(&lock(*device)));
        }
        self.drop_directories(domain);
    }

    /// The directories of a link with these devices, as libxl makes them.
    pub fn make_link(&self, domain: DomId, devices: &[Sbdf]) {
        for device in devices {
            self.add_node(domain, *device, true);
        }
    }

    fn drop_directories(&self, domain: DomId) {
        self.clean_up(&format!("/local/domain/{domain}/device/pci/0"));
        self.clean_up(&back_dir(domain));
    }

    /// `libxl__xs_path_cleanup`: with a node go those above it that are empty then.
    fn clean_up(&self, path: &str) {
        must(self.store.remove(path));
        let mut above = path.rsplit_once('/');
        while let Some((dir, _)) = above.filter(|(dir, _)| {
            let is_empty = |names: &Vec<String>| names.is_empty();
            self.store.read(dir).as_deref() == Ok("")
                && self.store.directory(dir).as_ref().is_ok_and(is_empty)
        }) {
            must(self.store.remove(dir));
            above = dir.rsplit_once('/');
        }
    }

    /// Lets the world run until dom0's backend is in Connected, but not for ever.
    pub(crate) fn wait_connected(&self, world: &mut World, domain: DomId) -> bool {
        let path = format!("{}/state", back_dir(domain));
        let connected = world.run_until(WAIT, |_| {
            let state = self.store.read(&path).ok();
            XenbusState::parse(state.as_deref()) == XenbusState::Connected
        });
        if !connected {
            log::warn!("xl: {path} not ready");
        }
        connected
    }
}

fn lock(device: Sbdf) -> String {
    format!("/libxl/pci/{}/domid", device.to_string().replace([':', '.'], "-"))
}

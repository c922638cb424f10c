//! xend, the toolstack before libxl, as far as PCI devices of a running PV domain go (Xen 4.2):
//! what it writes into XenStore, and in which order.
//!
//! It makes a link in one transaction. Once that is there each node is a write of its own, and
//! whoever looks sees what is in between: while entries move up, a device may have none.
//! It goes on where Xen refuses it something. It has no lock.

use pcidom_pci::Sbdf;
use pcidom_xenbus::DomId;

use crate::pciback::back_dir;
use crate::store::{Connection, Errno, Permissions};
use crate::world::World;
use crate::xl::Xl;

/// The slot that means any (`AUTO_PHP_SLOT`).
const ANY_SLOT: &str = "100";

/// What moves when an entry does, in this order.
const KEYS: [&str; 7] = ["dev", "vdev", "state", "uuid", "opts", "vdevfn", "key"];

/// What the world does after each write.
pub type Pace<'a> = &'a mut dyn FnMut(&mut World);

/// The tool.
#[derive(Clone, Debug)]
pub struct Xend {
    xl: Xl,
    store: Connection,
}

/// Writes that xend checks; a failed one is a bug of the simulation.
fn must<T>(result: Result<T, Errno>) {
    if let Err(error) = result {
        log::error!("xend: XenStore said {error:?}");
    }
}

fn front_dir(domain: DomId) -> String {
    format!("/local/domain/{domain}/device/pci/0")
}

impl Xend {
    /// The tool on this host. What it asks of Xen is what `xl` asks.
    pub fn new(world: &World, xl: &Xl) -> Self {
        Self { xl: xl.clone(), store: world.store().connect(DomId::DOM0) }
    }

    /// `xm create` with these devices, or `xm pci-attach` if there is no link yet
    /// (`DevController.createDevice`).
    pub fn create_device(&self, domain: DomId, devices: &[Sbdf]) {
        for device in devices {
            self.xl.hand_over(domain, *device);
        }
        let (dom0, front, back) = (DomId::DOM0, front_dir(domain), back_dir(domain));
        must(self.store.transaction(|inside| {
            for dir in [&front, &back] {
                // Below a directory that is not there, nothing is removed.
                let _: Result<(), Errno> = inside.remove(dir);
            }
            inside.make(&back, "", Permissions::shared(dom0, domain))?;
            inside.make(&front, "", Permissions::shared(domain, dom0))?;
            for (key, value) in [("backend", back.as_str()), ("backend-id", "0")] {
                inside.write(&format!("{front}/{key}"), value)?;
            }
            inside.write(&format!("{front}/state"), "1")?;
            for (n, device) in devices.iter().enumerate() {
                for (key, value) in entry(*device) {
                    inside.write(&format!("{back}/{key}-{n}"), &value)?;
                }
            }
            let of_link = [
                ("num_devs", devices.len().to_string()),
                ("uuid", "link".into()),
                ("domain", "guest".into()),
                ("frontend", front.clone()),
                ("frontend-id", domain.to_string()),
                ("online", "1".into()),
                ("state", "1".into()),
            ];
            for (key, value) in of_link {
                inside.write(&format!("{back}/{key}"), &value)?;
            }
            Ok(())
        }));
    }

    /// `xm pci-attach` of one more device. Returns whether the backend took it up.
    pub fn pci_attach(
        &self,
        world: &mut World,
        domain: DomId,
        device: Sbdf,
        pace: Pace<'_>,
    ) -> bool {
        self.xl.hand_over(domain, device);
        let n = self.count(domain);
        let [dev, others @ ..] = entry(device);
        let state = ("state", "1".to_owned());
        for (key, value) in [dev, state].into_iter().chain(others) {
            self.set(domain, &format!("{key}-{n}"), &value);
            pace(world);
        }
        self.set(domain, "num_devs", &(n + 1).to_string());
        pace(world);
        self.reconfigure(world, domain, pace)
    }

    /// `xm pci-detach`: the handshake first, and then what the device had. Returns whether the
    /// backend let go of it.
    pub fn pci_detach(
        &self,
        world: &mut World,
        domain: DomId,
        device: Sbdf,
        pace: Pace<'_>,
    ) -> bool {
        let name = device.to_string();
        let mut entries = 0..self.count(domain);
        let Some(n) =
            entries.find(|n| self.get(domain, "dev", *n).as_ref() == Some(&name))
        else {
            return false;
        };
        self.set(domain, &format!("state-{n}"), "5");
        pace(world);
        self.reconfigure(world, domain, pace)
    }

    fn reconfigure(&self, world: &mut World, domain: DomId, pace: Pace<'_>) -> bool {
        self.set(domain, "state", "7");
        pace(world);
        if !self.xl.wait_connected(world, domain) {
            return false;
        }
        pace(world);
        if self.clean_up(world, domain, pace) == 0 {
            self.destroy(world, domain, pace);
        }
        true
    }

    /// `PciController.cleanupDevice`: takes closing entries out and moves the others up, node by
    /// node, each away from its old place before it is at its new one. Returns what is left.
    fn clean_up(&self, world: &mut World, domain: DomId, pace: Pace<'_>) -> u32 {
        let mut kept = 0;
        for n in 0..self.count(domain) {
            let closing = self.get(domain, "state", n).as_deref() == Some("5");
            if closing && let Some(device) = self.get(domain, "dev", n) {
                let device = device.parse();
                let _: Result<(), _> = device.map(|device| self.xl.take(domain, device));
            }
            let to = kept;
            kept += u32::from(!closing);
            if !closing && to == n {
                continue;
            }
            for key in KEYS {
                let Some(value) = self.get(domain, key, n) else { continue };
                must(self.store.remove(&format!("{}/{key}-{n}", back_dir(domain))));
                pace(world);
                if !closing {
                    self.set(domain, &format!("{key}-{to}"), &value);
                    pace(world);
                }
            }
        }
        self.set(domain, "num_devs", &kept.to_string());
        pace(world);
        kept
    }

    /// `DevController.destroyDevice` with `force`, as PCI always has it.
    fn destroy(&self, world: &mut World, domain: DomId, pace: Pace<'_>) {
        self.set(domain, "online", "0");
        pace(world);
        self.set(domain, "state", "5");
        pace(world);
        for dir in [back_dir(domain), front_dir(domain)] {
            must(self.store.remove(&dir));
            pace(world);
        }
    }

    fn count(&self, domain: DomId) -> u32 {
        self.store.get(&format!("{}/num_devs", back_dir(domain))).unwrap_or(0)
    }

    fn get(&self, domain: DomId, key: &str, n: u32) -> Option<String> {
        self.store.read(&format!("{}/{key}-{n}", back_dir(domain))).ok()
    }

    fn set(&self, domain: DomId, key: &str, value: &str) {
        must(self.store.write(&format!("{}/{key}", back_dir(domain)), value));
    }
}

/// An entry without its state, which only a hot attach writes.
fn entry(device: Sbdf) -> [(&'static str, String); 4] {
    let name = device.to_string();
    let uuid = format!("uuid-of-{name}");
    [("dev", name.clone()), ("uuid", uuid), ("key", name), ("vdevfn", ANY_SLOT.into())]
}

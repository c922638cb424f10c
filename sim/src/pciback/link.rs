//! One link of dom0's pciback: XenBus states, exports and the virtual bus.

use std::collections::BTreeMap;

use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_xenbus::pciif::MAGIC;
use pcidom_xenbus::{DomId, GrantRef, Port, XenbusState};

use super::serve::Working;
use super::{LinuxPciback, back_dir};
use crate::store::{Connection, Errno};
use crate::xen::Xen;
use crate::xen::grants::Mapping;

/// Slots of the virtual bus (`PCI_SLOT_MAX`, vpci.c).
const SLOTS: u8 = 32;

/// What is mapped and bound while a link is attached.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) page: Mapping,
    pub(super) port: Port,
}

/// One link.
#[derive(Debug)]
pub(super) struct BackLink {
    pub(super) frontend: DomId,
    pub(super) devices: BTreeMap<VirtualBdf, Sbdf>,
    /// What it wrote last, whatever the node says by now.
    state: XenbusState,
    pub(super) attached: Option<Attached>,
    /// The op that is being worked on.
    pub(super) working: Option<Working>,
    pub(super) served: u64,
    /// Vectors that Linux believes it has mapped, per device: MSI-X or not, and how many.
    pub(super) vectors: BTreeMap<Sbdf, super::serve::Vectors>,
}

impl BackLink {
    fn new(frontend: DomId) -> Self {
        Self {
            frontend,
            devices: BTreeMap::new(),
            state: XenbusState::Initialising,
            attached: None,
            working: None,
            served: 0,
            vectors: BTreeMap::new(),
        }
    }

    /// `__xen_pcibk_add_pci_dev` of vpci.c: with others of its physical slot, or in the
    /// first free one; the function number stays.
    fn place(&self, device: Sbdf) -> Option<VirtualBdf> {
        let at = |slot| Sbdf::new(0, 0, slot, device.function()).map(VirtualBdf);
        let key = |sbdf: &Sbdf| (sbdf.segment(), sbdf.bus(), sbdf.device());
        let sibling = self.devices.iter().find(|(_, other)| key(other) == key(&device));
        if let Some((known, _)) = sibling {
            return at(known.0.device());
        }
        let taken =
            |slot: &u8| self.devices.keys().any(|known| known.0.device() == *slot);
        (0..SLOTS).find(|slot| !taken(slot)).and_then(at)
    }

    /// `xen_pcibk_disconnect`
    fn disconnect(&mut self, xen: &Xen) {
        if let Some(Attached { page, port }) = self.attached.take() {
            let _: Result<(), _> = xen.close(DomId::DOM0, port);
            let _: Result<(), _> = xen.unmap_grant(&page);
        }
        self.working = None;
    }
}

impl LinuxPciback {
    pub(super) fn probe(&mut self, frontend: DomId) {
        let dir = back_dir(frontend);
        self.links.insert(frontend, BackLink::new(frontend));
        self.switch(frontend, XenbusState::InitWait);
        let front = self.store.read(&format!("{dir}/frontend")).unwrap_or_default();
        let _: Result<(), _> = self.store.watch(&dir, &format!("back {frontend}"));
        let _: Result<(), _> =
            self.store.watch(&format!("{front}/state"), &format!("front {frontend}"));
    }

    /// `xen_pcibk_xenbus_remove`
    pub(super) fn unregister(&mut self, frontend: DomId) {
        let Some(mut link) = self.links.remove(&frontend) else { return };
        log::info!("dom0 pciback: link to domain {frontend} ends");
        link.disconnect(&self.xen);
        for device in link.devices.values() {
            self.stub.put(&self.xen, *device);
        }
        let front = format!("/local/domain/{frontend}/device/pci/0");
        let dir = back_dir(frontend);
        let _: Result<(), _> = self.store.unwatch(&dir, &format!("back {frontend}"));
        let _: Result<(), _> =
            self.store.unwatch(&format!("{front}/state"), &format!("front {frontend}"));
    }

    /// `xen_pcibk_be_watch`
    pub(super) fn back_changed(&mut self, frontend: &str) {
        let Some(frontend) = self.known(frontend) else { return };
        match self.state_of(&back_dir(frontend)) {
            XenbusState::InitWait => self.set_up(frontend),
            XenbusState::Initialised => {
                self.reconfigure(frontend, XenbusState::Initialised);
            }
            _ => {}
        }
    }

    /// `xen_pcibk_frontend_changed`
    pub(super) fn front_changed(&mut self, frontend: &str) {
        let Some(frontend) = self.known(frontend) else { return };
        match self.front_state(frontend) {
            XenbusState::Initialised => self.attach(frontend),
            XenbusState::Reconfiguring => {
                self.reconfigure(frontend, XenbusState::Reconfiguring);
            }
            XenbusState::Connected => self.switch(frontend, XenbusState::Connected),
            XenbusState::Closing => {
                self.disconnect(frontend);
                self.switch(frontend, XenbusState::Closing);
            }
            XenbusState::Closed => {
                self.disconnect(frontend);
                self.switch(frontend, XenbusState::Closed);
                let online: Option<u32> = self.get(frontend, "online");
                if online.unwrap_or(0) == 0 {
                    self.unregister(frontend);
                }
            }
            XenbusState::Unknown => self.unregister(frontend),
            _ => {}
        }
    }

    fn known(&self, frontend: &str) -> Option<DomId> {
        frontend.parse().ok().filter(|frontend| self.links.contains_key(frontend))
    }

    fn front_state(&self, frontend: DomId) -> XenbusState {
        self.state_of(&format!("/local/domain/{frontend}/device/pci/0"))
    }

    fn get<T: core::str::FromStr>(&self, frontend: DomId, key: &str) -> Option<T> {
        self.store.get(&format!("{}/{key}", back_dir(frontend)))
    }

    fn put(&self, frontend: DomId, key: &str, value: &str) {
        put(&self.store, frontend, key, value);
    }

    /// `xenbus_switch_state`: writes nothing where nothing is any more, and nothing that it
    /// wrote last, even if the toolstack has written something else since.
    fn switch(&mut self, frontend: DomId, state: XenbusState) {
        let there = self.store.read(&format!("{}/state", back_dir(frontend))).is_ok();
        let link = self.links.get_mut(&frontend);
        if let Some(link) = link.filter(|link| there && link.state != state) {
            link.state = state;
            self.put(frontend, "state", &state.number().to_string());
        }
    }

    /// `xen_pcibk_setup_backend`
    fn set_up(&mut self, frontend: DomId) {
        let Some(count) = self.get::<u32>(frontend, "num_devs") else { return };
        for n in 0..count {
            if !self.export(frontend, n) {
                return;
            }
            self.put(frontend, &format!("state-{n}"), "3");
        }
        self.publish_root(frontend);
        self.switch(frontend, XenbusState::Initialised);
        self.attach(frontend);
    }

    /// `xen_pcibk_attach`
    fn attach(&mut self, frontend: DomId) {
        let own = self.state_of(&back_dir(frontend));
        let both = (own, self.front_state(frontend));
        if both != (XenbusState::Initialised, XenbusState::Initialised) {
            return;
        }
        let front = |key: &str| format!("/local/domain/{frontend}/device/pci/0/{key}");
        let reference = self.store.get(&front("pci-op-ref"));
        let port = self.store.get(&front("event-channel"));
        let magic = self.store.read(&front("magic"));
        let (Some(reference), Some(port), true) =
            (reference, port, magic.as_deref() == Ok(MAGIC))
        else {
            log::error!("dom0 pciback: domain {frontend} published nonsense");
            return;
        };
        let Some(link) = self.links.get_mut(&frontend) else { return };
        let attached = open(&self.xen, frontend, reference, port);
        if attached.is_some() && link.attached.is_none() {
            link.attached = attached;
            self.switch(frontend, XenbusState::Connected);
        }
    }

    /// `xen_pcibk_reconfigure`. A failed export leaves everything as it stands.
    fn reconfigure(&mut self, frontend: DomId, expected: XenbusState) {
        if self.state_of(&back_dir(frontend)) != expected {
            return;
        }
        let Some(count) = self.get::<u32>(frontend, "num_devs") else { return };
        for n in 0..count {
            match XenbusState::parse(
                self.get::<String>(frontend, &format!("state-{n}")).as_deref(),
            ) {
                XenbusState::Initialising => {
                    if !self.export(frontend, n) {
                        return;
                    }
                    self.publish_root(frontend);
                    self.put(frontend, &format!("state-{n}"), "3");
                }
                XenbusState::Closing if !self.remove(frontend, n) => return,
                _ => {}
            }
        }
        if expected != XenbusState::Initialised {
            self.switch(frontend, XenbusState::Reconfigured);
        }
    }

    fn export(&mut self, frontend: DomId, n: u32) -> bool {
        let device = self.get::<Sbdf>(frontend, &format!("dev-{n}"));
        let Some(device) = device.filter(|device| self.stub.get(&self.xen, *device))
        else {
            log::error!("dom0 pciback: dev-{n} of domain {frontend} is not there");
            return false;
        };
        let Some(link) = self.links.get_mut(&frontend) else { return false };
        let Some(at) = link.place(device) else {
            // `xenbus_dev_fatal`
            log::error!("dom0 pciback: no more space on the virtual bus");
            self.switch(frontend, XenbusState::Closing);
            return false;
        };
        link.devices.insert(at, device);
        let text =
            format!("{:04x}:{:02x}:{:02x}.{:02x}", 0, 0, at.0.device(), at.0.function());
        self.put(frontend, &format!("vdev-{n}"), &text);
        true
    }

    fn remove(&mut self, frontend: DomId, n: u32) -> bool {
        let at = self.get::<Sbdf>(frontend, &format!("vdev-{n}")).map(VirtualBdf);
        let link = self.links.get_mut(&frontend);
        let device = link.zip(at).and_then(|(link, at)| link.devices.remove(&at));
        match device {
            Some(device) => self.stub.put(&self.xen, device),
            None => {
                log::error!("dom0 pciback: vdev-{n} of domain {frontend} is not there");
            }
        }
        device.is_some()
    }

    fn publish_root(&self, frontend: DomId) {
        self.put(frontend, "root-0", "0000:00");
        self.put(frontend, "root_num", "1");
    }

    fn disconnect(&mut self, frontend: DomId) {
        if let Some(link) = self.links.get_mut(&frontend) {
            link.disconnect(&self.xen);
        }
    }
}

fn put(store: &Connection, frontend: DomId, key: &str, value: &str) {
    let written: Result<(), Errno> =
        store.write(&format!("{}/{key}", back_dir(frontend)), value);
    if let Err(error) = written {
        log::error!("dom0 pciback: {key} of domain {frontend}: {error:?}");
    }
}

/// `xen_pcibk_do_attach`
fn open(xen: &Xen, frontend: DomId, reference: GrantRef, port: Port) -> Option<Attached> {
    let page = xen.map_grant(DomId::DOM0, frontend, reference).ok()?;
    match xen.bind_interdomain(DomId::DOM0, frontend, port) {
        Ok(port) => Some(Attached { page, port }),
        Err(error) => {
            log::error!("dom0 pciback: {error}");
            let _: Result<(), _> = xen.unmap_grant(&page);
            None
        }
    }
}

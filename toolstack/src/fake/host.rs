//! dom0's sysfs in memory.

use std::collections::{BTreeMap, BTreeSet};

use pcidom_pci::Sbdf;
use pcidom_xenbus::DomId;

use crate::host::{Above, Armed, Below, EcamRegion, Host, HostError, Quirk, RawDevice};

/// An NVMe as QEMU makes one: one 64-bit BAR, MSI-X with 65 entries at 0x40, PCI Express
/// at 0x80, interrupt line 16.
pub fn nvme() -> RawDevice {
    let mut config = vec![0; 256];
    let mut put = |offset: usize, bytes: &[u8]| {
        for (at, byte) in (offset..).zip(bytes) {
            if let Some(place) = config.get_mut(at) {
                *place = *byte;
            }
        }
    };
    put(0x00, &[0x36, 0x1b, 0x10, 0x00, 0x02, 0x00, 0x10, 0x00]);
    put(0x10, &0xfe60_0004_u32.to_le_bytes());
    put(0x34, &[0x40]);
    // MSI-X: control 64 (65 entries), table in BAR 0 at 0x2000.
    put(0x40, &[0x11, 0x80, 0x40, 0x00, 0x00, 0x20, 0x00, 0x00]);
    put(0x80, &[0x10, 0x00, 0x02, 0x00]);
    let mut resources = vec![[0; 3]; 7];
    if let Some(first) = resources.first_mut() {
        *first = [0xfe60_0000, 0xfe60_3fff, 0x14_0204];
    }
    RawDevice { resources, irq: 16, config, on_pciback: true }
}

/// A hot-plug capable root port as QEMU makes one, PCI Express at 0x40, without the BAR.
pub fn port() -> RawDevice {
    let mut config = vec![0; 256];
    let mut put = |offset: usize, bytes: &[u8]| {
        for (at, byte) in (offset..).zip(bytes) {
            if let Some(place) = config.get_mut(at) {
                *place = *byte;
            }
        }
    };
    put(0x00, &[0x36, 0x1b, 0x0c, 0x00, 0x07, 0x00, 0x10, 0x00]);
    put(0x0e, &[0x01]);
    put(0x34, &[0x40]);
    // Root port, version 2, with a slot; Slot Capabilities: hot-plug capable.
    put(0x40, &[0x10, 0x00, 0x42, 0x01]);
    put(0x54, &[0x40]);
    RawDevice { resources: vec![[0; 3]; 7], irq: 16, config, on_pciback: true }
}

/// dom0 with some devices.
#[derive(Clone, Debug, Default)]
pub struct FakeHost {
    /// What sysfs shows of each.
    pub devices: BTreeMap<Sbdf, RawDevice>,
    /// Those that pciback lets MSI(-X) enable through for.
    pub armed: BTreeSet<Sbdf>,
    /// The registers of each that pciback lets through.
    pub quirks: BTreeMap<Sbdf, Vec<Quirk>>,
    /// Those that pciback lets everything through for.
    pub permissive: BTreeSet<Sbdf>,
    /// The port above each device that is not on a root bus.
    pub ports: BTreeMap<Sbdf, Sbdf>,
    /// The driver that has a device, if that is not pciback.
    pub drivers: BTreeMap<Sbdf, String>,
    /// What the firmware's MCFG table says.
    pub ecam: Vec<EcamRegion>,
    /// libxl's records, by domain.
    pub configs: BTreeMap<DomId, String>,
}

impl Host for FakeHost {
    fn domain_config(&mut self, domain: DomId, _uuid: &str) -> Option<String> {
        self.configs.get(&domain).cloned()
    }

    fn device(&mut self, device: Sbdf) -> Result<RawDevice, HostError> {
        let raw = self.devices.get(&device).cloned();
        raw.ok_or_else(|| HostError(format!("{device}: no such device")))
    }

    fn above(&mut self, device: Sbdf) -> Result<Above, HostError> {
        self.device(device)?;
        Ok(self.ports.get(&device).map_or(Above::RootBus, |port| Above::Port(*port)))
    }

    fn below(&mut self, port: Sbdf) -> Result<Vec<Below>, HostError> {
        self.device(port)?;
        let below = self.ports.iter().filter(|(_, above)| **above == port);
        let below = below.map(|(device, _)| {
            let pciback = self.devices.get(device).is_some_and(|raw| raw.on_pciback);
            let driver = self.drivers.get(device).cloned();
            Below {
                device: *device,
                driver: driver.or(pciback.then(|| "pciback".into())),
            }
        });
        Ok(below.collect())
    }

    fn ecam(&mut self) -> Result<Vec<EcamRegion>, HostError> {
        Ok(self.ecam.clone())
    }

    fn stop_dma(&mut self, device: Sbdf) -> Result<(), HostError> {
        if let Some(command) =
            self.devices.get_mut(&device).and_then(|raw| raw.config.get_mut(4))
        {
            *command &= !4;
        }
        Ok(())
    }

    fn disable_line(&mut self, device: Sbdf) -> Result<(), HostError> {
        if let Some(command) =
            self.devices.get_mut(&device).and_then(|raw| raw.config.get_mut(5))
        {
            *command |= 4;
        }
        Ok(())
    }

    fn arm(&mut self, device: Sbdf, quirks: &[Quirk]) -> Result<(), HostError> {
        self.armed.insert(device);
        self.arm_port(device, quirks)
    }

    fn arm_port(&mut self, port: Sbdf, quirks: &[Quirk]) -> Result<(), HostError> {
        self.quirks.insert(port, quirks.into());
        Ok(())
    }

    fn permit(&mut self, device: Sbdf) -> Result<(), HostError> {
        self.permissive.insert(device);
        Ok(())
    }

    fn armed(&mut self, device: Sbdf) -> Result<Armed, HostError> {
        let permissive = self.permissive.contains(&device);
        let quirks = self.quirks.get(&device).cloned().unwrap_or_default();
        Ok(Armed { permissive, quirks })
    }
}

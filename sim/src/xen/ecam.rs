//! Config space as memory (ECAM): which frame is whose, and who has it mapped.
//!
//! Xen maps such a frame read-only for any domain with a right to it. Taking that right
//! does not end a mapping.

use pcidom_pci::{Register, Sbdf};
use pcidom_xenbus::{DomId, Mfn};

use super::devices::Hand;
use super::errno::{EINVAL, EPERM};
use super::{Xen, XenResult, refused};

/// Where the config space of segment 0 starts, and how many buses it has, as the firmware's
/// MCFG table says.
pub const BASE: u64 = 0xb000_0000;

/// The frame that is this device's config space.
pub fn frame(device: Sbdf) -> Mfn {
    let number = u64::from(device.bus()) << 8 | u64::from(device.devfn());
    Mfn((BASE >> 12) + number)
}

impl Xen {
    fn device_at(&self, wanted: Mfn) -> Option<Sbdf> {
        self.devices().into_iter().find(|device| frame(*device) == wanted)
    }

    /// `update_va_mapping` of a config space frame.
    pub fn map_config_frame(&self, domain: DomId, frame: Mfn) -> XenResult<Sbdf> {
        const CALL: &str = "update_va_mapping";
        if !self.rights(domain).iomem.contains(&frame.0) {
            return refused(CALL, EPERM);
        }
        let Some(device) = self.device_at(frame) else { return refused(CALL, EINVAL) };
        self.state_mut().config_maps.push((domain, device));
        Ok(device)
    }

    /// The end of such a mapping.
    pub fn unmap_config_frame(&self, domain: DomId, frame: Mfn) -> XenResult<()> {
        let device = self.device_at(frame);
        let maps = &mut self.state_mut().config_maps;
        match maps.iter().position(|map| Some(*map) == device.map(|d| (domain, d))) {
            Some(place) => {
                maps.swap_remove(place);
                Ok(())
            }
            None => refused("update_va_mapping", EINVAL),
        }
    }

    /// Which domains have which device's config space mapped.
    pub fn config_maps(&self) -> Vec<(DomId, Sbdf)> {
        self.state().config_maps.clone()
    }

    /// A read through a mapping.
    pub(crate) fn read_config_frame(
        &self,
        domain: DomId,
        frame: Mfn,
        register: Register,
    ) -> u32 {
        if !self.rights(domain).iomem.contains(&frame.0) {
            self.violation(format!("{domain} reads {frame:?}, which was taken from it"));
        }
        let device = self.device_at(frame);
        let read = device.and_then(|device| {
            self.with_hardware(device, Hand::Frontend, |backend| {
                backend.hardware().read(register)
            })
        });
        read.unwrap_or(register.width().mask())
    }
}

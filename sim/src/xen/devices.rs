//! PCI devices: their hardware, their owner, and the rights to their resources.
//!
//! The hardware and dom0's config space filter in front of it are the fakes of the PCI
//! crate; here is what Xen adds: whose the device is, and MSI-X masking as it goes wrong.

use std::collections::BTreeSet;

use pcidom_pci::fake::{FakeBackend, spread_bus_resets};
use pcidom_pci::regs::{command, header, msix};
use pcidom_pci::{BarKind, Function, Sbdf, ScanError, scan};
use pcidom_script::Instant;
use pcidom_xenbus::{DomId, Pirq};

use super::errno::{EBUSY, EINVAL, ENODEV, EOPNOTSUPP, ESRCH};
use super::record::Deed;
use super::{DOM_IO, Xen, XenResult, refused};
use crate::xen::domains::Life;

/// Rights that domctls give to a domain and take again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Machine pages.
    pub iomem: BTreeSet<u64>,
    /// I/O ports.
    pub ports: BTreeSet<u32>,
    /// Interrupts, by dom0's pirq.
    pub irqs: BTreeSet<Pirq>,
}

/// A PCI device of the host.
#[derive(Debug)]
pub(super) struct Device {
    backend: FakeBackend,
    /// What it is, as recorded at boot: Xen and dom0 read it before anybody can change it.
    function: Function,
    pub(super) owner: DomId,
    gsi: Option<Pirq>,
    /// The hardware's own time, for resets that take some.
    elapsed_to: Instant,
}

/// Most pages or ports a device may have in the simulator: rights are kept one by one.
const MAX_RESOURCE: u64 = 0x1_0000;

/// Whose hand writes to the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// A frontend's, through dom0's pciback.
    Frontend,
    /// dom0's own: libxl or pciback at bind and put.
    Dom0,
}

impl Xen {
    /// Puts a device into the host. dom0 owns it, as at boot.
    pub fn add_device(&self, mut backend: FakeBackend, gsi: Option<Pirq>) -> Sbdf {
        let sbdf = backend.sbdf();
        // On a copy: looking leaves no trace in the hardware's write log.
        let (found, _) = pcidom_pci::fake::run(&mut backend.clone(), scan_owned);
        #[expect(clippy::expect_used, reason = "a test that adds a broken device fails")]
        let function = found.expect("a device that can be scanned");
        backend.hardware_mut().take_writes();
        let elapsed_to = self.now();
        let device = Device { backend, function, owner: DomId::DOM0, gsi, elapsed_to };
        self.state_mut().devices.insert(sbdf, device);
        sbdf
    }

    /// All devices.
    pub fn devices(&self) -> Vec<Sbdf> {
        self.state().devices.keys().copied().collect()
    }

    /// What a device is, as recorded at boot.
    pub fn function(&self, device: Sbdf) -> Option<Function> {
        self.state().devices.get(&device).map(|device| device.function.clone())
    }

    /// Its line interrupt.
    pub fn gsi(&self, device: Sbdf) -> Option<Pirq> {
        self.state().devices.get(&device)?.gsi
    }

    /// Whose it is.
    pub fn owner(&self, device: Sbdf) -> Option<DomId> {
        self.state().devices.get(&device).map(|device| device.owner)
    }

    /// Works on the hardware through dom0's filter, at the present time; notices resets.
    pub fn with_hardware<T>(
        &self,
        sbdf: Sbdf,
        hand: Hand,
        act: impl FnOnce(&mut FakeBackend) -> T,
    ) -> Option<T> {
        let now = self.now();
        let (result, reset) = {
            let mut state = self.state_mut();
            for device in state.devices.values_mut() {
                device.backend.elapse(now.since(device.elapsed_to));
                device.elapsed_to = now;
            }
            let resets = |device: &Device| device.backend.hardware().resets();
            let before: Vec<u32> = state.devices.values().map(resets).collect();
            let result = act(&mut state.devices.get_mut(&sbdf)?.backend);
            // What a port does, all below it feel.
            let backends = state.devices.values_mut().map(|device| &mut device.backend);
            spread_bus_resets(&mut backends.collect::<Vec<_>>());
            let changed = state.devices.iter().zip(before);
            let changed = changed.filter(|((_, device), old)| resets(device) != *old);
            let reset: Vec<Sbdf> = changed.map(|((device, _), _)| *device).collect();
            (result, reset)
        };
        for device in reset {
            self.note(Deed::Reset { device });
            let live = self.vectors_of(device);
            if hand == Hand::Frontend && !live.is_empty() {
                self.violation(format!("{device} was reset while {live:?} were mapped"));
            }
        }
        Some(result)
    }

    /// Memory decode is on in the hardware.
    pub fn decodes_memory(&self, device: Sbdf) -> bool {
        self.hardware_bits(device, header::COMMAND) & command::MEMORY != 0
    }

    /// Bus mastering is on in the hardware.
    pub fn is_master(&self, device: Sbdf) -> bool {
        self.hardware_bits(device, header::COMMAND) & command::BUS_MASTER != 0
    }

    /// The MSI-X control word in the hardware; 0 if it has none.
    pub fn msix_control(&self, device: Sbdf) -> u16 {
        let msix = self.function(device).and_then(|function| function.msix);
        msix.map_or(0, |msix| self.hardware_bits(device, msix.control()))
    }

    fn hardware_bits(&self, device: Sbdf, offset: u16) -> u16 {
        let state = self.state();
        let hardware = state.devices.get(&device).map(|device| device.backend.hardware());
        let [low, high, ..] =
            hardware.map_or(0, |hardware| hardware.word(offset)).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// `XEN_DOMCTL_assign_device`. Only out of quarantine or from dom0, and not while Xen
    /// holds the device masked.
    pub fn assign_device(
        &self,
        caller: DomId,
        domain: DomId,
        device: Sbdf,
    ) -> XenResult<()> {
        let call = "assign_device";
        self.privileged(caller, call)?;
        if domain != DOM_IO {
            let state = self.state();
            match state.domains.get(&domain) {
                None => return refused(call, ESRCH),
                Some(target) if target.life == Life::Dying => {
                    return refused(call, EINVAL);
                }
                Some(target) if !target.config.iommu => return refused(call, EOPNOTSUPP),
                Some(_) => {}
            }
        }
        match self.owner(device) {
            None => return refused(call, ENODEV),
            Some(DomId::DOM0 | DOM_IO) => {}
            Some(_) => return refused(call, EBUSY),
        }
        if self.msix_control(device) & msix::MASKALL != 0 {
            return refused(call, EBUSY);
        }
        self.set_owner(device, domain);
        self.note(Deed::Assign { domain, device });
        Ok(())
    }

    /// `XEN_DOMCTL_deassign_device`: into quarantine. Works on a dying domain.
    pub fn deassign_device(
        &self,
        caller: DomId,
        domain: DomId,
        device: Sbdf,
    ) -> XenResult<()> {
        let call = "deassign_device";
        self.privileged(caller, call)?;
        if self.life(domain).is_none() {
            return refused(call, ESRCH);
        }
        if self.owner(device) != Some(domain) {
            return refused(call, ENODEV);
        }
        self.move_to_quarantine(domain, device);
        Ok(())
    }

    /// `XEN_DOMCTL_iomem_permission`.
    pub fn iomem_permission(
        &self,
        caller: DomId,
        domain: DomId,
        first_page: u64,
        pages: u64,
        allow: bool,
    ) -> XenResult<()> {
        let range = first_page..first_page.saturating_add(pages.min(MAX_RESOURCE));
        self.change_rights(caller, domain, "iomem_permission", |rights| {
            set(&mut rights.iomem, range.clone(), allow);
        })?;
        if allow {
            self.check_rights_follow_ownership(domain);
        }
        Ok(())
    }

    /// `XEN_DOMCTL_ioport_permission`.
    pub fn ioport_permission(
        &self,
        caller: DomId,
        domain: DomId,
        first: u32,
        ports: u32,
        allow: bool,
    ) -> XenResult<()> {
        let range = first..first.saturating_add(ports.min(0x1_0000));
        self.change_rights(caller, domain, "ioport_permission", |rights| {
            set(&mut rights.ports, range.clone(), allow);
        })
    }

    /// `XEN_DOMCTL_irq_permission`.
    pub fn irq_permission(
        &self,
        caller: DomId,
        domain: DomId,
        gsi: Pirq,
        allow: bool,
    ) -> XenResult<()> {
        self.change_rights(caller, domain, "irq_permission", |rights| {
            set(&mut rights.irqs, [gsi], allow);
        })
    }

    /// The rights a domain has now.
    pub fn rights(&self, domain: DomId) -> Rights {
        let state = self.state();
        state.domains.get(&domain).map(|domain| domain.rights.clone()).unwrap_or_default()
    }

    /// The pages of all memory BARs of a device.
    pub fn bar_pages(&self, device: Sbdf) -> BTreeSet<u64> {
        let function = self.function(device);
        let bars = function.iter().flat_map(|function| &function.bars);
        let memory = bars.filter(|bar| matches!(bar.kind, BarKind::Memory { .. }));
        let pages = memory.flat_map(|bar| {
            let end = bar.address.saturating_add(bar.size).div_ceil(0x1000);
            bar.address >> 12..end
        });
        pages.collect()
    }

    /// The device that has a BAR with this page.
    pub(crate) fn bar_at(&self, page: u64) -> Option<Sbdf> {
        self.devices().into_iter().find(|device| self.bar_pages(*device).contains(&page))
    }

    pub(super) fn devices_of(&self, domain: DomId) -> Vec<Sbdf> {
        let state = self.state();
        let own = state.devices.iter().filter(|(_, device)| device.owner == domain);
        own.map(|(sbdf, _)| *sbdf).collect()
    }

    pub(super) fn move_to_quarantine(&self, domain: DomId, device: Sbdf) {
        self.set_owner(device, DOM_IO);
        self.note(Deed::Deassign { domain, device });
    }

    /// Xen can't mask one vector of a device that does not decode memory, so it masks all
    /// of them and holds that until the next FLR.
    pub(super) fn mask_all(&self, device: Sbdf) {
        if let Some(device) = self.state_mut().devices.get_mut(&device) {
            device.backend.hardware_mut().set_fault(pcidom_pci::fake::Fault::MaskHeld);
        }
        self.note(Deed::MaskAll { device });
    }

    fn set_owner(&self, device: Sbdf, owner: DomId) {
        if let Some(device) = self.state_mut().devices.get_mut(&device) {
            device.owner = owner;
        }
    }

    fn change_rights(
        &self,
        caller: DomId,
        domain: DomId,
        call: &'static str,
        change: impl FnOnce(&mut Rights),
    ) -> XenResult<()> {
        self.privileged(caller, call)?;
        match self.state_mut().domains.get_mut(&domain) {
            Some(domain) => {
                change(&mut domain.rights);
                Ok(())
            }
            None => refused(call, ESRCH),
        }
    }

    /// BARs without an IOMMU context end in VT-d faults: rights come after the assignment.
    /// libxl gives them before, to the domain that the device goes to next.
    fn check_rights_follow_ownership(&self, domain: DomId) {
        let pages = self.rights(domain).iomem;
        for device in self.devices() {
            let owner = self.owner(device);
            let foreign = !matches!(owner, Some(DomId::DOM0 | DOM_IO))
                && owner != Some(domain)
                && !self.serves(domain, owner)
                && domain != DomId::DOM0;
            if foreign && !self.bar_pages(device).is_disjoint(&pages) {
                self.violation(format!(
                    "domain {domain} got the BARs of {device}, which belongs to {owner:?}"
                ));
            }
        }
    }
}

fn set<T: Ord>(to: &mut BTreeSet<T>, items: impl IntoIterator<Item = T>, allow: bool) {
    for item in items {
        if allow {
            to.insert(item);
        } else {
            to.remove(&item);
        }
    }
}

async fn scan_owned(config: pcidom_pci::Config) -> Result<Function, ScanError> {
    scan(&config).await
}

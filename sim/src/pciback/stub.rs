//! pcistub: what Linux remembers of each device between the frontends that get it.

use std::collections::BTreeMap;

use pcidom_pci::fake::Armed;
use pcidom_pci::regs::{command, header, msix};
use pcidom_pci::{Access, Register, Sbdf, Width};

use crate::xen::Xen;
use crate::xen::devices::Hand;

/// The devices that are bound, and their config space as it was then.
#[derive(Debug)]
pub(super) struct Stub {
    saved: BTreeMap<Sbdf, Vec<u8>>,
}

impl Stub {
    /// Binds every device of the host.
    pub(super) fn new(xen: &Xen) -> Self {
        let mut stub = Self { saved: BTreeMap::new() };
        for device in xen.devices() {
            stub.bind(xen, device);
        }
        stub
    }

    /// Saves a device's state, once.
    fn bind(&mut self, xen: &Xen, device: Sbdf) {
        let bytes =
            xen.with_hardware(device, Hand::Dom0, |b| b.hardware().bytes().to_vec());
        if let Some(bytes) = bytes {
            self.saved.entry(device).or_insert(bytes);
        }
    }

    /// `pcistub_get_pci_dev`: whether the device is there to be exported.
    pub(super) fn get(&mut self, xen: &Xen, device: Sbdf) -> bool {
        self.bind(xen, device);
        self.saved.contains_key(&device)
    }

    /// `pcistub_put_pci_dev`: reset, saved state back, disabled, and nothing let through.
    pub(super) fn put(&self, xen: &Xen, device: Sbdf) {
        reset(xen, device);
        let Some(saved) = self.saved.get(&device) else { return };
        let msix = xen.function(device).and_then(|function| function.msix);
        xen.with_hardware(device, Hand::Dom0, |backend| {
            let hardware = backend.hardware_mut();
            for offset in
                (header::bar(0)..header::bar(6)).chain(header::ROM..header::ROM + 4)
            {
                let byte = saved.get(usize::from(offset)).copied().unwrap_or(0);
                hardware.set_bytes(offset, &[byte]);
            }
            if let Some(msix) = msix {
                let control = msix.control();
                let [low, high, ..] = hardware.word(control).to_le_bytes();
                let word = u16::from_le_bytes([low, high]) & !msix::ENABLE;
                hardware.set_bytes(control, &word.to_le_bytes());
            }
            if let Some(register) = Register::new(header::COMMAND, Width::Word) {
                // Twice: what Linux believes first, so that the second one is a change.
                let decode = u32::from(command::MEMORY | command::IO);
                let _: pcidom_pci::Answer =
                    backend.access(Access::Write(register, decode));
                let _: pcidom_pci::Answer = backend.access(Access::Write(register, 0));
            }
            *backend.arms() = Armed::default();
        });
    }
}

/// A reset by dom0 itself, as through sysfs: FLR and the saved BARs written back, if the
/// device can; libxl does this without asking who has it.
pub(crate) fn reset(xen: &Xen, device: Sbdf) {
    let function = xen.function(device);
    let pcie = function.as_ref().and_then(|function| function.pcie);
    if !pcie.is_some_and(|pcie| pcie.flr) {
        return;
    }
    let registers = function.into_iter().flat_map(|function| function.bar_registers);
    xen.with_hardware(device, Hand::Dom0, |backend| {
        let hardware = backend.hardware_mut();
        hardware.reset();
        for register in registers {
            hardware.set_bytes(register.offset, &register.value.to_le_bytes());
        }
        let decode = command::MEMORY.to_le_bytes();
        hardware.set_bytes(header::COMMAND, &decode);
    });
}

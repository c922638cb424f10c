//! After a reset: what firmware and dom0 had set up is put back, and looked at.

use alloc::vec::Vec;

use super::quiet::is_quiet;
use super::subject::{
    COMMAND, Deed, Step, base_address, device_control, power_control, rom_address,
};
use crate::function::{BarKind, Function};
use crate::regs::{bar, command, header, pcie, pm};

/// Writes the recorded BARs and Device Control back, turns decoding off and on, and looks that
/// the function is as it was scanned, and quiet: MSI, bus mastering and these bits of MSI-X's
/// Message Control are off.
pub(super) fn restore(function: &Function, msix_bits: u16) -> Vec<Step> {
    let mut steps = Vec::new();
    for bar in &function.bar_registers {
        steps.push((base_address(bar.offset), Deed::Write(bar.value)));
    }
    if let Some(rom) = &function.rom {
        let register = &rom.register;
        steps.push((rom_address(register.offset), Deed::Write(register.value)));
    }
    if let Some(pcie) = &function.pcie {
        let (place, control) = (device_control(pcie), pcie.control.into());
        steps.push((place, Deed::Write(control)));
        steps.push((place, Deed::Is(control, u32::from(!pcie::INITIATE_FLR))));
    }
    let off = function.decode() & command::INTX_DISABLE;
    steps.push((COMMAND, Deed::Write(off.into())));
    steps.push((COMMAND, Deed::Write(function.decode().into())));
    if let Some(pm) = &function.pm {
        let off = Deed::Off(pm::STATE.into(), "PowerState");
        steps.push((power_control(pm.offset), off));
    }
    // Those that decode something, and by their addresses: that is what a guest is given.
    for known in function.bars.iter().filter(|known| known.address != 0) {
        let (flags, registers) = match known.kind {
            BarKind::Io => (bar::IO_FLAGS, 1),
            BarKind::Memory { wide, .. } => (bar::MEMORY_FLAGS, 1 + u16::from(wide)),
        };
        let low = header::bar(known.index);
        for register in &function.bar_registers {
            let at = register.offset;
            if (low..low + 4 * registers).contains(&at) {
                let mask = if at == low { !flags } else { u32::MAX };
                steps.push((base_address(at), Deed::Looks(register.value, mask)));
            }
        }
    }
    is_quiet(function, msix_bits, &mut steps);
    steps
}

//! After a reset: what firmware and dom0 had set up is put back, and looked at.

use super::error::Trip;
use super::quiet::verify_quiet;
use super::subject::{
    COMMAND, Subject, base_address, device_control, power_control, rom_address,
};
use crate::function::BarKind;
use crate::regs::{bar, header, pcie, pm};

/// Writes the recorded BARs and Device Control back, and turns decoding off and on.
pub(super) async fn restore(at: &Subject<'_>) -> Result<(), Trip> {
    for bar in &at.function.bar_registers {
        at.write32(base_address(bar.offset), bar.value).await?;
    }
    if let Some(rom) = &at.function.rom {
        at.write32(rom_address(rom.register.offset), rom.register.value).await?;
    }
    if let Some(pcie) = &at.function.pcie
        && at.read16(device_control(pcie)).await? != pcie.control
    {
        at.write16(device_control(pcie), pcie.control).await?;
    }
    at.write16(COMMAND, 0).await?;
    at.write16(COMMAND, at.function.decode()).await?;
    Ok(())
}

/// The function is as it was scanned, and quiet: MSI, bus mastering and these bits of MSI-X's
/// Message Control are off.
pub(super) async fn verify(at: &Subject<'_>, msix_bits: u16) -> Result<(), Trip> {
    let function = at.function;
    if let Some(pm) = &function.pm {
        at.expect_clear(power_control(pm.offset), pm::STATE, "PowerState").await?;
    }
    if let Some(pcie) = &function.pcie {
        let register = device_control(pcie);
        let is = at.read16(register).await? & !pcie::INITIATE_FLR;
        at.expect(register, u32::MAX, pcie.control.into(), is.into())?;
    }
    // Those that decode something, and by their addresses: that is what a guest is given.
    for known in function.bars.iter().filter(|known| known.address != 0) {
        let low = base_address(header::bar(known.index));
        let high = base_address(low.offset.saturating_add(4));
        let (flags, wide) = match known.kind {
            BarKind::Io => (bar::IO_FLAGS, false),
            BarKind::Memory { wide, .. } => (bar::MEMORY_FLAGS, wide),
        };
        for register in [Some(low), Some(high).filter(|_| wide)].into_iter().flatten() {
            let mut registers = function.bar_registers.iter();
            let was = registers.find(|bar| bar.offset == register.offset);
            let mask = if register.offset == low.offset { !flags } else { u32::MAX };
            if let Some(was) = was {
                let is = at.look32(register).await?;
                at.expect(register, mask, was.value, is)?;
            }
        }
    }
    verify_quiet(at, msix_bits).await
}

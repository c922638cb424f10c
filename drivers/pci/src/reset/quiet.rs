//! Before a reset: interrupts and bus mastering off, and a mark to see later that the reset
//! happened.

use alloc::vec::Vec;

use super::error::Trip;
use super::subject::{
    CACHE_LINE, COMMAND, Deed, Step, Subject, msi_control, msix_control,
};
use crate::function::Function;
use crate::regs::{command, msi, msix};

/// What is left in Cache Line Size before a reset; no value that firmware writes.
const MARK: u32 = 0xa5;

/// Turns MSI, MSI-X and bus mastering off, memory decode on, and checks that it is so.
pub(super) async fn quiesce(at: &Subject<'_>) -> Result<(), Trip> {
    let function = at.function;
    let mut steps = Vec::new();
    if let Some(msi) = &function.msi {
        steps.push((msi_control(msi.offset), Deed::Clear(msi::ENABLE.into())));
    }
    if let Some(msix) = &function.msix {
        let bits = msix::ENABLE | msix::MASKALL;
        steps.push((msix_control(msix.offset), Deed::Clear(bits.into())));
    }
    let decode = Deed::Write(function.decode().into());
    steps.push((COMMAND, decode));
    at.carry_out(&steps).await?;
    let master = command::BUS_MASTER;
    steps.clear();
    if at.read(COMMAND).await? & u32::from(master) != 0 {
        // dom0 clears the bit only if it believes that it is set; make it believe that.
        steps.push((COMMAND, Deed::Write((function.decode() | master).into())));
        steps.push((COMMAND, decode));
    }
    // Not Function Mask: where Xen holds it set, only a reset gets rid of it.
    is_quiet(function, msix::ENABLE, &mut steps);
    at.carry_out(&steps).await
}

/// Looks that MSI, bus mastering and these bits of MSI-X's Message Control are off.
pub(super) fn is_quiet(function: &Function, msix_bits: u16, steps: &mut Vec<Step>) {
    if let Some(msi) = &function.msi {
        let off = Deed::Off(msi::ENABLE.into(), "MSI Enable");
        steps.push((msi_control(msi.offset), off));
    }
    if let Some(msix) = &function.msix {
        let off = Deed::Off(msix_bits.into(), "MSI-X Enable or Function Mask");
        steps.push((msix_control(msix.offset), off));
    }
    let off = Deed::Off(command::BUS_MASTER.into(), "Bus Master Enable");
    steps.push((COMMAND, off));
}

/// Leaves the mark.
pub(super) async fn mark(at: &Subject<'_>) -> Result<(), Trip> {
    let before = at.read(CACHE_LINE).await?;
    at.write(CACHE_LINE, MARK).await?;
    // Some functions have it read-only; those can't show that they were reset.
    let marked = at.read(CACHE_LINE).await? == MARK;
    at.marked.set(marked.then_some(before));
    Ok(())
}

/// Takes the mark away where it still is. Returns whether it was there: no reset happened.
pub(super) async fn unmark(at: &Subject<'_>) -> Result<bool, Trip> {
    let Some(before) = at.marked.take() else { return Ok(false) };
    let still = at.read(CACHE_LINE).await? == MARK;
    if still {
        at.write(CACHE_LINE, before).await?;
    }
    at.proven.set(!still);
    Ok(still)
}

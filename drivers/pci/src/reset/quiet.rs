//! Before a reset: interrupts and bus mastering off, and a mark to see later that the reset
//! happened.

use super::error::Trip;
use super::subject::{CACHE_LINE, COMMAND, Subject, msi_control, msix_control};
use crate::regs::{command, msi, msix};

/// What is left in Cache Line Size before a reset; no value that firmware writes.
const MARK: u8 = 0xa5;

/// Turns MSI, MSI-X and bus mastering off, memory decode on, and checks that it is so.
pub(super) async fn quiesce(at: &Subject<'_>) -> Result<(), Trip> {
    let function = at.function;
    if let Some(msi) = &function.msi {
        at.clear16(msi_control(msi.offset), msi::ENABLE).await?;
    }
    if let Some(msix) = &function.msix {
        at.clear16(msix_control(msix.offset), msix::ENABLE | msix::MASKALL).await?;
    }
    let decode = function.decode();
    at.write16(COMMAND, decode).await?;
    if at.read16(COMMAND).await? & command::BUS_MASTER != 0 {
        // dom0 clears the bit only if it believes that it is set; make it believe that.
        at.write16(COMMAND, decode | command::BUS_MASTER).await?;
        at.write16(COMMAND, decode).await?;
    }
    // Not Function Mask: where Xen holds it set, only a reset gets rid of it.
    verify_quiet(at, msix::ENABLE).await
}

/// MSI, bus mastering and these bits of MSI-X's Message Control are off.
pub(super) async fn verify_quiet(at: &Subject<'_>, msix_bits: u16) -> Result<(), Trip> {
    if let Some(msi) = &at.function.msi {
        at.expect_clear(msi_control(msi.offset), msi::ENABLE, "MSI Enable").await?;
    }
    if let Some(msix) = &at.function.msix {
        let register = msix_control(msix.offset);
        at.expect_clear(register, msix_bits, "MSI-X Enable or Function Mask").await?;
    }
    at.expect_clear(COMMAND, command::BUS_MASTER, "Bus Master Enable").await
}

/// Leaves the mark.
pub(super) async fn mark(at: &Subject<'_>) -> Result<(), Trip> {
    let before = at.read8(CACHE_LINE).await?;
    at.write8(CACHE_LINE, MARK).await?;
    // Some functions have it read-only; those can't show that they were reset.
    let marked = at.read8(CACHE_LINE).await? == MARK;
    at.marked.set(marked.then_some(before));
    Ok(())
}

/// Takes the mark away where it still is. Returns whether it was there: no reset happened.
pub(super) async fn unmark(at: &Subject<'_>) -> Result<bool, Trip> {
    let Some(before) = at.marked.take() else { return Ok(false) };
    let still = at.read8(CACHE_LINE).await? == MARK;
    if still {
        at.write8(CACHE_LINE, before).await?;
    }
    Ok(still)
}

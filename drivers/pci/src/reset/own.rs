//! Methods of the function itself: FLR, FLR of Advanced Features, and D3hot.

use core::time::Duration;

use super::error::{Named, Trip};
use super::subject::{Subject, device_control, device_status, power_control};
use crate::regs::{af, pcie, pm};

/// How long to wait before each look at Transactions Pending. Linux waits as long and then
/// goes on too: a function that never stops claiming pending transactions must be reset
/// all the same.
pub const PENDING_DELAYS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

/// How long a function must be left alone after FLR (PCIe 6.6.2, AF 3).
pub const FLR_WAIT: Duration = Duration::from_millis(100);

/// How long a function must be left alone after a change from or to D3hot (PM 5.6.1).
pub const POWER_WAIT: Duration = Duration::from_millis(10);

/// AF Control and, in its upper half, AF Status.
const fn af_control(start: u16) -> Named {
    let name = "Advanced Features Control";
    Named { name, offset: start.saturating_add(af::CONTROL) }
}

/// Waits until no function has transactions pending, but not for ever.
pub(super) async fn settle(all: &[Subject<'_>]) -> Result<(), Trip> {
    for delay in PENDING_DELAYS {
        if !delay.is_zero()
            && let Some(first) = all.first()
        {
            first.wait(delay).await;
        }
        let mut pending = false;
        for at in all {
            let (register, bit) = match (&at.function.pcie, &at.function.af) {
                (Some(pcie), _) => (device_status(pcie), pcie::TRANSACTIONS_PENDING),
                (None, Some(found)) if found.pending => {
                    (af_control(found.offset), u16::from(af::PENDING) << 8)
                }
                _ => continue,
            };
            pending |= at.read16(register).await? & bit != 0;
        }
        if !pending {
            break;
        }
    }
    Ok(())
}

/// Initiate Function Level Reset, in Device Control.
pub(super) async fn function_level(at: &Subject<'_>) -> Result<bool, Trip> {
    let Some(pcie) = &at.function.pcie else { return Ok(false) };
    at.write16(device_control(pcie), pcie.control | pcie::INITIATE_FLR).await?;
    at.wait(FLR_WAIT).await;
    Ok(true)
}

/// Initiate FLR, in AF Control.
pub(super) async fn advanced_features(at: &Subject<'_>) -> Result<bool, Trip> {
    let Some(af) = &at.function.af else { return Ok(false) };
    at.write8(af_control(af.offset), af::INITIATE_FLR).await?;
    at.wait(FLR_WAIT).await;
    Ok(true)
}

/// To D3hot and back. Returns whether it went there.
pub(super) async fn power_state(at: &Subject<'_>) -> Result<bool, Trip> {
    let Some(pm) = &at.function.pm else { return Ok(false) };
    let register = power_control(pm.offset);
    let control = at.read16(register).await? & !pm::STATE;
    let sent = at.write16(register, control | pm::STATE).await;
    at.wait(POWER_WAIT).await;
    let there = at.read16(register).await;
    // Whatever was answered, it must not stay there.
    at.write16_surely(register, control).await?;
    at.wait(POWER_WAIT).await;
    sent?;
    Ok(there? & pm::STATE == pm::STATE)
}

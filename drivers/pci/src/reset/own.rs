//! Methods of the function itself: FLR, FLR of Advanced Features, and D3hot.

use core::time::Duration;

use super::Method;
use super::error::Trip;
use super::subject::{
    Deed, Place, Subject, device_control, device_status, power_control,
};
use crate::access::Width;
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

/// A byte of Advanced Features.
const fn advanced(start: u16, offset: u16) -> Place {
    let name = "Advanced Features Control and Status";
    Place::new(name, start.saturating_add(offset), Width::Byte)
}

/// Waits until no function has transactions pending, but not for ever.
pub(super) async fn settle(all: &[Subject<'_>]) -> Result<(), Trip> {
    for delay in PENDING_DELAYS {
        if let Some(first) = all.first().filter(|_| !delay.is_zero()) {
            first.wait(delay).await;
        }
        let mut pending = false;
        for at in all.iter().filter(|at| !at.is_silent.get()) {
            let (status, bit) = match (&at.function.pcie, &at.function.af) {
                (Some(pcie), _) => {
                    (device_status(pcie), u32::from(pcie::TRANSACTIONS_PENDING))
                }
                (None, Some(found)) if found.pending => {
                    (advanced(found.offset, af::STATUS), af::PENDING.into())
                }
                _ => continue,
            };
            pending |= at.read(status).await? & bit != 0;
        }
        if !pending {
            break;
        }
    }
    Ok(())
}

/// Starts one of these and waits for as long as it takes at least. Returns whether it was
/// sent, as far as that shows.
pub(super) async fn start(at: &Subject<'_>, method: Method) -> Result<bool, Trip> {
    let function = at.function;
    let step = match (method, &function.pcie, &function.af, &function.pm) {
        (Method::FunctionLevel, Some(pcie), ..) => {
            (device_control(pcie), u32::from(pcie.control | pcie::INITIATE_FLR))
        }
        (Method::AdvancedFeatures, _, Some(af), _) => {
            (advanced(af.offset, af::CONTROL), af::INITIATE_FLR.into())
        }
        (Method::PowerState, _, _, Some(pm)) => {
            return power_state(at, power_control(pm.offset)).await;
        }
        _ => return Ok(false),
    };
    at.write(step.0, step.1).await?;
    at.wait(FLR_WAIT).await;
    Ok(true)
}

/// To D3hot and back. Returns whether it went there.
async fn power_state(at: &Subject<'_>, place: Place) -> Result<bool, Trip> {
    let state = u32::from(pm::STATE);
    let control = at.read(place).await? & !state;
    let sent = at.write(place, control | state).await;
    at.wait(POWER_WAIT).await;
    let there = at.read(place).await;
    // Whatever was answered, it must not stay there.
    at.surely(&[(place, Deed::Write(control))]).await?;
    at.wait(POWER_WAIT).await;
    sent?;
    Ok(there? & state == state)
}

//! After a reset: waiting until the function is there, and looking whether it is the same.

use core::time::Duration;

use super::error::{ResetError, Trip};
use super::subject::{CLASS, Deed, SUBSYSTEM, Subject};
use crate::access::AccessError;

/// The first pause between two looks at a function that is not ready.
const FIRST_BACKOFF: Duration = Duration::from_millis(1);

/// The longest such pause: a function is noticed at most a second late.
const LONGEST_BACKOFF: Duration = Duration::from_millis(1024);

/// Pauses after which a function is given up: together just over the 60 s that Linux gives
/// a function after a reset (`PCIE_RESET_READY_POLL_MS`). For all functions of a reset
/// together, since they come back at the same time.
pub const READY_BOUND: Duration = Duration::from_secs(60);

/// Polls with growing pauses until the hardware of each function answers, and compares what
/// it is with what was scanned.
pub(super) async fn come_back(all: &[Subject<'_>]) -> Result<(), Trip> {
    let mut waited = Duration::ZERO;
    for at in all {
        let mut pause = FIRST_BACKOFF;
        loop {
            let value = match at.read(CLASS).await {
                // Only a link that is gone or hangs, or a device that has left, makes more
                // tries useless.
                Err(
                    error @ (AccessError::TimedOut
                    | AccessError::LinkDown
                    | AccessError::NoDevice),
                ) => return Err(error.into()),
                // dom0 may report what the bus reports of a function in reset.
                Err(_) => u32::MAX,
                Ok(value) => value,
            };
            if value != u32::MAX {
                break;
            }
            if waited >= READY_BOUND {
                let register = CLASS.named;
                return Err(at.found(ResetError::NotReady { register, value, waited }));
            }
            at.wait(pause).await;
            waited = waited.saturating_add(pause);
            pause = pause.saturating_mul(2).min(LONGEST_BACKOFF);
        }
        let class = Deed::Is(at.function.revision_and_class(), u32::MAX);
        let mut steps = [(CLASS, class); 2];
        if let (Some(ids), [_, second]) = (at.function.subsystem, &mut steps) {
            let was = u32::from(ids.device) << 16 | u32::from(ids.vendor);
            *second = (SUBSYSTEM, Deed::Is(was, u32::MAX));
        }
        at.carry_out(&steps).await?;
    }
    Ok(())
}

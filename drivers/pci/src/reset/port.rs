//! Methods of the port above: Secondary Bus Reset, and the same in a hot-plug slot, whose
//! events must not be taken for a card that comes or goes.

use core::time::Duration;

use super::error::Trip;
use super::subject::{BRIDGE_CONTROL, Deed, Subject, slot_control, slot_status};
use crate::function::Pcie;
use crate::regs::{header, pcie};

const BUS_RESET: u32 = header::BUS_RESET as u32;

/// How long Secondary Bus Reset stays set: at least 1 ms (PCI-to-PCI bridge 3.2.5.18, Trst of
/// PCI 4.3.2); twice that, as Linux does.
pub const BUS_RESET_HOLD: Duration = Duration::from_millis(2);

/// How long the functions below a PCI Express port must be left alone (PCIe 6.6.1).
pub const BUS_RESET_WAIT: Duration = Duration::from_millis(100);

/// The same on a conventional bus: 2^25 clocks at 33 MHz (PCI 4.3.2).
pub const CONVENTIONAL_WAIT: Duration = Duration::from_secs(1);

/// A bus that was left in reset, as by an earlier try that lost its link in the middle, is
/// let out of it: nothing below could be made quiet. Returns whether it was so.
pub(super) async fn release(port: &Subject<'_>) -> Result<bool, Trip> {
    let control = port.read(BRIDGE_CONTROL).await?;
    let held = control & BUS_RESET != 0;
    if held {
        port.write(BRIDGE_CONTROL, control & !BUS_RESET).await?;
        port.wait(wait_below(port)).await;
    }
    Ok(held)
}

/// Resets the bus below; with `silent`, the slot's events are off meanwhile. Returns whether
/// the port took the bit.
pub(super) async fn start(port: &Subject<'_>, silent: bool) -> Result<bool, Trip> {
    if let Some((pcie, control)) = slot_of(port).filter(|_| silent)
        && control & pcie::SLOT_ENABLES != 0
    {
        let off = control & !pcie::SLOT_ENABLES;
        port.write(slot_control(pcie), off.into()).await?;
    }
    let control = port.read(BRIDGE_CONTROL).await? & !BUS_RESET;
    let sent = port.write(BRIDGE_CONTROL, control | BUS_RESET).await;
    let seen = port.read(BRIDGE_CONTROL).await;
    port.wait(BUS_RESET_HOLD).await;
    // Whatever was answered, it must not stay set: everything below would be dead.
    port.surely(&[(BRIDGE_CONTROL, Deed::Write(control))]).await?;
    port.wait(wait_below(port)).await;
    sent?;
    Ok(seen? & BUS_RESET != 0)
}

/// Forgets the events that a reset of the slot has caused, and turns those on again that were
/// on when the port was scanned.
pub(super) async fn wake_slot(port: &Subject<'_>) -> Result<(), Trip> {
    let Some((pcie, control)) = slot_of(port) else { return Ok(()) };
    let clear = (slot_status(pcie), Deed::Write(pcie::SLOT_EVENTS.into()));
    let restore = (slot_control(pcie), Deed::Write(control.into()));
    port.surely(&[clear, restore]).await
}

fn wait_below(port: &Subject<'_>) -> Duration {
    match &port.function.pcie {
        Some(pcie) if pcie.port_type != pcie::TYPE_TO_PCI => BUS_RESET_WAIT,
        _ => CONVENTIONAL_WAIT,
    }
}

fn slot_of<'a>(port: &Subject<'a>) -> Option<(&'a Pcie, u16)> {
    let pcie = port.function.pcie.as_ref()?;
    Some((pcie, pcie.slot?))
}

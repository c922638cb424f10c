//! Error reports from dom0: asked on the page, answered at once.
//!
//! When the PCI core of dom0 recovers from a PCI Express error it asks each driver in
//! turn, and xen-pciback asks us. It waits for up to 300 s, holding a lock that every
//! detach in dom0 needs. So the answer never depends on a guest; it is given here, and what
//! was asked goes to the caller, who quarantines the device.

use core::fmt;

use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_xenbus::SharedPage;
use pcidom_xenbus::pciif::{AER_HANDLER, BACK_ACTIVE, RawAerOp, command, load_aer, word};

/// The step of a recovery that dom0 asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AerStep {
    /// An error was detected (`XEN_PCI_OP_aer_detected`).
    Detected,
    /// Memory access works again (`XEN_PCI_OP_aer_mmio`).
    Mmio,
    /// The slot was reset (`XEN_PCI_OP_aer_slotreset`).
    SlotReset,
    /// Normal operation goes on (`XEN_PCI_OP_aer_resume`).
    Resume,
    /// A command that no header has.
    Unknown(u32),
}

/// The state of the device's link (`pci_channel_state_t` of Linux).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// It works.
    Normal,
    /// No access and no DMA until the recovery is over.
    Frozen,
    /// It won't come back.
    PermanentFailure,
    /// A number without a name.
    Unknown(i32),
}

/// What dom0 is told (`enum pci_ers_result` of Linux).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AerResult {
    /// Nothing to say.
    None = 1,
    /// The device is given up.
    Disconnect = 4,
}

/// A request that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AerReport {
    /// What dom0 asked.
    pub step: AerStep,
    /// The state of the device's link.
    pub channel: Channel,
    /// The device; `None` if the request had no address.
    pub at: Option<VirtualBdf>,
    /// What dom0 was told.
    pub answer: AerResult,
}

impl fmt::Display for AerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, channel, at, answer } = self;
        match at {
            Some(at) => write!(f, "AER for virtual {at}: ")?,
            None => f.write_str("AER without a valid address: ")?,
        }
        match step {
            AerStep::Detected => f.write_str("error detected")?,
            AerStep::Mmio => f.write_str("memory access works again")?,
            AerStep::SlotReset => f.write_str("slot was reset")?,
            AerStep::Resume => f.write_str("recovered")?,
            AerStep::Unknown(cmd) => write!(f, "unknown command {cmd}")?,
        }
        match channel {
            Channel::Normal => {}
            Channel::Frozen => f.write_str(", link frozen")?,
            Channel::PermanentFailure => f.write_str(", link lost for good")?,
            Channel::Unknown(state) => write!(f, ", link state {state}")?,
        }
        write!(
            f,
            "; answered {}",
            match answer {
                AerResult::None => "none",
                AerResult::Disconnect => "disconnect",
            }
        )
    }
}

/// Says on a fresh page that error reports are answered here. Once, before it is granted.
pub fn announce_aer(page: &impl SharedPage) {
    page.fetch_or(word::FLAGS, AER_HANDLER);
}

/// Answers the report on the page, if there is one; the caller then notifies the backend.
/// To be called on every event of the page.
pub fn serve_aer(page: &impl SharedPage) -> Option<AerReport> {
    if page.load(word::FLAGS) & BACK_ACTIVE == 0 {
        return None;
    }
    let report = judge(&load_aer(page));
    page.store(word::AER_ERR, report.answer as u32);
    // The answer is there before the flag says so.
    page.barrier();
    page.fetch_and(word::FLAGS, !BACK_ACTIVE);
    Some(report)
}

/// Every step that asks for a verdict gets "disconnect".
///
/// Anything kinder makes dom0 go on with its recovery and reset the device or its slot
/// under a guest that was not told, and whose vectors and BARs are then gone. "None" would
/// be no better: Linux takes both for "do not recover this one", and only one of them says
/// so. Nobody looks at the answer to "resume".
fn judge(op: &RawAerOp) -> AerReport {
    let step = match op.cmd {
        command::AER_DETECTED => AerStep::Detected,
        command::AER_MMIO => AerStep::Mmio,
        command::AER_SLOT_RESET => AerStep::SlotReset,
        command::AER_RESUME => AerStep::Resume,
        cmd => AerStep::Unknown(cmd),
    };
    let channel = match op.err {
        1 => Channel::Normal,
        2 => Channel::Frozen,
        3 => Channel::PermanentFailure,
        state => Channel::Unknown(state),
    };
    let answer = match step {
        AerStep::Detected | AerStep::Mmio | AerStep::SlotReset => AerResult::Disconnect,
        AerStep::Resume | AerStep::Unknown(_) => AerResult::None,
    };
    let at = Sbdf::from_wire(op.domain, op.bus, op.devfn).map(VirtualBdf);
    AerReport { step, channel, at, answer }
}

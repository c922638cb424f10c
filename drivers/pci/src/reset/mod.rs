//! Making a function quiet, and resetting it, over dom0's pciback.
//!
//! ```text
//!   quiesce          MSI and MSI-X off, bus master off, memory decode stays on
//!   mark             Cache Line Size := MARK, to see later that the reset happened
//!   settle           wait for Transactions Pending (PCIe 6.6.2)
//!   FLR              Device Control |= Initiate Function Level Reset
//!   wait, poll       100 ms, then until the word at 0x08 is there again
//!   judge            0x08 and 0x2c are the scan's, the mark is gone
//!   restore          BARs, ROM, Cache Line Size, Device Control, Command
//!   verify           MSI, MSI-X and bus master are off
//! ```
//!
//! What the steps look like is due to dom0's backend:
//!
//! * Vendor and Device ID are its cached values, so 0x08 and 0x2c are looked at instead.
//! * A write that it does not let through is answered with success. If Device Control is
//!   not armed there, nothing happens and everything looks fine; hence the mark.
//! * BARs are emulated, but writing exactly the recorded value restores the hardware.
//! * It thinks that decoding is still on, so Command goes to 0 first and then to its
//!   value; only that turns decoding on in the hardware.
//!
//! The caller has unmapped all pirqs of the function, or Xen finds memory decode off when
//! it masks them and leaves Function Mask set behind, which makes the next assignment fail.

mod method;

use alloc::boxed::Box;
use core::fmt;
use core::time::Duration;

use crate::access::{AccessError, Config};
use crate::function::{Function, Pcie};
use crate::regs::{command, header, msi, msix, pcie};

pub use method::{Method, UnknownMethod};

/// How long to wait before each look at Transactions Pending. Linux waits as long and then
/// goes on too: a function that never stops claiming pending transactions must be reset
/// all the same.
pub const PENDING_DELAYS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

/// How long a function must be left alone after FLR (PCIe 6.6.2).
pub const FLR_WAIT: Duration = Duration::from_millis(100);

/// The first pause between two looks at a function that is not ready.
const FIRST_BACKOFF: Duration = Duration::from_millis(1);

/// The longest such pause: a function is noticed at most a second late.
const LONGEST_BACKOFF: Duration = Duration::from_millis(1024);

/// Pauses after which a function is given up: together just over the 60 s that Linux gives
/// a function after a reset (`PCIE_RESET_READY_POLL_MS`).
pub const READY_BOUND: Duration = Duration::from_secs(60);

/// What is left in Cache Line Size before a reset; no value that firmware writes.
const MARK: u8 = 0xa5;

/// A register by the name that the specification gives it, and where this function has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Name, as in `regs`.
    pub name: &'static str,
    /// Offset in config space.
    pub offset: u16,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#04x})", self.name, self.offset)
    }
}

const COMMAND: Named = Named { name: "Command", offset: header::COMMAND };
const CLASS: Named =
    Named { name: "Revision ID and Class Code", offset: header::REVISION_AND_CLASS };
const SUBSYSTEM: Named = Named { name: "Subsystem ID", offset: header::SUBSYSTEM };
const CACHE_LINE: Named =
    Named { name: "Cache Line Size", offset: header::CACHE_LINE_SIZE };

/// Why a function could not be made quiet or reset. It must not be lent until a later
/// try succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResetError {
    /// A register could not be read.
    #[error("reading {register} failed: {error}")]
    Read {
        /// Which.
        register: Named,
        /// Why.
        error: AccessError,
    },
    /// A register could not be written.
    #[error("writing {value:#x} to {register} failed: {error}")]
    Write {
        /// Which.
        register: Named,
        /// What was to be written.
        value: u32,
        /// Why.
        error: AccessError,
    },
    /// Bits that were cleared are still set.
    #[error("{register} is {value:#06x}: {bits} stayed on")]
    StillOn {
        /// Which.
        register: Named,
        /// What it reads.
        value: u16,
        /// The names of the bits that ought to be clear.
        bits: &'static str,
    },
    /// The reset left no trace, so it was most likely never sent.
    #[error(
        "the reset had no effect: {register} still reads {value:#04x} after Initiate FLR; \
         is Device Control armed in dom0's backend?"
    )]
    NoEffect {
        /// The register with the mark.
        register: Named,
        /// The mark.
        value: u8,
    },
    /// The function did not come back.
    #[error(
        "not ready {} s after the reset: {register} reads {value:#010x}",
        waited.as_secs()
    )]
    NotReady {
        /// The register that was looked at.
        register: Named,
        /// What it read last.
        value: u32,
        /// Time since the reset was started.
        waited: Duration,
    },
    /// Another function came back.
    #[error("{register} is {is:#010x} after the reset and was {was:#010x} before")]
    Changed {
        /// Which.
        register: Named,
        /// At the scan.
        was: u32,
        /// Now.
        is: u32,
    },
}

/// A [`ResetError`] as the many steps hand it on: by its address instead of by a copy.
pub type Failure = Box<ResetError>;

/// Turns MSI, MSI-X and bus mastering off, memory decode on, and checks that it is so.
///
/// # Errors
///
/// The first access that fails, or [`ResetError::StillOn`].
pub async fn quiesce(config: &Config, function: &Function) -> Result<(), Failure> {
    let at = Registers { config };
    if let Some(msi) = &function.msi {
        at.clear16(msi_control(msi.control()), msi::ENABLE).await?;
    }
    if let Some(msix) = &function.msix {
        let bits = msix::ENABLE | msix::MASKALL;
        at.clear16(msix_control(msix.control()), bits).await?;
    }
    let decode = function.decode();
    at.write16(COMMAND, decode).await?;
    if at.read16(COMMAND).await? & command::BUS_MASTER != 0 {
        // dom0 clears the bit only if it believes that it is set; make it believe that.
        at.write16(COMMAND, decode | command::BUS_MASTER).await?;
        at.write16(COMMAND, decode).await?;
    }
    // Not Function Mask: where Xen holds it set, only a reset gets rid of it.
    verify_quiet(&at, function, msix::ENABLE).await
}

/// Resets the function by the best method there is, and leaves it quiet, restored, and
/// decoding memory.
///
/// A function without FLR is only made quiet, which gives `None`.
///
/// # Errors
///
/// The first thing that went wrong. The function may then be in any state and has to stay
/// where nobody gets it; doing it again is always allowed.
pub async fn function_reset(
    config: &Config,
    function: &Function,
) -> Result<Option<Method>, Failure> {
    quiesce(config, function).await?;
    let at = Registers { config };
    let Some(pcie @ Pcie { flr: true, .. }) = &function.pcie else {
        return Ok(None);
    };

    let cache_line = at.read8(CACHE_LINE).await?;
    at.write8(CACHE_LINE, MARK).await?;
    // Some functions have it read-only; those can't show that they were reset.
    let marked = at.read8(CACHE_LINE).await? == MARK;

    let control = level_reset(&at, pcie).await?;
    wait_until_ready(&at).await?;
    check_identity(&at, function).await?;
    if marked && at.read8(CACHE_LINE).await? == MARK {
        // Leave no mark behind; that it had no effect is the error to report.
        let _ = at.write8(CACHE_LINE, cache_line).await;
        return Err(Box::new(ResetError::NoEffect { register: CACHE_LINE, value: MARK }));
    }

    restore(&at, function).await?;
    at.write8(CACHE_LINE, cache_line).await?;
    let device_control = device_control(pcie);
    if at.read16(device_control).await? != control {
        at.write16(device_control, control).await?;
    }
    verify_quiet(&at, function, msix::ENABLE | msix::MASKALL).await?;
    Ok(Some(Method::FunctionLevel))
}

/// Starts FLR; gives the value Device Control had.
async fn level_reset(at: &Registers<'_>, pcie: &Pcie) -> Result<u16, Failure> {
    let device_status = Named {
        name: "Device Status",
        offset: pcie.offset.saturating_add(pcie::DEVICE_STATUS),
    };
    for delay in PENDING_DELAYS {
        if !delay.is_zero() {
            at.config.wait(delay).await;
        }
        if at.read16(device_status).await? & pcie::TRANSACTIONS_PENDING == 0 {
            break;
        }
    }
    let device_control = device_control(pcie);
    let control = at.read16(device_control).await? & !pcie::INITIATE_FLR;
    at.write16(device_control, control | pcie::INITIATE_FLR).await?;
    at.config.wait(FLR_WAIT).await;
    Ok(control)
}

/// Polls with growing pauses until the hardware answers.
async fn wait_until_ready(at: &Registers<'_>) -> Result<(), Failure> {
    let mut paused = Duration::ZERO;
    let mut pause = FIRST_BACKOFF;
    loop {
        let value = match at.config.read32(CLASS.offset).await {
            Ok(value) => value,
            // dom0 may report what the bus reports of a function in reset. Only a link
            // that is gone or hangs makes more tries useless.
            Err(error @ (AccessError::TimedOut | AccessError::LinkDown)) => {
                return Err(Box::new(ResetError::Read { register: CLASS, error }));
            }
            Err(_) => u32::MAX,
        };
        if value != u32::MAX {
            return Ok(());
        }
        if paused >= READY_BOUND {
            let waited = FLR_WAIT.saturating_add(paused);
            return Err(Box::new(ResetError::NotReady {
                register: CLASS,
                value,
                waited,
            }));
        }
        at.config.wait(pause).await;
        paused = paused.saturating_add(pause);
        pause = pause.saturating_mul(2).min(LONGEST_BACKOFF);
    }
}

/// What came back is what was scanned.
async fn check_identity(at: &Registers<'_>, function: &Function) -> Result<(), Failure> {
    let is = at.read32(CLASS).await?;
    let was = function.revision_and_class();
    if is != was {
        return Err(Box::new(ResetError::Changed { register: CLASS, was, is }));
    }
    if let Some(subsystem) = function.subsystem {
        let is = at.read32(SUBSYSTEM).await?;
        let was = u32::from(subsystem.device) << 16 | u32::from(subsystem.vendor);
        if is != was {
            return Err(Box::new(ResetError::Changed { register: SUBSYSTEM, was, is }));
        }
    }
    Ok(())
}

/// Writes the recorded BARs back, and turns decoding off and on.
async fn restore(at: &Registers<'_>, function: &Function) -> Result<(), Failure> {
    for bar in &function.bar_registers {
        let register = Named { name: "Base Address Register", offset: bar.offset };
        at.write32(register, bar.value).await?;
    }
    if let Some(rom) = &function.rom {
        let register =
            Named { name: "Expansion ROM Base Address", offset: rom.register.offset };
        at.write32(register, rom.register.value).await?;
    }
    at.write16(COMMAND, 0).await?;
    at.write16(COMMAND, function.decode()).await
}

/// MSI, bus mastering and these bits of MSI-X's Message Control are off.
async fn verify_quiet(
    at: &Registers<'_>,
    function: &Function,
    msix_bits: u16,
) -> Result<(), Failure> {
    if let Some(msi) = &function.msi {
        at.expect_clear(msi_control(msi.control()), msi::ENABLE, "MSI Enable").await?;
    }
    if let Some(msix) = &function.msix {
        let register = msix_control(msix.control());
        at.expect_clear(register, msix_bits, "MSI-X Enable or Function Mask").await?;
    }
    at.expect_clear(COMMAND, command::BUS_MASTER, "Bus Master Enable").await
}

const fn msi_control(offset: u16) -> Named {
    Named { name: "MSI Message Control", offset }
}

const fn msix_control(offset: u16) -> Named {
    Named { name: "MSI-X Message Control", offset }
}

const fn device_control(pcie: &Pcie) -> Named {
    let offset = pcie.offset.saturating_add(pcie::DEVICE_CONTROL);
    Named { name: "Device Control", offset }
}

/// Access by name, so that every error says which register it was.
struct Registers<'a> {
    config: &'a Config,
}

impl Registers<'_> {
    async fn read8(&self, register: Named) -> Result<u8, Failure> {
        let result = self.config.read8(register.offset).await;
        result.map_err(|error| Box::new(ResetError::Read { register, error }))
    }

    async fn read16(&self, register: Named) -> Result<u16, Failure> {
        let result = self.config.read16(register.offset).await;
        result.map_err(|error| Box::new(ResetError::Read { register, error }))
    }

    async fn read32(&self, register: Named) -> Result<u32, Failure> {
        let result = self.config.read32(register.offset).await;
        result.map_err(|error| Box::new(ResetError::Read { register, error }))
    }

    async fn write8(&self, register: Named, value: u8) -> Result<(), Failure> {
        let result = self.config.write8(register.offset, value).await;
        let value = value.into();
        result.map_err(|error| Box::new(ResetError::Write { register, value, error }))
    }

    async fn write16(&self, register: Named, value: u16) -> Result<(), Failure> {
        let result = self.config.write16(register.offset, value).await;
        let value = value.into();
        result.map_err(|error| Box::new(ResetError::Write { register, value, error }))
    }

    async fn write32(&self, register: Named, value: u32) -> Result<(), Failure> {
        let result = self.config.write32(register.offset, value).await;
        result.map_err(|error| Box::new(ResetError::Write { register, value, error }))
    }

    /// Clears `bits` with at most one write, which leaves all others as they read: dom0
    /// refuses a control word whose read-only bits differ.
    async fn clear16(&self, register: Named, bits: u16) -> Result<(), Failure> {
        let value = self.read16(register).await?;
        if value & bits == 0 {
            Ok(())
        } else {
            self.write16(register, value & !bits).await
        }
    }

    async fn expect_clear(
        &self,
        register: Named,
        mask: u16,
        bits: &'static str,
    ) -> Result<(), Failure> {
        let value = self.read16(register).await?;
        if value & mask == 0 {
            Ok(())
        } else {
            Err(Box::new(ResetError::StillOn { register, value, bits }))
        }
    }
}

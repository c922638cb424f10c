//! Making functions quiet, and resetting them, over dom0's pciback.
//!
//! ```text
//!   look             a function that reads all ones can't be told anything: only the port can
//!                    bring it back, and then that it answers shows that it was reset
//!   quiesce          MSI and MSI-X off, bus master off, memory decode stays on
//!   mark             Cache Line Size := MARK, to see later that the reset happened
//!   settle           wait for Transactions Pending (PCIe 6.6.2)
//!   method           of the function itself, or of the port above
//!   come back        wait, then poll until the word at 0x08 is there again; 0x08 and 0x2c
//!                    are the scan's
//!   unmark           the mark is gone, or the method had no effect and the next is tried
//!   restore          BARs, ROM, Device Control, Command
//!   verify           MSI, MSI-X and bus master are off, BARs and Device Control are back
//! ```
//!
//! | module | what it is about |
//! |---|---|
//! | `method` | the methods by name, and which function or port has them |
//! | `own`, `port` | how each is started, and how long it takes at least |
//! | `quiet`, `comeback`, `restore` | what comes before and after, the same for all |
//! | `subject`, `error` | access by name, and what can go wrong |
//!
//! A method of the port resets every function below it, so each step is done with all of
//! them. What the steps look like is due to dom0's backend:
//!
//! * Vendor and Device ID are its cached values, so 0x08 and 0x2c are looked at instead.
//! * A write that it does not let through is answered with success. If Device Control is
//!   not armed there, nothing happens and everything looks fine; hence the mark.
//! * BARs are emulated, but writing exactly the recorded value restores the hardware.
//! * It thinks that decoding is still on, so Command goes to 0 first and then to its
//!   value; only that turns decoding on in the hardware.
//!
//! Cache Line Size stays 0 after a reset: it has no meaning on PCI Express, and dom0 sees by
//! it that there was one.
//!
//! The caller has unmapped all pirqs of the functions, or Xen finds memory decode off when
//! it masks them and leaves Function Mask set behind, which makes the next assignment fail.

mod comeback;
mod error;
mod method;
mod own;
mod port;
mod quiet;
mod restore;
mod subject;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;

use self::error::Trip;
use self::subject::{Last, Subject};
use crate::access::Config;
use crate::address::Sbdf;
use crate::function::Function;
use crate::regs::msix;

pub use comeback::READY_BOUND;
pub use error::{Failed, Named, ResetError, Useless};
pub use method::{Method, UnknownMethod};
pub use own::{FLR_WAIT, PENDING_DELAYS, POWER_WAIT};
pub use port::{BUS_RESET_HOLD, BUS_RESET_WAIT, CONVENTIONAL_WAIT};

/// What is to be reset, and how. The caller has made sure that nobody else works on any of
/// these functions, and that whoever uses one of them may lose it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The methods, in the order in which they are tried. Without any, the functions are only
    /// made quiet.
    pub methods: Vec<Method>,
    /// All that is reset: one function, or everything below `port`.
    pub functions: Vec<Function>,
    /// The port right above, for its methods.
    pub port: Option<Function>,
}

/// All functions are quiet, restored, and decode memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What has reset them; `None` if nothing has.
    pub method: Option<Method>,
    /// Each function has shown that it was reset: its mark is gone, or it answers again. One
    /// whose Cache Line Size can't be written shows nothing.
    pub proven: bool,
    /// What was tried before and had no effect.
    pub useless: Vec<Useless>,
}

/// Resets as planned, and leaves every function quiet, restored, and decoding memory.
///
/// # Errors
///
/// The first thing that went wrong, other than a method without effect.
pub async fn reset(config: &Config, plan: &Plan) -> Result<Done, Box<Failed>> {
    let last = Cell::new(Last::none(config.target()));
    let mut useless = Vec::new();
    match run(config, plan, &last, &mut useless).await {
        Ok((method, proven)) => Ok(Done { method, proven, useless }),
        Err(trip) => {
            let (at, error) = last.get().explain(trip);
            Err(Box::new(Failed { at, error, useless }))
        }
    }
}

async fn run(
    config: &Config,
    plan: &Plan,
    last: &Cell<Last>,
    useless: &mut Vec<Useless>,
) -> Result<(Option<Method>, bool), Trip> {
    let subject = |function| Subject::new(config, function, last);
    let all: Vec<Subject<'_>> = plan.functions.iter().map(subject).collect();
    let port = plan.port.as_ref().map(subject);
    if let Some(port) = &port
        && port::release(port).await?
    {
        comeback::come_back(&all).await?;
    }
    if plan.methods.is_empty() {
        for at in &all {
            if at.looks_silent().await? {
                return Err(at.silent());
            }
            quiet::quiesce(at).await?;
            let mut steps = Vec::new();
            let bits = msix::ENABLE | msix::MASKALL;
            quiet::is_quiet(at.function, bits, &mut steps);
            at.carry_out(&steps).await?;
        }
    }
    for method in &plan.methods {
        match attempt(&all, port.as_ref(), *method).await? {
            None => {
                let proven = all.iter().all(|at| at.proven.get());
                return Ok((Some(*method), proven));
            }
            Some(at) => useless.push(Useless { method: *method, at }),
        }
    }
    Ok((None, false))
}

/// Tries one method. Gives the first function on which it had no effect.
async fn attempt(
    all: &[Subject<'_>],
    port: Option<&Subject<'_>>,
    method: Method,
) -> Result<Option<Sbdf>, Trip> {
    for at in all {
        if !at.looks_silent().await? {
            quiet::quiesce(at).await?;
            quiet::mark(at).await?;
        } else if !method.is_of_port() {
            return Err(at.silent());
        }
    }
    own::settle(all).await?;
    let back = start_and_wait(all, port, method).await;
    if let (Some(port), Method::Slot) = (port, method) {
        port::wake_slot(port).await?;
    }
    let sent = back?;
    let mut untouched = None;
    for at in all {
        if quiet::unmark(at).await? || !sent {
            untouched = untouched.or(Some(at.function.sbdf));
        }
    }
    // What only a reset gets rid of is left for the next method.
    let mask = if untouched.is_some() { 0 } else { msix::MASKALL };
    for at in all {
        at.carry_out(&restore::restore(at.function, msix::ENABLE | mask)).await?;
    }
    Ok(untouched)
}

/// Starts one method for all functions and waits until they are back. Returns whether it
/// was sent, as far as that shows.
async fn start_and_wait(
    all: &[Subject<'_>],
    port: Option<&Subject<'_>>,
    method: Method,
) -> Result<bool, Trip> {
    let mut sent = true;
    if let (Some(port), true) = (port, method.is_of_port()) {
        sent = port::start(port, method == Method::Slot).await?;
    } else {
        for at in all {
            sent &= own::start(at, method).await?;
        }
    }
    comeback::come_back(all).await?;
    Ok(sent)
}

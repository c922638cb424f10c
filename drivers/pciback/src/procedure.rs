//! The procedures behind a guest's operations, each a straight line of questions.

use alloc::vec::Vec;

use pcidom_loan::{LeaseAsk, LeaseRefusal};
use pcidom_pci::{Access, AccessError, Register, Width};
use pcidom_xenbus::Pirq;
use pcidom_xenbus::pciif::OpError;

use crate::ask::Hands;
use crate::interrupt::{Holding, Kind, LeaseError, Leases, Trouble, check};
use crate::policy::{Plan, Step};

/// What a guest is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Success, with this `value`.
    Value(u32),
    /// Success of a write: `value` stays as the guest sent it.
    Written,
    /// Interrupts are on, with these pirqs in the order of the request.
    Enabled(Kind, Vec<Pirq>),
    /// An error.
    Failed(OpError),
    /// Interrupts could not be turned on or off.
    Trouble(Trouble),
}

/// One config space access of a guest.
pub(crate) async fn config(hands: Hands, access: Access) -> Outcome {
    match (hands.function.with(|f| f.plan(access)), access) {
        (Plan::Refuse(error), _) => Outcome::Failed(error),
        (Plan::Answer(value), Access::Read(_)) => Outcome::Value(value),
        (Plan::Answer(_), Access::Write(..)) => Outcome::Written,
        (Plan::Read(register, view), _) => {
            match hands.access(Access::Read(register)).await {
                Ok(value) => Outcome::Value(view.over(value) & register.width().mask()),
                Err(error) => Outcome::Failed(op_error(error)),
            }
        }
        (Plan::Write(steps), _) => {
            for step in steps {
                if let Err(error) = take(&hands, step).await {
                    return Outcome::Failed(op_error(error));
                }
            }
            Outcome::Written
        }
    }
}

/// One step of a write.
async fn take(hands: &Hands, step: Step) -> Result<(), AccessError> {
    let access = match step {
        Step::Write(register, value) => Some(Access::Write(register, value)),
        Step::Merge(merge) => {
            let old = hands.access(Access::Read(merge.register)).await?;
            hands.function.with(|f| f.merge(&merge, old))
        }
    };
    match access {
        Some(access) => hands.access(access).await.map(drop),
        None => Ok(()),
    }
}

/// The code for a guest. Never what dom0 sent: it leaks errno values, and a frontend takes
/// -19 on a read for "0, success" (protocol.md 1.5).
fn op_error(error: AccessError) -> OpError {
    match error {
        AccessError::NoDevice => OpError::DevNotFound,
        AccessError::NoRegister => OpError::InvalidOffset,
        AccessError::Refused => OpError::AccessDenied,
        AccessError::TimedOut | AccessError::LinkDown | AccessError::Failed(_) => {
            OpError::OpFailed
        }
    }
}

/// Turns interrupts of one kind on, whatever is on now.
pub(crate) async fn enable(hands: Hands, kind: Kind, ask: LeaseAsk) -> Outcome {
    match try_enable(&hands, kind, ask).await {
        Ok(pirqs) => {
            hands.function.with(|f| f.interrupts.set_trouble(None));
            Outcome::Enabled(kind, pirqs)
        }
        Err(trouble) => refuse(&hands, trouble),
    }
}

/// Notes why interrupts could not be turned on or off, for the operator.
pub(crate) fn refuse(hands: &Hands, trouble: Trouble) -> Outcome {
    hands.function.with(|f| f.interrupts.set_trouble(Some(trouble)));
    Outcome::Trouble(trouble)
}

async fn try_enable(
    hands: &Hands,
    kind: Kind,
    ask: LeaseAsk,
) -> Result<Vec<Pirq>, Trouble> {
    let asked = hands.function.with(|f| check(f.function(), kind, &ask))?;
    // Stock frontends disable the wrong kind and then enable again (design.md 4).
    let mut result = tear_down(hands).await.map(|()| Vec::new());
    if result.is_ok() {
        result = switch_on(hands, kind, asked, ask).await;
        if result.is_err() {
            // What goes wrong here stays recorded, and is tried again before anything else.
            let _ = tear_down(hands).await;
        }
    }
    if result.is_err() {
        // What was on before is off now: the line is all that is left.
        settle_command(hands).await;
    }
    result
}

async fn switch_on(
    hands: &Hands,
    kind: Kind,
    asked: usize,
    ask: LeaseAsk,
) -> Result<Vec<Pirq>, Trouble> {
    let leases = map(hands, asked, ask).await?;
    let pirqs = leases.pirqs().to_vec();
    hands.function.with(|f| f.interrupts.set_holding(Holding::Held(leases)));
    if hands.caller.has_left() {
        return Err(Trouble::TooLate);
    }
    turn_on(hands, kind).await?;
    if hands.caller.has_left() {
        return Err(Trouble::TooLate);
    }
    Ok(pirqs)
}

/// Turns off whatever is on; nothing to do is success.
pub(crate) async fn disable(hands: Hands) -> Outcome {
    let result = tear_down(&hands).await;
    settle_command(&hands).await;
    match result {
        // What Linux's pciback sends, for information: the line the device falls back to.
        Ok(()) => {
            Outcome::Value(hands.function.with(|f| f.function().interrupt_line.into()))
        }
        Err(trouble) => refuse(&hands, trouble),
    }
}

/// Makes a function quiet when its guest leaves the link: interrupts off, no DMA, nothing
/// mapped, nothing remembered of what the guest wrote.
pub(crate) async fn quiet(hands: Hands) -> Outcome {
    let was_active = hands.function.with(|f| {
        f.forget_guest();
        !f.interrupts.is_off() || f.may_master()
    });
    if was_active {
        let off = turn_off(&hands).await;
        settle_command(&hands).await;
        let unmapped = unmap(&hands).await;
        if let Err(trouble) = off.and(unmapped) {
            return refuse(&hands, trouble);
        }
    }
    Outcome::Written
}

/// Hardware first, then the leases: a device must not send what nobody receives. A failure
/// in hardware does not keep the leases alive.
async fn tear_down(hands: &Hands) -> Result<(), Trouble> {
    let off = turn_off(hands).await;
    let unmapped = unmap(hands).await;
    off.and(unmapped)
}

async fn map(hands: &Hands, asked: usize, ask: LeaseAsk) -> Result<Leases, Trouble> {
    let mut tried = false;
    loop {
        hands.function.with(|f| f.interrupts.set_holding(Holding::Unsure));
        match hands.lease(ask.clone()).await {
            Ok(pirqs) => return Leases::granted(asked, pirqs),
            // The daemon remembers leases that we don't, say from before a restart.
            Err(LeaseError::Refused(LeaseRefusal::Busy)) if !tried => {
                tried = true;
                unmap(hands).await?;
            }
            Err(error) => {
                if let LeaseError::Refused(refusal) = error
                    && refusal != LeaseRefusal::Busy
                {
                    hands.function.with(|f| f.interrupts.set_holding(Holding::Nothing));
                }
                return Err(error.into());
            }
        }
    }
}

/// Ends all leases, also those of which it isn't known whether they are there.
async fn unmap(hands: &Hands) -> Result<(), Trouble> {
    if hands.function.with(|f| *f.interrupts.holding() == Holding::Nothing) {
        return Ok(());
    }
    // Taken before the question: whatever its answer, these pirqs are never shown again.
    hands.function.with(|f| f.interrupts.set_holding(Holding::Unsure));
    match hands.lease(LeaseAsk::Unmap).await {
        // Not allowed means that the daemon's record has no such loan: it has ended it, and
        // unmapped everything then.
        Ok(_) | Err(LeaseError::Refused(LeaseRefusal::NotAllowed)) => {
            hands.function.with(|f| f.interrupts.set_holding(Holding::Nothing));
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

async fn turn_on(hands: &Hands, kind: Kind) -> Result<(), Trouble> {
    let (register, control) = control(hands, kind).await?;
    // From here on it may be on in hardware, also if the write is reported as failed.
    hands.function.with(|f| f.interrupts.set_enabled(Some(kind)));
    // INTx off: with messages on the device must not use its line (PCI 6.8.1).
    if let Some(write) = hands.function.with(|f| f.command_write()) {
        hands.access(write).await?;
    }
    hands.access(Access::Write(register, kind.on(control).into())).await?;
    Ok(())
}

async fn turn_off(hands: &Hands) -> Result<(), Trouble> {
    let Some(kind) = hands.function.with(|f| f.interrupts.enabled()) else {
        return Ok(());
    };
    let (register, control) = control(hands, kind).await?;
    let off = kind.off(control);
    if off != control {
        hands.access(Access::Write(register, off.into())).await?;
    }
    hands.function.with(|f| f.interrupts.set_enabled(None));
    Ok(())
}

/// The control word of `kind`, from the hardware since its read-only bits must be written
/// as they are.
async fn control(hands: &Hands, kind: Kind) -> Result<(Register, u16), Trouble> {
    let register = hands
        .function
        .with(|f| kind.control(f.function()))
        .and_then(|offset| Register::new(offset, Width::Word))
        .ok_or(Trouble::NoCapability)?;
    let value = hands.access(Access::Read(register)).await?;
    match u16::try_from(value & Width::Word.mask()) {
        Ok(u16::MAX) | Err(_) => Err(Trouble::NotResponding),
        Ok(control) => Ok((register, control)),
    }
}

/// Brings COMMAND back to what the guest wants of it, once messages are off.
async fn settle_command(hands: &Hands) {
    if let Some(write) = hands.function.with(|f| f.command_write()) {
        // Tried again with the next change of COMMAND.
        let _ = hands.access(write).await;
    }
}

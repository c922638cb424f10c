//! The request slot: one op at a time, with a deadline.
//!
//! The page has no request ids. If an op is not answered in time and the slot is used
//! again, the late answer of the first op is taken for that of the second. So this
//! frontend never takes a request back: after a time-out the slot is stuck until the
//! backend has completed the old op, and what is asked meanwhile fails at once.

use core::time::Duration;

use pcidom_pci::{Access, AccessError, Answer, VirtualBdf};
use pcidom_script::Instant;
use pcidom_xenbus::SharedPage;
use pcidom_xenbus::pciif::{
    FRONT_ACTIVE, OpError, RawOp, command, load_op, store_op, word,
};

/// How long one op may take. A guest gets its answer within 1.5 s of asking (its own
/// frontend gives up at 2 s), and this leaves 0.3 s for everything around the op.
pub const OP_DEADLINE: Duration = Duration::from_millis(1200);

/// Why an op was not put into the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// An op is in flight; ask again when it has been answered.
    #[error("an operation is in flight")]
    Busy,
    /// An op that timed out is still with the backend.
    #[error("dom0's backend has not completed an earlier operation")]
    Stuck,
}

impl From<SubmitError> for AccessError {
    /// A stuck slot looks to a caller as if its own op had timed out. A busy one is for
    /// the caller to avoid; if it does not, it gets the same.
    fn from(_: SubmitError) -> Self {
        Self::TimedOut
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Waiting { access: Access, deadline: Instant },
    Stuck,
}

/// The frontend's end of the request slot of one page.
#[derive(Clone, Debug)]
pub struct OpSlot {
    state: State,
}

impl Default for OpSlot {
    fn default() -> Self {
        Self::new()
    }
}

impl OpSlot {
    /// The slot of a fresh page. It also fits a page that an earlier life of ours has left
    /// with an op in flight: that op is waited for like one that has timed out.
    pub const fn new() -> Self {
        Self { state: State::Idle }
    }

    /// Puts an op into the slot; the caller then notifies the backend.
    ///
    /// # Errors
    ///
    /// The page is untouched and nobody needs to be notified if the slot is taken.
    pub fn submit(
        &mut self,
        page: &impl SharedPage,
        now: Instant,
        at: VirtualBdf,
        access: Access,
    ) -> Result<(), SubmitError> {
        if matches!(self.state, State::Waiting { .. }) {
            return Err(SubmitError::Busy);
        }
        if is_active(page) {
            self.state = State::Stuck;
            return Err(SubmitError::Stuck);
        }
        // The answer to the last op has been read before this op overwrites it.
        page.barrier();
        store_op(page, &request(at, access));
        // The op is there before the flag says so.
        page.barrier();
        page.fetch_or(word::FLAGS, FRONT_ACTIVE);
        self.state = State::Waiting { access, deadline: now.after(OP_DEADLINE) };
        Ok(())
    }

    /// Looks whether the op in flight has been answered or has run out of time; gives its
    /// answer once. To be called on every event of the page and at [`OpSlot::deadline`].
    pub fn poll(&mut self, page: &impl SharedPage, now: Instant) -> Option<Answer> {
        let active = is_active(page);
        match self.state {
            State::Waiting { access, .. } if !active => {
                self.state = State::Idle;
                Some(answer(&load_op(page), access))
            }
            State::Waiting { deadline, .. } if now >= deadline => {
                self.state = State::Stuck;
                Some(Err(AccessError::TimedOut))
            }
            State::Stuck if !active => {
                // The late answer; nobody waits for it any more.
                self.state = State::Idle;
                None
            }
            State::Idle | State::Waiting { .. } | State::Stuck => None,
        }
    }

    /// When the op in flight runs out of time.
    pub const fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { deadline, .. } => Some(deadline),
            State::Idle | State::Stuck => None,
        }
    }

    /// An op that timed out is still with the backend, as far as has been looked.
    pub const fn is_stuck(&self) -> bool {
        matches!(self.state, State::Stuck)
    }

    /// An op can be submitted, as far as has been looked.
    pub const fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }
}

fn is_active(page: &impl SharedPage) -> bool {
    page.load(word::FLAGS) & FRONT_ACTIVE != 0
}

fn request(at: VirtualBdf, access: Access) -> RawOp {
    let (cmd, value) = match access {
        Access::Read(_) => (command::CONF_READ, 0),
        Access::Write(register, value) => {
            (command::CONF_WRITE, value & register.width().mask())
        }
    };
    let register = access.register();
    RawOp {
        cmd,
        // A backend that completes an op without looking at it has not succeeded.
        err: OpError::OpFailed as i32,
        domain: at.0.segment().into(),
        bus: at.0.bus().into(),
        devfn: at.0.devfn().into(),
        offset: register.offset().into(),
        size: register.width().bytes().into(),
        value,
    }
}

/// What the backend says, by the only codes with a meaning; Linux sends others too.
fn answer(op: &RawOp, access: Access) -> Answer {
    const DEV_NOT_FOUND: i32 = OpError::DevNotFound as i32;
    const INVALID_OFFSET: i32 = OpError::InvalidOffset as i32;
    const ACCESS_DENIED: i32 = OpError::AccessDenied as i32;
    match op.err {
        0 => Ok(match access {
            // Linux leaves bits beyond the width as they came.
            Access::Read(register) => op.value & register.width().mask(),
            Access::Write(..) => 0,
        }),
        DEV_NOT_FOUND => Err(AccessError::NoDevice),
        INVALID_OFFSET => Err(AccessError::NoRegister),
        ACCESS_DENIED => Err(AccessError::Refused),
        code => Err(AccessError::Failed(code)),
    }
}

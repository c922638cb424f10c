//! What can go wrong with a reset, by function and register.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use super::Method;
use crate::access::AccessError;
use crate::address::Sbdf;

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
        value: u32,
        /// The names of the bits that ought to be clear.
        bits: &'static str,
    },
    /// The function answers nothing, so it can't be made quiet, nor reset itself.
    #[error("it does not answer: {register} reads all ones")]
    Silent {
        /// The register that was looked at.
        register: Named,
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
        /// For how long it was looked at, after the time that a reset takes at least.
        waited: Duration,
    },
    /// Another function came back, or one that has lost what was restored.
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

/// A method that was tried and showed no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Useless {
    /// Which.
    pub method: Method,
    /// The function that it left as it was, or the first of them.
    pub at: Sbdf,
}

impl fmt::Display for Useless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} had no effect on {}", self.method, self.at)
    }
}

/// How a reset failed, and at which function. Functions of its scope may be in any state and
/// have to stay where nobody gets them; doing it again is always allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {error}")]
pub struct Failed {
    /// The function.
    pub at: Sbdf,
    /// Why.
    pub error: ResetError,
    /// What was tried before and had no effect.
    pub useless: Vec<Useless>,
}

/// What the steps hand on: small, since there are many of them.
#[derive(Debug)]
pub(super) enum Trip {
    /// The last access has failed.
    Access(AccessError),
    /// Something is not as it should be.
    Found(Box<(Sbdf, ResetError)>),
}

impl From<AccessError> for Trip {
    fn from(error: AccessError) -> Self {
        Self::Access(error)
    }
}

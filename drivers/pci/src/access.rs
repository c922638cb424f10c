//! Config space access: what can be asked, what can go wrong, and a handle for scripts.

use core::time::Duration;

use pcidom_script::{Asker, Mapped, Waiting};

use crate::address::Sbdf;

/// Bytes of config space a conventional function has (PCI 3.0, 6.1).
pub const CONVENTIONAL_SPACE: u16 = 0x100;
/// Bytes of config space a PCI Express function has (PCIe 5.0, 7.2.2).
pub const EXTENDED_SPACE: u16 = 0x1000;

/// How many bytes one access moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// One byte.
    Byte = 1,
    /// Two bytes.
    Word = 2,
    /// Four bytes.
    Dword = 4,
}

impl Width {
    /// `None` unless `bytes` is 1, 2 or 4.
    pub const fn from_bytes(bytes: u32) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Dword),
            _ => None,
        }
    }

    /// 1, 2 or 4.
    pub const fn bytes(self) -> u16 {
        self as u16
    }

    /// The bits such an access can carry.
    pub const fn mask(self) -> u32 {
        u32::MAX >> (32 - 8 * self as u32)
    }
}

/// A naturally aligned place in config space and the width it is accessed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register {
    offset: u16,
    width: Width,
}

impl Register {
    /// `None` if it isn't aligned to its width or ends beyond extended config space.
    pub const fn new(offset: u16, width: Width) -> Option<Self> {
        if offset >= EXTENDED_SPACE || !offset.is_multiple_of(width.bytes()) {
            return None;
        }
        Some(Self { offset, width })
    }

    /// First byte.
    pub const fn offset(self) -> u16 {
        self.offset
    }

    /// Width.
    pub const fn width(self) -> Width {
        self.width
    }

    /// The byte after the last one.
    pub const fn end(self) -> u16 {
        self.offset + self.width.bytes()
    }
}

/// One config space access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read the register.
    Read(Register),
    /// Write the register; only the width's bits count.
    Write(Register, u32),
}

impl Access {
    /// What it touches.
    pub const fn register(self) -> Register {
        match self {
            Self::Read(register) | Self::Write(register, _) => register,
        }
    }
}

/// Why a config space access did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The backend knows no such function.
    #[error("no such device")]
    NoDevice,
    /// The register does not exist for the backend.
    #[error("no such register")]
    NoRegister,
    /// The backend refused it.
    #[error("refused by the backend")]
    Refused,
    /// No answer within the deadline.
    #[error("no answer in time")]
    TimedOut,
    /// The link is not connected.
    #[error("the link is not connected")]
    LinkDown,
    /// The backend tried and failed, or sent an error code of its own.
    #[error("failed in the backend ({0})")]
    Failed(i32),
}

/// What a config space script asks of its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Access the function's config space; answered with what was read, or 0 for a write.
    Access(Sbdf, Access),
    /// Read the function's config space, past the backend if that is possible: the backend
    /// shows some registers as it remembers them. Answered as an access.
    Look(Sbdf, Register),
    /// Go on after this time; answered with `Ok(0)`.
    Wait(Duration),
}

/// The answer to a [`Question`].
pub type Answer = Result<u32, AccessError>;

/// An access that was asked for; awaiting it gives the result.
pub type Asked<'a, T> = Mapped<'a, Question, Answer, Result<T, AccessError>>;

/// The config space of one function, for use inside a script.
#[derive(Clone, Debug)]
pub struct Config {
    asker: Asker<Question, Answer>,
    target: Sbdf,
}

impl Config {
    /// The config space of `target`, asked for through `asker`.
    pub const fn new(asker: Asker<Question, Answer>, target: Sbdf) -> Self {
        Self { asker, target }
    }

    /// The config space of another function, asked for through the same asker.
    pub fn of(&self, target: Sbdf) -> Self {
        Self { asker: self.asker.clone(), target }
    }

    /// The function this is.
    pub const fn target(&self) -> Sbdf {
        self.target
    }

    /// Reads the byte at `offset`.
    pub fn read8(&self, offset: u16) -> Asked<'_, u8> {
        self.read(offset, Width::Byte).map(|answer| {
            let [byte, ..] = answer?.to_le_bytes();
            Ok(byte)
        })
    }

    /// Reads the word at `offset`.
    pub fn read16(&self, offset: u16) -> Asked<'_, u16> {
        self.read(offset, Width::Word).map(|answer| {
            let [low, high, ..] = answer?.to_le_bytes();
            Ok(u16::from_le_bytes([low, high]))
        })
    }

    /// Reads the double word at `offset`.
    pub fn read32(&self, offset: u16) -> Waiting<'_, Question, Answer> {
        self.read(offset, Width::Dword)
    }

    /// Reads the double word at `offset` as the hardware has it, if that is possible.
    pub fn look32(&self, offset: u16) -> Waiting<'_, Question, Answer> {
        match Register::new(offset, Width::Dword) {
            Some(register) => self.asker.ask(Question::Look(self.target, register)),
            None => self.asker.answered(Err(AccessError::NoRegister)),
        }
    }

    /// Writes the double word at `offset`.
    pub fn write32(&self, offset: u16, value: u32) -> Waiting<'_, Question, Answer> {
        self.write(offset, Width::Dword, value)
    }

    /// Goes on after `duration`.
    pub fn wait(&self, duration: Duration) -> Mapped<'_, Question, Answer, ()> {
        // A driver answers a wait with Ok; if the link died meanwhile, the next access says so.
        self.asker.ask(Question::Wait(duration)).map(drop)
    }

    /// Reads the register at `offset`.
    pub fn read(&self, offset: u16, width: Width) -> Waiting<'_, Question, Answer> {
        self.access(Register::new(offset, width).map(Access::Read))
    }

    /// Writes the register at `offset`; answered with 0.
    pub fn write(
        &self,
        offset: u16,
        width: Width,
        value: u32,
    ) -> Waiting<'_, Question, Answer> {
        let register = Register::new(offset, width);
        self.access(register.map(|register| Access::Write(register, value)))
    }

    /// `None` is an access to no register.
    fn access(&self, access: Option<Access>) -> Waiting<'_, Question, Answer> {
        match access {
            Some(access) => self.asker.ask(Question::Access(self.target, access)),
            None => self.asker.answered(Err(AccessError::NoRegister)),
        }
    }
}

//! Which addresses a guest's devices get.

use core::str::FromStr;

/// How the virtual bus of a guest is laid out: one policy for all of a guest's devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BusPolicy {
    /// One bus 0000:00; functions of one physical slot share a virtual one and keep their
    /// numbers. What Linux's pciback does.
    #[default]
    Vpci,
    /// Each function is function 0 of a slot of its own, on two buses.
    Slot,
    /// Each function has its physical address.
    Passthrough,
}

impl BusPolicy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Vpci, Self::Slot, Self::Passthrough];

    /// The word by which people choose it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Vpci => "vpci",
            Self::Slot => "slot",
            Self::Passthrough => "passthrough",
        }
    }
}

/// A word names no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no bus policy has this name; there are vpci, slot and passthrough")]
pub struct NoSuchPolicy;

impl FromStr for BusPolicy {
    type Err = NoSuchPolicy;

    fn from_str(word: &str) -> Result<Self, NoSuchPolicy> {
        let mut all = Self::ALL.into_iter();
        all.find(|policy| policy.word() == word).ok_or(NoSuchPolicy)
    }
}

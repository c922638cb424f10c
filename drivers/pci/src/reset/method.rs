//! The ways in which a function can be reset.

use core::fmt;
use core::str::FromStr;

use crate::function::Function;

/// How a function is reset, in order of preference: what touches least comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// PCIe Function Level Reset (PCIe 6.6.2).
    FunctionLevel,
    /// Function Level Reset of the Advanced Features capability (PCI ECN, 13h).
    AdvancedFeatures,
    /// From D3hot to D0, where that loses the state (PCI PM 5.4.1).
    PowerState,
    /// Secondary bus reset of a hotplug-capable port, its presence and link events masked.
    Slot,
    /// Secondary Bus Reset of the port above (PCI-to-PCI bridge 3.2.5.18).
    SecondaryBus,
}

impl Method {
    /// All of them, in order of preference.
    pub const ALL: [Self; 5] = [
        Self::FunctionLevel,
        Self::AdvancedFeatures,
        Self::PowerState,
        Self::Slot,
        Self::SecondaryBus,
    ];

    /// Works on the port above, and so on everything below that.
    pub const fn is_of_port(self) -> bool {
        matches!(self, Self::Slot | Self::SecondaryBus)
    }

    /// Whether `function` has what it takes; for a method of the port, the port has.
    pub fn is_in(self, function: &Function) -> bool {
        match self {
            Self::FunctionLevel => function.pcie.is_some_and(|pcie| pcie.flr),
            Self::AdvancedFeatures => function.af.is_some_and(|af| af.flr),
            Self::PowerState => function.pm.is_some_and(|pm| !pm.no_soft_reset),
            Self::Slot => {
                function.buses.is_some()
                    && function.pcie.is_some_and(|pcie| pcie.slot.is_some())
            }
            Self::SecondaryBus => function.buses.is_some(),
        }
    }

    /// The word by which people choose it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::FunctionLevel => "flr",
            Self::AdvancedFeatures => "af",
            Self::PowerState => "pm",
            Self::Slot => "slot",
            Self::SecondaryBus => "bus",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FunctionLevel => "function level reset",
            Self::AdvancedFeatures => "function level reset by Advanced Features",
            Self::PowerState => "power state reset",
            Self::Slot => "slot reset",
            Self::SecondaryBus => "secondary bus reset",
        })
    }
}

/// The word names no method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no reset method has this name; there are flr, af, pm, slot and bus")]
pub struct UnknownMethod;

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(text: &str) -> Result<Self, UnknownMethod> {
        Self::ALL.into_iter().find(|method| method.word() == text).ok_or(UnknownMethod)
    }
}

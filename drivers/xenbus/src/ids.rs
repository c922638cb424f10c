//! The numbers Xen hands out. Each is its own type, so none passes for another.

use core::fmt;
use core::num::ParseIntError;
use core::str::FromStr;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;
            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.trim().parse().map(Self)
            }
        }
    };
}

number! {
    /// A domain (`domid_t`, xen.h).
    DomId(u16)
}
number! {
    /// A grant reference in the granting domain's table (`grant_ref_t`, grant_table.h).
    GrantRef(u32)
}
number! {
    /// An event channel port of one domain (`evtchn_port_t`, event_channel.h).
    Port(u32)
}
number! {
    /// A physical interrupt of one domain, mapped by Xen (physdev.h). Never a pirq of
    /// ours: it always belongs to the domain that holds the device.
    Pirq(u16)
}
number! {
    /// A machine frame number (`xen_pfn_t` of machine memory, xen.h).
    Mfn(u64)
}

impl DomId {
    /// Domain 0, where the hardware, the toolstack and XenStore live.
    pub const DOM0: Self = Self(0);
}

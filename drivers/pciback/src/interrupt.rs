//! Which interrupts of a lent function are on, and the leases behind them.
//!
//! A pirq is alive from a successful map to its unmap and nowhere else (protocol.md 6.7):
//! [`Leases`] are made only from a grant of the daemon, can't be copied, and are gone when
//! they are ended. No number is kept beyond that, and none is read back from the device.
//!
//! INTx needs no lease: the daemon maps its line with the loan, and a function whose
//! message interrupts are off uses it.

use alloc::vec::Vec;
use core::fmt;

use pcidom_loan::{LeaseAsk, LeaseRefusal, MAX_VECTORS, repeated};
use pcidom_pci::AccessError;
use pcidom_pci::function::Function;
use pcidom_pci::regs::{msi, msix};
use pcidom_xenbus::Pirq;

/// A kind of message interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One vector in the capability itself.
    Msi,
    /// Vectors in a table.
    Msix,
}

impl Kind {
    /// Where the control word of this kind is in `function`.
    pub(crate) fn control(self, function: &Function) -> Option<u16> {
        match self {
            Self::Msi => function.msi.as_ref().map(pcidom_pci::function::Msi::control),
            Self::Msix => function.msix.as_ref().map(pcidom_pci::function::Msix::control),
        }
    }

    /// The control word that turns it on. Only ENABLE and MASKALL change: dom0's pciback
    /// refuses a write that touches anything else.
    pub(crate) const fn on(self, control: u16) -> u16 {
        match self {
            Self::Msi => control | msi::ENABLE,
            Self::Msix => (control | msix::ENABLE) & !msix::MASKALL,
        }
    }

    /// The control word that turns it off.
    pub(crate) const fn off(self, control: u16) -> u16 {
        match self {
            Self::Msi => control & !msi::ENABLE,
            Self::Msix => control & !(msix::ENABLE | msix::MASKALL),
        }
    }
}

/// Why the daemon's answer to a lease question is no grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The daemon said no; nothing was mapped or unmapped.
    #[error("{0}")]
    Refused(#[from] LeaseRefusal),
    /// No answer. It may have been done or not, or be done later.
    #[error(
        "pcidomctl's daemon does not answer: see whether it runs, then reload the guest's driver"
    )]
    Unavailable,
}

/// Why interrupts could not be turned on or off. Its text is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The function has no such capability.
    #[error(
        "the function has no interrupts of the kind that was asked for: see its driver's options"
    )]
    NoCapability,
    /// None, or more than the table or the ring's page has.
    #[error(
        "{0} vectors were asked for, more than the table or a request has, or none: limit its driver's queues"
    )]
    Count(u32),
    /// An entry that the table doesn't have, or one twice.
    #[error(
        "table entry {0} was asked for, which is beyond the table or there twice: its driver is at fault"
    )]
    Entry(u16),
    /// The daemon's answer.
    #[error("{0}")]
    Lease(#[from] LeaseError),
    /// The daemon sent another number of pirqs than was asked for, or unusable ones.
    #[error(
        "the daemon's grant does not fit the request: run the pcidomctl that belongs to this pcidom"
    )]
    BadGrant,
    /// The hardware access that turns them on or off.
    #[error("turning interrupts on or off in hardware failed: {0}")]
    Access(#[from] AccessError),
    /// The function reads all ones.
    #[error("the function does not respond: detach it (pcidomctl detach -f)")]
    NotResponding,
    /// All went well, but after the guest had been answered: undone.
    #[error(
        "it took longer than the guest waits: see whether dom0 is busy, then reload its driver"
    )]
    TooLate,
}

/// Pirqs that the daemon has mapped for the guest, in the order of the request.
#[derive(Debug, PartialEq, Eq)]
pub struct Leases(Vec<Pirq>);

impl Leases {
    /// From the daemon's answer to a request for `asked` vectors. Linux takes 0 for "no
    /// vector", and the same pirq twice would be a bug of the daemon.
    pub(crate) fn granted(asked: usize, pirqs: Vec<Pirq>) -> Result<Self, Trouble> {
        if pirqs.len() != asked || pirqs.contains(&Pirq(0)) || repeated(&pirqs).is_some()
        {
            return Err(Trouble::BadGrant);
        }
        Ok(Self(pirqs))
    }

    /// The pirqs, numbers of the guest.
    pub fn pirqs(&self) -> &[Pirq] {
        &self.0
    }
}

/// What is mapped for a function, by what the daemon told us.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Holding {
    /// Nothing.
    #[default]
    Nothing,
    /// Asked and not answered: perhaps something. Ended by a successful unmap only.
    Unsure,
    /// These.
    Held(Leases),
}

/// The message interrupts of one function.
///
/// ```text
///             1 ask to map            2 granted               4 ENABLE written
///   nothing -------------> unsure ----------------> held ----------------------> on
///      ^ ^                   |  | 3 refused          | 5 ENABLE failed, too late |
///      | |___________________|__|                    |                           |
///      |         6 unmapped  |<----------------------+<--------------------------+
///      |_____________________|        7 ENABLE off, then ask to unmap
/// ```
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    /// Set before ENABLE is written to the hardware, and cleared after it was cleared there.
    enabled: Option<Kind>,
    holding: Holding,
    trouble: Option<Trouble>,
}

/// What `status` shows of a function's interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Message interrupts are off; INTx may be in use.
    Off,
    /// On, with this many leases.
    On(Kind, usize),
    /// Being turned on or off, or stuck in that since dom0 doesn't answer.
    Between,
}

impl Interrupts {
    pub(crate) const fn new() -> Self {
        Self { enabled: None, holding: Holding::Nothing, trouble: None }
    }

    /// The kind whose ENABLE bit is on in the hardware, or may be.
    pub(crate) const fn enabled(&self) -> Option<Kind> {
        self.enabled
    }

    pub(crate) const fn set_enabled(&mut self, kind: Option<Kind>) {
        self.enabled = kind;
    }

    pub(crate) const fn holding(&self) -> &Holding {
        &self.holding
    }

    pub(crate) fn set_holding(&mut self, holding: Holding) {
        self.holding = holding;
    }

    pub(crate) const fn set_trouble(&mut self, trouble: Option<Trouble>) {
        self.trouble = trouble;
    }

    /// Nothing is on and nothing is mapped.
    pub(crate) const fn is_off(&self) -> bool {
        self.enabled.is_none() && matches!(self.holding, Holding::Nothing)
    }

    pub(crate) const fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    pub(crate) fn mode(&self) -> Mode {
        match (self.enabled, &self.holding) {
            (None, Holding::Nothing) => Mode::Off,
            (Some(kind), Holding::Held(leases)) => Mode::On(kind, leases.pirqs().len()),
            _ => Mode::Between,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("INTx"),
            Self::On(Kind::Msi, _) => f.write_str("MSI"),
            Self::On(Kind::Msix, vectors) => write!(f, "MSI-X({vectors})"),
            Self::Between => f.write_str("changing"),
        }
    }
}

/// Whether `ask` can be put to the daemon for `function`: every number a guest chose is
/// within the table that was recorded (advisory 164).
pub(crate) fn check(
    function: &Function,
    kind: Kind,
    ask: &LeaseAsk,
) -> Result<usize, Trouble> {
    match (kind, ask) {
        (Kind::Msi, LeaseAsk::MapMsi) if function.msi.is_some() => Ok(1),
        (Kind::Msix, LeaseAsk::MapMsix(entries)) => {
            let msix = function.msix.as_ref().ok_or(Trouble::NoCapability)?;
            let most = MAX_VECTORS.min(msix.table_size.into());
            if entries.is_empty() || entries.len() > most {
                let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
                return Err(Trouble::Count(count));
            }
            let beyond = entries.iter().find(|entry| **entry >= msix.table_size);
            match beyond.or_else(|| repeated(entries)) {
                Some(entry) => Err(Trouble::Entry(*entry)),
                None => Ok(entries.len()),
            }
        }
        _ => Err(Trouble::NoCapability),
    }
}

#[cfg(test)]
mod tests {
    use super::{Leases, Pirq, Trouble};

    #[test]
    fn a_grant_has_as_many_pirqs_as_were_asked_for_none_of_them_0_and_none_twice() {
        let granted = |asked, pirqs: &[u16]| {
            Leases::granted(asked, pirqs.iter().copied().map(Pirq).collect())
        };
        let good = granted(3, &[9, 4, 7]).map(|leases| leases.pirqs().to_vec());
        assert_eq!(good, Ok(vec![Pirq(9), Pirq(4), Pirq(7)]));
        for bad in [&[9, 4][..], &[9, 4, 7, 8], &[9, 0, 7], &[9, 4, 9], &[]] {
            assert_eq!(granted(3, bad), Err(Trouble::BadGrant), "{bad:?}");
        }
    }
}

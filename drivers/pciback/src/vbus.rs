//! The virtual bus of one guest: which address each function gets, by the guest's policy
//! (protocol.md 4; [`BusPolicy`]).
//!
//! * vpci, as Linux's pciback has it since 5.13: one bus 0000:00 with 32 slots; functions of
//!   one physical slot share a virtual slot and keep their function numbers.
//! * slot: every function is function 0 of the first free slot, on bus 0000:00 or, once that
//!   is full, 0000:01.
//! * passthrough: the physical address.
//!
//! A wished slot is honoured or refused, which Linux doesn't do.

use alloc::vec::Vec;
use core::fmt;

pub use pcidom_loan::BusPolicy;
use pcidom_pci::{Sbdf, VirtualBdf};

/// Slots of a PCI bus.
const SLOTS: u8 = 32;
/// Buses of the slot policy, as in the Linux kernels that had it.
const BUSES: u8 = 2;

/// What the bus has to know of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Placing {
    /// Its physical address.
    pub device: Sbdf,
    /// The slot that was wished for, 0 to 31.
    pub slot: Option<u8>,
    /// Which address it gets.
    pub policy: BusPolicy,
    /// It is an SR-IOV virtual function.
    pub virtual_function: bool,
    /// It is a bridge.
    pub bridge: bool,
}

/// Why a function got no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Guests get no bridges.
    #[error("bridges are not lent")]
    Bridge,
    /// So many slots there are, and all are taken.
    #[error("all {0} slots of the guest's bus are taken")]
    Full(u8),
    /// The wished slot, or its own address, is another's.
    #[error("slot {0:02x} of the guest's bus is taken")]
    Taken(u8),
    /// Another slot than the wished one is the only one it can have.
    #[error("it can have no slot but {0:02x}, which its other functions have")]
    Bound(u8),
}

#[derive(Clone, Copy, Debug, Hash)]
struct Placed {
    device: Sbdf,
    virtual_function: bool,
    at: VirtualBdf,
}

/// The bus; its functions in the order in which they came.
#[derive(Clone, Debug, Default, Hash)]
pub struct VirtualBus {
    placed: Vec<Placed>,
}

impl VirtualBus {
    /// An empty bus.
    pub const fn new() -> Self {
        Self { placed: Vec::new() }
    }

    /// Nothing is on it.
    pub const fn is_empty(&self) -> bool {
        self.placed.is_empty()
    }

    /// Gives a function its address; the one it has if it is there already.
    ///
    /// # Errors
    /// If it is a bridge, no slot is left, or not the one that was wished for; nothing has
    /// changed then.
    pub fn place(&mut self, wanted: Placing) -> Result<VirtualBdf, PlaceError> {
        if let Some(at) = self.address_of(wanted.device) {
            return Ok(at);
        }
        let Placing { device, slot: wish, policy, virtual_function, bridge } = wanted;
        if bridge {
            return Err(PlaceError::Bridge);
        }
        let at = match (policy, self.shared_slot(wanted)) {
            (BusPolicy::Passthrough, _) => device,
            (BusPolicy::Slot, _) => self.free_slot(wish, BUSES)?,
            (BusPolicy::Vpci, None) => {
                with_function(self.free_slot(wish, 1)?, device.function())
            }
            (BusPolicy::Vpci, Some(shared)) => with_function(shared, device.function()),
        };
        let slot = at.device();
        if wish.is_some_and(|wish| wish != slot) {
            return Err(PlaceError::Bound(slot));
        }
        let at = VirtualBdf(at);
        // Where a guest has more than one policy, which the daemon does not let happen.
        if self.at(at).is_some() {
            return Err(PlaceError::Taken(slot));
        }
        self.placed.push(Placed { device, virtual_function, at });
        Ok(at)
    }

    /// Takes a function off. Its slot is free once the last of it is gone.
    pub fn remove(&mut self, device: Sbdf) {
        self.placed.retain(|placed| placed.device != device);
    }

    /// Takes off all that do not stay.
    pub fn retain(&mut self, stays: impl Fn(Sbdf) -> bool) {
        self.placed.retain(|placed| stays(placed.device));
    }

    /// Where a function is.
    pub fn address_of(&self, device: Sbdf) -> Option<VirtualBdf> {
        self.placed.iter().find(|placed| placed.device == device).map(|placed| placed.at)
    }

    /// What is at an address.
    pub fn at(&self, at: VirtualBdf) -> Option<Sbdf> {
        self.placed.iter().find(|placed| placed.at == at).map(|placed| placed.device)
    }

    /// The function that came first of those in a slot.
    fn first_in(&self, slot: Sbdf) -> Option<&Placed> {
        self.placed.iter().find(|placed| with_function(placed.at.0, 0) == slot)
    }

    /// Function 0 of the wished slot, or of the first one that is free on so many buses.
    fn free_slot(&self, wish: Option<u8>, buses: u8) -> Result<Sbdf, PlaceError> {
        if let Some(wish) = wish {
            let slot = Sbdf::new(0, 0, wish, 0);
            let free = slot.filter(|slot| self.first_in(*slot).is_none());
            return free.ok_or(PlaceError::Taken(wish));
        }
        let mut all = (0..buses).flat_map(slots_of);
        let free = all.find(|slot| self.first_in(*slot).is_none());
        free.ok_or(PlaceError::Full(SLOTS.saturating_mul(buses)))
    }

    /// The slot of the wanted function's neighbours. A virtual function with number 0 is
    /// kept apart: its number says nothing about its physical function's slot.
    fn shared_slot(&self, wanted: Placing) -> Option<Sbdf> {
        let apart =
            |device: Sbdf, virtual_function| virtual_function && device.function() == 0;
        if apart(wanted.device, wanted.virtual_function) {
            return None;
        }
        slots_of(0).find(|slot| {
            self.first_in(*slot).is_some_and(|first| {
                with_function(first.device, 0) == with_function(wanted.device, 0)
                    && !apart(first.device, first.virtual_function)
            })
        })
    }
}

/// Function 0 of each slot of a bus in segment 0.
fn slots_of(bus: u8) -> impl Iterator<Item = Sbdf> {
    (0..SLOTS).filter_map(move |slot| Sbdf::new(0, bus, slot, 0))
}

/// Another function of the same slot.
fn with_function(of: Sbdf, function: u8) -> Sbdf {
    Sbdf::new(of.segment(), of.bus(), of.device(), function).unwrap_or(of)
}

/// The text of `vdev-N`: the function has two digits, unlike everywhere else. Frontends
/// parse it with that format (protocol.md 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VdevText(pub VirtualBdf);

/// The text of `root-N`: segment and bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RootText {
    segment: u16,
    bus: u8,
}

impl RootText {
    /// The root bus that a function is on: guests get no bridges, so each bus is one.
    pub const fn of(at: VirtualBdf) -> Self {
        Self { segment: at.0.segment(), bus: at.0.bus() }
    }
}

impl fmt::Display for RootText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}", self.segment, self.bus)
    }
}

impl fmt::Display for VdevText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.0.0;
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{:02x}",
            at.segment(),
            at.bus(),
            at.device(),
            at.function()
        )
    }
}

#[cfg(test)]
mod tests;

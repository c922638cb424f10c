//! The virtual bus of one guest: which address each function gets.
//!
//! As Linux's vpci (its default since there is a pciback; protocol.md 4.1, the rules of
//! 5.13 and later): one bus 0000:00 with 32 slots; functions of one physical slot share a
//! virtual slot and keep their function numbers. A wished slot is honoured if it is free,
//! which Linux doesn't do.

use alloc::vec::Vec;
use core::fmt;

use pcidom_pci::{Sbdf, VirtualBdf};

/// The text of `root-0`, the only root bus there is.
pub const ROOT: &str = "0000:00";

/// Slots of a PCI bus.
const SLOTS: u8 = 32;

/// What the bus has to know of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Placing {
    /// Its physical address.
    pub device: Sbdf,
    /// The slot that was wished for, 0 to 31.
    pub slot: Option<u8>,
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
    /// All slots are taken.
    #[error("all 32 slots of the guest's bus are taken")]
    Full,
}

#[derive(Clone, Copy, Debug, Hash)]
struct Placed {
    device: Sbdf,
    virtual_function: bool,
    slot: u8,
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
    /// If it is a bridge or no slot is left; nothing has changed then.
    pub fn place(&mut self, wanted: Placing) -> Result<VirtualBdf, PlaceError> {
        if let Some(at) = self.address_of(wanted.device) {
            return Ok(at);
        }
        if wanted.bridge {
            return Err(PlaceError::Bridge);
        }
        let slot = self
            .shared_slot(wanted)
            .or_else(|| wanted.slot.filter(|slot| *slot < SLOTS && self.is_free(*slot)))
            .or_else(|| (0..SLOTS).find(|slot| self.is_free(*slot)))
            .ok_or(PlaceError::Full)?;
        let at = address(slot, wanted.device).ok_or(PlaceError::Full)?;
        let Placing { device, virtual_function, .. } = wanted;
        self.placed.push(Placed { device, virtual_function, slot });
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
        let placed = self.placed.iter().find(|placed| placed.device == device)?;
        address(placed.slot, device)
    }

    /// What is at an address.
    pub fn at(&self, at: VirtualBdf) -> Option<Sbdf> {
        let mut devices = self.placed.iter().map(|placed| placed.device);
        devices.find(|device| self.address_of(*device) == Some(at))
    }

    fn is_free(&self, slot: u8) -> bool {
        self.placed.iter().all(|placed| placed.slot != slot)
    }

    /// The slot of the wanted function's neighbours. A virtual function with number 0 is
    /// kept apart: its number says nothing about its physical function's slot.
    fn shared_slot(&self, wanted: Placing) -> Option<u8> {
        let apart =
            |device: Sbdf, virtual_function| virtual_function && device.function() == 0;
        if apart(wanted.device, wanted.virtual_function) {
            return None;
        }
        let slot_of = |d: Sbdf| (d.segment(), d.bus(), d.device());
        (0..SLOTS).find(|slot| {
            let first = self.placed.iter().find(|placed| placed.slot == *slot);
            first.is_some_and(|first| {
                slot_of(first.device) == slot_of(wanted.device)
                    && !apart(first.device, first.virtual_function)
            })
        })
    }
}

fn address(slot: u8, device: Sbdf) -> Option<VirtualBdf> {
    Sbdf::new(0, 0, slot, device.function()).map(VirtualBdf)
}

/// The text of `vdev-N`: the function has two digits, unlike everywhere else. Frontends
/// parse it with that format (protocol.md 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VdevText(pub VirtualBdf);

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
mod tests {
    use super::{PlaceError, Placing, VdevText, VirtualBus};
    use pcidom_pci::Sbdf;

    fn placing(device: &str) -> Placing {
        let device = device.parse().unwrap();
        Placing { device, slot: None, virtual_function: false, bridge: false }
    }

    fn place(bus: &mut VirtualBus, wanted: Placing) -> String {
        VdevText(bus.place(wanted).unwrap()).to_string()
    }

    #[test]
    fn functions_of_one_physical_slot_share_a_virtual_slot() {
        let mut bus = VirtualBus::new();
        assert_eq!(place(&mut bus, placing("01:00.0")), "0000:00:00.00");
        assert_eq!(place(&mut bus, placing("02:00.1")), "0000:00:01.01");
        assert_eq!(place(&mut bus, placing("02:00.0")), "0000:00:01.00");
        assert_eq!(place(&mut bus, placing("01:00.3")), "0000:00:00.03");
        assert_eq!(place(&mut bus, placing("0001:01:00.0")), "0000:00:02.00");
    }

    #[test]
    fn a_function_keeps_its_address_when_it_is_placed_again() {
        let mut bus = VirtualBus::new();
        place(&mut bus, placing("01:00.0"));
        let first = place(&mut bus, placing("02:00.0"));
        assert_eq!(place(&mut bus, placing("02:00.0")), first);
        let at = bus.address_of("02:00.0".parse().unwrap()).unwrap();
        assert_eq!(bus.at(at), "02:00.0".parse::<Sbdf>().ok());
    }

    #[test]
    fn virtual_functions_with_number_0_stand_alone() {
        let vf = |device| Placing { virtual_function: true, ..placing(device) };
        let mut bus = VirtualBus::new();
        assert_eq!(place(&mut bus, vf("01:10.0")), "0000:00:00.00");
        assert_eq!(place(&mut bus, vf("01:10.2")), "0000:00:01.02");
        assert_eq!(place(&mut bus, vf("01:10.3")), "0000:00:01.03");
    }

    #[test]
    fn a_wished_slot_is_honoured_if_it_is_free() {
        let wish = |device, slot| Placing { slot: Some(slot), ..placing(device) };
        let mut bus = VirtualBus::new();
        assert_eq!(place(&mut bus, wish("01:00.0", 5)), "0000:00:05.00");
        assert_eq!(place(&mut bus, wish("02:00.0", 5)), "0000:00:00.00");
        assert_eq!(place(&mut bus, wish("03:00.0", 32)), "0000:00:01.00");
        assert_eq!(place(&mut bus, wish("01:00.1", 9)), "0000:00:05.01");
    }

    #[test]
    fn a_full_bus_refuses_one_more_and_takes_it_after_a_removal() {
        let mut bus = VirtualBus::new();
        for number in 0..32 {
            place(&mut bus, placing(&format!("{number:02x}:00.0")));
        }
        assert_eq!(bus.place(placing("20:00.0")), Err(PlaceError::Full));
        bus.remove("07:00.0".parse().unwrap());
        assert_eq!(place(&mut bus, placing("20:00.0")), "0000:00:07.00");
    }

    #[test]
    fn bridges_are_refused() {
        let bridge = Placing { bridge: true, ..placing("00:1c.0") };
        assert_eq!(VirtualBus::new().place(bridge), Err(PlaceError::Bridge));
    }
}

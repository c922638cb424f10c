//! What XenStore holds of one link: two directories, with the nodes that anybody acts on.

use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_xenbus::XenbusState;

/// Devices of the model.
pub(crate) const DEVICES: usize = 2;

/// Their physical addresses.
const ADDRESSES: [&str; DEVICES] = ["0000:01:00.0", "0000:02:00.0"];

/// The text of `vdev-N` by slot. One more than there are devices: an entry that stays
/// behind keeps its slot from being the first free one.
const PLACES: [&str; DEVICES + 1] = ["0000:00:00.00", "0000:00:01.00", "0000:00:02.00"];

/// Number of a device.
pub(crate) type Device = u8;
/// Slot of the virtual bus.
pub(crate) type Slot = u8;

/// A page that a frontend has granted, and the port that goes with it.
pub(crate) type Page = u8;

/// The device at a physical address.
pub(crate) fn device_at(at: Sbdf) -> Option<Device> {
    let place = ADDRESSES.iter().position(|text| text.parse() == Ok(at))?;
    u8::try_from(place).ok()
}

/// The physical address of a device.
pub(crate) fn address(device: Device) -> Sbdf {
    ADDRESSES[usize::from(device)].parse().unwrap_or(Sbdf::new(0, 0, 0, 0).unwrap())
}

/// The slot of a virtual address.
pub(crate) fn slot_of(at: VirtualBdf) -> Slot {
    at.0.device()
}

/// One device of the back directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    /// `dev-N`
    pub(crate) device: Device,
    /// `state-N`
    pub(crate) state: XenbusState,
    /// `vdev-N`
    pub(crate) at: Option<Slot>,
}

impl Entry {
    /// As a toolstack makes it.
    pub(crate) const fn new(device: Device) -> Self {
        Self { device, state: XenbusState::Initialising, at: None }
    }
}

/// The back directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Back {
    /// `state`
    pub(crate) state: XenbusState,
    /// `online`
    pub(crate) online: bool,
    /// `root_num` and `root-0` are there.
    pub(crate) root: bool,
    /// As many as `num_devs` says.
    pub(crate) entries: Vec<Entry>,
}

impl Back {
    /// The place of a device's entry.
    pub(crate) fn entry_of(&self, device: Device) -> Option<usize> {
        self.entries.iter().position(|entry| entry.device == device)
    }

    /// The text of a node, for those who parse it.
    pub(crate) fn get(&self, key: &str) -> Option<&'static str> {
        match key {
            "state" => return Some(number(self.state)),
            "num_devs" => return Some(["0", "1", "2", "3"][self.entries.len()]),
            _ => {}
        }
        let (name, index) = key.split_once('-')?;
        let entry = self.entries.get(index.parse::<usize>().ok()?)?;
        match name {
            "dev" => Some(ADDRESSES[usize::from(entry.device)]),
            "state" => Some(number(entry.state)),
            "vdev" => entry.at.map(|slot| PLACES[usize::from(slot)]),
            _ => None,
        }
    }

    /// Writes a node as the backend does.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        if key.starts_with("root") {
            self.root = true;
        }
        let Some((name, index)) = key.split_once('-') else { return };
        let index = index.parse::<usize>().ok();
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else {
            return;
        };
        match name {
            "state" => entry.state = XenbusState::parse(Some(value)),
            "vdev" => {
                let slot = PLACES.iter().position(|place| *place == value);
                entry.at = slot.and_then(|slot| u8::try_from(slot).ok());
            }
            _ => {}
        }
    }
}

/// The front directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Front {
    /// `state`
    pub(crate) state: XenbusState,
    /// `pci-op-ref`; `event-channel` and `magic` come and go with it.
    pub(crate) page: Option<Page>,
}

/// Both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Dirs {
    pub(crate) front: Option<Front>,
    pub(crate) back: Option<Back>,
}

impl Dirs {
    /// Both as a toolstack makes them, with these devices.
    pub(crate) fn make(&mut self, devices: &[Device]) {
        self.front = Some(Front { state: XenbusState::Initialising, page: None });
        self.back = Some(Back {
            state: XenbusState::Initialising,
            online: true,
            root: false,
            entries: devices.iter().copied().map(Entry::new).collect(),
        });
    }

    /// `state` of the front directory.
    pub(crate) fn front_state(&self) -> XenbusState {
        self.front.as_ref().map_or(XenbusState::Unknown, |front| front.state)
    }

    /// `state` of the back directory.
    pub(crate) fn back_state(&self) -> XenbusState {
        self.back.as_ref().map_or(XenbusState::Unknown, |back| back.state)
    }

    /// `state-N` of a device.
    pub(crate) fn entry(&self, device: Device) -> Option<Entry> {
        let back = self.back.as_ref()?;
        back.entries.get(back.entry_of(device)?).copied()
    }

    /// Changes `state-N` of a device.
    pub(crate) fn set_entry(&mut self, device: Device, state: XenbusState) {
        let entries = self.back.iter_mut().flat_map(|back| &mut back.entries);
        for entry in entries.filter(|entry| entry.device == device) {
            entry.state = state;
        }
    }
}

/// The text of a state.
pub(crate) const fn number(state: XenbusState) -> &'static str {
    ["0", "1", "2", "3", "4", "5", "6", "7", "8"][state as usize]
}

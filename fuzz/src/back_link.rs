//! The B-link: a guest, a toolstack and a daemon that say anything in any order.
//!
//! Steps, each a byte and what it needs; modulo 16: 0 to 3 the front directory (state, keys);
//! 4 to 8 the back directory (state, how many entries, each four bytes); 9, 10 a loan begins
//! (device, slot, kind); 11 a loan ends; 12 a write failed; 13 entries have moved; 14 a dead
//! guest's page is let go; 15 the next page can't be mapped.

use pciback::link::{Action, BackEntries, BackEntry, Event, FrontKeys, Link, Phase};
use pciback::vbus::{BusPolicy, Placing};
use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_xenbus::{GrantRef, Port, XenbusState};

use crate::front_link::STATES;
use crate::input::Input;

/// Most steps of one input.
const MAX_STEPS: usize = 128;
/// Most actions that one event may lead to: an export or withdrawal for each entry, and what
/// a new life of the link takes.
const MAX_ACTIONS: usize = MAX_GIVEN as usize + 6;
/// Entries of a directory here.
const MAX_GIVEN: u8 = 8;
/// Buses that devices here can be on: their own, or the two of a guest's.
const MAX_ROOTS: usize = 4;
/// Keys that are written for each entry, and for the link.
const MAX_KEYS: usize = 2 * MAX_GIVEN as usize + MAX_ROOTS + 1;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::default();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut world, &mut input);
    }
    world.end();
}

/// Neighbours in a slot, functions of others, and a bridge.
fn device(number: u8) -> Sbdf {
    Sbdf::new(0, number >> 2 & 3, 0, number & 3).unwrap()
}

fn placing(input: &mut Input<'_>) -> Placing {
    let (device, slot, kind) = (device(input.byte()), input.byte(), input.byte());
    Placing {
        device,
        slot: (slot & 0x80 != 0).then_some(slot & 0x7f),
        // 0 is what there is without a wish.
        policy: BusPolicy::ALL[usize::from(kind >> 3) % BusPolicy::ALL.len()],
        virtual_function: kind & 3 == 1,
        bridge: kind & 7 == 7,
    }
}

fn front(input: &mut Input<'_>) -> FrontKeys {
    let (state, keys) = (input.pick(&STATES), input.byte());
    let number = (keys & 1 == 0).then_some(u32::from(keys >> 4));
    FrontKeys {
        state,
        pci_op_ref: number.map(GrantRef),
        event_channel: number.filter(|_| keys & 2 == 0).map(Port),
        magic: match keys & 0x0c {
            0x0c => None,
            0x08 => Some("8".into()),
            _ => Some("7".into()),
        },
    }
}

fn back(input: &mut Input<'_>) -> BackEntries {
    let (state, count) = (input.pick(&STATES), input.byte() % (MAX_GIVEN + 1));
    let entry = |index| {
        let [number, place, at] = [input.byte(), input.byte(), input.byte()];
        BackEntry {
            index,
            device: (number & 0x80 == 0).then(|| device(number)),
            state: STATES[usize::from(place & 0x7f) % STATES.len()],
            at: Sbdf::new(0, 0, at >> 3, at & 7)
                .filter(|_| place & 0x80 == 0)
                .map(VirtualBdf),
        }
    };
    let entries = (0..u32::from(count)).map(entry).collect();
    BackEntries { state, entries }
}

fn step(world: &mut World, input: &mut Input<'_>) {
    let event = match input.byte() % 16 {
        0..=3 => Event::Front(front(input)),
        4..=8 => Event::Back(back(input)),
        9 | 10 => Event::Lent(placing(input)),
        11 => Event::Ended(device(input.byte())),
        12 => Event::Unwritten,
        13 => Event::Moved,
        14 => Event::Release,
        _ => {
            world.refuses = true;
            return;
        }
    };
    world.feed(event);
}

/// The link, and what must be so around it.
#[derive(Debug, Default)]
struct World {
    link: Link,
    mapped: bool,
    /// The next page can't be mapped.
    refuses: bool,
    lent: Vec<Placing>,
    /// What the guest is shown, and where.
    shown: Vec<(Sbdf, VirtualBdf)>,
}

impl World {
    fn feed(&mut self, event: Event) {
        log::trace!("{event:?}");
        match &event {
            Event::Lent(placing) => {
                self.lent.retain(|known| known.device != placing.device);
                self.lent.push(*placing);
            }
            Event::Ended(device) => {
                // The machine takes it off at once, whatever the link does.
                self.lent.retain(|lent| lent.device != *device);
                self.shown.retain(|(shown, _)| shown != device);
            }
            _ => {}
        }
        let was_open = matches!(
            self.link.phase(),
            Phase::Connecting
                | Phase::Connected
                | Phase::Reconfiguring
                | Phase::Reconfigured
        );
        let closes =
            matches!(&event, Event::Front(keys) if keys.state == XenbusState::Closed);
        let actions = self.link.handle(event);
        if was_open && closes && !self.lent.is_empty() {
            // Its driver, loaded again, would not come back to a link that is closed.
            let offered = Action::SetState(XenbusState::InitWait);
            assert!(actions.contains(&offered), "is not offered again");
        }
        assert!(actions.len() <= MAX_ACTIONS, "{} actions", actions.len());
        let says = |action: &Action| match action {
            Action::SetState(state) => Some(*state),
            _ => None,
        };
        if let Some(said) = actions.iter().rev().find_map(says) {
            assert_eq!(said, shows(self.link.phase()), "{:?}", self.link.phase());
        }
        for action in actions {
            log::trace!("  {action:?}");
            self.carry_out(action);
        }
        assert_eq!(self.link.is_connected(), self.mapped, "{:?}", self.link.phase());
        for (n, (device, at)) in self.shown.iter().enumerate() {
            let taken = self.shown.iter().skip(n + 1).any(|(_, other)| other == at);
            assert!(!taken, "{at} is given twice");
            assert_eq!(self.link.bus().address_of(*device), Some(*at));
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::ReadFront | Action::ReadBack | Action::SetState(_) => {}
            Action::Connect { .. } => {
                assert!(!self.mapped, "maps a second page");
                let refused = std::mem::take(&mut self.refuses);
                self.mapped = !refused;
                let result = if refused { Err("no such grant".into()) } else { Ok(()) };
                self.feed(Event::Connected(result));
            }
            Action::Disconnect => {
                assert!(self.mapped, "unmaps what is not mapped");
                self.mapped = false;
            }
            Action::Write { beside, keys } => {
                assert!(keys.len() <= MAX_KEYS, "{} keys", keys.len());
                let known = ["vdev-", "state-", "error-", "root-", "root_num"];
                let roots: Vec<&str> = keys
                    .iter()
                    .filter(|(name, _)| name.starts_with("root-"))
                    .map(|(_, value)| value.as_str())
                    .collect();
                for (name, value) in &keys {
                    // A front scans a root bus before it looks for what is on it.
                    let on_root = roots.iter().any(|root| value.starts_with(root));
                    assert!(!name.starts_with("vdev-") || on_root, "{value} has no root");
                    assert!(known.iter().any(|known| name.starts_with(known)), "{name}");
                    assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
                }
                let device = beside.map(|(_, device)| device.parse::<Sbdf>().is_ok());
                assert_ne!(device, Some(false));
            }
            Action::Error(text) => {
                assert!(
                    text.len() < 100
                        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
                );
            }
            Action::Export { device, at } => {
                let lent = self.placing(device).expect("shows what is not lent");
                let own = VirtualBdf(device);
                let (first, function) = ((at.0.segment(), at.0.bus()), at.0.function());
                match lent.policy {
                    BusPolicy::Vpci => {
                        assert_eq!((first, function), ((0, 0), device.function()));
                    }
                    BusPolicy::Slot => {
                        assert!(first <= (0, 1) && function == 0, "{at}");
                    }
                    BusPolicy::Passthrough => assert_eq!(at, own),
                }
                let wished = lent.slot.is_none_or(|slot| slot == at.0.device());
                assert!(wished && !lent.bridge, "{lent:?} at {at}");
                self.shown.retain(|(shown, _)| *shown != device);
                self.shown.push((device, at));
            }
            Action::Withdraw(device) => {
                assert!(self.placing(device).is_some(), "withdraws what is not lent");
                self.shown.retain(|(shown, _)| *shown != device);
            }
        }
    }

    fn placing(&self, device: Sbdf) -> Option<Placing> {
        self.lent.iter().find(|placing| placing.device == device).copied()
    }

    /// All loans end, and the daemon makes a link for a new one: it always comes up.
    fn end(&mut self) {
        self.refuses = false;
        while let Some(placing) = self.lent.first().copied() {
            self.feed(Event::Ended(placing.device));
        }
        let directory = |state, entries| Event::Back(BackEntries { state, entries });
        self.feed(directory(XenbusState::Initialising, Vec::new()));
        assert!(self.shown.is_empty() && !self.mapped, "something is left");
        let device = device(5);
        let placing = Placing {
            device,
            slot: None,
            policy: BusPolicy::default(),
            virtual_function: false,
            bridge: false,
        };
        self.feed(Event::Lent(placing));
        let (state, at) = (XenbusState::Initialising, None);
        let entry = BackEntry { index: 0, device: Some(device), state, at };
        self.feed(directory(XenbusState::InitWait, [entry].into()));
        self.feed(Event::Front(FrontKeys {
            state: XenbusState::Initialised,
            pci_op_ref: Some(GrantRef(77)),
            event_channel: Some(Port(78)),
            magic: Some("7".into()),
        }));
        assert_eq!(self.link.phase(), Phase::Connected, "never connects again");
        assert!(self.shown.iter().map(|(device, _)| *device).eq([device]));
    }
}

/// The state that a phase shows.
fn shows(phase: Phase) -> XenbusState {
    match phase {
        Phase::Absent => XenbusState::Unknown,
        Phase::Waiting => XenbusState::InitWait,
        Phase::Ready | Phase::Connecting => XenbusState::Initialised,
        Phase::Connected => XenbusState::Connected,
        Phase::Reconfiguring => XenbusState::Reconfiguring,
        Phase::Reconfigured => XenbusState::Reconfigured,
        Phase::Closing => XenbusState::Closing,
        Phase::Closed => XenbusState::Closed,
    }
}

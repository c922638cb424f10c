//! The A-link: a toolstack and a backend that say anything in any order.
//!
//! Steps, each a byte and what it needs; modulo 16: 0 to 4 the backend's state; 5 our own
//! directory's; 6, 7 opened or not; 8 to 12 the directory as it was read (how many entries,
//! each three bytes); 13 it could not be read; 14, 15 a device is released.

use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_xenbus::XenbusState;
use pcifront::{Action, Event, Export, Link, State};

use crate::input::Input;

/// Most steps of one input.
const MAX_STEPS: usize = 128;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let event = event(&mut input, &world);
        world.feed(event);
    }
    world.end();
}

/// States by number, more than there are.
pub(crate) const STATES: [XenbusState; 9] = [
    XenbusState::Unknown,
    XenbusState::Initialising,
    XenbusState::InitWait,
    XenbusState::Initialised,
    XenbusState::Connected,
    XenbusState::Closing,
    XenbusState::Closed,
    XenbusState::Reconfiguring,
    XenbusState::Reconfigured,
];

fn device(number: u8) -> Sbdf {
    Sbdf::new(0, number % 8, 0, 0).unwrap()
}

fn event(input: &mut Input<'_>, world: &World) -> Event {
    match input.byte() % 16 {
        0..=4 => Event::Backend(input.pick(&STATES)),
        5 => Event::Front(input.pick(&STATES)),
        6 => Event::Opened,
        7 => Event::OpenFailed,
        8..=12 => {
            let mut exports: Vec<Export> = Vec::new();
            for _ in 0..input.byte() % 6 {
                let (number, slot) = (input.byte(), input.byte());
                let known = exports.iter().any(|known| known.device == device(number));
                let at = (slot & 0x80 == 0).then(|| Sbdf::new(0, 0, slot % 32, 0));
                let state = input.pick(&STATES);
                if !known {
                    let at = at.flatten().map(VirtualBdf);
                    exports.push(Export { device: device(number), at, state });
                }
            }
            Event::Devices(exports)
        }
        13 => Event::ReadFailed,
        _ => {
            let wanted = input.byte();
            let leaving = &world.unreleased;
            match leaving.get(usize::from(wanted) % leaving.len().max(1)) {
                Some(device) => Event::Released(*device),
                None => Event::Backend(XenbusState::Connected),
            }
        }
    }
}

/// The link, and what must be so around it.
#[derive(Debug)]
struct World {
    link: Link,
    opening: bool,
    open: bool,
    reading: bool,
    added: Vec<Sbdf>,
    unreleased: Vec<Sbdf>,
}

impl World {
    const fn new() -> Self {
        Self {
            link: Link::new(),
            opening: false,
            open: false,
            reading: false,
            added: Vec::new(),
            unreleased: Vec::new(),
        }
    }

    /// Tells the link, if the event is possible now.
    fn feed(&mut self, event: Event) {
        let possible = match &event {
            Event::Opened | Event::OpenFailed => {
                let was = std::mem::take(&mut self.opening);
                self.open |= was && event == Event::Opened;
                was
            }
            Event::Devices(_) | Event::ReadFailed => std::mem::take(&mut self.reading),
            Event::Released(device) => {
                let before = self.unreleased.len();
                self.unreleased.retain(|known| known != device);
                before != self.unreleased.len()
            }
            Event::Backend(_) | Event::Front(_) => true,
        };
        if !possible {
            return;
        }
        log::trace!("{event:?}");
        for action in self.link.handle(event) {
            log::trace!("  {action:?}");
            self.check(&action);
        }
        assert_eq!(self.link.devices().count(), self.added.len());
        assert!(self.link.devices().all(|export| self.added.contains(&export.device)));
        assert!(!self.link.state().is_linked() || self.open, "linked without a page");
    }

    fn check(&mut self, action: &Action) {
        match action {
            Action::Open => {
                assert!(!self.open && !self.opening, "opened twice");
                self.opening = true;
            }
            Action::Close => {
                assert!(self.open, "closed what is not open");
                self.open = false;
            }
            Action::ReadDevices => {
                assert!(!self.reading, "reads twice at a time");
                self.reading = true;
            }
            Action::Added(export) => {
                assert!(self.open, "added on a closed link");
                assert!(export.is_usable(), "{export:?}");
                assert!(!self.added.contains(&export.device), "added twice");
                self.added.push(export.device);
            }
            Action::Removed(device) => {
                let before = self.added.len();
                self.added.retain(|known| known != device);
                assert_ne!(self.added.len(), before, "removed what was not added");
                if !self.unreleased.contains(device) {
                    self.unreleased.push(*device);
                }
            }
            Action::SetState(state) => {
                assert!(self.open, "{state} written on a closed link");
                let gives_up =
                    matches!(state, XenbusState::Closed | XenbusState::Reconfiguring);
                assert!(!gives_up || self.unreleased.is_empty(), "{state} too early");
            }
        }
    }

    /// What is under way ends, the toolstack makes the link afresh: it always comes up.
    fn end(&mut self) {
        self.feed(Event::ReadFailed);
        self.feed(Event::Backend(XenbusState::Unknown));
        self.feed(Event::Front(XenbusState::Unknown));
        self.feed(Event::OpenFailed);
        self.feed(Event::ReadFailed);
        while let Some(device) = self.unreleased.first().copied() {
            self.feed(Event::Released(device));
        }
        assert!(
            !self.open && !self.opening && self.added.is_empty(),
            "something is left"
        );
        self.feed(Event::Front(XenbusState::Initialising));
        self.feed(Event::Backend(XenbusState::InitWait));
        self.feed(Event::Opened);
        self.feed(Event::Backend(XenbusState::Connected));
        let at = Some(VirtualBdf(device(0)));
        let export = Export { device: device(3), at, state: XenbusState::Initialised };
        self.feed(Event::Devices([export].into()));
        assert_eq!(self.link.state(), State::Connected, "never connects again");
        assert_eq!(self.added, [device(3)]);
    }
}

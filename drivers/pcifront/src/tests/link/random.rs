use std::collections::BTreeSet;

use super::{World, export, state};
use crate::exports::Export;
use crate::link::{Action, Event, Link, State};

/// A small generator; the sequences are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % sides
    }
}

/// What must hold whatever is said to the link.
#[derive(Default)]
struct Rules {
    opening: bool,
    open: bool,
    reads: u32,
    added: BTreeSet<u8>,
    unreleased: Vec<u8>,
}

impl Rules {
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
                self.reads += 1;
                assert_eq!(self.reads, 1, "reads twice at a time");
            }
            Action::Added(export) => {
                assert!(self.open, "added on a closed link");
                assert!(export.is_usable());
                assert!(self.added.insert(export.device.bus()), "added twice");
            }
            Action::Removed(device) => {
                assert!(self.added.remove(&device.bus()), "removed what was not added");
                self.unreleased.push(device.bus());
            }
            Action::SetState(state) => {
                assert!(self.open, "{state} written on a closed link");
                if matches!(state.number(), 6 | 7) {
                    assert_eq!(self.unreleased, [], "{state} while devices are in use");
                }
            }
        }
    }

    /// The event is possible now, and its effect is noted.
    fn admit(&mut self, event: &Event) -> bool {
        match event {
            Event::Opened | Event::OpenFailed if !self.opening => false,
            Event::Opened => {
                self.opening = false;
                self.open = true;
                true
            }
            Event::OpenFailed => {
                self.opening = false;
                true
            }
            Event::Devices(_) | Event::ReadFailed => {
                let asked = self.reads > 0;
                self.reads = 0;
                asked
            }
            Event::Released(device) => {
                let before = self.unreleased.len();
                self.unreleased.retain(|bus| *bus != device.bus());
                before != self.unreleased.len()
            }
            Event::Backend(_) | Event::Front(_) => true,
        }
    }
}

fn directory(dice: &mut Dice) -> Vec<Export> {
    let entry = |bus| {
        let slot = (dice.roll(4) != 0).then(|| u8::try_from(dice.roll(3)).unwrap());
        export(bus, slot, [1, 3, 3, 5, 6][usize::try_from(dice.roll(5)).unwrap()])
    };
    (1..4).map(entry).collect()
}

fn event(dice: &mut Dice, rules: &Rules) -> Event {
    match dice.roll(16) {
        0..5 => Event::Backend(state(u8::try_from(dice.roll(9)).unwrap())),
        5 => Event::Front(state([0, 1, 3, 4][usize::try_from(dice.roll(4)).unwrap()])),
        6..8 => Event::Opened,
        8 => Event::OpenFailed,
        9..13 => Event::Devices(directory(dice)),
        13 => Event::ReadFailed,
        _ => match rules.unreleased.first() {
            Some(bus) => Event::Released(super::device(*bus)),
            None => Event::Backend(state(4)),
        },
    }
}

#[test]
fn no_sequence_breaks_the_rules_and_a_good_backend_always_gets_through() {
    for seed in 0..3000 {
        let mut dice = Dice(seed);
        let (mut link, mut rules) = (Link::new(), Rules::default());
        for _ in 0..dice.roll(60) {
            let event = event(&mut dice, &rules);
            if !rules.admit(&event) {
                continue;
            }
            for action in link.handle(event) {
                rules.check(&action);
            }
            let known: BTreeSet<_> =
                link.devices().map(|export| export.device.bus()).collect();
            assert_eq!(known, rules.added, "seed {seed}");
        }

        // What is under way ends, and the toolstack makes the link afresh.
        let mut world = World::new(&[export(1, Some(0), 3), export(2, Some(1), 3)]);
        world.link = link;
        if rules.reads > 0 {
            world.feed(Event::ReadFailed);
        }
        world.slow_open = true;
        world.tear_down();
        if rules.opening {
            world.feed(Event::OpenFailed);
        }
        world.slow_open = false;
        for bus in rules.unreleased {
            world.feed(Event::Released(super::device(bus)));
        }
        world.make_again(&[export(1, Some(0), 3), export(2, Some(1), 3)]);
        assert_eq!(world.link.state(), State::Connected, "seed {seed}");
        assert_eq!(world.link.devices().count(), 2, "seed {seed}");
        world.directory[0].state = state(5);
        for number in [7, 8, 4] {
            world.backend(number);
        }
        assert_eq!(world.link.devices().count(), 1, "seed {seed}");
    }
}

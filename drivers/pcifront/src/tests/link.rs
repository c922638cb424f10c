use std::collections::VecDeque;

use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_xenbus::XenbusState;

use crate::exports::Export;
use crate::link::{Action, Event, Link, State};

mod random;

fn state(number: u8) -> XenbusState {
    XenbusState::parse(Some(&number.to_string()))
}

fn device(bus: u8) -> Sbdf {
    Sbdf::new(0, bus, 0, 0).unwrap()
}

/// An entry of the directory: bus of the device, slot it is shown at, its own state.
fn export(bus: u8, slot: Option<u8>, own: u8) -> Export {
    let at = slot.map(|slot| VirtualBdf(Sbdf::new(0, 0, slot, 0).unwrap()));
    Export { device: device(bus), at, state: state(own) }
}

/// Everything around the link: the event loop, which does what it is told at once, and
/// the directory of the backend.
struct World {
    link: Link,
    directory: Vec<Export>,
    /// Loans are ended by the test instead of at once.
    slow_release: bool,
    /// Directory reads are answered by the test instead of at once.
    slow_reads: bool,
    /// Opens are answered by the test instead of at once.
    slow_open: bool,
    log: Vec<String>,
}

impl World {
    fn new(directory: &[Export]) -> Self {
        Self {
            link: Link::new(),
            directory: directory.to_vec(),
            slow_release: false,
            slow_reads: false,
            slow_open: false,
            log: Vec::new(),
        }
    }

    /// Coldplugged and connected; the log starts empty.
    fn connected(directory: &[Export]) -> Self {
        let mut world = Self::new(directory);
        for number in [1, 2, 3, 4] {
            world.backend(number);
        }
        assert_eq!(world.link.state(), State::Connected);
        world.log.clear();
        world
    }

    fn feed(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.link.handle(event) {
                self.log.push(match action {
                    Action::Open => "open".into(),
                    Action::SetState(state) => format!("={}", state.number()),
                    Action::ReadDevices => "read".into(),
                    Action::Added(export) => format!("+{}", export.device.bus()),
                    Action::Removed(device) => format!("-{}", device.bus()),
                    Action::Close => "close".into(),
                });
                match action {
                    Action::Open if !self.slow_open => events.push_back(Event::Opened),
                    Action::ReadDevices if !self.slow_reads => {
                        events.push_back(Event::Devices(self.directory.clone()));
                    }
                    Action::Removed(device) if !self.slow_release => {
                        events.push_back(Event::Released(device));
                    }
                    _ => {}
                }
            }
        }
    }

    fn backend(&mut self, number: u8) {
        self.feed(Event::Backend(state(number)));
    }

    fn front(&mut self, number: u8) {
        self.feed(Event::Front(state(number)));
    }

    fn answer_read(&mut self) {
        self.feed(Event::Devices(self.directory.clone()));
    }

    /// The log since the last call.
    fn did(&mut self) -> String {
        std::mem::take(&mut self.log).join(" ")
    }

    /// The directories are removed, as both toolstacks do after the last device.
    fn tear_down(&mut self) {
        self.directory.clear();
        self.backend(0);
        self.front(0);
    }

    /// And made again, with these devices in them.
    fn make_again(&mut self, directory: &[Export]) {
        self.directory = directory.to_vec();
        self.front(1);
        self.backend(1);
        for number in [2, 3, 4, 4] {
            self.backend(number);
        }
    }
}

#[test]
fn coldplug_in_either_order() {
    let mut world = World::new(&[export(1, Some(0), 3), export(3, Some(1), 3)]);
    world.front(1);
    world.backend(1);
    assert_eq!(world.did(), "open");
    world.backend(2);
    world.backend(3);
    assert_eq!(world.did(), "");
    world.backend(4);
    assert_eq!(world.did(), "read +1 +3 =4");
    // pciback sets its state once more when it sees ours.
    world.backend(4);
    assert_eq!(world.did(), "read");

    // The backend was there first, and 1 and 2 were never seen.
    let mut world = World::new(&[export(1, Some(0), 3)]);
    world.backend(3);
    world.backend(4);
    assert_eq!(world.did(), "open read +1 =4");
}

#[test]
fn the_backend_connects_before_the_open_is_confirmed() {
    let mut world = World::new(&[export(1, Some(0), 3)]);
    world.slow_open = true;
    world.backend(3);
    world.backend(4);
    assert_eq!(world.did(), "open");
    world.feed(Event::Opened);
    assert_eq!(world.did(), "read +1 =4");
}

#[test]
fn hot_add() {
    let mut world = World::connected(&[export(1, Some(0), 3)]);
    world.directory.push(export(3, None, 1));
    world.backend(7);
    assert_eq!(world.did(), "read =7");
    world.backend(7);
    assert_eq!(world.did(), "read");
    world.directory[1] = export(3, Some(1), 3);
    world.backend(8);
    assert_eq!(world.did(), "read +3 =4");
    world.backend(4);
    assert_eq!(world.did(), "read");
}

#[test]
fn hot_add_while_connected_was_missed() {
    let mut world = World::new(&[export(1, Some(0), 3), export(3, None, 1)]);
    world.backend(3);
    assert_eq!(world.did(), "open");
    world.backend(7);
    assert_eq!(world.did(), "read =7");
    world.directory[1] = export(3, Some(1), 3);
    world.backend(8);
    assert_eq!(world.did(), "read +1 +3 =4");
}

#[test]
fn the_only_device_is_removed_and_added_by_xl() {
    let mut world = World::connected(&[export(1, Some(0), 3)]);
    for _ in 0..3 {
        world.directory = vec![export(1, Some(0), 5)];
        world.backend(7);
        assert_eq!(world.did(), "read -1 =7");
        world.backend(8);
        world.backend(4);
        // No Closing: the directories just go.
        assert_eq!(world.did(), "read =4 read");
        world.tear_down();
        assert_eq!(world.did(), "close");
        world.make_again(&[export(1, Some(0), 3)]);
        assert_eq!(world.did(), "open read +1 =4 read");
    }
}

#[test]
fn the_only_device_is_removed_and_added_by_xm() {
    let mut world = World::connected(&[export(1, Some(0), 3)]);
    for _ in 0..3 {
        world.directory = vec![export(1, Some(0), 5)];
        world.backend(7);
        world.backend(8);
        world.backend(4);
        assert_eq!(world.did(), "read -1 =7 read =4 read");
        world.backend(5);
        assert_eq!(world.did(), "=6 close");
        world.backend(6);
        world.tear_down();
        assert_eq!(world.did(), "");
        world.make_again(&[export(1, Some(0), 3)]);
        assert_eq!(world.did(), "open read +1 =4 read");
    }
}

#[test]
fn the_only_device_comes_back_on_a_link_that_was_never_torn_down() {
    // The backend goes through 2, 3, 4 again while the frontend still is in 4.
    let mut world = World::connected(&[export(1, Some(0), 3)]);
    world.directory = vec![export(1, Some(0), 5)];
    for number in [7, 8, 4] {
        world.backend(number);
    }
    assert_eq!(world.did(), "read -1 =7 read =4 read");
    world.directory = vec![export(1, Some(0), 3)];
    for number in [2, 3] {
        world.backend(number);
    }
    assert_eq!(world.did(), "");
    world.backend(4);
    world.backend(4);
    assert_eq!(world.did(), "read +1 read");
}

#[test]
fn one_of_two_devices_is_removed_and_added() {
    for told_twice in [false, true] {
        let mut world = World::connected(&[export(1, Some(0), 3), export(3, Some(1), 3)]);
        for _ in 0..3 {
            world.directory[0] = export(1, Some(0), 5);
            world.backend(7);
            assert_eq!(world.did(), "read -1 =7");
            world.backend(8);
            world.backend(4);
            assert_eq!(world.did(), "read =4 read");
            // The toolstack moves the other entry up to its place.
            world.directory = vec![export(3, Some(1), 3)];
            world.backend(4);
            assert_eq!(world.did(), "read");
            world.directory.push(export(1, None, 1));
            world.backend(7);
            world.directory[1] = export(1, Some(0), 3);
            if told_twice {
                // Told again before it goes on.
                world.backend(7);
            }
            world.backend(8);
            world.backend(4);
            let expected = if told_twice {
                "read =7 read read +1 =4 read"
            } else {
                "read =7 read +1 =4 read"
            };
            assert_eq!(world.did(), expected);
            world.directory.reverse();
        }
    }
}

#[test]
fn both_devices_go_one_after_the_other() {
    let mut world = World::connected(&[export(1, Some(0), 3), export(3, Some(1), 3)]);
    world.directory[0].state = state(5);
    for number in [7, 8, 4] {
        world.backend(number);
    }
    assert_eq!(world.did(), "read -1 =7 read =4 read");
    world.directory = vec![export(3, Some(1), 5)];
    for number in [7, 8, 4] {
        world.backend(number);
    }
    assert_eq!(world.did(), "read -3 =7 read =4 read");
    world.tear_down();
    world.make_again(&[export(3, Some(0), 3), export(1, Some(1), 3)]);
    assert_eq!(world.did(), "close open read +3 +1 =4 read");
}

#[test]
fn the_handshake_waits_until_the_loan_has_ended() {
    let mut world = World::connected(&[export(1, Some(0), 3), export(3, Some(1), 3)]);
    world.slow_release = true;
    world.directory = vec![export(1, Some(0), 5), export(3, Some(1), 5)];
    world.backend(7);
    assert_eq!(world.did(), "read -1 -3");
    assert_eq!(world.link.state(), State::Releasing);
    world.backend(7);
    world.feed(Event::Released(device(3)));
    world.feed(Event::Released(device(7)));
    assert_eq!(world.did(), "read");
    world.feed(Event::Released(device(1)));
    assert_eq!(world.did(), "=7");

    let mut world = World::connected(&[export(1, Some(0), 3)]);
    world.slow_release = true;
    world.backend(5);
    assert_eq!((world.did().as_str(), world.link.state()), ("-1", State::Closing));
    world.backend(6);
    assert_eq!(world.did(), "");
    world.feed(Event::Released(device(1)));
    assert_eq!(world.did(), "=6 close");
}

#[test]
fn a_toolstack_that_gives_up_waiting_does_not_leave_the_link_stuck() {
    let mut world = World::connected(&[export(1, Some(0), 3), export(3, Some(1), 3)]);
    world.slow_release = true;
    world.directory[0].state = state(5);
    world.backend(7);
    // It puts everything back.
    world.directory[0].state = state(3);
    world.backend(4);
    assert_eq!(world.did(), "read -1 read +1");
    world.feed(Event::Released(device(1)));
    assert_eq!((world.did().as_str(), world.link.state()), ("", State::Connected));

    // Our own 7 is already written.
    let mut world = World::connected(&[export(1, Some(0), 3)]);
    world.backend(7);
    world.backend(4);
    assert_eq!(world.did(), "read =7 read =4");
}

#[test]
fn a_device_that_dom0_could_not_export_does_not_hold_up_the_others() {
    let mut world = World::connected(&[export(1, Some(0), 3)]);
    world.directory.push(export(3, None, 1));
    world.directory.push(export(4, None, 1));
    world.backend(7);
    world.directory[1] = export(3, None, 6);
    world.directory[2] = export(4, Some(2), 3);
    world.backend(8);
    assert_eq!(world.did(), "read =7 read +4 =4");
    assert!(world.link.device(device(3)).is_none());
}

#[test]
fn a_device_that_moved_to_another_place_is_another_export() {
    let mut world = World::connected(&[export(1, Some(0), 3)]);
    world.directory = vec![export(1, Some(5), 3)];
    world.backend(4);
    assert_eq!(world.did(), "read -1 +1");
}

#[test]
fn a_vanished_backend_takes_all_and_no_state_is_written() {
    let mut world = World::connected(&[export(1, Some(0), 3), export(3, Some(1), 3)]);
    world.backend(0);
    assert_eq!(world.did(), "-1 -3 close");
    world.backend(0);
    world.front(0);
    assert_eq!((world.did().as_str(), world.link.state()), ("", State::Down));
    // Without our own directory there is nowhere to publish to.
    world.backend(1);
    assert_eq!(world.did(), "");
    world.front(1);
    assert_eq!(world.did(), "open");
}

#[test]
fn a_remade_directory_is_noticed_even_if_its_absence_was_not() {
    let mut world = World::connected(&[export(1, Some(0), 3)]);
    world.backend(3);
    assert_eq!(world.did(), "");
    world.front(1);
    assert_eq!(world.did(), "-1 close open");
    // An echo of what we write.
    world.front(3);
    world.backend(4);
    world.front(4);
    assert_eq!(world.did(), "read +1 =4");
}

#[test]
fn directories_gone_and_back_are_taken_up_whatever_was_seen_of_it() {
    let between: [fn(&mut World); 4] =
        [|w| w.backend(0), |w| w.front(0), |w| w.backend(1), |w| w.backend(2)];
    // Our own state is what the toolstack wrote, unless we have opened the link since.
    let front =
        |w: &mut World| w.front(if w.log.contains(&"open".into()) { 3 } else { 1 });
    let last: [fn(&mut World); 2] = [front, |w| w.backend(3)];
    for seen in 0..32 {
        let mut world = World::connected(&[export(1, Some(0), 3), export(3, Some(1), 3)]);
        world.directory = vec![export(3, Some(0), 3), export(1, Some(1), 3)];
        for (n, step) in between.iter().enumerate() {
            if seen & (1 << n) != 0 {
                step(&mut world);
            }
        }
        // Of each end the last word is always seen.
        last[seen >> 4](&mut world);
        last[1 - (seen >> 4)](&mut world);
        world.backend(4);
        assert_eq!(world.did(), "-1 -3 close open read +3 +1 =4", "{seen:#b}");
    }
}

#[test]
fn losing_the_link_while_it_opens_starts_over() {
    let mut world = World::new(&[export(1, Some(0), 3)]);
    world.slow_open = true;
    world.backend(1);
    world.backend(0);
    world.front(0);
    world.front(1);
    world.backend(1);
    assert_eq!(world.did(), "open");
    world.feed(Event::OpenFailed);
    assert_eq!(
        (world.did().as_str(), world.link.state()),
        ("open", State::Opening { abandoned: false })
    );
    world.feed(Event::OpenFailed);
    assert_eq!((world.did().as_str(), world.link.state()), ("", State::Down));
    world.backend(2);
    assert_eq!(world.did(), "open");
    // Our own state was read before it was written.
    world.front(1);
    world.feed(Event::Opened);
    assert_eq!((world.did().as_str(), world.link.state()), ("", State::Initialised));
}

/// Found by the model: the page was taken back while dom0 had it, and the new link hung.
#[test]
fn an_open_that_lands_in_directories_made_anew_counts() {
    let mut world = World::new(&[export(1, Some(0), 3)]);
    world.slow_open = true;
    world.backend(1);
    world.front(0);
    // Both are there again when the keys are written, and dom0 has read them.
    world.feed(Event::Opened);
    assert_eq!((world.did().as_str(), world.link.state()), ("open", State::Initialised));
    world.front(3);
    world.backend(4);
    assert_eq!(world.did(), "read +1 =4");

    // The same if nobody has told yet that there is a backend again.
    let mut world = World::new(&[export(1, Some(0), 3)]);
    world.slow_open = true;
    world.backend(1);
    world.backend(0);
    world.feed(Event::Opened);
    world.backend(4);
    assert_eq!(world.did(), "open read +1 =4");

    // Or what was written to has gone since.
    let mut world = World::new(&[export(1, Some(0), 3)]);
    world.slow_open = true;
    world.backend(1);
    world.backend(0);
    world.feed(Event::Opened);
    world.front(0);
    assert_eq!((world.did().as_str(), world.link.state()), ("open close", State::Down));
}

#[test]
fn a_backend_that_closes_while_the_link_opens_is_closed_to() {
    let mut world = World::new(&[]);
    world.slow_open = true;
    world.backend(3);
    world.backend(5);
    world.feed(Event::Opened);
    assert_eq!(world.did(), "open =6 close");
}

#[test]
fn a_directory_read_before_the_last_word_is_read_again() {
    let mut world = World::connected(&[export(1, Some(0), 3)]);
    world.slow_reads = true;
    world.backend(4);
    world.backend(7);
    world.backend(7);
    assert_eq!(world.did(), "read");
    world.answer_read();
    assert_eq!(world.did(), "read");
    world.directory[0].state = state(5);
    world.answer_read();
    assert_eq!(world.did(), "-1 =7");
    // And one that was asked for in an earlier life is nobody's.
    world.backend(8);
    world.backend(0);
    assert_eq!(world.did(), "read close");
    world.answer_read();
    assert_eq!(world.did(), "");
    world.backend(1);
    world.answer_read();
    assert_eq!((world.did().as_str(), world.link.state()), ("open", State::Initialised));
}

#[test]
fn a_failed_read_is_tried_again_with_the_next_word() {
    let mut world = World::connected(&[export(1, Some(0), 3)]);
    world.slow_reads = true;
    world.backend(7);
    world.feed(Event::ReadFailed);
    assert_eq!(world.did(), "read");
    world.backend(7);
    world.backend(7);
    world.feed(Event::ReadFailed);
    assert_eq!(world.did(), "read read");
    world.answer_read();
    assert_eq!(world.did(), "=7");
}

#[test]
fn words_out_of_place_are_ignored() {
    let mut world = World::new(&[export(1, Some(0), 3)]);
    for number in [0, 4, 5, 6, 7, 8] {
        world.backend(number);
    }
    world.feed(Event::Opened);
    world.feed(Event::OpenFailed);
    world.feed(Event::ReadFailed);
    world.answer_read();
    world.feed(Event::Released(device(1)));
    assert_eq!((world.did().as_str(), world.link.state()), ("", State::Down));

    let mut world = World::connected(&[export(1, Some(0), 3)]);
    for number in [1, 2, 3] {
        world.backend(number);
    }
    // 8 without our 7 is one more reason to look.
    world.backend(8);
    assert_eq!(world.did(), "read");
}

#[test]
fn an_earlier_life_is_taken_up() {
    let known = [export(1, Some(0), 3)];
    let mut world = World::new(&known);
    world.link = Link::resume(state(4), known);
    world.backend(4);
    assert_eq!((world.did().as_str(), world.link.state()), ("read", State::Connected));

    // What happened meanwhile is found out.
    world.link = Link::resume(state(7), [export(3, Some(1), 3)]);
    world.backend(8);
    assert_eq!(world.did(), "read -3 +1 =4");
    world.link = Link::resume(state(3), []);
    world.backend(4);
    assert_eq!(world.did(), "read +1 =4");
    assert_eq!(Link::resume(state(6), known).state(), State::Down);
}

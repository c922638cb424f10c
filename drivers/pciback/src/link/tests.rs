//! The machine against a scripted toolstack and guest.

use std::collections::BTreeMap;

use super::{Action, BackEntries, Event, FrontKeys, Link, Phase};
use crate::vbus::Placing;
use pcidom_loan::BusPolicy;
use pcidom_xenbus::{GrantRef, Port, XenbusState};

mod random;

const NVME: &str = "0000:01:00.0";
const NIC: &str = "0000:02:00.0";

/// XenStore with the two directories, and somebody who does what the link asks.
#[derive(Default)]
struct Bed {
    link: Link,
    back: BTreeMap<String, String>,
    front: BTreeMap<String, String>,
    mapped: Option<(GrantRef, Port)>,
    map_fails: bool,
    log: Vec<Action>,
}

fn set(node: &mut BTreeMap<String, String>, pairs: &[(&str, &str)]) {
    for (key, value) in pairs {
        node.insert((*key).into(), (*value).into());
    }
}

impl Bed {
    fn run(&mut self, event: Event) {
        let mut events = vec![event];
        let mut budget = 100;
        while !events.is_empty() {
            for action in self.link.handle(events.remove(0)) {
                budget -= 1;
                assert!(budget > 0, "the link goes round in circles");
                self.log.push(action.clone());
                match action {
                    Action::ReadFront => events.push(self.front_event()),
                    Action::ReadBack => events.push(self.back_event()),
                    Action::SetState(state) => {
                        // Our own write fires our own watch.
                        let state = state.number().to_string();
                        if self.back.insert("state".into(), state).is_some() {
                            events.push(self.back_event());
                        }
                    }
                    Action::Connect { reference, port } => {
                        assert_eq!(self.mapped, None, "mapped twice");
                        let result = match self.map_fails {
                            true => Err("no such grant".to_string()),
                            false => Ok(()),
                        };
                        if result.is_ok() {
                            self.mapped = Some((reference, port));
                        }
                        events.push(Event::Connected(result));
                    }
                    Action::Disconnect => {
                        assert!(self.mapped.take().is_some(), "nothing to disconnect");
                    }
                    Action::Write { beside, keys } => {
                        let (key, value) = beside.unwrap_or_default();
                        if self.back(&key) == value {
                            self.back.extend(keys);
                        } else {
                            events.push(Event::Moved);
                        }
                    }
                    Action::Error(_) | Action::Export { .. } | Action::Withdraw(_) => {}
                }
            }
            // Later readings replace earlier ones that nobody has looked at yet.
            if events.len() > 1 {
                let front = self.front_event();
                let back = self.back_event();
                for event in &mut events {
                    match event {
                        Event::Front(_) => *event = front.clone(),
                        Event::Back(_) => *event = back.clone(),
                        _ => {}
                    }
                }
            }
        }
        assert_eq!(self.link.is_connected(), self.mapped.is_some());
    }

    fn front_event(&self) -> Event {
        Event::Front(FrontKeys::parse(|key| self.front.get(key).map(String::as_str)))
    }

    fn back_event(&self) -> Event {
        Event::Back(BackEntries::parse(|key| self.back.get(key).map(String::as_str)))
    }

    fn toolstack(&mut self, pairs: &[(&str, &str)]) {
        set(&mut self.back, pairs);
        self.run(self.back_event());
    }

    fn guest(&mut self, pairs: &[(&str, &str)]) {
        set(&mut self.front, pairs);
        self.run(self.front_event());
    }

    fn guest_state(&mut self, state: &str) {
        self.guest(&[("state", state)]);
    }

    fn lend(&mut self, device: &str) {
        self.lend_by(BusPolicy::Vpci, device);
    }

    fn lend_by(&mut self, policy: BusPolicy, device: &str) {
        let device = device.parse().unwrap();
        self.run(Event::Lent(Placing {
            device,
            slot: None,
            policy,
            virtual_function: false,
            bridge: false,
        }));
    }

    fn back(&self, key: &str) -> &str {
        self.back.get(key).map_or("", String::as_str)
    }

    fn states(&mut self) -> Vec<u8> {
        let states = self.log.drain(..).filter_map(|action| match action {
            Action::SetState(state) => Some(state.number()),
            _ => None,
        });
        states.collect()
    }

    /// The toolstack has made both directories, with one device.
    fn made() -> Self {
        let mut bed = Self::default();
        set(&mut bed.front, &[("state", "1")]);
        bed.run(bed.front_event());
        bed.toolstack(&[
            ("state", "1"),
            ("num_devs", "1"),
            ("dev-0", NVME),
            ("state-0", "1"),
        ]);
        bed
    }

    fn connected() -> Self {
        let mut bed = Self::made();
        bed.lend(NVME);
        bed.guest(&[
            ("pci-op-ref", "8"),
            ("event-channel", "17"),
            ("magic", "7"),
            ("state", "3"),
        ]);
        bed.guest_state("4");
        assert_eq!(bed.link.phase(), Phase::Connected);
        bed.log.clear();
        bed
    }
}

#[test]
fn a_device_in_the_config_goes_2_3_4() {
    let mut bed = Bed::made();
    assert_eq!(bed.link.phase(), Phase::Waiting);
    bed.lend(NVME);
    assert_eq!((bed.back("vdev-0"), bed.back("state-0")), ("0000:00:00.00", "3"));
    assert_eq!((bed.back("root_num"), bed.back("root-0")), ("1", "0000:00"));
    bed.guest(&[
        ("pci-op-ref", "8"),
        ("event-channel", "17"),
        ("magic", "7"),
        ("state", "3"),
    ]);
    assert_eq!(bed.mapped, Some((GrantRef(8), Port(17))));
    bed.guest_state("4");
    assert_eq!(bed.states(), [2, 3, 4]);
}

#[test]
fn a_front_that_is_there_first_is_connected_too() {
    let mut bed = Bed::default();
    set(
        &mut bed.front,
        &[("state", "3"), ("pci-op-ref", "1"), ("event-channel", "2"), ("magic", "7")],
    );
    bed.run(bed.front_event());
    bed.lend(NVME);
    bed.toolstack(&[
        ("state", "1"),
        ("num_devs", "1"),
        ("dev-0", NVME),
        ("state-0", "1"),
    ]);
    assert_eq!(bed.states(), [2, 3, 4]);
}

#[test]
fn the_vdev_nodes_are_written_before_the_state_that_shows_them() {
    let mut bed = Bed::made();
    bed.lend(NVME);
    let at = |wanted: fn(&Action) -> bool| bed.log.iter().position(wanted).unwrap();
    let export = at(|a| matches!(a, Action::Export { .. }));
    let write = at(|a| matches!(a, Action::Write { .. }));
    let state = at(|a| *a == Action::SetState(XenbusState::Initialised));
    assert!(export < write && write < state);
}

#[test]
fn a_device_added_before_the_front_connects_is_exported_without_a_state_change() {
    let mut bed = Bed::made();
    bed.lend(NVME);
    bed.lend(NIC);
    bed.states();
    bed.toolstack(&[("num_devs", "2"), ("dev-1", NIC), ("state-1", "1")]);
    assert_eq!((bed.back("vdev-1"), bed.back("state-1")), ("0000:00:01.00", "3"));
    assert_eq!(bed.states(), [0; 0]);
}

#[test]
fn hot_add_goes_7_8_4() {
    let mut bed = Bed::connected();
    bed.lend(NIC);
    bed.toolstack(&[("num_devs", "2"), ("dev-1", NIC), ("state-1", "1"), ("state", "7")]);
    assert_eq!(bed.back("state-1"), "1");
    bed.guest_state("7");
    assert_eq!((bed.back("vdev-1"), bed.back("state-1")), ("0000:00:01.00", "3"));
    assert_eq!(bed.back("state"), "8");
    bed.guest_state("4");
    assert_eq!(bed.states(), [8, 4]);
}

#[test]
fn hot_remove_goes_7_8_4_and_finds_the_device_by_its_virtual_address() {
    let mut bed = Bed::connected();
    bed.toolstack(&[("state-0", "5"), ("state", "7")]);
    bed.guest_state("7");
    let nvme = NVME.parse().unwrap();
    assert!(bed.log.contains(&Action::Withdraw(nvme)));
    assert_eq!(bed.back("state-0"), "6");
    bed.guest_state("4");
    assert_eq!(bed.states(), [8, 4]);
    // The toolstack removes the entry, and later lends the device again: no Closing in
    // between (mission, document 000).
    bed.toolstack(&[("num_devs", "0")]);
    bed.run(Event::Ended(nvme));
    bed.lend(NVME);
    bed.toolstack(&[("num_devs", "1"), ("state-0", "1"), ("state", "7")]);
    bed.guest_state("7");
    bed.guest_state("4");
    assert_eq!(bed.states(), [8, 4]);
    assert_eq!(bed.back("state-0"), "3");
}

/// Found by the model: the next device got the address of one whose loan had ended by force,
/// while the guest still had that one there, and was then taken off in its stead.
#[test]
fn an_address_is_given_again_only_when_the_guest_has_let_it_go() {
    let mut bed = Bed::connected();
    bed.run(Event::Ended(NVME.parse().unwrap()));
    bed.lend(NIC);
    bed.toolstack(&[("num_devs", "2"), ("dev-1", NIC), ("state-1", "1"), ("state", "7")]);
    bed.guest_state("7");
    assert_eq!((bed.back("vdev-1"), bed.back("state-1")), ("0000:00:01.00", "3"));
    bed.guest_state("4");
    bed.toolstack(&[("state-0", "5"), ("state", "7")]);
    bed.guest_state("7");
    assert_eq!(bed.back("state-0"), "6");
    bed.guest_state("4");
    assert!(!bed.log.iter().any(|action| matches!(action, Action::Withdraw(_))));
    // Now it is free, and what comes back to the link is shown anew.
    bed.log.clear();
    bed.lend(NVME);
    bed.toolstack(&[
        ("num_devs", "3"),
        ("dev-2", NVME),
        ("state-2", "1"),
        ("state", "7"),
    ]);
    bed.guest_state("7");
    assert_eq!((bed.back("vdev-2"), bed.back("state-2")), ("0000:00:00.00", "3"));
    assert!(bed.log.iter().any(|action| matches!(action, Action::Export { .. })));
}

/// Found by the model: the daemon took an entry away before what was read of it was answered,
/// and the answer went to the entry that had moved up.
#[test]
fn an_entry_that_has_moved_is_not_written_to() {
    let mut bed = Bed::connected();
    bed.lend(NIC);
    bed.toolstack(&[("num_devs", "2"), ("dev-1", NIC), ("state-1", "1"), ("state", "7")]);
    bed.log.clear();
    bed.guest_state("7");
    let write = bed.log.iter().find_map(|action| match action {
        Action::Write { beside, .. } => Some(beside.clone()),
        _ => None,
    });
    assert_eq!(write, Some(Some(("dev-1".into(), NIC.into()))));
    assert_eq!(bed.link.handle(Event::Moved), [Action::ReadBack]);
}

#[test]
fn a_front_that_follows_before_we_have_looked_is_not_missed() {
    let mut bed = Bed::connected();
    bed.lend(NIC);
    set(
        &mut bed.back,
        &[("num_devs", "2"), ("dev-1", NIC), ("state-1", "1"), ("state", "7")],
    );
    bed.guest_state("7");
    assert_eq!(bed.link.phase(), Phase::Connected);
    bed.run(bed.back_event());
    assert_eq!(bed.back("state"), "8");
}

#[test]
fn a_device_nobody_told_the_front_of_is_announced() {
    let mut bed = Bed::connected();
    bed.toolstack(&[("num_devs", "2"), ("dev-1", NIC), ("state-1", "1")]);
    assert_eq!(bed.back("state"), "4");
    bed.lend(NIC);
    assert_eq!(bed.back("state"), "7");
    bed.guest_state("7");
    bed.guest_state("4");
    assert_eq!(bed.states(), [7, 8, 4]);
    assert_eq!(bed.back("state-1"), "3");
}

#[test]
fn a_device_that_cannot_be_exported_is_marked_and_the_link_goes_on() {
    let mut bed = Bed::connected();
    bed.lend(NIC);
    bed.toolstack(&[
        ("num_devs", "3"),
        ("dev-1", "nonsense"),
        ("state-1", "1"),
        ("dev-2", NIC),
        ("state-2", "1"),
        ("state", "7"),
    ]);
    bed.guest_state("7");
    assert_eq!((bed.back("state-1"), bed.back("state-2")), ("6", "3"));
    assert!(!bed.back("error-1").is_empty());
    bed.guest_state("4");
    assert_eq!(bed.states(), [8, 4]);
}

#[test]
fn every_bus_that_a_device_is_on_is_published_as_a_root_as_long_as_the_directory_is_there()
 {
    let roots = |bed: &Bed| {
        let count = bed.back("root_num").parse::<u32>().unwrap();
        (0..count).map(|n| bed.back(&format!("root-{n}")).to_string()).collect::<Vec<_>>()
    };
    let mut bed = Bed::default();
    bed.guest_state("1");
    let first = [("state", "1"), ("num_devs", "1"), ("dev-0", NVME), ("state-0", "1")];
    bed.toolstack(&first);
    bed.lend_by(BusPolicy::Passthrough, NVME);
    bed.guest(&[("pci-op-ref", "8"), ("event-channel", "17"), ("magic", "7")]);
    bed.guest_state("3");
    bed.guest_state("4");
    assert_eq!(
        (bed.back("vdev-0"), roots(&bed)),
        ("0000:01:00.00", vec!["0000:01".into()])
    );
    for (n, device) in [(1, NIC), (2, "0000:01:00.3"), (3, "0003:01:00.0")] {
        bed.lend_by(BusPolicy::Passthrough, device);
        let count = (n + 1).to_string();
        let keys = [format!("dev-{n}"), format!("state-{n}")];
        bed.toolstack(&[("num_devs", &count), (&keys[0], device), (&keys[1], "1")]);
        bed.guest_state("7");
        bed.guest_state("4");
    }
    assert_eq!(bed.back("vdev-1"), "0000:02:00.00");
    assert_eq!(roots(&bed), ["0000:01", "0000:02", "0003:01"]);
    // One that goes leaves its root: the front has scanned it.
    bed.toolstack(&[("state-1", "5"), ("state", "7")]);
    bed.guest_state("7");
    bed.guest_state("4");
    assert_eq!(roots(&bed), ["0000:01", "0000:02", "0003:01"]);
    // A front that comes back finds them, a new directory begins anew.
    bed.guest_state("6");
    bed.guest_state("1");
    assert_eq!((bed.back("state"), roots(&bed).len()), ("3", 3));
    bed.back.clear();
    bed.toolstack(&first);
    assert_eq!((bed.back("state"), roots(&bed)), ("3", vec!["0000:01".into()]));
}

#[test]
fn a_device_that_is_not_lent_to_this_guest_is_never_exported() {
    let mut bed = Bed::connected();
    bed.toolstack(&[("num_devs", "2"), ("dev-1", NIC), ("state-1", "1"), ("state", "7")]);
    bed.guest_state("7");
    assert_eq!((bed.back("state-1"), bed.back("vdev-1")), ("1", ""));
    assert_eq!(bed.back("state"), "8");
    assert!(!bed.log.iter().any(|action| matches!(action, Action::Export { .. })));
}

#[test]
fn a_front_that_closes_may_come_back() {
    let mut bed = Bed::connected();
    bed.guest_state("5");
    assert_eq!(bed.mapped, None);
    bed.guest_state("6");
    bed.guest_state("1");
    bed.guest(&[("pci-op-ref", "9"), ("state", "3")]);
    bed.guest_state("4");
    assert_eq!(bed.mapped, Some((GrantRef(9), Port(17))));
    assert_eq!(bed.states(), [5, 6, 2, 3, 4]);
    // Linux's front skips 5, and may be back before its 6 and 1 were read.
    bed.guest(&[("pci-op-ref", "10"), ("state", "3")]);
    assert_eq!(bed.mapped, Some((GrantRef(10), Port(17))));
    // Its driver is unloaded, and loaded again: Linux's would close for good if it found 6.
    bed.guest_state("6");
    assert_eq!((bed.mapped, bed.back("state")), (None, "3"));
    bed.guest_state("6");
    assert_eq!(bed.states(), [2, 3, 4, 2, 3]);
    // The same keys again are fine after a close.
    bed.guest_state("3");
    assert_eq!(bed.mapped, Some((GrantRef(10), Port(17))));
}

#[test]
fn directories_made_anew_under_a_connected_link_start_it_again() {
    let mut bed = Bed::connected();
    bed.front.insert("state".into(), "1".into());
    bed.toolstack(&[("state", "1"), ("state-0", "1")]);
    bed.run(bed.front_event());
    assert_eq!((bed.mapped, bed.back("state"), bed.back("state-0")), (None, "3", "3"));
    bed.guest_state("3");
    assert_eq!(bed.back("state"), "4");
}

#[test]
fn a_dead_guest_stays_mapped_until_it_is_released() {
    let mut bed = Bed::connected();
    bed.front.clear();
    bed.run(bed.front_event());
    bed.back.clear();
    bed.run(bed.back_event());
    assert!(bed.link.is_gone());
    assert!(bed.mapped.is_some());
    assert_eq!(bed.states(), [0; 0]);
    bed.run(Event::Release);
    assert_eq!(bed.mapped, None);
    bed.run(Event::Release);
}

#[test]
fn nonsense_in_the_state_is_survived() {
    let mut bed = Bed::connected();
    bed.guest_state("banana");
    assert!(bed.link.is_gone() && bed.mapped.is_some());
    bed.guest_state("4");
    assert!(!bed.link.is_gone());
    assert_eq!(bed.link.phase(), Phase::Connected);
}

#[test]
fn keys_that_make_no_sense_close_the_link_and_better_ones_open_it() {
    for bad in [("magic", "8"), ("pci-op-ref", "-1"), ("event-channel", "x")] {
        let mut bed = Bed::made();
        bed.lend(NVME);
        set(
            &mut bed.front,
            &[
                ("pci-op-ref", "8"),
                ("event-channel", "17"),
                ("magic", "7"),
                ("state", "3"),
            ],
        );
        bed.guest(&[bad]);
        assert_eq!((bed.mapped, bed.back("state")), (None, "6"), "{bad:?}");
        assert!(bed.log.iter().any(|action| matches!(action, Action::Error(_))));
        bed.states();
        bed.run(bed.front_event());
        assert_eq!(bed.states(), [0; 0], "the same keys are not tried again");
        bed.guest(&[("pci-op-ref", "8"), ("event-channel", "17"), ("magic", "7")]);
        assert_eq!(bed.states(), [2, 3, 4]);
    }
}

#[test]
fn what_a_guest_wrote_gets_into_the_log_only_if_it_is_a_short_word() {
    for (magic, said) in [
        ("8", "magic is \"8\" and not 7"),
        ("7\x1b[2J\nXen: all is well", "magic is \"\" and not 7"),
        ("7\n", "magic is \"\" and not 7"),
        ("sevensevensevenseven", "magic is \"\" and not 7"),
    ] {
        let mut bed = Bed::made();
        bed.lend(NVME);
        let keys = [("pci-op-ref", "8"), ("event-channel", "17"), ("state", "3")];
        set(&mut bed.front, &keys);
        bed.guest(&[("magic", magic)]);
        assert!(
            bed.log.contains(&Action::Error(said.into())),
            "{magic:?}: {:?}",
            bed.log
        );
    }
}

#[test]
fn a_page_that_cannot_be_mapped_closes_the_link_and_is_recoverable() {
    let mut bed = Bed::made();
    bed.lend(NVME);
    bed.map_fails = true;
    set(&mut bed.front, &[("pci-op-ref", "8"), ("event-channel", "17"), ("magic", "7")]);
    bed.guest_state("3");
    assert_eq!((bed.mapped, bed.back("state")), (None, "6"));
    bed.map_fails = false;
    bed.guest_state("6");
    bed.guest_state("3");
    assert_eq!(bed.back("state"), "4");
}

#[test]
fn the_toolstack_can_close_the_link() {
    let mut bed = Bed::connected();
    bed.toolstack(&[("state", "5")]);
    assert!(bed.mapped.is_some());
    bed.guest_state("6");
    assert_eq!((bed.mapped, bed.back("state")), (None, "6"));
    let mut bed = Bed::connected();
    bed.toolstack(&[("state", "6")]);
    assert_eq!(bed.mapped, None);
}

#[test]
fn reconfiguring_without_a_front_does_not_get_stuck() {
    let mut bed = Bed::connected();
    bed.guest_state("6");
    bed.toolstack(&[("state-0", "5"), ("state", "7")]);
    assert_eq!((bed.back("state"), bed.back("state-0")), ("3", "6"));
    let mut bed = Bed::made();
    bed.lend(NVME);
    bed.toolstack(&[("state-0", "5"), ("state", "7")]);
    assert_eq!((bed.back("state"), bed.back("state-0")), ("3", "6"));
}

/// Found by the model: a reading that was under way when we wrote still names the place of a
/// device that is gone, and another one has it by now.
#[test]
fn an_old_reading_does_not_take_a_device_away_that_has_got_the_place_of_another() {
    let mut bed = Bed::made();
    bed.lend(NVME);
    let [nvme, nic] = [NVME, NIC].map(|device| device.parse().unwrap());
    bed.link.handle(Event::Ended(nvme));
    set(
        &mut bed.back,
        &[("state-0", "5"), ("num_devs", "2"), ("dev-1", NIC), ("state-1", "1")],
    );
    let reading = bed.back_event();
    bed.lend(NIC);
    let place = bed.link.bus().address_of(nic);
    assert_eq!(place.map(|at| at.to_string()).as_deref(), Some("0000:00:00.0"));
    bed.log.clear();
    bed.run(reading);
    assert_eq!(bed.link.bus().address_of(nic), place);
    assert!(!bed.log.contains(&Action::Withdraw(nic)));
}

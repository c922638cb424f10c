//! Changes of a link that meet each other; each was found by the model.

use std::time::Duration;

use super::bed::{BACK, Bed, FRONT, G, device};
use super::reset::say;
use crate::verb::{Bdf, Verb, Wish};

fn attach(bed: &mut Bed, number: u8) {
    bed.ask(&Verb::Attach {
        guest: "g1".into(),
        owner: None,
        device: Bdf(device(number)),
        slot: None,
        bus: None,
        share_line: false,
        lax: false,
        wait: None,
        wish: Wish::default(),
        pcidom: None,
    });
}

fn back(bed: &Bed, key: &str) -> Option<String> {
    bed.get(&format!("{BACK}/{key}"))
}

#[test]
fn a_link_is_made_anew_only_after_a_pause() {
    let mut bed = Bed::lent();
    bed.detach("g1", 1, false);
    bed.done();
    attach(&mut bed, 1);
    assert_eq!(back(&bed, "state"), None);
    assert_eq!(bed.daemon.next_reply(), None);
    assert_eq!(bed.daemon.next_deadline(), Some(bed.now.after(Duration::from_secs(1))));
    bed.pass(1);
    bed.done();
    assert!(bed.lent_to(G, 1));
}

#[test]
fn the_entry_of_a_lost_device_stays_until_its_guest_has_let_go() {
    for answers in [true, false] {
        let mut bed = Bed::lent();
        bed.attach("g1", 2);
        bed.done();
        bed.guests_answer = false;
        bed.detach("g1", 1, true);
        assert!(!bed.lent_to(G, 1));
        let told = ["state", "state-0", "dev-0"].map(|key| back(&bed, key));
        let gone = device(1).to_string();
        assert_eq!(told, [Some("7".into()), Some("5".into()), Some(gone)]);
        bed.guests_answer = answers;
        if answers {
            bed.settle();
        } else {
            bed.pass(10);
        }
        bed.done();
        assert_eq!(back(&bed, "dev-0"), Some(device(2).to_string()));
        assert_eq!(back(&bed, "num_devs"), Some("1".into()));
    }
}

#[test]
fn a_guest_is_told_of_a_loss_when_it_is_through_with_another_change() {
    for answers in [true, false] {
        let mut bed = Bed::lent();
        bed.guests_answer = false;
        attach(&mut bed, 2);
        bed.detach("g1", 1, true);
        assert!(!bed.lent_to(G, 1));
        // It may have looked for devices that go already, and would not look again.
        assert_eq!(back(&bed, "state"), Some("7".into()));
        assert_eq!(back(&bed, "state-0"), Some("3".into()));
        bed.pass(1);
        assert_eq!(back(&bed, "state-0"), Some("3".into()));
        bed.guests_answer = answers;
        bed.pass(if answers { 0 } else { 10 });
        assert_eq!(back(&bed, "dev-0"), Some(device(2).to_string()));
        assert!(bed.lent_to(G, 2));
    }
}

#[test]
fn a_driver_that_has_let_go_at_the_last_moment_is_not_asked_to_keep_the_device() {
    for (end, state) in [(FRONT, "7"), (BACK, "8"), (FRONT, "6")] {
        let mut bed = Bed::lent();
        bed.guests_answer = false;
        bed.detach("g1", 1, false);
        bed.set(&format!("{end}/state"), state);
        bed.pass(10);
        assert!(!bed.lent_to(G, 1));
        // The link stays while the guest may still look at its bus, and no longer than this.
        assert_eq!(bed.daemon.next_reply(), None);
        bed.pass(10);
        bed.done();
        bed.assert_clean();
    }
}

#[test]
fn a_guest_that_comes_while_its_device_is_taken_is_told() {
    let mut bed = Bed::lent();
    (bed.guests_answer, bed.pcidom_serves) = (false, false);
    // It starts another kernel: nobody answers now.
    for end in [FRONT, BACK] {
        bed.set(&format!("{end}/state"), "1");
    }
    bed.detach("g1", 1, false);
    for end in [FRONT, BACK] {
        bed.set(&format!("{end}/state"), "4");
    }
    bed.pcidom_serves = true;
    bed.settle();
    assert_eq!(back(&bed, "state"), Some("5".into()));
    bed.guests_answer = true;
    bed.settle();
    bed.done();
    bed.assert_clean();
}

#[test]
fn a_guest_that_connects_has_the_daemon_look_when_there_is_something_to_see() {
    let mut bed = Bed::new();
    bed.guests_answer = false;
    attach(&mut bed, 1);
    assert!(bed.lent_to(G, 1));
    bed.store.reads.clear();
    let steps = [
        (BACK, "state", "2"),
        (BACK, "vdev-0", "0000:00:00.00"),
        (BACK, "root-0", "0000:00"),
        (BACK, "root_num", "1"),
        (BACK, "state", "3"),
        (FRONT, "pci-op-ref", "8"),
        (FRONT, "state", "3"),
    ];
    for (directory, key, value) in steps {
        bed.set(&format!("{directory}/{key}"), value);
        bed.settle();
    }
    let states = [BACK, BACK, FRONT].map(|directory| format!("{directory}/state"));
    assert_eq!(bed.store.reads, states, "no more than what has changed");
    assert_eq!(bed.daemon.next_reply(), None);
    bed.set(&format!("{BACK}/state-0"), "3");
    bed.set(&format!("{BACK}/state"), "4");
    bed.settle();
    assert_eq!(bed.done(), "");
    // What its end shows then is looked at too.
    bed.remove(FRONT);
    bed.settle();
    assert!(!bed.lent_to(G, 1));
}

#[test]
fn what_pcidom_can_not_export_fails_before_the_guest_has_connected() {
    let mut bed = Bed::new();
    bed.guests_answer = false;
    attach(&mut bed, 1);
    bed.set(&format!("{BACK}/error-0"), "no place is left");
    bed.set(&format!("{BACK}/state-0"), "6");
    bed.settle();
    let text = bed.failed();
    assert!(text.contains("could not put") && text.contains("no place"), "{text}");
}

#[test]
fn a_link_goes_when_its_guest_is_through_with_another_change() {
    for answers in [true, false] {
        let mut bed = Bed::lent();
        bed.attach("g1", 2);
        bed.done();
        (bed.guests_answer, bed.pcidom_serves) = (false, false);
        let step = |bed: &mut Bed, key: &str, value: &str| {
            bed.set(&format!("{BACK}/{key}"), value);
            bed.settle();
        };
        // The first is detached, which takes a while; meanwhile the second is lost.
        bed.detach("g1", 1, false);
        step(&mut bed, "state-0", "6");
        step(&mut bed, "state", "8");
        step(&mut bed, "state", "4");
        assert!(!bed.lent_to(G, 1));
        bed.detach("g1", 2, true);
        say(&mut bed, 1, "returned flr");
        assert_eq!(back(&bed, "state"), Some("7".into()));
        step(&mut bed, "state-1", "6");
        step(&mut bed, "state", "8");
        bed.done();
        // The guest looks at its bus now.
        say(&mut bed, 0, "returned flr");
        assert_eq!(bed.daemon.next_reply(), None);
        assert_eq!(back(&bed, "state"), Some("8".into()));
        if answers {
            step(&mut bed, "state", "4");
        } else {
            bed.pass(10);
        }
        bed.done();
        assert_eq!(back(&bed, "state"), None);
        bed.assert_clean();
    }
}

use super::bed::{BACK, Bed, FRONT, G, device};
use crate::daemon::Stage;

#[test]
fn a_device_comes_back_after_its_driver_let_go() {
    let mut bed = Bed::lent();
    bed.guests_answer = false;
    bed.detach("g1", 1, false);
    assert_eq!(bed.get(&format!("{BACK}/state")).as_deref(), Some("7"));
    assert_eq!(bed.get(&format!("{BACK}/state-0")).as_deref(), Some("5"));
    assert!(bed.lent_to(G, 1), "its driver may still use it");
    bed.guests_answer = true;
    bed.settle();
    assert_eq!(bed.done(), "");
    bed.assert_clean();
    bed.attach("g1", 1);
    bed.done();
}

#[test]
fn a_driver_that_does_not_let_go_keeps_the_device() {
    let mut bed = Bed::lent();
    bed.guests_answer = false;
    bed.detach("g1", 1, false);
    bed.pass(10);
    assert!(bed.failed().contains("use -f"));
    assert!(bed.lent_to(G, 1));
    assert_eq!(bed.get(&format!("{BACK}/state-0")).as_deref(), Some("3"));
    bed.detach("g1", 1, false);
    assert!(bed.failed().contains("busy"));
    bed.detach("g1", 1, true);
    assert!(!bed.lent_to(G, 1));
    bed.pass(10);
    bed.done();
    bed.assert_clean();
}

#[test]
fn a_device_that_is_taken_by_force_does_no_more_dma() {
    let mut bed = Bed::lent();
    bed.host.devices.get_mut(&device(1)).unwrap().config[4] = 0x06;
    bed.detach("g1", 1, true);
    assert_eq!(bed.host.devices[&device(1)].config[4], 0x02);
}

#[test]
fn force_overtakes_a_detach_that_waits() {
    let mut bed = Bed::lent();
    bed.guests_answer = false;
    bed.detach("g1", 1, false);
    bed.detach("g1", 1, true);
    let (_, first) = bed.daemon.next_reply().unwrap();
    assert!(format!("{first:?}").contains("by force meanwhile"));
    bed.pass(10);
    bed.done();
    bed.assert_clean();
}

#[test]
fn the_entries_behind_move_up_and_the_link_lives_on() {
    let mut bed = Bed::lent();
    bed.attach("g1", 2);
    bed.done();
    bed.detach("g1", 1, false);
    bed.done();
    assert_eq!(
        bed.get(&format!("{BACK}/dev-0")).as_deref(),
        Some(device(2).to_string()).as_deref()
    );
    assert_eq!(bed.get(&format!("{BACK}/vdev-0")).as_deref(), Some("0000:00:01.00"));
    assert_eq!(bed.get(&format!("{BACK}/num_devs")).as_deref(), Some("1"));
    assert_eq!(bed.get(&format!("{BACK}/dev-1")), None);
    assert_eq!(bed.get(&format!("{FRONT}/state")).as_deref(), Some("4"));
    // Both are on line 16: the one that stays keeps it.
    assert!(bed.xen.of(G).pirqs.contains_key(&16));
    bed.start();
    bed.detach("g1", 2, false);
    bed.done();
    bed.assert_clean();
}

#[test]
fn what_is_not_lent_to_that_guest_is_not_taken() {
    let mut bed = Bed::lent();
    bed.detach("g2", 1, true);
    assert!(bed.failed().contains("not lent to g2"));
    bed.detach("g1", 2, true);
    assert!(bed.failed().contains("not lent to g1"));
    assert!(bed.lent_to(G, 1));
}

#[test]
fn a_guest_that_never_connected_is_not_asked() {
    let mut bed = Bed::new();
    bed.guests_answer = false;
    bed.xen.domains.get_mut(&G).unwrap().paused = true;
    bed.attach("g1", 1);
    bed.done();
    bed.detach("g1", 1, false);
    bed.done();
    bed.assert_clean();
}

#[test]
fn a_detach_is_finished_by_the_next_daemon() {
    let mut bed = Bed::lent();
    bed.guests_answer = false;
    bed.detach("g1", 1, false);
    bed.start();
    let stage = bed.get("/tool/pcidom/loans/0").unwrap();
    assert!(stage.contains(&format!("\"stage\":\"{}\"", Stage::Detaching)));
    bed.guests_answer = true;
    bed.settle();
    bed.assert_clean();
}

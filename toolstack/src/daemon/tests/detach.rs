use super::bed::{BACK, Bed, FRONT, G, P, device};
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
fn force_overtakes_an_attach_that_waits() {
    let mut bed = Bed::new();
    bed.pcidom_serves = false;
    bed.attach("g1", 1);
    bed.detach("g1", 1, false);
    assert!(bed.failed().contains("is preparing just now: wait for that, or use -f"));
    bed.detach("g1", 1, true);
    let (_, first) = bed.daemon.next_reply().unwrap();
    assert!(format!("{first:?}").contains("by force meanwhile"));
    // What is over as soon as pcidom says so has nothing left to force.
    bed.detach("g1", 1, true);
    assert!(bed.failed().ends_with("is ending just now: wait for that"));
    bed.pcidom_serves = true;
    bed.settle();
    bed.done();
    bed.assert_clean();
    bed.attach("g1", 1);
    bed.done();
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

/// Device 1 has been taken back while device 2 is being prepared for the same guest.
fn kept() -> Bed {
    let mut bed = Bed::lent();
    bed.pcidom_serves = false;
    bed.attach("g1", 2);
    bed.detach("g1", 1, false);
    bed.set("/local/domain/1/data/pcidom/loans/0", "gen=1 returned flr");
    bed.settle();
    assert_eq!(bed.done(), "");
    assert_eq!(bed.get(&format!("{BACK}/num_devs")).as_deref(), Some("0"));
    assert_eq!(bed.get(&format!("{BACK}/dev-0")), None);
    assert_eq!(bed.get(&format!("{BACK}/state")).as_deref(), Some("4"));
    assert_eq!(bed.get(&format!("{FRONT}/state")).as_deref(), Some("4"));
    bed
}

#[test]
fn a_link_is_kept_for_a_device_that_is_on_its_way_and_that_joins_it() {
    let mut bed = kept();
    bed.guests_answer = false;
    bed.pcidom_serves = true;
    bed.settle();
    assert_eq!(bed.get(&format!("{BACK}/state")).as_deref(), Some("7"));
    assert_eq!(bed.get(&format!("{BACK}/num_devs")).as_deref(), Some("1"));
    assert_eq!(bed.get(&format!("{BACK}/state-0")).as_deref(), Some("1"));
    bed.guests_answer = true;
    bed.settle();
    assert_eq!(bed.done(), "");
    bed.detach("g1", 2, false);
    bed.done();
    bed.assert_clean();
}

#[test]
fn a_link_that_was_kept_for_a_device_that_does_not_come_goes() {
    let mut bed = kept();
    bed.set("/local/domain/1/data/pcidom/loans/1", "gen=2 failed no reset works");
    bed.settle();
    assert!(bed.failed().contains("no reset works"));
    bed.assert_clean();
    // The daemon dies meanwhile: whoever asked for that device is gone.
    let mut bed = kept();
    bed.pcidom_serves = true;
    bed.start();
    bed.assert_clean();
    // Or the guest.
    let mut bed = kept();
    bed.xen.domains.get_mut(&G).unwrap().dying = true;
    bed.remove_home(G);
    bed.pcidom_serves = true;
    bed.settle();
    assert!(bed.failed().contains("guest"));
    bed.assert_clean();
}

#[test]
fn a_link_that_was_kept_and_that_its_guest_has_closed_since_is_made_anew_after_a_pause() {
    let mut bed = kept();
    bed.set(&format!("{FRONT}/state"), "6");
    bed.guests_answer = false;
    bed.pcidom_serves = true;
    bed.settle();
    assert_eq!(bed.get(&format!("{BACK}/state")), None);
    assert_eq!(bed.get(&format!("{FRONT}/state")), None);
    assert!(!bed.lent_to(G, 2));
    bed.guests_answer = true;
    bed.pass(1);
    assert_eq!(bed.done(), "");
    assert!(bed.lent_to(G, 2));
}

#[test]
fn a_link_that_was_kept_goes_though_its_pcidom_has_died() {
    let mut bed = kept();

    bed.xen.domains.get_mut(&P).unwrap().dying = true;
    bed.remove_home(P);
    bed.settle();
    bed.failed();
    assert_eq!(bed.get(&format!("{FRONT}/state")), None);
    bed.assert_clean();
}

#[test]
fn a_link_that_its_guest_was_told_to_close_is_not_kept() {
    let mut bed = Bed::lent();
    (bed.pcidom_serves, bed.guests_answer) = (false, false);
    bed.detach("g1", 1, true);
    bed.set("/local/domain/1/data/pcidom/loans/0", "gen=1 returned flr");
    bed.settle();
    assert_eq!(bed.get(&format!("{BACK}/state")).as_deref(), Some("5"));
    bed.attach("g1", 2);
    // What pcidom was about to write when it was told: it has not seen that yet.
    bed.set(&format!("{BACK}/state"), "4");
    bed.settle();
    assert_eq!(bed.get(&format!("{BACK}/state")), None);
}

use super::bed::{BACK, Bed, G};

fn stop(bed: &mut Bed) {
    bed.set("/local/domain/1/data/pcidom/state", "stopping");
    bed.settle();
}

#[test]
fn loans_end_guest_first_when_pcidom_shuts_down() {
    let mut bed = Bed::lent();
    bed.attach("g1", 2);
    bed.done();
    bed.attach("g2", 1);
    bed.failed();
    bed.xen.log.clear();
    stop(&mut bed);
    bed.assert_clean();
    // Nobody was told of a loss: both devices went the way of a detach.
    assert_eq!(bed.get(&format!("{BACK}/state")), None);
    bed.attach("g1", 1);
    assert!(bed.failed().contains("shutting down"));
}

#[test]
fn a_driver_that_does_not_let_go_does_not_keep_pcidom_from_shutting_down() {
    let mut bed = Bed::lent();
    bed.guests_answer = false;
    stop(&mut bed);
    assert!(bed.lent_to(G, 1));
    assert_eq!(bed.get(&format!("{BACK}/state-0")).as_deref(), Some("5"));
    bed.pass(5);
    assert!(!bed.lent_to(G, 1));
    assert_eq!(bed.get(&format!("{BACK}/state")).as_deref(), Some("5"));
    bed.pass(10);
    bed.assert_clean();
}

#[test]
fn a_detach_that_waits_does_not_wait_longer_than_the_shutdown() {
    let mut bed = Bed::lent();
    bed.guests_answer = false;
    bed.detach("g1", 1, false);
    stop(&mut bed);
    bed.pass(5);
    assert!(!bed.lent_to(G, 1));
    bed.pass(10);
    bed.done();
    bed.assert_clean();
}

#[test]
fn an_attach_is_undone_when_pcidom_shuts_down() {
    let mut bed = Bed::new();
    bed.pcidom_serves = false;
    bed.attach("g1", 1);
    stop(&mut bed);
    bed.pcidom_serves = true;
    bed.settle();
    assert!(bed.failed().contains("shutting down"));
    bed.assert_clean();
}

//! Whatever call fails, and wherever the daemon is killed: in the end Xen and XenStore are as
//! they were, or the device is lent as a whole.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pcidom_loan::LeaseAsk;

use super::bed::{Bed, G};
use crate::fake::Killed;
use crate::verb::Reply;

/// More than the calls of one attach, so that the last rounds have no fault at all.
const CALLS: u32 = 16;
/// More than the writes, and than the calls, of an attach, a lease and a detach.
const STEPS: u32 = 100;

#[test]
fn a_refusal_of_xen_anywhere_in_an_attach_is_undone() {
    let mut failures = 0;
    for call in 0..CALLS {
        let mut bed = Bed::new();
        let before = bed.xen.owners.clone();
        bed.xen.fault = Some((call, 5));
        bed.attach("g1", 1);
        match bed.reply() {
            Reply::Failed { .. } => {
                failures += 1;
                assert_eq!(bed.xen.owners, before, "call {call}");
                bed.assert_clean();
                bed.xen.fault = None;
                bed.attach("g1", 1);
                bed.done();
            }
            Reply::Done { .. } => assert!(bed.lent_to(G, 1)),
            other => panic!("{other:?}"),
        }
    }
    // Four calls to quarantine, four to lend; deassign in between.
    assert_eq!(failures, 8);
}

/// An attach, a lease and a detach, as far as they get.
fn live(bed: &mut Bed) {
    bed.attach("g1", 1);
    if bed.lent_to(G, 1) {
        bed.request(1, LeaseAsk::MapMsix(vec![0, 1]));
        bed.detach("g1", 1, false);
    }
}

/// The next daemon finds a host like this: all is over, or all is as it should be.
#[track_caller]
fn recover(bed: &mut Bed, at: u32) {
    bed.start();
    for _ in 0..4 {
        bed.pass(30);
    }
    let lent = bed.get("/tool/pcidom/loans/0").is_some();
    assert_eq!(lent, bed.lent_to(G, 1), "{at}");
    while bed.daemon.next_reply().is_some() {}
    if lent {
        bed.detach("g1", 1, true);
        bed.done();
    }
    let lost = bed.xen.of(G).pirqs.values().filter(|what| what.is_some()).count();
    if lost == 0 {
        bed.assert_clean();
    } else {
        // Killed between a map and the word of it: the pirqs are unknown for ever, and go
        // with the guest.
        assert!(lost <= 2 && !bed.lent_to(G, 1), "{at}");
    }
    let generation = bed.get("/tool/pcidom/generation").unwrap();
    bed.attach("g2", 2);
    bed.done();
    assert_ne!(bed.get("/tool/pcidom/generation"), Some(generation));
}

#[test]
fn a_daemon_killed_at_any_write_or_call_leaves_nothing_half_done() {
    let mut killed = 0;
    for at in 0..2 * STEPS {
        let mut bed = Bed::new();
        if at < STEPS {
            bed.store.death = Some(at);
        } else {
            bed.xen.death = Some(at - STEPS);
        }
        let life = catch_unwind(AssertUnwindSafe(|| live(&mut bed)));
        if let Err(end) = &life {
            assert!(end.is::<Killed>(), "a real panic at {at}");
        }
        killed += u32::from(life.is_err());
        recover(&mut bed, at);
    }
    // Some twenty calls to Xen, and more writes than that.
    assert!(killed > 50, "{killed}");
}

#[test]
fn a_xenstore_that_fails_for_good_leaves_nothing_half_done() {
    for at in 0..STEPS {
        let mut bed = Bed::new();
        bed.store.fault = Some(at);
        live(&mut bed);
        recover(&mut bed, at);
    }
}

#[test]
fn a_daemon_killed_while_it_maps_ends_that_loan() {
    let mut bed = Bed::lent();
    bed.xen.death = Some(1);
    let map = LeaseAsk::MapMsix(vec![0, 1]);
    let life = catch_unwind(AssertUnwindSafe(|| bed.request(1, map)));
    assert!(life.is_err_and(|end| end.is::<Killed>()));
    bed.start();
    assert_eq!(bed.get("/tool/pcidom/loans/0"), None);
    assert!(!bed.lent_to(G, 1));
}

#[test]
fn a_loan_and_its_leases_survive_the_daemon() {
    let mut bed = Bed::lent();
    bed.request(1, LeaseAsk::MapMsix(vec![0, 1]));
    let (before, calls) = (bed.xen.of(G), bed.xen.log.len());
    bed.start();
    assert_eq!(bed.xen.of(G), before);
    let touched = bed.xen.log[calls..].iter().filter(|call| call.contains(" 2 ")).count();
    assert_eq!(touched, 0);
    bed.request(2, LeaseAsk::Unmap);
    assert_eq!(bed.answer().unwrap().result, Ok(vec![]));
    bed.detach("g1", 1, false);
    bed.done();
    bed.assert_clean();
}

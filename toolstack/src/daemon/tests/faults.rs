//! Whatever call fails, and wherever the daemon is killed: in the end Xen and XenStore are as
//! they were, or the device is lent as a whole.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pcidom_loan::{LeaseAsk, LeaseRequest};
use pcidom_pci::Sbdf;
use pcidom_xenbus::Pirq;

use super::bed::{Bed, G, device};
use crate::fake::Killed;
use crate::hypervisor::Hypervisor;
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
    bed.assert_clean();
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

/// Lets the daemon be killed by what `act` makes it do.
#[track_caller]
fn killed(bed: &mut Bed, act: impl FnOnce(&mut Bed)) {
    let life = catch_unwind(AssertUnwindSafe(|| act(bed)));
    assert!(life.is_err_and(|end| end.is::<Killed>()));
}

#[test]
fn a_daemon_killed_while_it_maps_ends_that_loan() {
    let mut bed = Bed::lent();
    bed.xen.death = Some(1);
    killed(&mut bed, |bed| bed.request(1, LeaseAsk::MapMsix(vec![0, 1])));
    bed.start();
    assert_eq!(bed.get("/tool/pcidom/loans/0"), None);
    assert!(!bed.lent_to(G, 1));
    bed.assert_clean();
}

/// pcidom asks for something for loan 1.
fn request_of_second(bed: &mut Bed, sequence: u32, ask: LeaseAsk) {
    let generation = bed.order(1).expect("no loan").generation;
    let text = LeaseRequest { generation, sequence, ask }.to_string();
    bed.set("/local/domain/1/data/pcidom/requests/1", &text);
}

/// Devices 1 and 2 are lent to g1, which holds two vectors of device 2.
fn two_lent() -> Bed {
    let mut bed = Bed::lent();
    bed.attach("g1", 2);
    bed.done();
    request_of_second(&mut bed, 1, LeaseAsk::MapMsix(vec![0, 1]));
    bed.settle();
    bed
}

/// The vectors of g1.
fn vectors(bed: &Bed) -> Vec<(u16, Sbdf)> {
    let all = bed.xen.of(G).pirqs.into_iter();
    all.filter_map(|(pirq, what)| Some((pirq, what?.0))).collect()
}

#[test]
fn vectors_that_nobody_recorded_are_found_and_no_others_taken() {
    // Killed before the calls of the sweep too, at its first ones and in the middle.
    for again in [None, Some(0), Some(1), Some(16), Some(40), Some(1000)] {
        let mut bed = two_lent();
        // A line that the guest has by irqs= in its config.
        bed.xen.map_gsi(G, Pirq(9)).unwrap();
        bed.host.configs.insert(G, r#"{"b_info": {"irqs": [9]}}"#.into());
        bed.xen.death = Some(3);
        killed(&mut bed, |bed| bed.request(1, LeaseAsk::MapMsix((0..5).collect())));
        assert_eq!(vectors(&bed).len(), 5);
        let held = [(54, device(2)), (55, device(2))];
        assert_eq!(vectors(&bed)[3..], held);
        if let Some(calls) = again {
            // The daemon quarantines two devices first.
            bed.xen.death = Some(8 + calls);
            killed(&mut bed, Bed::start_to_die);
        }
        bed.start();
        assert_eq!(vectors(&bed), held, "{again:?}");
        let kept = bed.xen.of(G).pirqs;
        assert!(kept.contains_key(&9) && kept.contains_key(&16), "{again:?}");
        assert!(!bed.lent_to(G, 1) && bed.lent_to(G, 2));
        request_of_second(&mut bed, 2, LeaseAsk::Unmap);
        bed.settle();
        assert_eq!(vectors(&bed), []);
    }
}

#[test]
fn lost_vectors_are_found_wherever_they_are() {
    let mut bed = Bed::lent();
    bed.xen.death = Some(3);
    killed(&mut bed, |bed| bed.request(1, LeaseAsk::MapMsix((0..5).collect())));
    // The guest had the highest number reserved, and has just closed its channel: what Xen
    // would give next is above the lost ones.
    let pirqs = &mut bed.xen.holdings.get_mut(&G).unwrap().pirqs;
    let lost: Vec<_> = pirqs.split_off(&24).into_values().collect();
    pirqs.extend([24, 30, 31].into_iter().zip(lost));
    bed.start();
    bed.assert_clean();
}

#[test]
fn numbers_that_were_unmapped_but_not_written_off_are_not_unmapped_again() {
    let mut bed = two_lent();
    // Killed after both unmaps, and before the word of them.
    bed.store.death = Some(0);
    killed(&mut bed, |bed| {
        request_of_second(bed, 2, LeaseAsk::Unmap);
        bed.settle();
    });
    assert_eq!(vectors(&bed), []);
    assert!(bed.get("/tool/pcidom/loans/1").unwrap().contains("[[0,55],[1,54]]"));
    // Meanwhile the other loan of the guest, which comes first, wants some.
    bed.store.disconnect();
    let generation = bed.order(0).unwrap().generation;
    let ask = LeaseAsk::MapMsix(vec![0, 1]);
    let text = LeaseRequest { generation, sequence: 1, ask }.to_string();
    bed.set("/local/domain/1/data/pcidom/requests/0", &text);
    bed.start();
    assert_eq!(vectors(&bed), [(54, device(1)), (55, device(1))]);
    assert_eq!(bed.answer().unwrap().result, Ok(vec![55, 54]));
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

//! Resets on demand.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use pcidom_loan::{LeaseAsk, LeaseRefusal, LoanOrder, Phase, ResetTerms};
use pcidom_pci::reset::Method;

use super::bed::{Bed, DOM0, G, P, POOL, device, port};
use super::errors::{attach, refused, status};
use crate::fake::Killed;
use crate::verb::{Bdf, Reply, ResetMethod, Verb};

pub(super) fn reset(number: u8, method: Option<Method>, force: bool) -> Verb {
    let method = method.map(ResetMethod);
    Verb::Reset { device: Bdf(device(number)), method, force, pcidom: None }
}

/// The line that comes before the reply.
#[track_caller]
pub(super) fn progress(bed: &mut Bed) -> String {
    match bed.daemon.next_reply() {
        Some((_, Reply::Progress { text })) => text,
        other => panic!("{other:?}"),
    }
}

/// Begins a reset that pcidom does not finish by itself.
#[track_caller]
pub(super) fn begin(bed: &mut Bed, verb: &Verb) -> String {
    bed.pcidom_serves = false;
    bed.ask(verb);
    progress(bed)
}

/// pcidom's word on what is ordered under this number.
pub(super) fn say(bed: &mut Bed, id: u16, text: &str) {
    let generation = bed.order(id).unwrap().generation;
    let said = format!("gen={generation} {text}");
    bed.set(&format!("/local/domain/1/data/pcidom/loans/{id}"), &said);
    bed.settle();
}

const BUS: Option<Method> = Some(Method::SecondaryBus);

#[test]
fn a_device_is_reset_and_whoever_asked_hears_how() {
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    let text = begin(&mut bed, &reset(1, None, false));
    assert!(text.starts_with("resetting 0000:01:00.0"), "{text}");
    assert!(text.contains("port 0000:00:02.0") && text.contains("with 0000:02:00.0"));
    let LoanOrder { phase, guest, device: ordered, reset, .. } = bed.order(0).unwrap();
    assert_eq!((phase, guest, ordered), (Phase::Reset, DOM0.0, device(1)));
    assert_eq!(
        reset,
        ResetTerms { port: Some(port()), below: 2, ..ResetTerms::default() }
    );
    let shown = status(&mut bed);
    assert_eq!(shown.pcidoms[0].pool[1].state, "resetting");
    bed.pass(3);
    assert_eq!(progress(&mut bed), "still resetting 0000:01:00.0 after 5 s");
    assert_eq!(bed.daemon.next_reply(), None);
    bed.pass(5);
    assert_eq!(progress(&mut bed), "still resetting 0000:01:00.0 after 10 s");
    say(&mut bed, 0, "ready secondary bus reset, with 0000:02:00.0");
    let text = bed.done();
    let how = "secondary bus reset, with 0000:02:00.0";
    assert_eq!(text, format!("0000:01:00.0 was reset in 10.0 s: {how}"));
    bed.assert_clean();
    assert_eq!(bed.daemon.next_deadline(), None);
    bed.pcidom_serves = true;
    bed.attach("g1", 1);
    bed.done();
}

#[test]
fn a_reset_that_fails_says_why_and_what_was_missing() {
    let mut bed = Bed::new();
    bed.wire(&[1]);
    begin(&mut bed, &reset(1, None, false));
    assert_eq!(bed.order(0).unwrap().reset.port, None);
    say(&mut bed, 0, "failed no method works");
    let text = bed.failed();
    assert!(text.starts_with("0000:01:00.0 was not reset: no method works; "), "{text}");
    assert!(
        text.contains("0000:00:02.0, the port above it, is not in the pool"),
        "{text}"
    );
    bed.assert_clean();
    // If a method was named that needs no port, there is nothing to add.
    begin(&mut bed, &reset(1, Some(Method::PowerState), false));
    let terms = ResetTerms { method: Some(Method::PowerState), ..ResetTerms::default() };
    assert_eq!(bed.order(0).unwrap().reset, terms);
    say(&mut bed, 0, "failed it keeps its state");
    assert_eq!(bed.failed(), "0000:01:00.0 was not reset: it keeps its state");
}

#[test]
fn a_bus_reset_is_ordered_with_port_and_method() {
    for method in [Method::Slot, Method::SecondaryBus] {
        let mut bed = Bed::new();
        bed.give_port(&[1]);
        let text = begin(&mut bed, &reset(1, Some(method), false));
        assert!(text.contains(&format!("by {method}; ")), "{text}");
        assert!(text.contains("with nothing else"), "{text}");
        let method = Some(method);
        let terms =
            ResetTerms { port: Some(port()), below: 1, method, ..ResetTerms::default() };
        assert_eq!(bed.order(0).unwrap().reset, terms);
    }
}

#[test]
fn nothing_but_an_answer_to_this_order_is_one() {
    let mut bed = Bed::new();
    begin(&mut bed, &reset(1, None, false));
    let generation = bed.order(0).unwrap().generation.0;
    let other = format!("gen={} ready flr", generation - 1);
    let returned = format!("gen={generation} returned flr");
    for said in [&other, &returned, "nonsense"] {
        bed.set("/local/domain/1/data/pcidom/loans/0", said);
        bed.settle();
        assert_eq!(bed.daemon.next_reply(), None);
    }
    say(&mut bed, 0, "ready flr");
    assert!(bed.done().ends_with(": flr"));
}

#[test]
fn a_forced_reset_takes_the_leases_and_leaves_the_loan() {
    let mut bed = Bed::lent();
    bed.request(1, LeaseAsk::MapMsix(vec![0, 1]));
    assert_eq!(bed.xen.of(G).pirqs.len(), 3);
    begin(&mut bed, &reset(1, Some(Method::FunctionLevel), true));
    assert_eq!(bed.xen.of(G).pirqs.len(), 1, "the line");
    assert!(bed.get("/tool/pcidom/loans/0").unwrap().contains("\"leases\":\"none\""));
    let order = bed.order(1).unwrap();
    assert_eq!((order.phase, order.guest), (Phase::Reset, G.0));
    assert!(order.reset.force);
    // Not before it is over.
    bed.request(2, LeaseAsk::MapMsix(vec![0]));
    assert_eq!(bed.answer().unwrap().result, Err(LeaseRefusal::Busy));
    say(&mut bed, 1, "ready flr");
    bed.done();
    assert!(bed.lent_to(G, 1));
    assert_eq!(bed.order(0).unwrap().phase, Phase::Lent);
    bed.request(3, LeaseAsk::MapMsix(vec![0]));
    assert_eq!(bed.answer().unwrap().result.unwrap().len(), 1);
    bed.pcidom_serves = true;
    bed.detach("g1", 1, false);
    bed.done();
    bed.assert_clean();
}

#[test]
fn a_forced_reset_that_fails_says_whose_interrupts_are_gone() {
    for vectors in [true, false] {
        let mut bed = Bed::lent();
        if vectors {
            bed.request(1, LeaseAsk::MapMsix(vec![0, 1]));
        }
        begin(&mut bed, &reset(1, Some(Method::FunctionLevel), true));
        say(&mut bed, 1, "failed it does not come back");
        let text = bed.failed();
        assert!(text.contains("it does not come back"), "{text}");
        let told = text.contains("has lost its interrupts all the same");
        assert_eq!(told, vectors, "{text}");
        assert_eq!(text.contains("pcidomctl detach g1 0000:01:00.0"), vectors, "{text}");
        // What it says works.
        bed.pcidom_serves = true;
        bed.detach("g1", 1, false);
        bed.done();
        bed.assert_clean();
    }
}

#[test]
fn a_forced_bus_reset_takes_the_leases_of_all_it_takes_along() {
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    bed.attach("g1", 1);
    bed.done();
    bed.request(1, LeaseAsk::MapMsix(vec![0, 1]));
    // Without a name it is not for a neighbour, however much force is used.
    begin(&mut bed, &reset(2, None, true));
    assert_eq!(bed.order(1).unwrap().reset.port, None);
    assert_eq!(bed.xen.of(G).pirqs.len(), 3);
    say(&mut bed, 1, "failed no method works");
    let text = bed.failed();
    assert!(
        text.contains("0000:01:00.0 is below the same port, and is lent to g1"),
        "{text}"
    );
    assert!(text.contains("--method slot or bus"), "{text}");
    begin(&mut bed, &reset(2, BUS, true));
    assert_eq!(bed.xen.of(G).pirqs.len(), 1);
    assert!(bed.get("/tool/pcidom/loans/0").unwrap().contains("\"leases\":\"none\""));
    let order = bed.order(1).unwrap();
    assert_eq!((order.guest, order.reset.port), (DOM0.0, Some(port())));
    bed.request(2, LeaseAsk::MapMsi);
    assert!(bed.answer().unwrap().result.is_err());
    say(&mut bed, 1, "ready bus");
    bed.done();
}

#[test]
fn one_reset_at_a_time_and_no_loan_meanwhile() {
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    begin(&mut bed, &reset(1, BUS, false));
    for (verb, cause) in [
        (reset(1, None, true), "0000:01:00.0 is being reset just now: wait"),
        (reset(2, None, true), "0000:02:00.0 is being reset just now, with 0000:01:00.0"),
        (attach("g1", 1, None), "0000:01:00.0 is being reset just now: wait"),
        (
            attach("g1", 2, None),
            "0000:02:00.0 is being reset just now, with 0000:01:00.0",
        ),
    ] {
        bed.ask(&verb);
        let text = bed.failed();
        assert!(text.contains(cause) && text.contains("try again"), "{text}");
    }
    assert_eq!(bed.order(1), None);
    say(&mut bed, 0, "ready bus");
    bed.done();
    // One function by itself leaves its neighbour alone, if not the other way round.
    begin(&mut bed, &reset(1, Some(Method::FunctionLevel), false));
    bed.ask(&reset(2, BUS, true));
    let text = bed.failed();
    assert!(text.contains("takes 0000:01:00.0 along, which is being reset"), "{text}");
    bed.ask(&reset(2, None, false));
    progress(&mut bed);
    assert_eq!(bed.order(1).unwrap().reset.port, None);
    // Two numbers, two answers, in any order.
    say(&mut bed, 1, "ready second");
    assert!(bed.done().starts_with("0000:02:00.0 was reset"));
    say(&mut bed, 0, "ready first");
    assert!(bed.done().starts_with("0000:01:00.0 was reset"));
}

#[test]
fn what_is_prepared_or_ends_is_not_reset_whatever_force_is_used() {
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    bed.pcidom_serves = false;
    bed.attach("g1", 1);
    let wait = "0000:01:00.0 is preparing just now (guest g1), with a reset: wait";
    let text = refused(&mut bed, &reset(1, None, true));
    assert!(text.contains(wait), "{text}");
    let text = refused(&mut bed, &reset(2, BUS, true));
    assert!(text.contains("takes 0000:01:00.0 along, which is preparing"), "{text}");
    bed.pcidom_serves = true;
    bed.settle();
    bed.done();
    bed.pcidom_serves = false;
    bed.detach("g1", 1, true);
    for (verb, cause) in [
        (reset(1, None, true), "is ending just now (guest g1)"),
        (reset(2, BUS, true), "takes 0000:01:00.0 along, which is ending"),
    ] {
        bed.ask(&verb);
        let text = bed.failed();
        assert!(text.contains(cause) && text.contains("wait for that"), "{text}");
    }
}

/// A reset of device 1 by the port, under way.
fn under_way() -> Bed {
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    begin(&mut bed, &reset(1, BUS, false));
    bed
}

#[test]
fn a_reset_that_can_not_end_is_given_up_with_its_reason() {
    type Change = fn(&mut Bed);
    let cases: [(Change, &str); 5] = [
        (
            |bed| {
                bed.xen.domains.remove(&P);
                bed.fire("@releaseDomain");
            },
            "pcidom is gone",
        ),
        (|bed| bed.set(&format!("{POOL}/state-0"), "5"), "0000:01:00.0 left the pool"),
        (|bed| bed.set(&format!("{POOL}/state-2"), "5"), "0000:00:02.0 left the pool"),
        (
            |bed| bed.set("/local/domain/1/data/pcidom/state", "stopping"),
            "pcidom is shutting down",
        ),
        (
            |bed| {
                bed.pass(89);
                progress(bed);
                assert_eq!(bed.daemon.next_reply(), None);
                bed.pass(1);
            },
            "pcidom did not answer in 90 s: look at xl console 1",
        ),
    ];
    for (change, reason) in cases {
        let mut bed = under_way();
        change(&mut bed);
        bed.settle();
        assert_eq!(bed.failed(), format!("0000:01:00.0 was not reset: {reason}"));
        bed.assert_clean();
        assert_eq!(bed.daemon.next_deadline(), None, "{reason}");
    }
}

#[test]
fn another_pcidom_with_that_number_does_not_lose_its_order() {
    let mut bed = under_way();
    bed.set("/local/domain/1/vm", "/vm/another");
    bed.fire("@releaseDomain");
    assert!(bed.failed().ends_with("pcidom is gone"));
}

#[test]
fn a_daemon_that_starts_removes_what_is_left_of_a_reset() {
    let mut bed = under_way();
    assert_eq!(bed.order(0).unwrap().phase, Phase::Reset);
    let generation = bed.order(0).unwrap().generation;
    bed.start();
    bed.assert_clean();
    // pcidom has finished meanwhile, and that is no answer to the next order.
    let late = format!("gen={generation} ready bus");
    bed.set("/local/domain/1/data/pcidom/loans/0", &late);
    bed.attach("g1", 1);
    assert_eq!(bed.order(0).unwrap().phase, Phase::Prepare);
    bed.pcidom_serves = true;
    bed.settle();
    bed.done();
}

#[test]
fn an_order_that_can_not_be_removed_is_removed_later() {
    let mut bed = under_way();
    bed.store.fault = Some(0);
    say(&mut bed, 0, "ready bus");
    assert_eq!(bed.daemon.next_reply(), None);
    bed.store.fault = None;
    let later = bed.now.after(Duration::from_secs(3));
    assert_eq!(bed.daemon.next_deadline(), Some(later));
    bed.pass(3);
    bed.done();
    bed.assert_clean();
}

/// Wherever it dies, the next daemon has no reset under way and knows what is mapped.
#[test]
fn a_daemon_killed_anywhere_in_a_forced_reset_leaves_nothing_half_done() {
    let mut killed = 0;
    for at in 0..40 {
        let mut bed = Bed::lent();
        bed.request(1, LeaseAsk::MapMsix(vec![0, 1]));
        if at < 20 {
            bed.store.death = Some(at);
        } else {
            bed.xen.death = Some(at - 20);
        }
        let life = catch_unwind(AssertUnwindSafe(|| bed.ask(&reset(1, None, true))));
        if let Err(end) = &life {
            assert!(end.is::<Killed>(), "a real panic at {at}");
        }
        killed += u32::from(life.is_err());
        bed.start();
        bed.pass(30);
        let orders = bed.store.below("/local/domain/1/pcidom/loans");
        assert!(orders.iter().all(|(_, text)| !text.contains("phase=reset")), "{at}");
        let mapped = bed.xen.of(G).pirqs.into_values().flatten().count();
        match bed.get("/tool/pcidom/loans/0") {
            Some(record) if record.contains("\"leases\":\"none\"") => {
                assert_eq!(mapped, 0, "{at}");
            }
            Some(record) => {
                assert!(record.contains("[[0,55],[1,54]]"), "{at}: {record}");
                assert_eq!(mapped, 2, "{at}");
            }
            None => bed.assert_clean(),
        }
    }
    assert!(killed > 5, "{killed}");
}

#[test]
fn what_is_said_of_other_things_costs_a_reset_no_read() {
    let mut bed = under_way();
    let answer = "/local/domain/1/data/pcidom/loans/0";
    bed.store.reads.clear();
    for other in ["loans/1", "loans/00", "requests/0", "report/number", "state"] {
        let path = format!("/local/domain/1/data/pcidom/{other}");
        bed.set(&path, if other == "state" { "ready" } else { "1" });
        bed.settle();
    }
    bed.fire("@releaseDomain");
    bed.pass(1);
    assert!(!bed.store.reads.iter().any(|path| path == answer), "{:?}", bed.store.reads);
    say(&mut bed, 0, "ready bus");
    bed.done();
    assert!(bed.store.reads.iter().any(|path| path == answer));
}

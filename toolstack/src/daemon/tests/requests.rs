//! Resets that another toolstack asks for through XenStore.

use pcidom_loan::Phase;
use pcidom_pci::reset::Method;

use super::bed::{Bed, DOM0, device};
use super::reset::say;
use crate::store::Permissions;

const ASKED: &str = "/tool/pcidom/reset/libvirt-1";

fn ask(bed: &mut Bed, text: &str) {
    bed.set(ASKED, text);
    bed.settle();
}

fn result(bed: &Bed) -> String {
    bed.get(&format!("{ASKED}/result")).unwrap_or_default()
}

#[test]
fn a_request_is_answered_in_its_result() {
    let mut bed = Bed::new();
    bed.pcidom_serves = false;
    ask(&mut bed, "0000:01:00.0 method=pm force");
    assert_eq!(result(&bed), "running");
    let order = bed.order(0).unwrap();
    assert_eq!((order.phase, order.device), (Phase::Reset, device(1)));
    assert_eq!(order.reset.method, Some(Method::PowerState));
    assert!(order.reset.force);
    bed.pass(10);
    assert_eq!(result(&bed), "running");
    say(&mut bed, 0, "ready power state reset");
    assert_eq!(result(&bed), "ok 0000:01:00.0 was reset in 10.0 s: power state reset");
    assert_eq!(bed.daemon.next_reply(), None);
    bed.assert_clean();
    let permissions = bed.store.permissions(&format!("{ASKED}/result")).unwrap();
    assert_eq!(permissions, Permissions::private(DOM0));
    // Whatever is written there now, it has its answer, until it is removed.
    ask(&mut bed, "0000:01:00.0");
    assert_eq!(bed.order(0), None);
    bed.remove(ASKED);
    ask(&mut bed, "0000:01:00.0");
    say(&mut bed, 0, "failed no method works");
    let text = result(&bed);
    assert!(text.starts_with("failed 0000:01:00.0 was not reset: no method"), "{text}");
}

#[test]
fn a_request_that_makes_no_sense_or_is_refused_fails_at_once() {
    for (text, why) in [
        ("01:00.0 fly", "failed malformed request: write DDDD:BB:SS.F"),
        ("0000:03:00.0", "failed 0000:03:00.0 is not in the pool"),
        ("0000:01:00.0 pcidom=other", "failed the daemon serves pcidom, not other"),
        (
            "0000:01:00.0 method=bus",
            "failed 0000:01:00.0 can't have a secondary bus reset",
        ),
    ] {
        let mut bed = Bed::new();
        ask(&mut bed, text);
        assert!(result(&bed).starts_with(why), "{}", result(&bed));
        assert_eq!(bed.order(0), None);
    }
}

#[test]
fn a_result_fits_a_node_and_has_no_more_than_a_message() {
    let mut bed = Bed::new();
    bed.wire(&[1]);
    bed.pcidom_serves = false;
    ask(&mut bed, "0000:01:00.0");
    say(&mut bed, 0, &format!("failed {}", "x".repeat(850)));
    assert_eq!(result(&bed).len(), 900);
}

#[test]
fn a_request_that_was_taken_away_gets_no_result() {
    let mut bed = Bed::new();
    bed.pcidom_serves = false;
    ask(&mut bed, "0000:01:00.0");
    bed.remove(ASKED);
    say(&mut bed, 0, "ready flr");
    assert!(bed.store.below(ASKED).is_empty());
    bed.assert_clean();
}

#[test]
fn a_daemon_that_starts_refuses_what_was_asked_before() {
    let mut bed = Bed::new();
    bed.pcidom_serves = false;
    ask(&mut bed, "0000:01:00.0");
    bed.unwatch_everything();
    bed.set("/tool/pcidom/reset/later", "0000:02:00.0");
    bed.set("/tool/pcidom/reset/empty", "");
    bed.start();
    assert_eq!(result(&bed), "failed the daemon was started anew meanwhile: ask again");
    let later = bed.get("/tool/pcidom/reset/later/result").unwrap();
    assert_eq!(
        later,
        "failed it was asked for before the daemon was started: remove the request, and ask \
         again"
    );
    assert_eq!(bed.order(0), None);
    bed.remove("/tool/pcidom/reset/later");
    bed.set("/tool/pcidom/reset/later", "0000:02:00.0");
    bed.settle();
    assert_eq!(bed.order(0).unwrap().device, device(2));
    say(&mut bed, 0, "ready flr");
    let later = bed.get("/tool/pcidom/reset/later/result").unwrap();
    assert!(later.starts_with("ok 0000:02:00.0 was reset"), "{later}");
    assert_eq!(bed.get("/tool/pcidom/reset/empty/result"), None);
}

#[test]
fn requests_are_bounded_in_number_and_name() {
    let mut bed = Bed::new();
    let numbers: Vec<u8> = (1..=17).collect();
    bed.give_to_pool(&numbers);
    bed.settle();
    bed.pcidom_serves = false;
    for number in numbers {
        let text = device(number).to_string();
        bed.set(&format!("/tool/pcidom/reset/r{number}"), &text);
        bed.settle();
    }
    let last = bed.get("/tool/pcidom/reset/r17/result").unwrap();
    assert!(last.starts_with("failed 16 resets are under way"), "{last}");
    let first = bed.get("/tool/pcidom/reset/r16/result").unwrap();
    assert_eq!(first, "running");
    say(&mut bed, 0, "ready flr");
    let long = format!("/tool/pcidom/reset/{}", "x".repeat(65));
    bed.set(&long, "0000:01:00.0");
    bed.settle();
    let text = bed.get(&format!("{long}/result")).unwrap();
    assert_eq!(text, "failed the name of a request has at most 64 characters");
    assert_eq!(bed.order(0), None);
}

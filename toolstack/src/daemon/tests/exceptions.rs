//! Exceptions from pcidom's register table: in the order, in dom0, and in status.

use super::bed::{Bed, G, device};
use crate::host::Quirk;
use crate::verb::{Bdf, PcidomLine, Reply, Verb, Wish};

fn attach(bed: &mut Bed, permissive: bool, allow: &[&str]) -> Reply {
    bed.pass(1);
    bed.ask(&Verb::Attach {
        guest: "g1".into(),
        owner: None,
        device: Bdf(device(1)),
        slot: None,
        bus: None,
        share_line: false,
        lax: false,
        wait: None,
        wish: Wish {
            permissive,
            allow: allow.iter().map(|item| (*item).into()).collect(),
        },
        pcidom: None,
    });
    bed.reply()
}

fn status(bed: &mut Bed) -> PcidomLine {
    bed.ask(&Verb::Status { pcidom: None });
    bed.pass(3);
    match bed.reply() {
        Reply::Status { mut status } => status.pcidoms.remove(0),
        other => panic!("{other:?}"),
    }
}

/// A daemon with a pool, and nothing lent.
fn started() -> Bed {
    let mut bed = Bed::new();
    bed.start();
    bed
}

const LATENCY: Quirk = Quirk { offset: 0x0d, bytes: 1 };

#[test]
fn an_exception_is_in_every_order_of_its_loan_and_in_none_of_the_next() {
    let mut bed = started();
    let reply = attach(&mut bed, true, &["LATENCY_TIMER", "0xf0:4:0xff"]);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    let order = bed.order(0).unwrap();
    let text = order.exceptions.to_string();
    assert_eq!(text, " permissive allow=d+1:ff,f0+4:ff");
    // It survives the daemon.
    bed.start();
    assert_eq!(bed.order(0).unwrap().exceptions, order.exceptions);
    bed.detach("g1", 1, false);
    bed.done();
    bed.attach("g1", 1);
    bed.done();
    assert_eq!(bed.order(0).unwrap().exceptions.to_string(), "");
}

#[test]
fn dom0_lets_through_what_was_allowed_and_status_says_how_long() {
    let mut bed = started();
    let before = bed.host.quirks[&device(1)].clone();
    assert_eq!(status(&mut bed).pool[0].armed, [""; 0]);
    attach(&mut bed, true, &["LATENCY_TIMER"]);
    let after: Vec<Quirk> = before.iter().copied().chain([LATENCY]).collect();
    assert_eq!(bed.host.quirks[&device(1)], after);
    assert!(bed.host.permissive.contains(&device(1)));
    let shown = status(&mut bed);
    assert_eq!(shown.loans[0].exceptions, ["permissive=1", "allow=LATENCY_TIMER"]);
    let [register, permissive] = shown.pool[0].armed.as_slice() else {
        panic!("{:?}", shown.pool[0].armed)
    };
    assert_eq!(
        register,
        "dom0 lets writes to 1 byte at 0x0d through until the device leaves the pool"
    );
    assert!(permissive.contains("until it lets go of the device"), "{permissive}");
    assert_eq!(shown.pool[1].armed, [""; 0]);
    // The loan's end is not the end of that.
    bed.detach("g1", 1, false);
    bed.done();
    let shown = status(&mut bed);
    assert!(shown.loans.is_empty() && shown.pool[0].armed.len() == 2);
}

#[test]
fn an_exception_that_can_not_be_is_refused_before_anything_is_done() {
    let mut bed = started();
    let quirks = bed.host.quirks.clone();
    for item in ["COMMAND", "BAR0", "MSIX_CONTROL:1", "0x40:2", "DEVCTL:0x8000", "x"] {
        let Reply::Failed { text } = attach(&mut bed, true, &["LATENCY_TIMER", item])
        else {
            panic!("{item}")
        };
        assert!(text.contains(&format!("allow={item}: ")), "{text}");
        assert_eq!(bed.order(0), None);
    }
    assert_eq!(bed.host.quirks, quirks);
    assert!(bed.host.permissive.is_empty());
}

#[test]
fn status_names_what_a_guest_was_denied_and_the_way_out() {
    let mut bed = Bed::lent();
    bed.ask(&Verb::Status { pcidom: None });
    let number = bed.get("/local/domain/1/pcidom/query").unwrap();
    let report = "/local/domain/1/data/pcidom/report";
    let said = format!(
        "{} as 0000:00:01.0 MSI-X denied writes: LNKCTL@90+2=43*7 @44+1=77*1",
        device(1)
    );
    bed.set(&format!("{report}/guests/{G}/1"), &said);
    // Another device of that guest.
    let other = format!("{} as 0000:00:00.0 off denied writes: BIST@f+1=40*1", device(2));
    bed.set(&format!("{report}/guests/{G}/0"), &other);
    bed.set(&format!("{report}/number"), &number);
    bed.settle();
    let Reply::Status { status } = bed.reply() else { panic!() };
    let denied = &status.pcidoms[0].loans[0].denied;
    assert_eq!(denied.len(), 2);
    assert_eq!(denied[0].register.as_deref(), Some("LNKCTL"));
    assert_eq!((denied[0].offset, denied[0].wanted, denied[0].times), (0x90, 0x43, 7));
    assert_eq!(denied[0].exception.as_deref(), Some("allow=LNKCTL"));
    assert_eq!(denied[1].exception.as_deref(), Some("allow=0x44:1"));
    let shown = crate::print::status(&status);
    let line = "denied: LNKCTL, 2 bytes at 0x90, wanted 0x43 (7 times); attach with \
                allow=LNKCTL allows it; the risk: link power states";
    assert!(shown.contains(line), "{shown}");
}

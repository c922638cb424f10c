//! A pcidom that was taken over writes what it likes into its own directory.

use std::cell::RefCell;
use std::sync::Once;

use pcidom_loan::{LeaseAnswer, Phase};

use super::bed::{Bed, G, G2, P2, device};
use crate::daemon::Daemon;
use crate::daemon::pace::{LINE_BURST, LOOK_BURST, LOOK_PAUSE, REQUEST_BURST};
use crate::fake::Owner;
use crate::store::{Nodes, Permissions};
use crate::verb::{Bdf, Reply, Verb, Wish};

/// What the pcidom that was taken over may write, and where it is spoken to.
const SAID: &str = "/local/domain/1/data/pcidom";
const OTHER_SAID: &str = "/local/domain/4/data/pcidom";
const OTHER_BACK: &str = "/local/domain/4/backend/pci/3/0";

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// What this test's daemon has logged from here on: `take` it later.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
    });
    LINES.take();
}

/// A second pcidom beside the first, with device 3, which it has lent to g2 as loan 1; the
/// first has lent device 1 to g1 as loan 0.
fn two() -> Bed {
    let mut bed = Bed::lent();
    bed.create(P2, "other");
    bed.set("/local/domain/4/data", "");
    bed.store.set_permissions("/local/domain/4/data", Permissions::private(P2)).unwrap();
    let mut raw = bed.host.devices[&device(1)].clone();
    raw.resources[0] = [0xfea0_0000, 0xfea0_3fff, 0x14_0204];
    raw.config[0x10..0x14].copy_from_slice(&0xfea0_0004_u32.to_le_bytes());
    bed.host.devices.insert(device(3), raw);
    bed.xen.owners.insert(device(3), Owner::Domain(P2));
    bed.set(&super::bed::lock(3), "4");
    let pool = "/local/domain/0/backend/pci/4/0";
    bed.set(&format!("{pool}/dev-0"), &device(3).to_string());
    bed.set(&format!("{pool}/state-0"), "3");
    bed.set(&format!("{pool}/num_devs"), "1");
    bed.set(&format!("{OTHER_SAID}/state"), "ready");
    bed.daemon = Daemon::new(vec!["pcidom".into(), "other".into()]);
    bed.start_again();
    bed.pass(1);
    bed.ask(&Verb::Attach {
        guest: "g2".into(),
        owner: None,
        device: Bdf(device(3)),
        slot: None,
        bus: None,
        share_line: false,
        lax: false,
        wait: None,
        wish: Wish::default(),
        pcidom: Some("other".into()),
    });
    say(&mut bed, &format!("{OTHER_SAID}/loans/1"), "gen=2 ready flr");
    for (node, value) in [("vdev-0", "0000:00:00.00"), ("state-0", "3"), ("state", "4")] {
        bed.set(&format!("{OTHER_BACK}/{node}"), value);
    }
    say(&mut bed, "/local/domain/3/device/pci/0/state", "4");
    // Without the line, which g1 has.
    bed.done();
    bed
}

fn say(bed: &mut Bed, path: &str, text: &str) {
    bed.set(path, text);
    bed.settle();
}

fn vectors(bed: &Bed, guest: pcidom_xenbus::DomId) -> usize {
    bed.xen.of(guest).pirqs.values().filter(|what| what.is_some()).count()
}

/// The other pcidom's guest enables its interrupts, and has them at once.
#[track_caller]
fn other_is_served(bed: &mut Bed, sequence: u32) {
    let request = format!("gen=2 seq={sequence} map msix 0,1");
    say(bed, &format!("{OTHER_SAID}/requests/1"), &request);
    let answer = bed.get("/local/domain/4/pcidom/answers/1").expect("no answer");
    let answer: LeaseAnswer = answer.parse().unwrap();
    assert_eq!((answer.sequence, answer.result.map(|all| all.len())), (sequence, Ok(2)));
    assert_eq!(vectors(bed, G2), 2);
}

#[test]
fn nobody_asks_or_answers_for_the_loan_of_another_pcidom() {
    let mut bed = two();
    let calls = bed.xen.log.len();
    for text in
        ["gen=2 seq=1 map msix 0", "gen=2 seq=1 unmap", "gen=2 seq=4294967295 map msix 0"]
    {
        say(&mut bed, &format!("{SAID}/requests/1"), text);
    }
    for text in ["gen=2 returned flr", "gen=2 failed it is mine", "gen=2 ready flr"] {
        say(&mut bed, &format!("{SAID}/loans/1"), text);
    }
    assert_eq!(bed.xen.log.len(), calls, "Xen is not called");
    assert_eq!(bed.get("/local/domain/4/pcidom/answers/1"), None);
    assert_eq!(bed.get("/local/domain/1/pcidom/answers/1"), None);
    assert!(bed.lent_to(G2, 3) && bed.lent_to(G, 1));
    other_is_served(&mut bed, 1);
    // Nor does it say that another one's device is ready to be lent, or is back.
    bed.detach("g1", 1, true);
    bed.done();
    bed.pcidom_serves = false;
    bed.attach("g1", 1);
    let order = bed.order(0).unwrap();
    assert_eq!(order.phase, Phase::Prepare);
    let ready = format!("gen={} ready flr", order.generation);
    say(&mut bed, &format!("{OTHER_SAID}/loans/0"), &ready);
    assert!(!bed.lent_to(G, 1));
    bed.pcidom_serves = true;
    bed.settle();
    assert!(bed.lent_to(G, 1));
}

#[test]
fn a_flood_of_good_requests_is_served_at_a_pace_and_other_pcidoms_at_once() {
    let mut bed = two();
    let calls = bed.xen.log.len();
    let last = 1001;
    for sequence in 1..=last {
        let verb = if sequence % 2 == 1 { "map msix 0" } else { "unmap" };
        let text = format!("gen=1 seq={sequence} {verb}");
        say(&mut bed, &format!("{SAID}/requests/0"), &text);
    }
    let served = bed.xen.log.iter().skip(calls).filter(|call| call.contains("pirq"));
    assert_eq!(served.count(), REQUEST_BURST as usize, "each is one call");
    other_is_served(&mut bed, 1);
    assert_eq!(bed.answer().unwrap().sequence, REQUEST_BURST);
    // The last one is not forgotten: it waits for its turn.
    let due = bed.daemon.next_deadline().expect("something is put off");
    assert!(due <= bed.now.after(crate::daemon::pace::REQUEST_PAUSE));
    bed.pass(1);
    assert_eq!((bed.answer().unwrap().sequence, vectors(&bed, G)), (last, 1));
    assert_eq!(bed.daemon.next_deadline(), None);
}

#[test]
fn whatever_is_written_the_log_is_a_burst_and_then_a_line_a_second() {
    let mut bed = two();
    listen();
    for n in 0..400_u32 {
        let sequence = 2 * n;
        for (node, text) in [
            ("requests/0", "junk \u{1b}[2J".to_owned()),
            ("requests/0", "x".repeat(4000)),
            ("requests/0", format!("gen=1 seq={sequence} map msix 2000")),
            ("requests/0", format!("gen=1 seq={} unmap", sequence + 1)),
            ("loans/0", "gen=1 nonsense".into()),
            ("state", "away".into()),
            ("state", "ready".into()),
            ("protocol", format!("{n}")),
            ("state", "away".into()),
            ("protocol", "1".into()),
        ] {
            say(&mut bed, &format!("{SAID}/{node}"), &text);
        }
    }
    let lines = LINES.take();
    assert!(lines.len() <= 2 * LINE_BURST as usize, "{} lines", lines.len());
    assert!(lines.len() > 1, "people are told");
    assert!(lines.iter().all(|line| !line.contains('\u{1b}') && line.len() < 400));
    for _ in 0..100 {
        bed.pass(1);
        for text in ["junk", "more"].iter().cycle().take(10) {
            say(&mut bed, &format!("{SAID}/requests/0"), text);
        }
    }
    let lines = LINES.take().len();
    assert!((90..=110).contains(&lines), "{lines} lines in 100 s");
    other_is_served(&mut bed, 1);
}

#[test]
fn a_sequence_number_that_goes_back_is_not_served() {
    let mut bed = two();
    say(&mut bed, &format!("{SAID}/requests/0"), "gen=1 seq=7 map msix 0");
    assert_eq!(vectors(&bed, G), 1);
    let calls = bed.xen.log.len();
    for sequence in [7, 6, 1, 0] {
        let text = format!("gen=1 seq={sequence} unmap");
        say(&mut bed, &format!("{SAID}/requests/0"), &text);
    }
    assert_eq!((bed.xen.log.len(), bed.answer().unwrap().sequence), (calls, 7));
    // Not even after the highest there is, nor does the count go round.
    say(&mut bed, &format!("{SAID}/requests/0"), "gen=1 seq=4294967295 unmap");
    say(&mut bed, &format!("{SAID}/requests/0"), "gen=1 seq=0 map msix 0");
    say(&mut bed, &format!("{SAID}/requests/0"), "gen=1 seq=1 map msix 0");
    assert_eq!(vectors(&bed, G), 0);
}

#[test]
fn no_name_or_text_leads_the_daemon_out_of_the_places_it_knows() {
    let mut bed = two();
    let calls = bed.xen.log.len();
    bed.store.reads.clear();
    for node in [
        "requests/..",
        "requests/../requests/0",
        "requests/../../../4/data/pcidom/requests/1",
        "requests//0",
        "requests/0/../1",
        "requests//local/domain/4/data/pcidom/requests/1",
        "requests/1",
        "requests/0001",
        "requests/+1",
        "requests/0x1",
        "requests/65536",
        "requests/99999999999999999999",
        "loans/../loans/1",
        "loans//1",
        "loans/1",
        "report/../../../4/data/pcidom/report",
        "/state",
        "../pcidom/state",
        "",
    ] {
        for text in [
            "gen=2 seq=1 map msix 0",
            "gen=2 returned flr",
            "/local/domain/4/data/pcidom/requests/1",
            "../../4/data/pcidom/requests/1",
        ] {
            say(&mut bed, &format!("{SAID}/{node}"), text);
        }
    }
    assert_eq!(bed.xen.log.iter().skip(calls).filter(|c| c.contains("pirq")).count(), 0);
    // It looked at nodes of this very pcidom, by names of its own making.
    for path in &bed.store.reads {
        assert!(!path.contains("..") && !path.contains("//"), "{path}");
        assert!(!path.starts_with(OTHER_SAID), "{path}");
    }
    assert!(!bed.store.reads.is_empty());
    other_is_served(&mut bed, 1);
}

#[test]
fn a_report_of_any_shape_is_read_to_a_bound_and_shown_without_control_characters() {
    let mut bed = two();
    bed.ask(&Verb::Status { pcidom: Some("pcidom".into()) });
    let number = bed.get("/local/domain/1/pcidom/query").unwrap();
    let report = format!("{SAID}/report");
    // Empty ones, and names that look alike once they are printed.
    for n in 0..3000 {
        bed.set(&format!("{report}/a/{n}"), "");
        bed.set(&format!("{report}/b/{}", char::from_u32(0x4e00 + n).unwrap()), "x");
    }
    bed.set(&format!("{report}/a/0/1/2/3/4/5/6/7/8/9"), "deep");
    bed.set(&format!("{report}/0"), &"\u{1b}]0;".repeat(1000));
    while bed.store.next_fired().is_some() {}
    bed.store.reads.clear();
    say(&mut bed, &format!("{report}/number"), &number);
    let Reply::Status { status } = bed.reply() else { panic!("no status") };
    let shown = status.pcidoms[0].report.as_ref().unwrap();
    assert!(shown.iter().all(|(name, text)| {
        let both = [name, text];
        both.iter().all(|t| t.len() <= 900 && t.bytes().all(|b| (32..127).contains(&b)))
    }));
    let reads = bed.store.reads.iter().filter(|path| path.starts_with(&report)).count();
    assert!(reads <= 520, "{reads} reads");
    assert!(shown.contains_key("0") && !shown.values().any(|text| text == "deep"));
}

#[test]
fn what_is_written_without_end_is_looked_at_now_and_then() {
    let mut bed = two();
    bed.pass(60);
    // pcidom's reports and junk, and a guest's state: each a look at XenStore, one by one.
    for (path, other) in [
        (format!("{SAID}/loans/0"), format!("{SAID}/state")),
        ("/local/domain/2/device/pci/0/state".into(), format!("{SAID}/x")),
    ] {
        bed.store.reads.clear();
        for n in 0..2000 {
            say(&mut bed, if n % 2 == 0 { &path } else { &other }, "4");
        }
        let at_once = bed.store.reads.len();
        assert!(
            at_once <= 10 * 2 * LOOK_BURST as usize,
            "{at_once} reads for 2000 writes"
        );
        assert!(
            bed.daemon.next_deadline().is_some_and(|at| at <= bed.now.after(LOOK_PAUSE))
        );
        bed.pass(1);
        assert!(bed.store.reads.len() > at_once, "the last word is looked at");
        assert_eq!(bed.daemon.next_deadline(), None);
        let sequence = if path.contains("device") { 3 } else { 1 };
        other_is_served(&mut bed, sequence);
        let unmap = format!("gen=2 seq={} unmap", sequence + 1);
        say(&mut bed, &format!("{OTHER_SAID}/requests/1"), &unmap);
        bed.pass(60);
    }
}

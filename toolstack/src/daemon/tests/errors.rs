//! The rows of docs/errors.md: each says cause and next command, and leaves all as it was.

use super::bed::{Bed, FRONT, G, G2, P, P2, P3, device};
use crate::daemon::{Daemon, Found, Protection};
use crate::fake::Holdings;
use crate::hypervisor::DomainInfo;
use crate::verb::{Bdf, Reply, Status, Verb, Wish};

/// All that a failed command must not change: XenStore (but the number of the next loan and
/// pcidom's own notes), who owns what in Xen, and what `status` shows.
fn everything(bed: &mut Bed) -> String {
    let mut nodes = bed.store.below("");
    nodes.retain(|(path, value)| {
        !(value.is_empty()
            || path.ends_with("/generation")
            || path.ends_with("/query")
            || path.contains("/data/pcidom/loans/"))
    });
    let status = status(bed);
    // A domain that was only asked about has an entry with nothing in it.
    let mut holdings = bed.xen.holdings.clone();
    holdings.retain(|_, has| *has != Holdings::default());
    format!("{nodes:#?}\n{:#?}\n{holdings:#?}\n{status:#?}", bed.xen.owners)
}

pub(super) fn status(bed: &mut Bed) -> Status {
    bed.pass(0);
    bed.ask(&Verb::Status { pcidom: None });
    bed.pass(2);
    match bed.reply() {
        Reply::Status { status } => status,
        other => panic!("{other:?}"),
    }
}

/// The error a verb ends with; nothing has changed.
#[track_caller]
pub(super) fn refused(bed: &mut Bed, verb: &Verb) -> String {
    let before = everything(bed);
    let calls = bed.xen.log.len();
    bed.ask(verb);
    let text = bed.failed();
    // A look at the device, before it is lent, takes again what pcidom has no right to.
    let begun = |call: &&String| call.contains("assign") || call.contains("Grant");
    assert_eq!(bed.xen.log.iter().skip(calls).find(begun), None, "{text}");
    assert_same(&before, &everything(bed), &text);
    text
}

#[track_caller]
fn assert_same(before: &str, after: &str, text: &str) {
    let changed: Vec<_> =
        before.lines().zip(after.lines()).filter(|(old, new)| old != new).collect();
    assert!(changed.is_empty() && before.len() == after.len(), "{text}: {changed:#?}");
}

pub(super) fn attach(guest: &str, number: u8, pcidom: Option<&str>) -> Verb {
    Verb::Attach {
        guest: guest.into(),
        owner: None,
        device: Bdf(device(number)),
        slot: None,
        bus: None,
        share_line: false,
        lax: false,
        wait: None,
        wish: Wish::default(),
        pcidom: pcidom.map(Into::into),
    }
}

fn detach(guest: &str, number: u8, pcidom: Option<&str>) -> Verb {
    Verb::Detach {
        guest: guest.into(),
        device: Bdf(device(number)),
        force: false,
        pcidom: pcidom.map(Into::into),
    }
}

#[test]
fn guests_and_devices_that_do_not_fit_are_refused_before_anything_is_begun() {
    let mut bed = Bed::lent();
    bed.xen.domains.get_mut(&G2).unwrap().hvm = true;
    for (verb, cause, next) in [
        (attach("nobody", 2, None), "there is no domain nobody", "xl list"),
        (detach("nobody", 1, None), "there is no domain nobody", "xl list"),
        (attach("0", 2, None), "Domain-0 is no guest", "xl list"),
        (
            attach("g1", 3, None),
            "is not in the pool",
            "xl pci-assignable-add 0000:03:00.0",
        ),
        (attach("g1", 1, None), "is lent (guest g1)", "pcidomctl detach g1 0000:01:00.0"),
        (detach("g1", 2, None), "0000:02:00.0 is not lent to g1", "pcidomctl list"),
        (attach("g2", 2, None), "g2 is no PV guest", "type=\"pv\""),
    ] {
        let text = refused(&mut bed, &verb);
        assert!(text.contains(cause) && text.contains(next), "{text}");
    }
}

#[test]
fn a_guest_with_stock_pci_is_refused() {
    let mut bed = Bed::new();
    bed.set("/local/domain/0/backend/pci/2/0/num_devs", "1");
    let text = refused(&mut bed, &attach("g1", 1, None));
    assert!(text.contains("g1 has devices from dom0 (pci= in its config)"), "{text}");
    assert!(text.contains("passthrough=\"enabled\" and e820_host=1"), "{text}");
}

#[test]
fn a_guest_created_without_passthrough_is_refused_by_libxls_record() {
    for (c_info, b_info, missing) in [
        ("", "", "passthrough=\"enabled\" and e820_host=1"),
        (
            r#""passthrough":"disabled","#,
            r#""e820_host":"True""#,
            "passthrough=\"enabled\",",
        ),
        (r#""passthrough":"enabled","#, "", "without e820_host=1"),
        (r#""passthrough":"enabled","#, r#""e820_host":"False""#, "without e820_host=1"),
    ] {
        let mut bed = Bed::new();
        let record = format!(
            r#"{{"c_info":{{{c_info}"type":"pv"}},"b_info":{{"type.pv":{{{b_info}}}}}}}"#
        ) + "\n\0";
        bed.host.configs.insert(G, record);
        let text = refused(&mut bed, &attach("g1", 1, None));
        assert!(text.contains(missing) && text.contains("create it anew"), "{text}");
    }
}

#[test]
fn a_record_that_is_complete_or_does_not_tell_is_no_reason_to_refuse() {
    for record in [
        r#"{"c_info":{"passthrough":"enabled"},"b_info":{"type.pv":{"e820_host":"True"}}}"#,
        // Created with pci=, which was detached since.
        r#"{"c_info":{},"b_info":{"type.pv":{"e820_host":"True"}}}"#,
        "no record",
    ] {
        let mut bed = Bed::new();
        bed.host.configs.insert(G, record.into());
        bed.attach("g1", 1);
        bed.done();
    }
}

#[test]
fn without_a_record_xens_own_answer_is_explained_and_undone() {
    let mut bed = Bed::new();
    bed.xen.without_iommu.insert(G);
    let before = everything(&mut bed);
    bed.attach("g1", 1);
    let text = bed.failed();
    assert!(text.contains("g1 was created without an IOMMU context"), "{text}");
    assert!(text.contains("passthrough=\"enabled\" and e820_host=1"), "{text}");
    assert_same(&before, &everything(&mut bed), &text);
    bed.assert_clean();
}

#[test]
fn the_pcidom_is_the_usual_one_or_the_only_one() {
    let mut bed = Bed::new();
    // Another name, the only one: no need to say it.
    bed.daemon = Daemon::new(vec!["other".into(), "third".into()]);
    bed.create(P2, "other");
    bed.start_again();
    bed.ask(&Verb::List { guest: None, pcidom: None });
    assert!(matches!(bed.reply(), Reply::List { .. }));
    let text = refused(&mut bed, &attach("g1", 1, Some("nonsense")));
    assert!(text.contains("serves other, third, not nonsense"), "{text}");
    assert!(text.contains("pcidomctl daemon --pcidom nonsense"), "{text}");
    let text = refused(&mut bed, &attach("g1", 1, Some("third")));
    assert!(text.contains("no domain named third runs"), "{text}");
    assert!(text.contains("xl create third.cfg"), "{text}");
    // Two, and none has the usual name.
    bed.create(P3, "third");
    bed.fire("@introduceDomain");
    for verb in [
        attach("g1", 1, None),
        detach("g1", 1, None),
        Verb::List { guest: None, pcidom: None },
    ] {
        let text = refused(&mut bed, &verb);
        assert!(text.contains("several pcidoms run (other, third)"), "{text}");
        assert!(text.contains("--pcidom NAME"), "{text}");
    }
    // With the usual one among them, that is meant.
    bed.daemon = Daemon::new(vec!["other".into(), "pcidom".into()]);
    bed.start_again();
    bed.attach("g1", 1);
    bed.done();
}

#[test]
fn no_pcidom_runs() {
    let mut bed = Bed::new();
    bed.remove("/local/domain/1");
    bed.xen.domains.remove(&P);
    bed.fire("@releaseDomain");
    for verb in [attach("g1", 1, None), detach("g1", 1, None)] {
        let text = refused(&mut bed, &verb);
        assert!(text.contains("no domain named pcidom runs"), "{text}");
        assert!(text.contains("xl create pcidom.cfg"), "{text}");
    }
    bed.daemon = Daemon::new(vec!["a".into(), "b".into()]);
    bed.start_again();
    let text = refused(&mut bed, &attach("g1", 1, None));
    assert!(text.contains("none of the pcidoms a, b runs"), "{text}");
    assert!(text.contains("xl create"), "{text}");
}

#[test]
fn a_host_without_protection_lends_nothing_and_says_so_beforehand() {
    let all = Protection::default();
    for (protection, cause, next) in [
        (Protection { iommu: Found::No, ..all }, "Xen runs without an IOMMU", "xl info"),
        (
            Protection { remapping: Found::No, ..all },
            "Xen runs without interrupt remapping",
            "pcidomctl daemon --allow-no-intremap",
        ),
        (
            Protection { remapping: Found::Unknown, ..all },
            "no longer tells whether interrupts are remapped",
            "xl debug-keys V",
        ),
    ] {
        let mut bed = Bed::new();
        bed.remove("/tool/pcidom/remapping");
        bed.daemon = Daemon::new(vec!["pcidom".into()]).protected_by(protection);
        bed.start_again();
        let trouble = status(&mut bed).trouble.unwrap();
        assert_eq!(refused(&mut bed, &attach("g1", 1, None)), trouble);
        assert!(trouble.contains(cause) && trouble.contains(next), "{trouble}");
        let allowed = Protection { allow_no_intremap: true, ..protection };
        bed.daemon = Daemon::new(vec!["pcidom".into()]).protected_by(allowed);
        bed.start_again();
        bed.attach("g1", 1);
        match protection.iommu {
            Found::Yes => assert_eq!(bed.done(), ""),
            _ => assert_eq!(bed.failed(), trouble),
        }
    }
}

#[test]
fn what_one_daemon_saw_in_xens_log_the_next_one_knows() {
    let unknown = Protection { remapping: Found::Unknown, ..Protection::default() };
    for (remapping, lends) in [(Found::Yes, true), (Found::No, false)] {
        let mut bed = Bed::new();
        let first = Protection { remapping, ..unknown };
        for protection in [first, unknown] {
            bed.daemon = Daemon::new(vec!["pcidom".into()]).protected_by(protection);
            bed.start_again();
            assert_eq!(status(&mut bed).trouble.is_none(), lends);
        }
    }
}

#[test]
fn a_paused_guest_is_not_waited_for() {
    let mut bed = Bed::new();
    bed.xen.domains.insert(G, DomainInfo { paused: true, ..DomainInfo::default() });
    bed.guests_answer = false;
    bed.attach("g1", 1);
    let text = bed.done();
    assert!(text.contains("g1 is paused and has not connected yet"), "{text}");
    assert!(text.contains("xl unpause"), "{text}");
    assert!(bed.lent_to(G, 1));
    assert_eq!(bed.daemon.next_deadline(), None);
}

#[test]
fn a_running_guest_that_never_connects_is_undone() {
    let mut bed = Bed::new();
    let before = everything(&mut bed);
    bed.guests_answer = false;
    bed.attach("g1", 1);
    bed.pass(29);
    assert_eq!(bed.daemon.next_reply(), None, "a guest that boots gets its time");
    bed.pass(1);
    let text = bed.failed();
    assert!(text.contains("g1 did not connect in 30 s"), "{text}");
    assert!(text.contains("xen-pcifront") && text.contains("xl console g1"), "{text}");
    assert_eq!(bed.get(&format!("{FRONT}/state")), None);
    assert_same(&before, &everything(&mut bed), &text);
    bed.assert_clean();
}

#[test]
fn a_person_says_how_long_a_guest_may_take() {
    let mut bed = Bed::new();
    bed.guests_answer = false;
    let mut verb = attach("g1", 1, None);
    if let Verb::Attach { wait, .. } = &mut verb {
        *wait = Some(5);
    }
    bed.ask(&verb);
    bed.pass(4);
    assert_eq!(bed.daemon.next_reply(), None);
    bed.pass(1);
    let text = bed.failed();
    assert!(text.contains("g1 did not connect in 5 s"), "{text}");
    bed.assert_clean();
}

use pcidom_loan::LeaseAsk;

use super::bed::{Bed, G, P, POOL, device};
use crate::fake::{Holdings, Owner};
use crate::host::EcamRegion;
use crate::store::Permissions;
use crate::verb::{Reply, Verb};

#[test]
fn a_device_that_enters_the_pool_is_quarantined_at_once() {
    let bed = Bed::new();
    assert_eq!(bed.xen.of(P), Holdings::default());
    assert_eq!(bed.xen.owners[&device(1)], Owner::Quarantine);
    assert!(bed.host.armed.contains(&device(2)));
    let node = "/local/domain/1/pcidom/pool/0000-01-00-0";
    assert_eq!(bed.get(node).as_deref(), Some("quarantined"));
    let control = bed.store.permissions(node).unwrap();
    assert_eq!(control, Permissions::shared(super::bed::DOM0, P));
    let record = bed.store.permissions("/tool/pcidom/loans").unwrap();
    assert_eq!(record, Permissions::private(super::bed::DOM0));
}

#[test]
fn a_device_that_can_not_be_quarantined_is_not_shown_to_pcidom_and_not_lent() {
    let mut bed = Bed::new();
    bed.unwatch_everything();
    bed.give_to_pool(&[1, 2, 3]);
    bed.xen.fault = Some((0, 1));
    bed.start();
    // The first call of all failed: device 1.
    assert_eq!(bed.get("/local/domain/1/pcidom/pool/0000-01-00-0"), None);
    assert!(bed.get("/local/domain/1/pcidom/pool/0000-03-00-0").is_some());
    bed.xen.fault = Some((0, 1));
    bed.attach("g1", 1);
    assert!(bed.failed().contains("xc_domain_iomem_permission"));
    // Mended, it is taken in on the way.
    bed.attach("g1", 1);
    bed.done();
}

#[test]
fn a_device_that_dom0_takes_back_leaves_the_pool() {
    let mut bed = Bed::new();
    bed.set(&format!("{POOL}/state-1"), "5");
    bed.settle();
    assert_eq!(bed.get("/local/domain/1/pcidom/pool/0000-02-00-0"), None);
    bed.attach("g1", 2);
    assert!(bed.failed().contains("not in the pool"));
    bed.give_to_pool(&[1, 2]);
    bed.settle();
    assert_eq!(bed.xen.of(P), Holdings::default());
    bed.attach("g1", 2);
    bed.done();
}

/// xend moved entries up node by node, and counted them last.
#[test]
fn a_lent_device_whose_entry_is_being_moved_has_not_left() {
    let mut bed = Bed::new();
    bed.attach("g1", 2);
    bed.done();
    let name = device(2).to_string();
    bed.set(&format!("{POOL}/state-0"), "5");
    bed.settle();
    assert_eq!(bed.get("/local/domain/1/pcidom/pool/0000-01-00-0"), None);
    let steps = [
        ("dev-0", None),
        ("state-0", None),
        ("dev-1", None),
        ("dev-0", Some(name.as_str())),
        ("state-1", None),
        ("state-0", Some("3")),
        ("num_devs", Some("1")),
    ];
    for (key, value) in steps {
        match value {
            Some(value) => bed.set(&format!("{POOL}/{key}"), value),
            None => bed.remove(&format!("{POOL}/{key}")),
        }
        bed.settle();
        let node = bed.get("/local/domain/1/pcidom/pool/0000-02-00-0");
        assert_eq!(node.as_deref(), Some("quarantined"), "{key}");
    }
    assert!(bed.lent_to(G, 2));
    bed.detach("g1", 2, false);
    bed.done();
    // And with the last entry it has.
    bed.remove(&format!("{POOL}/dev-0"));
    bed.set(&format!("{POOL}/num_devs"), "0");
    bed.settle();
    assert_eq!(bed.get("/local/domain/1/pcidom/pool/0000-02-00-0"), None);
}

/// What libxl does at the end of `xl pci-attach`, after a `xl pci-detach` that the daemon
/// does not see.
fn give_again(bed: &mut Bed) {
    bed.xen.owners.insert(device(1), Owner::Domain(P));
    let holdings = bed.xen.holdings.entry(P).or_default();
    holdings.pages.insert(0xfe700);
    holdings.lines.insert(16);
    holdings.pirqs.insert(16, None);
    bed.host.armed.remove(&device(1));
    bed.set(&format!("{POOL}/dev-0"), &device(1).to_string());
}

#[test]
fn a_device_that_is_given_anew_is_quarantined_anew() {
    let mut bed = Bed::new();
    give_again(&mut bed);
    bed.settle();
    assert_eq!(bed.xen.of(P), Holdings::default());
    assert_eq!(bed.xen.owners[&device(1)], Owner::Quarantine);
    assert!(bed.host.armed.contains(&device(1)));
    // What the daemon, pciback and pcidom write about it brings no more work.
    let calls = bed.xen.log.len();
    for node in ["state-0", "vdev-0", "root-0", "root_num", "num_devs", "state"] {
        let path = format!("{POOL}/{node}");
        let value = bed.get(&path).unwrap_or_default();
        bed.set(&path, &value);
        bed.settle();
    }
    assert_eq!(bed.xen.log.len(), calls);
    bed.attach("g1", 1);
    bed.done();
}

#[test]
fn the_loan_of_a_device_that_is_given_anew_while_it_is_prepared_ends() {
    let mut bed = Bed::new();
    bed.pcidom_serves = false;
    bed.attach("g1", 1);
    give_again(&mut bed);
    bed.settle();
    assert_eq!(bed.xen.of(P), Holdings::default());
    bed.pcidom_serves = true;
    bed.settle();
    assert!(bed.failed().contains("left the pool"));
    bed.assert_clean();
    assert!(bed.host.armed.contains(&device(1)));
    bed.attach("g1", 1);
    bed.done();
}

#[test]
fn a_device_that_can_not_be_quarantined_anew_is_not_lent() {
    let mut bed = Bed::new();
    give_again(&mut bed);
    bed.xen.fault = Some((0, 1));
    bed.settle();
    assert_eq!(bed.get("/local/domain/1/pcidom/pool/0000-01-00-0"), None);
    bed.attach("g1", 1);
    bed.done();
    assert_eq!(bed.xen.of(P), Holdings::default());
}

const ECAM: &str = "/local/domain/1/pcidom/ecam/0000-01-00-0";

fn with_ecam(guarded: bool) -> Bed {
    let mut bed = Bed::new();
    bed.xen.no_ecam = !guarded;
    let region =
        EcamRegion { base: 0xb000_0000, segment: 0, first_bus: 0, last_bus: 255 };
    bed.host.ecam = vec![region];
    bed.unwatch_everything();
    bed.start();
    bed
}

#[test]
fn pcidom_may_read_config_space_of_its_pool_and_nothing_more() {
    let mut bed = with_ecam(true);
    assert_eq!(bed.get(ECAM).as_deref(), Some("721152"));
    let pages = [0xb_0100, 0xb_0200].into();
    assert_eq!(bed.xen.of(P), Holdings { pages, ..Holdings::default() });
    let control = bed.store.permissions(ECAM).unwrap();
    assert_eq!(control, Permissions::shared(super::bed::DOM0, P));
    // Lent or not makes no difference.
    bed.attach("g1", 1);
    bed.done();
    assert_eq!(bed.xen.of(P).pages, [0xb_0100, 0xb_0200].into());
    bed.set(&format!("{POOL}/state-1"), "5");
    bed.settle();
    assert_eq!(bed.xen.of(P).pages, [0xb_0100].into());
    assert_eq!(bed.get("/local/domain/1/pcidom/ecam/0000-02-00-0"), None);
}

#[test]
fn config_space_of_a_device_that_left_without_a_daemon_is_taken_back() {
    let mut bed = with_ecam(true);
    bed.unwatch_everything();
    bed.set(&format!("{POOL}/state-0"), "5");
    bed.start();
    assert_eq!(bed.get(ECAM), None);
    assert_eq!(bed.xen.of(P).pages, [0xb_0200].into());
}

/// With Xen's option mmcfg=0 a page would be writable.
#[test]
fn pcidom_gets_no_config_space_that_xen_does_not_guard() {
    let mut bed = with_ecam(false);
    bed.attach("g1", 1);
    bed.done();
    assert_eq!(bed.get(ECAM), None);
    assert_eq!(bed.xen.of(P), Holdings::default());
}

#[test]
fn status_waits_for_the_report_but_not_for_long() {
    let mut bed = Bed::lent();
    let ask = Verb::Status { pcidom: None };
    bed.ask(&ask);
    assert_eq!(bed.daemon.next_reply(), None);
    let number = bed.get("/local/domain/1/pcidom/query").unwrap();
    let report = "/local/domain/1/data/pcidom/report";
    bed.set(&format!("{report}/dropped/COMMAND"), "7\x1b[2J");
    bed.set(&format!("{report}/number"), &number);
    bed.settle();
    let Reply::Status { status } = bed.reply() else { panic!() };
    let pcidom = &status.pcidoms[0];
    assert_eq!(pcidom.report.as_ref().unwrap()["dropped/COMMAND"], "7 [2J");
    assert_eq!(pcidom.pool[0].state, "lent");
    assert_eq!(pcidom.pool[1].state, "free");
    assert_eq!(pcidom.loans[0].phase, "lent");
    bed.ask(&ask);
    assert_eq!(bed.daemon.next_reply(), None);
    bed.pass(2);
    let Reply::Status { status } = bed.reply() else { panic!() };
    assert_eq!(status.pcidoms[0].report, None);
}

#[test]
fn status_compares_leases_only_if_the_report_is_of_the_same_request() {
    let mut bed = Bed::lent();
    bed.request(1, LeaseAsk::MapMsix(vec![0, 1]));
    let generation = bed.order(0).unwrap().generation;
    for (said, differs) in [
        (format!("gen={generation} seq=1 ok 55,54"), false),
        (format!("gen={generation} seq=1 ok 54,55"), true),
        (format!("gen={generation} seq=1 ok"), true),
        (format!("gen={generation} seq=2 ok 54,55"), false),
        (format!("gen={generation} seq=0 ok"), false),
        ("gen=99 seq=1 ok".into(), false),
        (format!("gen={generation} seq=1 ok 55,54,x"), false),
        (String::new(), false),
    ] {
        bed.ask(&Verb::Status { pcidom: None });
        let number = bed.get("/local/domain/1/pcidom/query").unwrap();
        let report = "/local/domain/1/data/pcidom/report";
        bed.set(&format!("{report}/leases/0"), &said);
        bed.set(&format!("{report}/number"), &number);
        bed.settle();
        let Reply::Status { status } = bed.reply() else { panic!() };
        let difference = &status.pcidoms[0].loans[0].difference;
        assert_eq!(difference.is_some(), differs, "{said}: {difference:?}");
        let shown = crate::print::status(&status).contains("trouble: pcidom holds");
        assert_eq!(shown, differs, "{said}");
    }
}

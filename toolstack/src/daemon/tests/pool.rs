use super::bed::{Bed, P, POOL, device};
use crate::fake::{Holdings, Owner};
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

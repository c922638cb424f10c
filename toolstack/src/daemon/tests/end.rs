use pcidom_loan::{LeaseAsk, Phase};

use super::bed::{BACK, Bed, FRONT, G, P, POOL, device};
use crate::fake::Owner;

fn with_leases() -> Bed {
    let mut bed = Bed::lent();
    bed.request(1, LeaseAsk::MapMsix(vec![0, 1, 2]));
    assert_eq!(bed.answer().unwrap().result.unwrap().len(), 3);
    bed.xen.log.clear();
    bed
}

#[test]
fn xl_destroy_of_the_guest_ends_the_loan_in_the_order_that_works() {
    let mut bed = with_leases();
    bed.pcidom_serves = false;
    // XenStore goes first, the domain is alive and owns the device.
    bed.remove_home(G);
    let log: Vec<&str> = bed.xen.log.iter().map(String::as_str).collect();
    assert_eq!(
        log,
        [
            "xc_physdev_unmap_pirq 2 55",
            "xc_physdev_unmap_pirq 2 54",
            "xc_physdev_unmap_pirq 2 53",
            "xc_deassign_device 2 0000:01:00.0",
            "xc_domain_iomem_permission 2 fe700+4 Revoke",
            "xc_physdev_unmap_pirq 2 16",
            "xc_domain_irq_permission 2 16 Revoke",
        ]
    );
    // pcidom still has the guest's page: its directory stays until it has let go.
    assert_eq!(bed.order(0).unwrap().phase, Phase::Ending);
    assert!(bed.get(&format!("{BACK}/state")).is_some());
    bed.xen.destroy(G);
    bed.pcidom_serves = true;
    bed.settle();
    bed.assert_clean();
    assert!(bed.store.below("/local/domain/2").is_empty(), "a dead home came back");
}

#[test]
fn a_guest_that_crashes_is_noticed_by_its_death() {
    let mut bed = with_leases();
    bed.xen.domains.get_mut(&G).unwrap().dying = true;
    bed.fire("@releaseDomain");
    bed.assert_clean();
}

#[test]
fn a_guest_that_removes_its_own_end_loses_the_device() {
    let mut bed = with_leases();
    bed.remove(FRONT);
    bed.settle();
    bed.assert_clean();
}

#[test]
fn a_new_domain_with_the_old_number_is_left_alone() {
    let mut bed = with_leases();
    bed.unwatch_everything();
    bed.remove_home(G);
    bed.xen.destroy(G);
    bed.create(G, "innocent");
    bed.xen.holdings.entry(G).or_default().lines.insert(16);
    bed.start();
    bed.settle();
    assert!(bed.xen.of(G).lines.contains(&16));
    assert!(bed.get("/tool/pcidom/loans/0").is_none());
}

#[test]
fn a_device_that_leaves_the_pool_is_taken_from_its_guest_first() {
    let mut bed = with_leases();
    bed.guests_answer = false;
    bed.pcidom_serves = false;
    bed.set(&format!("{POOL}/state-0"), "5");
    bed.settle();
    assert_eq!(bed.xen.owners[&device(1)], Owner::Quarantine);
    assert!(bed.xen.of(G).pages.is_empty() && bed.xen.of(G).pirqs.is_empty());
    assert_eq!(bed.order(0).unwrap().phase, Phase::Ending);
    // The living guest is told although pcidom does not report, but not at once. And pcidom
    // keeps its lock until the loan is over.
    assert_eq!(bed.get(&format!("{BACK}/state")).as_deref(), Some("4"));
    bed.pass(1);
    assert_eq!(bed.get(&format!("{BACK}/state")).as_deref(), Some("5"));
    assert!(bed.get("/local/domain/1/pcidom/pool/0000-01-00-0").is_some());
    bed.pcidom_serves = true;
    bed.guests_answer = true;
    bed.settle();
    bed.assert_clean();
    assert!(bed.get("/local/domain/1/pcidom/pool/0000-01-00-0").is_none());
}

#[test]
fn the_death_of_pcidom_ends_its_loans_without_it() {
    let mut bed = with_leases();
    bed.remove_home(P);
    bed.xen.destroy(P);
    bed.fire("@releaseDomain");
    bed.assert_clean();
    assert!(bed.store.below("/local/domain/1").is_empty(), "a dead home came back");
    // Its successor starts from nothing.
    bed.create(P, "pcidom");
    bed.give_to_pool(&[1]);
    bed.set("/local/domain/1/data/pcidom/state", "ready");
    bed.fire("@introduceDomain");
    bed.attach("g1", 1);
    bed.done();
}

#[test]
fn a_pcidom_that_hangs_does_not_keep_the_device() {
    let mut bed = with_leases();
    bed.pcidom_serves = false;
    bed.detach("g1", 1, true);
    assert!(bed.xen.of(G).pirqs.is_empty());
    assert_eq!(bed.daemon.next_reply(), None);
    bed.pass(90);
    bed.done();
    bed.assert_clean();
}

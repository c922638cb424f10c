use super::bed::{Bed, FRONT, G, G2, P, POOL, lock};
use crate::hypervisor::{Hypervisor, Right};

/// What `xl pci-attach` gives before it finds that the device belongs to somebody.
fn grant_bars(bed: &mut Bed) {
    bed.xen.iomem_permission(G2, 0xfe700, 4, Right::Grant).unwrap();
}

#[test]
fn the_lock_is_put_back_while_the_device_is_lent() {
    let mut bed = Bed::lent();
    bed.remove(&lock(1));
    bed.settle();
    assert_eq!(bed.get(&lock(1)).as_deref(), Some("2"));
    // The device is still in the pool, so the lock is pcidom's afterwards.
    bed.detach("g1", 1, false);
    bed.done();
    assert_eq!(bed.get(&lock(1)).as_deref(), Some("1"));
}

#[test]
fn bars_given_by_an_attach_that_slipped_in_are_taken_back() {
    let mut bed = Bed::lent();
    // libxl has seen no lock, and wins the race against the daemon.
    bed.set(&lock(1), "3");
    bed.settle();
    grant_bars(&mut bed);
    // Xen said EBUSY, libxl drops its lock and leaves the rights.
    bed.remove(&lock(1));
    bed.settle();
    assert!(bed.xen.of(G2).pages.is_empty());
    assert_eq!(bed.xen.of(G).pages.len(), 4);
    assert_eq!(bed.get(&lock(1)).as_deref(), Some("2"));
}

#[test]
fn no_lock_is_left_of_a_loan_whose_device_left_the_pool() {
    let mut bed = Bed::lent();
    bed.pcidom_serves = false;
    bed.set(&format!("{POOL}/state-0"), "5");
    bed.settle();
    // libxl has waited for pcidom in vain.
    bed.remove(&lock(1));
    bed.settle();
    assert_eq!(bed.get(&lock(1)).as_deref(), Some("2"));
    bed.pcidom_serves = true;
    bed.settle();
    assert_eq!(bed.get(&lock(1)), None);
    bed.assert_clean();
}

#[test]
fn whoever_gets_the_device_after_the_loan_keeps_lock_and_bars() {
    let mut bed = Bed::lent();
    bed.pcidom_serves = false;
    bed.set(&format!("{POOL}/state-0"), "5");
    bed.settle();
    bed.set(&lock(1), "3");
    grant_bars(&mut bed);
    bed.pcidom_serves = true;
    bed.settle();
    assert_eq!(bed.get(&lock(1)).as_deref(), Some("3"));
    assert_eq!(bed.xen.of(G2).pages.len(), 4);
}

#[test]
fn nobody_but_the_guest_has_the_bars_of_what_is_lent() {
    let mut bed = Bed::new();
    grant_bars(&mut bed);
    bed.attach("g1", 1);
    bed.done();
    assert!(bed.xen.of(G2).pages.is_empty());
}

#[test]
fn a_pcidom_that_has_crashed_is_as_good_as_gone() {
    let mut bed = Bed::lent();
    bed.pcidom_serves = false;
    bed.xen.domains.get_mut(&P).unwrap().ended = true;
    bed.fire("@releaseDomain");
    bed.assert_clean();
    assert_eq!(bed.get(FRONT), None);
}

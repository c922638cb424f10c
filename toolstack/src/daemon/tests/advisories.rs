//! Advisories against toolstacks that pass devices through; docs/advisories.md has the list.

use pcidom_loan::LeaseAsk;

use super::bed::{Bed, G, P, device};
use crate::fake::Owner;

/// A device that a guest has can change what its config space says. Nothing of it counts again
/// before the loan is over.
#[test]
fn xsa_337_what_a_lent_device_says_of_itself_later_is_not_believed() {
    let mut bed = Bed::lent();
    let raw = bed.host.devices.get_mut(&device(1)).unwrap();
    // Its BAR, where its list of capabilities begins, and all that is in it.
    raw.config[0x10..0x14].copy_from_slice(&0xdead_0004_u32.to_le_bytes());
    raw.config[0x34] = 0xfc;
    raw.config[0x40..].fill(0xff);
    bed.request(1, LeaseAsk::MapMsix(vec![2]));
    assert!(bed.answer().unwrap().result.is_ok());
    let call = "xc_physdev_map_pirq_msi 2 0000:01:00.0 2 fe700000";
    assert!(bed.xen.log.iter().any(|line| line == call), "{:?}", bed.xen.log);
    // And what was given is what is taken.
    bed.remove_home(G);
    assert_eq!(bed.xen.of(G).pages.len(), 0);
    assert_eq!(bed.xen.owners[&device(1)], Owner::Quarantine);
}

#[test]
fn xsa_476_all_pages_of_a_bar_above_4_gib_are_taken_back() {
    let mut bed = Bed::new();
    let base = 0x40_1234_0000_u64;
    let raw = bed.host.devices.get_mut(&device(1)).unwrap();
    raw.resources[0] = [base, base + 0x3fff, 0x14_0204];
    raw.config[0x10..0x18].copy_from_slice(&(base | 4).to_le_bytes());
    let pages = (base >> 12)..(base >> 12) + 4;
    // As libxl gives them to pcidom, too.
    bed.xen.owners.insert(device(1), Owner::Domain(P));
    bed.xen.holdings.entry(P).or_default().pages.extend(pages.clone());
    bed.unwatch_everything();
    bed.start();
    assert_eq!(bed.xen.of(P).pages.len(), 0, "pcidom's");
    bed.attach("g1", 1);
    bed.done();
    assert!(bed.xen.of(G).pages.iter().copied().eq(pages));
    bed.detach("g1", 1, true);
    bed.done();
    assert_eq!(bed.xen.of(G).pages.len(), 0, "the guest's");
}

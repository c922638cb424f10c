use pcidom_loan::Phase;

use super::bed::{BACK, Bed, DOM0, FRONT, G, P, device};
use crate::store::{Permissions, StoreError};
use crate::verb::{Bdf, Reply, Verb};

#[test]
fn a_device_is_lent_with_all_its_rights_and_a_link() {
    let bed = Bed::lent();
    assert!(bed.lent_to(G, 1));
    let holdings = bed.xen.of(G);
    assert_eq!(holdings.pages.len(), 4);
    assert!(holdings.lines.contains(&16) && holdings.pirqs.contains_key(&16));
    assert_eq!(bed.order(0).unwrap().phase, Phase::Lent);
    for (node, value) in [
        ("frontend", FRONT),
        ("frontend-id", "2"),
        ("online", "1"),
        ("domain", "g1"),
        ("dev-0", "0000:01:00.0"),
        ("key-0", "0000:01:00.0"),
        ("num_devs", "1"),
    ] {
        assert_eq!(bed.get(&format!("{BACK}/{node}")).as_deref(), Some(value));
    }
    assert_eq!(bed.get(&format!("{FRONT}/backend")).as_deref(), Some(BACK));
    assert_eq!(bed.get(&format!("{FRONT}/backend-id")).as_deref(), Some("1"));
    let permissions = |path: &str| bed.store.permissions(path).unwrap();
    assert_eq!(permissions(&format!("{BACK}/state")), Permissions::shared(P, G));
    assert_eq!(permissions(&format!("{FRONT}/state")), Permissions::shared(G, P));
    assert_eq!(permissions("/tool/pcidom/loans/0"), Permissions::private(DOM0));
}

#[test]
fn rights_are_given_only_after_the_assignment_and_before_the_link() {
    let mut bed = Bed::new();
    bed.xen.log.clear();
    bed.attach("g1", 1);
    bed.done();
    let to_guest: Vec<&str> =
        bed.xen.log.iter().map(String::as_str).filter(|l| l.contains(" 2 ")).collect();
    assert_eq!(
        to_guest,
        [
            "xc_assign_device 2 0000:01:00.0",
            "xc_domain_iomem_permission 2 fe700+4 Grant",
            "xc_physdev_map_pirq 2 16",
            "xc_domain_irq_permission 2 16 Grant",
        ]
    );
}

#[test]
fn a_second_device_joins_the_link_by_hotplug() {
    let mut bed = Bed::lent();
    bed.guests_answer = false;
    bed.attach("g1", 2);
    assert_eq!(bed.get(&format!("{BACK}/state")).as_deref(), Some("7"));
    assert_eq!(bed.get(&format!("{BACK}/state-1")).as_deref(), Some("1"));
    assert_eq!(bed.get(&format!("{BACK}/num_devs")).as_deref(), Some("2"));
    bed.guests_answer = true;
    bed.settle();
    assert_eq!(bed.done(), "");
    bed.ask(&Verb::List { guest: Some("g1".into()), pcidom: None });
    let Reply::List { lines } = bed.reply() else { panic!() };
    assert_eq!(lines[1].device, Bdf(device(2)));
    assert_eq!(lines[1].virtual_device.as_deref(), Some("01.0"));
}

#[test]
fn a_link_that_is_still_starting_gets_the_entry_without_a_seven() {
    let mut bed = Bed::new();
    bed.xen.domains.get_mut(&G).unwrap().paused = true;
    bed.guests_answer = false;
    bed.attach("g1", 1);
    assert!(bed.done().contains("not connected yet"));
    bed.attach("g1", 2);
    assert!(bed.done().contains("not connected yet"));
    assert_eq!(bed.get(&format!("{BACK}/state")).as_deref(), Some("1"));
    assert_eq!(bed.get(&format!("{BACK}/num_devs")).as_deref(), Some("2"));
    bed.guests_answer = true;
    bed.settle();
    assert_eq!(bed.get(&format!("{BACK}/state-1")).as_deref(), Some("3"));
}

#[test]
fn a_guest_that_begins_to_connect_and_does_not_is_undone() {
    let mut bed = Bed::new();
    bed.guests_answer = false;
    bed.attach("g1", 1);
    bed.set(&format!("{FRONT}/state"), "3");
    bed.settle();
    bed.pass(29);
    assert_eq!(bed.daemon.next_reply(), None);
    bed.pass(1);
    // Its rights are gone; its end of the link, which is half open, gets some time to close.
    assert!(!bed.lent_to(G, 1));
    bed.pass(10);
    assert!(bed.failed().contains("g1 did not take 0000:01:00.0 in 30 s"));
    bed.assert_clean();
}

#[test]
fn a_pcidom_that_does_not_serve_lends_nothing() {
    let mut bed = Bed::lent();
    bed.set("/local/domain/1/data/pcidom/state", "");
    bed.settle();
    bed.attach("g1", 2);
    assert!(bed.failed().contains("xl console"));
}

#[test]
fn a_device_that_pcidom_left_unquiet_is_not_lent() {
    let mut bed = Bed::new();
    bed.host.devices.get_mut(&device(1)).unwrap().config[4] |= 4;
    bed.attach("g1", 1);
    assert!(bed.failed().contains("bus mastering is on"));
    bed.assert_clean();
}

#[test]
fn a_pcidom_that_does_not_answer_costs_a_deadline_and_no_more() {
    let mut bed = Bed::new();
    bed.pcidom_serves = false;
    bed.attach("g1", 1);
    bed.pass(90);
    assert_eq!(bed.order(0).unwrap().phase, Phase::Ending);
    bed.pass(90);
    assert!(bed.failed().contains("did not make 0000:01:00.0 ready in 90 s"));
    bed.assert_clean();
    bed.pcidom_serves = true;
    bed.attach("g1", 1);
    bed.done();
}

#[test]
fn a_report_of_an_earlier_loan_is_not_taken_for_this_ones() {
    let mut bed = Bed::new();
    bed.pcidom_serves = false;
    bed.set("/local/domain/1/data/pcidom/loans/0", "gen=0 ready flr");
    bed.attach("g1", 1);
    assert_eq!(bed.order(0).unwrap().phase, Phase::Prepare);
    bed.set("/local/domain/1/data/pcidom/loans/0", "nonsense \x1b[2J");
    bed.settle();
    assert_eq!(bed.order(0).unwrap().phase, Phase::Prepare);
    bed.set("/local/domain/1/data/pcidom/loans/0", "gen=1 failed no reset works");
    bed.settle();
    assert!(bed.failed().contains("no reset works"));
    bed.assert_clean();
}

#[test]
fn other_transactions_in_between_change_nothing() {
    let mut bed = Bed::new();
    bed.store.conflicts = 5;
    bed.attach("g1", 1);
    bed.done();
    assert_eq!(bed.get(&format!("{BACK}/num_devs")).as_deref(), Some("1"));
    bed.store.conflicts = 1000;
    bed.attach("g1", 2);
    assert!(bed.failed().contains(&StoreError::Again.to_string()));
}

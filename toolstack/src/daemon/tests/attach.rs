use pcidom_loan::Phase;

use super::bed::{BACK, Bed, DOM0, FRONT, G, G2, P, device};
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
    bed.ask(&Verb::List { guest: Some("g1".into()), pcidom: "pcidom".into() });
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
    assert!(bed.done().contains("g1 has not connected yet"));
    bed.attach("g1", 2);
    assert!(bed.done().contains("not connected yet"));
    assert_eq!(bed.get(&format!("{BACK}/state")).as_deref(), Some("1"));
    assert_eq!(bed.get(&format!("{BACK}/num_devs")).as_deref(), Some("2"));
    bed.guests_answer = true;
    bed.settle();
    assert_eq!(bed.get(&format!("{BACK}/state-1")).as_deref(), Some("3"));
}

#[test]
fn a_guest_whose_frontend_is_not_loaded_is_not_waited_for_long() {
    let mut bed = Bed::new();
    bed.guests_answer = false;
    bed.attach("g1", 1);
    assert_eq!(bed.daemon.next_reply(), None);
    bed.pass(3);
    assert!(bed.done().contains("has not connected yet"));
    assert!(bed.lent_to(G, 1));
    assert_eq!(bed.daemon.next_deadline(), None);
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
    assert!(bed.failed().contains("g1 did not take 0000:01:00.0 in 30 s"));
    bed.assert_clean();
}

#[test]
fn what_can_not_be_lent_is_refused_with_the_next_command() {
    let mut bed = Bed::lent();
    bed.xen.domains.get_mut(&G2).unwrap().hvm = true;
    for (guest, number, expected) in [
        ("g1", 1, "pcidomctl detach g1 0000:01:00.0"),
        ("g1", 3, "xl pci-assignable-add 0000:03:00.0"),
        ("nobody", 2, "xl list"),
        ("pcidom", 2, "is no guest"),
        ("0", 2, "is no guest"),
        ("g2", 2, "no PV guest"),
    ] {
        bed.attach(guest, number);
        let text = bed.failed();
        assert!(text.contains(expected), "{text}");
    }
    bed.set("/local/domain/1/data/pcidom/state", "");
    bed.settle();
    bed.attach("g1", 2);
    assert!(bed.failed().contains("xl console"));
    let verb = Verb::List { guest: None, pcidom: "other".into() };
    bed.ask(&verb);
    assert!(bed.failed().contains("pcidomctl daemon --pcidom other"));
}

#[test]
fn a_guest_with_devices_of_dom0_is_refused() {
    let mut bed = Bed::new();
    bed.set("/local/domain/0/backend/pci/2/0/num_devs", "1");
    bed.attach("g1", 1);
    assert!(bed.failed().contains("passthrough=\"enabled\""));
}

#[test]
fn a_guest_without_an_iommu_context_is_told_what_to_write() {
    let mut bed = Bed::new();
    bed.xen.without_iommu.insert(G);
    bed.attach("g1", 1);
    assert!(bed.failed().contains("passthrough=\"enabled\" and e820_host=1"));
    bed.assert_clean();
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
    bed.pass(30);
    assert_eq!(bed.order(0).unwrap().phase, Phase::Ending);
    bed.pass(30);
    assert!(bed.failed().contains("did not make 0000:01:00.0 ready in 30 s"));
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

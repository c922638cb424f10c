//! Loans by way of a stub domain: g1 is the stub domain of an HVM guest, domain 6.

use pcidom_loan::{LeaseAsk, Phase};
use pcidom_xenbus::DomId;

use super::bed::{BACK, Bed, FRONT, G, P, device, lock};
use super::errors::{refused, status};
use crate::daemon::Record;
use crate::fake::{Holdings, Owner};
use crate::hypervisor::{DomainInfo, Hypervisor, Right, errno};
use crate::verb::{Bdf, OwnerLine, Reply, Verb, Wish};

const H: DomId = DomId(6);
/// Page numbers of device 1.
const PAGES: std::ops::Range<u64> = 0xfe700..0xfe704;

fn attach(owner: &str, stub: &str, number: u8) -> Verb {
    Verb::Attach {
        guest: stub.into(),
        owner: Some(owner.into()),
        device: Bdf(device(number)),
        slot: None,
        bus: None,
        share_line: false,
        lax: false,
        wait: None,
        wish: Wish::default(),
        pcidom: None,
    }
}

fn hvm() -> DomainInfo {
    DomainInfo { hvm: true, ..DomainInfo::default() }
}

fn bed() -> Bed {
    let mut bed = Bed::new();
    bed.create(H, "win");
    bed.xen.domains.insert(H, hvm());
    // Eight ports, in the second BAR.
    let raw = bed.host.devices.get_mut(&device(1)).unwrap();
    raw.resources[2] = [0xc000, 0xc007, 0x4_0101];
    raw.config[0x18..0x1c].copy_from_slice(&0xc001_u32.to_le_bytes());
    bed
}

fn lent() -> Bed {
    let mut bed = bed();
    bed.pass(1);
    bed.ask(&attach("win", "g1", 1));
    assert_eq!(bed.done(), "");
    bed
}

fn with_leases() -> Bed {
    let mut bed = lent();
    bed.request(1, LeaseAsk::MapMsix(vec![0, 1]));
    assert_eq!(bed.answer().unwrap().result.unwrap(), [55, 54]);
    bed.xen.log.clear();
    bed
}

fn log(bed: &Bed) -> Vec<&str> {
    bed.xen.log.iter().map(String::as_str).collect()
}

/// Nothing is lent, and nothing is left of it, at the owner neither.
#[track_caller]
fn assert_clean(bed: &Bed) {
    bed.assert_clean();
    assert_eq!(bed.xen.of(H), Holdings::default());
    assert_eq!(bed.xen.of(G), Holdings::default());
    assert_eq!(bed.get(&lock(1)).as_deref(), Some("1"));
    let of_owner = |(_, token): &(String, String)| token.starts_with("owner");
    assert!(!bed.store.watches().iter().any(of_owner), "{:?}", bed.store.watches());
}

#[test]
fn the_link_and_what_maps_are_the_stub_domains_device_and_pirqs_the_owners() {
    let mut bed = bed();
    bed.pass(1);
    bed.xen.log.clear();
    bed.ask(&attach("win", "g1", 1));
    assert_eq!(bed.done(), "");
    let of_both = |call: &&str| {
        let domain = call.split(' ').nth(1);
        matches!(domain, Some("2" | "6")) && !call.contains("Revoke")
    };
    let given: Vec<&str> = log(&bed).into_iter().filter(of_both).collect();
    assert_eq!(
        given,
        [
            "xc_assign_device 6 0000:01:00.0",
            "xc_domain_iomem_permission 6 fe700+4 Grant",
            "xc_physdev_map_pirq 6 16",
            "xc_domain_irq_permission 6 16 Grant",
            "xc_domain_iomem_permission 2 fe700+4 Grant",
            "xc_domain_ioport_permission 2 c000+8 Grant",
            "xc_domain_irq_permission 2 16 Grant",
        ]
    );
    bed.request(1, LeaseAsk::MapMsix(vec![0, 1]));
    let (stub, owner) = (bed.xen.of(G), bed.xen.of(H));
    assert!(stub.pages.into_iter().eq(PAGES) && stub.ports.len() == 8);
    assert!(stub.pirqs.is_empty() && stub.lines.contains(&16));
    assert!(owner.pages.into_iter().eq(PAGES) && owner.ports.is_empty());
    assert_eq!(owner.pirqs.into_keys().collect::<Vec<_>>(), [16, 54, 55]);
    assert!(bed.lent_to(H, 1));
    // libxl is told whose the device is, and the link is the stub domain's.
    assert_eq!(bed.get(&lock(1)).as_deref(), Some("1"));
    bed.remove(&lock(1));
    bed.settle();
    assert_eq!(bed.get(&lock(1)).as_deref(), Some("6"));
    assert!(bed.xen.of(G).pages.into_iter().eq(PAGES), "the stub domain is no stranger");
    assert_eq!(bed.order(0).unwrap().guest, 2);
    assert_eq!(bed.get(&format!("{FRONT}/state")).as_deref(), Some("4"));
    bed.detach("g1", 1, false);
    bed.done();
    assert_clean(&bed);
}

#[test]
fn an_owner_that_is_destroyed_loses_vectors_and_device_first() {
    let mut bed = with_leases();
    bed.pcidom_serves = false;
    // XenStore goes first, the domain is alive and owns the device.
    bed.remove_home(H);
    assert_eq!(
        log(&bed),
        [
            "xc_physdev_unmap_pirq 6 55",
            "xc_physdev_unmap_pirq 6 54",
            "xc_deassign_device 6 0000:01:00.0",
            "xc_domain_iomem_permission 6 fe700+4 Revoke",
            "xc_domain_ioport_permission 6 c000+8 Revoke",
            "xc_physdev_unmap_pirq 6 16",
            "xc_domain_irq_permission 6 16 Revoke",
            "xc_domain_iomem_permission 2 fe700+4 Revoke",
            "xc_domain_ioport_permission 2 c000+8 Revoke",
            "xc_domain_irq_permission 2 16 Revoke",
        ]
    );
    // The stub domain lives: it is told once pcidom serves the device no more.
    assert_eq!(bed.order(0).unwrap().phase, Phase::Ending);
    assert_eq!(bed.get(&format!("{BACK}/state")).as_deref(), Some("4"));
    bed.xen.destroy(H);
    bed.pcidom_serves = true;
    bed.settle();
    assert_clean(&bed);
    assert!(bed.store.below("/local/domain/6").is_empty(), "a dead home came back");
}

#[test]
fn an_owner_that_crashes_is_noticed_by_its_death() {
    let mut bed = with_leases();
    bed.xen.domains.get_mut(&H).unwrap().dying = true;
    bed.fire("@releaseDomain");
    assert_clean(&bed);
}

#[test]
fn a_stub_domain_that_is_destroyed_takes_the_loan_with_it_and_not_its_guest() {
    let mut bed = with_leases();
    bed.remove_home(G);
    let expected = [
        "xc_physdev_unmap_pirq 6 55",
        "xc_physdev_unmap_pirq 6 54",
        "xc_domain_iomem_permission 2 fe700+4 Revoke",
        "xc_domain_ioport_permission 2 c000+8 Revoke",
        "xc_domain_irq_permission 2 16 Revoke",
        "xc_domain_iomem_permission 6 fe700+4 Revoke",
        "xc_domain_ioport_permission 6 c000+8 Revoke",
        "xc_physdev_unmap_pirq 6 16",
        "xc_domain_irq_permission 6 16 Revoke",
        "xc_deassign_device 6 0000:01:00.0",
    ];
    assert_eq!(log(&bed)[..expected.len()], expected);
    bed.xen.destroy(G);
    bed.fire("@releaseDomain");
    assert_clean(&bed);
    assert!(bed.store.below("/local/domain/2").is_empty(), "a dead home came back");
}

#[test]
fn an_owner_that_dies_before_the_device_is_ready_gets_nothing() {
    let mut bed = bed();
    bed.pcidom_serves = false;
    bed.pass(1);
    bed.ask(&attach("win", "g1", 1));
    bed.xen.log.clear();
    bed.remove_home(H);
    assert!(!log(&bed).iter().any(|call| call.contains("Grant")), "{:?}", log(&bed));
    bed.pcidom_serves = true;
    bed.settle();
    assert_eq!(bed.failed(), "the guest is being destroyed whose stub domain it is");
    assert_clean(&bed);
}

#[test]
fn no_vector_is_mapped_to_an_owner_that_is_on_its_way_out() {
    let mut bed = lent();
    bed.xen.domains.get_mut(&H).unwrap().dying = true;
    bed.request(1, LeaseAsk::MapMsi);
    assert_eq!(bed.answer(), None);
}

#[test]
fn whoever_has_the_number_of_an_owner_or_stub_domain_later_keeps_what_it_has() {
    for (number, other) in [(H, G), (G, H)] {
        let mut bed = with_leases();
        bed.unwatch_everything();
        bed.remove_home(number);
        bed.xen.destroy(number);
        bed.create(number, "innocent");
        bed.xen.irq_permission(number, pcidom_xenbus::Pirq(16), Right::Grant).unwrap();
        bed.start();
        assert!(bed.xen.of(number).lines.contains(&16), "{number}");
        assert_eq!(bed.xen.of(other), Holdings::default(), "{number}");
        assert_eq!(bed.xen.owners[&device(1)], Owner::Quarantine, "{number}");
        assert!(bed.get("/tool/pcidom/loans/0").is_none(), "{number}");
    }
}

#[test]
fn two_devices_of_one_owner_share_their_line_to_the_last() {
    let mut bed = lent();
    bed.ask(&attach("win", "g1", 2));
    bed.done();
    bed.detach("g1", 1, false);
    bed.done();
    let (stub, owner) = (bed.xen.of(G), bed.xen.of(H));
    assert!(stub.lines.contains(&16) && owner.lines.contains(&16));
    assert!(owner.pirqs.contains_key(&16));
    assert!(bed.lent_to(H, 2) && !bed.lent_to(H, 1));
    bed.remove_home(H);
    assert_eq!((bed.xen.of(G), bed.xen.of(H)), Default::default());
}

#[test]
fn the_next_daemon_takes_such_a_loan_up() {
    let mut bed = with_leases();
    bed.start();
    assert!(bed.lent_to(H, 1));
    bed.request(2, LeaseAsk::Unmap);
    assert_eq!(bed.xen.of(H).pirqs.into_keys().collect::<Vec<_>>(), [16]);
    // And watches the owner.
    bed.remove_home(H);
    assert_clean(&bed);
}

#[test]
fn vectors_that_no_record_names_are_searched_for_at_the_owner() {
    let mut bed = with_leases();
    let path = "/tool/pcidom/loans/0";
    let record = bed.get(path).unwrap();
    let noted = r#"{"msix":[[0,55],[1,54]]}"#;
    assert!(record.contains(noted), "{record}");
    bed.set(path, &record.replace(noted, r#""intent""#));
    bed.start();
    assert_clean(&bed);
}

#[test]
fn a_record_has_an_owner_only_where_there_is_one() {
    let mut bed = Bed::lent();
    let plain = bed.get("/tool/pcidom/loans/0").unwrap();
    assert!(!plain.contains("owner") && plain.contains(r#""version":2"#), "{plain}");
    // As a daemon wrote it that knew of no owners.
    bed.start();
    assert!(bed.lent_to(G, 1));
    bed.detach("g1", 1, false);
    bed.done();
    bed.assert_clean();
    // A guest that is its own owner is a plain one.
    bed.pass(1);
    bed.ask(&attach("g1", "g1", 1));
    bed.done();
    let again = bed.get("/tool/pcidom/loans/0").unwrap();
    assert_eq!(again, plain.replace(r#""generation":1"#, r#""generation":2"#));
    // One that knew of none must not take up the other kind.
    let split = lent().get("/tool/pcidom/loans/0").unwrap();
    let record: Record = serde_json::from_str(&split).unwrap();
    assert_eq!((record.guest(), record.owner()), (G, H));
    assert!(split.contains(r#""version":3"#), "{split}");
}

#[test]
fn status_and_list_show_both_domains() {
    let mut bed = lent();
    let status = status(&mut bed);
    let loan = &status.pcidoms[0].loans[0];
    assert_eq!((loan.guest.as_str(), loan.domid), ("g1", 2));
    assert_eq!(loan.owner, Some(OwnerLine { name: "win".into(), domid: 6 }));
    let shown = crate::print::status(&status);
    assert!(shown.contains("g1 (2)") && shown.contains("owner: win (6)"), "{shown}");
    for guest in [Some("win"), Some("g1"), None, Some("g2")] {
        bed.ask(&Verb::List { guest: guest.map(Into::into), pcidom: None });
        let Reply::List { lines } = bed.reply() else { panic!() };
        let shown: Vec<_> =
            lines.iter().map(|l| (l.guest.as_str(), l.owner.as_deref())).collect();
        match guest {
            Some("g2") => assert_eq!(shown, []),
            _ => assert_eq!(shown, [("g1", Some("win"))]),
        }
    }
}

#[test]
fn detach_by_the_owners_name_says_who_has_it_on_its_link() {
    let mut bed = lent();
    for force in [false, true] {
        bed.detach("win", 1, force);
        assert_eq!(
            bed.failed(),
            "0000:01:00.0 is win's by way of its stub domain g1, which has it on its link: \
             pcidomctl detach g1 0000:01:00.0"
        );
        assert!(bed.lent_to(H, 1));
    }
    bed.detach("g2", 1, false);
    assert!(bed.failed().starts_with("0000:01:00.0 is not lent to g2"));
}

#[test]
fn what_keeps_a_domain_from_owning_a_device() {
    let mut bed = bed();
    let ask = |bed: &mut Bed, owner: &str, cause: &str, next: &str| {
        let text = refused(bed, &attach(owner, "g1", 1));
        assert!(text.contains(cause) && text.contains(next), "{text}");
    };
    ask(&mut bed, "nobody", "there is no domain nobody", "xl list");
    ask(&mut bed, "0", "Domain-0 is no guest, so it has no stub domain", "xl list");
    ask(&mut bed, "pcidom", "pcidom is no guest, so it has no stub domain", "xl list");
    let context = "win was created without an IOMMU context";
    let disabled = r#"{"c_info":{"passthrough":"disabled"}}"#;
    bed.host.configs.insert(H, disabled.into());
    ask(&mut bed, "win", context, "put passthrough=\"enabled\" in its config");
    bed.host.configs.clear();
    bed.set("/local/domain/0/backend/pci/6/0/num_devs", "1");
    ask(&mut bed, "win", "win has devices from dom0", "create it anew");
    bed.remove("/local/domain/0/backend/pci/6");
    for info in [DomainInfo { dying: true, ..hvm() }, DomainInfo { ended: true, ..hvm() }]
    {
        bed.xen.domains.insert(H, info);
        ask(&mut bed, "win", "win is being destroyed", "");
    }
    bed.xen.domains.insert(H, hvm());
    // Where libxl's record does not tell, Xen does.
    bed.xen.without_iommu.insert(H);
    bed.pass(1);
    bed.ask(&attach("win", "g1", 1));
    let text = bed.failed();
    assert!(text.starts_with(context) && !text.contains("e820_host"), "{text}");
    bed.xen.without_iommu.clear();
    assert_clean(&bed);
    // One that is paused, PV or PVH, is as good as any.
    bed.xen.domains.insert(H, DomainInfo { paused: true, ..DomainInfo::default() });
    bed.pass(1);
    bed.ask(&attach("win", "g1", 1));
    assert_eq!(bed.done(), "");
}

#[test]
fn what_keeps_a_domain_from_being_the_stub_domain() {
    let mut bed = bed();
    let ask = |bed: &mut Bed, stub: &str, cause: &str, next: &str| {
        let text = refused(bed, &attach("win", stub, 1));
        assert!(text.contains(cause) && text.contains(next), "{text}");
    };
    ask(&mut bed, "pcidom", "pcidom is no guest", "xl list");
    bed.xen.domains.insert(G, hvm());
    ask(&mut bed, "g1", "g1 is no PV guest", "comes its stub domain, see xl list");
    for info in [
        DomainInfo { paused: true, ..DomainInfo::default() },
        DomainInfo { ended: true, ..DomainInfo::default() },
    ] {
        bed.xen.domains.insert(G, info);
        ask(&mut bed, "g1", "g1 does not run", "xl unpause");
    }
    bed.xen.domains.insert(G, DomainInfo::default());
    let without = r#"{"c_info":{"passthrough":"disabled"},"b_info":{"type.pv":{}}}"#;
    bed.host.configs.insert(G, without.into());
    ask(&mut bed, "g1", "g1 was created without e820_host=1, so", "create it anew");
    // It needs no IOMMU context: the device is not its own.
    let enough = r#"{"c_info":{"passthrough":"disabled"},"b_info":{"type.pv":{"e820_host":"True"}}}"#;
    bed.host.configs.insert(G, enough.into());
    bed.xen.without_iommu.insert(G);
    bed.pass(1);
    bed.ask(&attach("win", "g1", 1));
    assert_eq!(bed.done(), "");
    // Without --owner the way of HVM guests is named.
    let mut bed = Bed::new();
    bed.xen.domains.insert(G, hvm());
    let text = refused(&mut bed, &super::errors::attach("g1", 1, None));
    assert!(text.contains("attach --owner it and name the stub domain"), "{text}");
}

#[test]
fn an_owner_that_gets_no_interrupts_is_told_why_and_all_is_undone() {
    let begin = || {
        let mut bed = bed();
        bed.pass(1);
        bed.xen.log.clear();
        bed
    };
    let mut bed = begin();
    bed.ask(&attach("win", "g1", 1));
    bed.done();
    let maps = |call: &&str| call.starts_with("xc_physdev_map_pirq 6");
    let number = log(&bed).iter().position(maps).expect("its line is mapped");
    let mut bed = begin();
    bed.xen.fault = Some((u32::try_from(number).unwrap(), errno::EOPNOTSUPP));
    bed.ask(&attach("win", "g1", 1));
    let text = bed.failed();
    let wanted = "Xen maps no interrupts of devices to win (xc_physdev_map_pirq: ";
    assert!(text.starts_with(wanted) && text.contains("hvm_pirq=1"), "{text}");
    assert_clean(&bed);
    assert_eq!(bed.xen.of(P), Holdings::default());
}

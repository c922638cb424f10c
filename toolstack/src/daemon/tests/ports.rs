//! Ports of a pool, and what orders say of them.

use pcidom_loan::{Phase, ResetTerms};

use super::bed::{Bed, G, P, POOL, device, port};
use super::errors::status;
use crate::fake::{Holdings, Owner};
use crate::host::EcamRegion;
use crate::hypervisor::errno;
use crate::verb::{Bdf, PoolLine, Verb, Wish};

const EPERM: i32 = 1;

/// What `status` has on a device of the pool, and prints below it.
fn line(bed: &mut Bed, device: pcidom_pci::Sbdf) -> (PoolLine, String) {
    let status = status(bed);
    let text = crate::print::status(&status);
    let mut lines = text.lines().skip_while(|l| !l.starts_with(&format!("  {device}")));
    let printed = lines.by_ref().take(2).collect::<Vec<_>>().join("\n");
    let mut pool = status.pcidoms[0].pool.iter();
    (pool.find(|line| line.device.0 == device).unwrap().clone(), printed)
}

/// The terms of the order that stands there.
fn terms(bed: &Bed, phase: Phase) -> ResetTerms {
    let order = bed.order(0).unwrap();
    assert_eq!(order.phase, phase);
    order.reset
}

#[test]
fn a_port_is_quarantined_and_armed_for_what_is_below_it_and_nothing_else() {
    let mut bed = Bed::new();
    bed.give_port(&[1]);
    assert_eq!(bed.xen.owners[&port()], Owner::Quarantine);
    assert_eq!(bed.xen.of(P), Holdings::default());
    let offsets: Vec<u16> =
        bed.host.quirks[&port()].iter().map(|quirk| quirk.offset).collect();
    assert_eq!(offsets, [0x3e, 0x58, 0x5a]);
    assert!(!bed.host.armed.contains(&port()), "its interrupts are not pcidom's");
    let node = "/local/domain/1/pcidom/pool/0000-00-02-0";
    assert_eq!(bed.get(node).as_deref(), Some("quarantined"));
}

#[test]
fn a_ports_config_space_may_be_read_like_any_other() {
    let mut bed = Bed::new();
    bed.host.ecam =
        vec![EcamRegion { base: 0xb000_0000, segment: 0, first_bus: 0, last_bus: 255 }];
    bed.give_port(&[1]);
    let node = "/local/domain/1/pcidom/ecam/0000-00-02-0";
    assert_eq!(bed.get(node), Some(0xb_0010.to_string()));
    assert_eq!(bed.xen.of(P).pages, [0xb_0010].into());
}

#[test]
fn status_shows_ports_and_who_can_be_reset_by_them() {
    let mut bed = Bed::new();
    bed.give_port(&[1]);
    let (shown, printed) = line(&mut bed, port());
    assert_eq!((shown.state.as_str(), shown.port, shown.no_port), ("port", None, None));
    assert!(!printed.contains("bus reset"), "{printed}");
    let (shown, printed) = line(&mut bed, device(1));
    let by_port = (Some(Bdf(port())), None);
    assert_eq!((shown.state.as_str(), (shown.port, shown.no_port)), ("free", by_port));
    assert!(printed.contains("       bus reset: by the port 0000:00:02.0"), "{printed}");
    let (shown, printed) = line(&mut bed, device(2));
    assert_eq!(shown.port, None);
    assert!(shown.no_port.unwrap().contains("on a root bus"));
    assert!(printed.contains("no bus reset: it is on a root bus"), "{printed}");
}

#[test]
fn a_port_that_the_iommu_has_no_place_for_is_none_the_worse() {
    // Its line is taken first: unmapped and forbidden.
    for (call, error, of, fit) in [
        (2, errno::EINVAL, port(), true),
        (2, EPERM, port(), false),
        (1, errno::EINVAL, port(), false),
    ] {
        let mut bed = Bed::new();
        bed.unwatch_everything();
        bed.give_port(&[1]);
        bed.xen.fault = Some((call, error));
        bed.start();
        let (shown, _) = line(&mut bed, of);
        let state = if fit { "port" } else { "unfit" };
        assert_eq!(shown.state, state, "{call} {error}: {:?}", shown.note);
        bed.attach("g1", 1);
        bed.done();
        // What was wrong with it is mended before it is needed.
        assert_eq!(line(&mut bed, of).0.state, "port");
    }
    // Of an ordinary device that would mean that pcidom still has it.
    let mut bed = Bed::new();
    bed.unwatch_everything();
    bed.xen.fault = Some((3, errno::EINVAL));
    bed.start();
    assert_eq!(line(&mut bed, device(1)).0.state, "unfit");
}

#[test]
fn orders_name_the_port_where_all_below_it_is_in_the_pool() {
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    bed.pcidom_serves = false;
    bed.attach("g1", 1);
    let by_port = ResetTerms { port: Some(port()), below: 2, ..ResetTerms::default() };
    assert_eq!(terms(&bed, Phase::Prepare), by_port);
    bed.pcidom_serves = true;
    bed.settle();
    bed.done();
    assert_eq!(terms(&bed, Phase::Lent), ResetTerms::default());
    bed.pcidom_serves = false;
    bed.detach("g1", 1, true);
    assert_eq!(terms(&bed, Phase::Ending), by_port);
}

#[test]
fn no_loan_resets_what_is_lent_not_even_to_the_same_guest() {
    for guest in ["g1", "g2"] {
        let mut bed = Bed::new();
        bed.give_port(&[1, 2]);
        bed.attach("g1", 1);
        bed.done();
        bed.pcidom_serves = false;
        bed.attach(guest, 2);
        let second = bed.order(1).unwrap();
        assert_eq!((second.phase, second.reset.port), (Phase::Prepare, None));
        let generation = second.generation;
        let said = format!("gen={generation} failed no reset method works");
        bed.set("/local/domain/1/data/pcidom/loans/1", &said);
        bed.settle();
        let text = bed.failed();
        assert!(text.ends_with("0000:01:00.0 is below the same port, and is lent to g1"));
    }
}

#[test]
fn of_two_loans_that_end_the_later_one_may_use_the_port() {
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    for number in [1, 2] {
        bed.attach("g1", number);
        bed.done();
    }
    bed.pcidom_serves = false;
    bed.xen.domains.get_mut(&G).unwrap().dying = true;
    bed.fire("@releaseDomain");
    let ending: Vec<_> = [0, 1].map(|id| bed.order(id).unwrap().reset.port).into();
    assert_eq!(ending, [None, Some(port())]);
}

/// pcidom's word on a loan.
fn say(bed: &mut Bed, id: u16, text: &str) {
    super::reset::say(bed, id, text);
}

#[test]
fn nothing_is_lent_while_the_reset_of_a_neighbour_may_take_it_along() {
    // The neighbour's loan begins, fails or ends.
    for word in ["ready bus", "failed no method works", "returned bus"] {
        let ends = word.starts_with("returned");
        let mut bed = Bed::new();
        bed.give_port(&[1, 2]);
        if ends {
            bed.attach("g2", 2);
            bed.done();
        }
        bed.pcidom_serves = false;
        if ends {
            bed.detach("g2", 2, true);
        }
        bed.attach("g1", 1);
        if !ends {
            bed.attach("g2", 2);
        }
        let (first, second) = if ends { (1, 0) } else { (0, 1) };
        assert_eq!(bed.order(second).unwrap().reset.port, Some(port()));
        say(&mut bed, first, "ready flr");
        assert_eq!(bed.order(first).unwrap().phase, Phase::Prepare, "{word}");
        assert!(!bed.lent_to(G, 1));
        say(&mut bed, second, word);
        assert_eq!(bed.order(first).unwrap().phase, Phase::Lent, "{word}");
        assert!(bed.lent_to(G, 1));
    }
}

#[test]
fn a_loan_does_not_wait_for_its_neighbour_for_ever() {
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    bed.pcidom_serves = false;
    bed.attach("g1", 1);
    bed.pass(20);
    bed.attach("g2", 2);
    say(&mut bed, 0, "ready flr");
    // The neighbour is given up, and takes its time for that, too.
    bed.pass(29);
    assert_eq!(bed.order(0).unwrap().phase, Phase::Prepare);
    bed.pass(1);
    assert_eq!(bed.order(0).unwrap().phase, Phase::Ending);
    say(&mut bed, 0, "returned flr");
    let text = bed.failed();
    assert!(
        text.contains("0000:02:00.0 below the same port is still being reset"),
        "{text}"
    );
}

#[test]
fn what_is_below_a_port_is_looked_at_for_each_order() {
    let mut bed = Bed::new();
    bed.give_port(&[1]);
    bed.attach("g1", 1);
    bed.done();
    bed.pcidom_serves = false;
    // Something was plugged in.
    bed.host.ports.insert(device(9), port());
    bed.detach("g1", 1, true);
    assert_eq!(terms(&bed, Phase::Ending).port, None);
}

/// What an attach says that pcidom could not do.
fn failed_attach(bed: &mut Bed) -> String {
    bed.pcidom_serves = false;
    bed.attach("g1", 1);
    assert_eq!(terms(bed, Phase::Prepare).port, None);
    let generation = bed.order(0).unwrap().generation;
    let said = format!("gen={generation} failed no reset method works");
    bed.set("/local/domain/1/data/pcidom/loans/0", &said);
    bed.settle();
    let text = bed.failed();
    assert!(text.contains("no reset method works; slot and bus reset are not"), "{text}");
    bed.assert_clean();
    text
}

#[test]
fn without_a_port_a_failed_reset_says_what_is_missing() {
    let mut bed = Bed::new();
    assert!(failed_attach(&mut bed).contains("on a root bus"));
    bed.wire(&[1]);
    let text = failed_attach(&mut bed);
    assert!(
        text.contains("0000:00:02.0, the port above it, is not in the pool"),
        "{text}"
    );
    assert!(text.contains("xl pci-assignable-add 0000:00:02.0"), "{text}");
    assert!(text.contains("pcidom.cfg, pci = [ \"0000:00:02.0\", ... ]"), "{text}");
    let mut bed = Bed::new();
    bed.give_port(&[1, 9, 8]);
    bed.host.drivers.insert(device(8), "e1000e".into());
    let text = failed_attach(&mut bed);
    assert!(text.contains("0000:08:00.0 is below the same port 0000:00:02.0"), "{text}");
    assert!(text.contains("not in the pool (driver e1000e)"), "{text}");
    bed.host.drivers.clear();
    let text = failed_attach(&mut bed);
    assert!(text.contains("0000:08:00.0") && text.contains("(no driver)"), "{text}");
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    bed.host.ports.insert(port(), device(2));
    bed.host.ports.insert(device(1), device(2));
    assert!(
        failed_attach(&mut bed).contains("0000:02:00.0, which is above it, is no port")
    );
    // A port below the port.
    let mut bed = Bed::new();
    bed.host.devices.insert(device(2), crate::fake::port());
    bed.give_port(&[1, 2]);
    bed.start();
    let text = failed_attach(&mut bed);
    assert!(text.contains("0000:02:00.0") && text.contains("a port itself"), "{text}");
    // One that is not fit for it.
    let mut bed = Bed::new();
    bed.host.devices.get_mut(&device(2)).unwrap().on_pciback = false;
    bed.unwatch_everything();
    bed.start();
    bed.give_port(&[1, 2]);
    let text = failed_attach(&mut bed);
    assert!(
        text.contains("0000:02:00.0, which would be needed for it, is unfit"),
        "{text}"
    );
    // One that is about to leave.
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    bed.attach("g2", 2);
    bed.done();
    bed.pcidom_serves = false;
    bed.set(&format!("{POOL}/state-1"), "5");
    bed.settle();
    bed.ask(&Verb::Status { pcidom: None });
    bed.pass(2);
    let crate::verb::Reply::Status { status } = bed.reply() else { panic!() };
    let reason = status.pcidoms[0].pool[1].no_port.clone().unwrap();
    assert!(reason.contains("0000:02:00.0") && reason.contains("(driver pciback)"));
}

#[test]
fn no_strict_reset_goes_with_every_order_and_survives_the_daemon() {
    let mut bed = Bed::new();
    bed.pcidom_serves = false;
    bed.ask(&Verb::Attach {
        guest: "g1".into(),
        owner: None,
        device: Bdf(device(1)),
        slot: None,
        bus: None,
        share_line: false,
        lax: true,
        wait: None,
        wish: Wish::default(),
        pcidom: None,
    });
    let lax = ResetTerms { lax: true, ..ResetTerms::default() };
    assert_eq!(terms(&bed, Phase::Prepare), lax);
    bed.pcidom_serves = true;
    bed.settle();
    bed.done();
    bed.start();
    let shown = status(&mut bed);
    assert!(shown.pcidoms[0].loans[0].no_strict_reset);
    let printed = crate::print::status(&shown);
    assert!(printed.contains("note: lent even where no reset method works"), "{printed}");
    bed.pcidom_serves = false;
    bed.detach("g1", 1, true);
    assert_eq!(terms(&bed, Phase::Ending), lax);
    bed.pcidom_serves = true;
    bed.settle();
    bed.done();
    bed.attach("g1", 1);
    bed.done();
    let shown = status(&mut bed);
    assert!(!shown.pcidoms[0].loans[0].no_strict_reset);
    assert!(!crate::print::status(&shown).contains("no reset method"));
}

#[test]
fn a_record_of_a_daemon_that_knew_no_such_key_is_strict() {
    let mut bed = Bed::lent();
    let record = bed.get("/tool/pcidom/loans/0").unwrap();
    let older = record.replace("\"lax\":false,", "");
    assert_ne!(older, record);
    bed.set("/tool/pcidom/loans/0", &older);
    bed.start();
    assert!(bed.lent_to(G, 1));
    bed.pcidom_serves = false;
    bed.detach("g1", 1, true);
    assert!(!terms(&bed, Phase::Ending).lax);
}

#[test]
fn what_made_a_neighbour_unfit_may_be_mended_by_the_next_order() {
    for reset in [false, true] {
        let mut bed = Bed::new();
        for number in [1, 2] {
            bed.host.devices.get_mut(&device(number)).unwrap().on_pciback = false;
        }
        bed.unwatch_everything();
        bed.start();
        bed.give_port(&[1, 2]);
        for number in [1, 2] {
            assert_eq!(line(&mut bed, device(number)).0.state, "unfit");
            bed.host.devices.get_mut(&device(number)).unwrap().on_pciback = true;
        }
        bed.pcidom_serves = false;
        if reset {
            bed.ask(&super::reset::reset(1, None, false));
        } else {
            bed.attach("g1", 1);
        }
        assert_eq!(bed.order(0).unwrap().reset.port, Some(port()));
    }
}

//! Interrupt lines: counted within a guest, not shared between guests unless told.

use super::bed::{Bed, G, G2, device};
use crate::hypervisor::Right;
use crate::verb::{Bdf, Reply, Verb, Wish};

/// Byte of COMMAND with INTx disable, and the bit.
const INTX_DISABLE: (usize, u8) = (5, 4);

/// Whether a guest has line 16: the pirq and the right to it.
fn has_line(bed: &Bed, guest: pcidom_xenbus::DomId) -> bool {
    let has = bed.xen.of(guest);
    let (mapped, allowed) = (has.pirqs.contains_key(&16), has.lines.contains(&16));
    assert_eq!(mapped, allowed);
    mapped
}

fn line_is_disabled(bed: &Bed, number: u8) -> bool {
    bed.host.devices[&device(number)].config[INTX_DISABLE.0] & INTX_DISABLE.1 != 0
}

/// Takes the list of capabilities from a device.
fn without_messages(bed: &mut Bed, number: u8) {
    let raw = bed.host.devices.get_mut(&device(number)).unwrap();
    raw.config[0x06] &= !0x10;
}

fn attach(bed: &mut Bed, guest: &str, number: u8, share_line: bool) -> Reply {
    bed.ask(&Verb::Attach {
        guest: guest.into(),
        owner: None,
        device: Bdf(device(number)),
        slot: None,
        bus: None,
        share_line,
        lax: false,
        wait: None,
        wish: Wish::default(),
        pcidom: None,
    });
    bed.reply()
}

#[test]
fn a_line_goes_with_the_last_device_of_its_guest() {
    let mut bed = Bed::lent();
    assert!(matches!(attach(&mut bed, "g1", 2, false), Reply::Done { .. }));
    assert!(has_line(&bed, G) && bed.order(1).unwrap().line);
    bed.detach("g1", 1, false);
    bed.done();
    assert!(has_line(&bed, G));
    bed.detach("g1", 2, false);
    bed.done();
    assert!(!has_line(&bed, G));
    bed.assert_clean();
}

#[test]
fn a_second_guest_gets_a_device_with_messages_without_its_line() {
    let mut bed = Bed::lent();
    assert!(matches!(attach(&mut bed, "g2", 2, false), Reply::Done { .. }));
    assert!(has_line(&bed, G) && !has_line(&bed, G2));
    assert!(line_is_disabled(&bed, 2) && !line_is_disabled(&bed, 1));
    assert!(bed.order(0).unwrap().line && !bed.order(1).unwrap().line);
    // It was off before the guest could touch the device.
    let shown = {
        bed.ask(&Verb::Status { pcidom: None });
        bed.pass(2);
        let Reply::Status { status } = bed.reply() else { panic!() };
        crate::print::status(&status)
    };
    assert!(shown.contains("note: without its interrupt line"), "{shown}");
    // A new daemon knows it, too: the end of one leaves the other's line alone.
    bed.start();
    bed.detach("g2", 2, false);
    bed.done();
    assert!(has_line(&bed, G));
    bed.detach("g1", 1, false);
    bed.done();
    // The line is free now.
    bed.pass(1);
    assert!(matches!(attach(&mut bed, "g2", 2, false), Reply::Done { .. }));
    assert!(has_line(&bed, G2));
}

#[test]
fn a_device_with_nothing_but_a_line_of_another_guest_is_refused_unless_told() {
    let mut bed = Bed::lent();
    without_messages(&mut bed, 2);
    let calls = bed.xen.log.len();
    let Reply::Failed { text } = attach(&mut bed, "g2", 2, false) else { panic!() };
    for part in ["GSI 16", "0000:01:00.0 of guest g1", "--share-line", "to one guest"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let granted = format!("{:?}", Right::Grant);
    assert!(!bed.xen.log[calls..].iter().any(|call| call.contains(&granted)));
    assert_eq!(bed.order(1), None);
    // The same guest may: it holds up itself only.
    assert!(matches!(attach(&mut bed, "g1", 2, false), Reply::Done { .. }));
    bed.detach("g1", 2, false);
    bed.done();
    assert!(matches!(attach(&mut bed, "g2", 2, true), Reply::Done { .. }));
    assert!(has_line(&bed, G) && has_line(&bed, G2));
    assert!(bed.order(1).unwrap().line && !line_is_disabled(&bed, 2));
}

#[test]
fn a_device_without_its_line_does_not_keep_it_mapped() {
    let mut bed = Bed::lent();
    attach(&mut bed, "g2", 2, false);
    bed.detach("g1", 1, false);
    bed.done();
    assert!(matches!(attach(&mut bed, "g2", 1, false), Reply::Done { .. }));
    assert!(has_line(&bed, G2));
    bed.detach("g2", 1, false);
    bed.done();
    assert!(!has_line(&bed, G2) && bed.lent_to(G2, 2));
}

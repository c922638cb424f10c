//! Devices that can't be lent: their rights, when they are looked at again, and what brings
//! them back.

use pcidom_loan::Phase;

use super::bed::{Bed, P, POOL, device, port};
use super::errors::status;
use super::reset::{progress, reset, say};
use crate::fake::{Holdings, Owner};

const NODE: &str = "/local/domain/1/pcidom/pool/0000-01-00-0";

/// Device 1 answers nothing any more; gives what it was.
fn silence(bed: &mut Bed) -> Vec<u8> {
    let config = &mut bed.host.devices.get_mut(&device(1)).unwrap().config;
    std::mem::replace(config, vec![0xff; 256])
}

fn state(bed: &mut Bed) -> (String, String) {
    let shown = status(bed).pcidoms.remove(0).pool.remove(0);
    // The port has a lower address than the devices.
    (shown.state, shown.note.unwrap_or_default())
}

#[test]
fn an_unfit_device_is_taken_from_pcidom_whatever_is_wrong_with_it() {
    for wrong in 0..3 {
        let mut bed = Bed::new();
        bed.unwatch_everything();
        bed.remove(NODE);
        bed.give_to_pool(&[1, 2]);
        let raw = bed.host.devices.get_mut(&device(1)).unwrap();
        match wrong {
            0 => raw.config.fill(0xff),
            1 => raw.on_pciback = false,
            _ => raw.config[0x44] = 5,
        }
        assert_ne!(bed.xen.of(P), Holdings::default());
        bed.start();
        assert_eq!(bed.xen.of(P), Holdings::default(), "{wrong}");
        assert_eq!(bed.xen.owners[&device(1)], Owner::Quarantine);
        assert_eq!(bed.get(NODE), None);
        assert_eq!(state(&mut bed).0, "unfit");
    }
}

#[test]
fn an_unfit_device_is_looked_at_again_a_few_times_and_then_left_alone() {
    let mut bed = Bed::new();
    let (mut looks, begun) = (0, bed.now);
    bed.host.devices.get_mut(&device(1)).unwrap().on_pciback = false;
    bed.set(&format!("{POOL}/dev-0"), &device(1).to_string());
    bed.settle();
    assert_eq!(state(&mut bed).0, "unfit");
    while let Some(next) = bed.daemon.next_deadline() {
        let calls = bed.xen.log.len();
        bed.pass(next.since(bed.now).as_secs());
        looks += u32::from(bed.xen.log.len() > calls);
        assert!(looks < 20, "it never ends");
    }
    assert_eq!((looks, bed.now.since(begun).as_secs()), (6, 252));
    // A person is heard all the same.
    bed.host.devices.get_mut(&device(1)).unwrap().on_pciback = true;
    bed.attach("g1", 1);
    bed.done();
}

#[test]
fn what_is_mended_meanwhile_is_fit_without_anybody_asking() {
    let mut bed = Bed::new();
    bed.host.devices.get_mut(&device(1)).unwrap().on_pciback = false;
    bed.set(&format!("{POOL}/dev-0"), &device(1).to_string());
    bed.settle();
    assert_eq!(bed.get(NODE), None);
    bed.pass(4);
    bed.host.devices.get_mut(&device(1)).unwrap().on_pciback = true;
    bed.pass(7);
    assert_eq!(bed.get(NODE), None, "its time has not come");
    bed.pass(1);
    assert_eq!(bed.get(NODE).as_deref(), Some("quarantined"));
    assert_eq!(bed.daemon.next_deadline(), None);
}

#[test]
fn a_device_that_answers_nothing_is_lent_if_its_port_brings_it_back() {
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    let config = silence(&mut bed);
    bed.pcidom_serves = false;
    bed.attach("g1", 1);
    let order = bed.order(0).unwrap();
    assert_eq!((order.phase, order.reset.port), (Phase::Prepare, Some(port())));
    bed.host.devices.get_mut(&device(1)).unwrap().config = config;
    bed.pcidom_serves = true;
    bed.settle();
    bed.done();
    assert_eq!(bed.get(NODE).as_deref(), Some("quarantined"));
    assert_eq!(bed.daemon.next_deadline(), None, "nothing is left to look at");
    bed.detach("g1", 1, false);
    bed.done();
    bed.assert_clean();
}

#[test]
fn a_device_that_answers_nothing_and_has_no_port_is_refused_with_both_reasons() {
    let mut bed = Bed::new();
    bed.wire(&[1]);
    silence(&mut bed);
    for verb in [reset(1, None, false), super::errors::attach("g1", 1, None)] {
        bed.ask(&verb);
        let text = bed.failed();
        assert!(text.contains("does not answer config reads; slot and"), "{text}");
        assert!(text.contains("0000:00:02.0, the port above it, is not in"), "{text}");
    }
    assert_eq!(bed.order(0), None);
}

#[test]
fn a_device_that_answers_nothing_is_reset_by_its_port_without_anybody_asking() {
    let mut bed = Bed::new();
    bed.give_port(&[1, 2]);
    let config = silence(&mut bed);
    bed.ask(&reset(2, None, false));
    // Its neighbour may be reset by the port all the same; that may be what helps.
    progress(&mut bed);
    bed.done();
    bed.attach("g1", 1);
    assert!(bed.failed().contains("does not answer"), "pcidom's reset did not help");
    assert_eq!(bed.daemon.next_reply(), None);
    bed.pcidom_serves = false;
    bed.pass(8);
    let order = bed.order(0).unwrap();
    assert_eq!((order.phase, order.device), (Phase::Reset, device(1)));
    assert_eq!((order.reset.port, order.reset.below), (Some(port()), 2));
    bed.host.devices.get_mut(&device(1)).unwrap().config = config;
    say(&mut bed, 0, "ready secondary bus reset");
    assert_eq!(bed.get(NODE).as_deref(), Some("quarantined"));
    assert_eq!(bed.daemon.next_reply(), None);
    assert_eq!(bed.daemon.next_deadline(), None);
    bed.assert_clean();
}

use pcidom_loan::BusPolicy;

use super::bed::{BACK, Bed, device};
use super::errors::refused;
use crate::daemon::Client;
use crate::verb::{Bdf, Bus, Verb, Wish};

const EXTRA: &str = "/vm/pcidom-1/image/cmdline";

fn attach(guest: &str, number: u8, slot: Option<u8>, bus: Option<BusPolicy>) -> Verb {
    Verb::Attach {
        guest: guest.into(),
        owner: None,
        device: Bdf(device(number)),
        slot,
        bus: bus.map(Bus),
        share_line: false,
        lax: false,
        wait: None,
        wish: Wish::default(),
        pcidom: None,
    }
}

fn ask(bed: &mut Bed, number: u8, bus: Option<BusPolicy>) -> Client {
    bed.ask(&attach("g1", number, None, bus))
}

fn ordered(bed: &Bed, id: u16) -> BusPolicy {
    bed.order(id).unwrap().bus
}

#[test]
fn the_first_device_of_a_guest_decides_and_the_others_agree_or_are_refused() {
    let mut bed = Bed::new();
    ask(&mut bed, 1, Some(BusPolicy::Slot));
    bed.done();
    assert_eq!(ordered(&bed, 0), BusPolicy::Slot);
    for other in [BusPolicy::Vpci, BusPolicy::Passthrough] {
        let text = refused(&mut bed, &attach("g1", 2, None, Some(other)));
        assert_eq!(
            text,
            format!(
                "g1's bus is slot as long as it has a device, and can't be {}: leave --bus \
                 out, or detach all it has first (pcidomctl list g1)",
                other.word()
            )
        );
    }
    // It is in the record: another daemon knows it, too.
    bed.start();
    ask(&mut bed, 2, None);
    bed.done();
    assert_eq!(ordered(&bed, 1), BusPolicy::Slot);
    for number in [1, 2] {
        bed.detach("g1", number, false);
        bed.done();
    }
    bed.assert_clean();
    // A link is made anew only after a pause.
    bed.pass(1);
    ask(&mut bed, 1, Some(BusPolicy::Passthrough));
    bed.done();
    assert_eq!(ordered(&bed, 0), BusPolicy::Passthrough);
}

#[test]
fn the_config_of_a_pcidom_decides_for_all_guests_or_for_one_if_nobody_says_anything() {
    for (extra, policy) in [
        ("", BusPolicy::Vpci),
        ("bus.g2=slot", BusPolicy::Vpci),
        ("loglevel=debug  bus=slot", BusPolicy::Slot),
        ("bus=slot bus=passthrough", BusPolicy::Passthrough),
        ("bus.g1=passthrough bus=slot", BusPolicy::Passthrough),
    ] {
        let mut bed = Bed::new();
        bed.set(EXTRA, extra);
        ask(&mut bed, 1, None);
        bed.done();
        assert_eq!(ordered(&bed, 0), policy, "{extra}");
    }
    // What a person says at that moment goes first.
    let mut bed = Bed::new();
    bed.set(EXTRA, "bus=slot");
    ask(&mut bed, 1, Some(BusPolicy::Vpci));
    bed.done();
    assert_eq!(ordered(&bed, 0), BusPolicy::Vpci);
}

#[test]
fn a_policy_in_the_config_that_is_none_is_named() {
    let mut bed = Bed::new();
    bed.set(EXTRA, "bus=isa");
    let text = refused(&mut bed, &attach("g1", 1, None, None));
    assert_eq!(
        text,
        "extra= in the config of this pcidom has bus=isa: no bus policy has this name; there \
         are vpci, slot and passthrough; use --bus until it is created anew without that"
    );
    ask(&mut bed, 1, Some(BusPolicy::Vpci));
    bed.done();
}

#[test]
fn a_slot_can_not_be_chosen_where_devices_have_their_physical_addresses() {
    let mut bed = Bed::new();
    let text =
        refused(&mut bed, &attach("g1", 1, Some(0x1c), Some(BusPolicy::Passthrough)));
    assert_eq!(
        text,
        "slot 1c can't be had for 0000:01:00.0: g1's bus is passthrough, where each device \
         has its physical address; leave @1c out"
    );
    // Its own is no other.
    bed.ask(&attach("g1", 1, Some(0), Some(BusPolicy::Passthrough)));
    bed.done();
}

#[test]
fn a_device_that_pcidom_can_not_export_is_taken_back_and_its_reason_told() {
    let mut bed = Bed::lent();
    bed.guests_answer = false;
    bed.ask(&attach("g1", 2, Some(3), None));
    bed.set(&format!("{BACK}/error-1"), "slot 03 of the guest's bus is \x1btaken");
    bed.set(&format!("{BACK}/state-1"), "6");
    bed.set(&format!("{BACK}/state"), "4");
    bed.guests_answer = true;
    bed.settle();
    assert_eq!(
        bed.failed(),
        "pcidom could not put 0000:02:00.0 on the bus of g1: slot 03 of the guest's bus is  \
         taken (pcidomctl list g1)"
    );
    for node in ["dev-1", "state-1", "vdevfn-1", "error-1"] {
        assert_eq!(bed.get(&format!("{BACK}/{node}")), None, "{node}");
    }
    assert_eq!(bed.get(&format!("{BACK}/num_devs")).as_deref(), Some("1"));
}

//! Single registers: what a guest can and cannot do with each.

use pcidom_loan::{Allowed, Exceptions};
use pcidom_pci::{Access, Register, Width};

use super::layouts::{Rig, e1000e, full, nvme, register, rtl8139};
use super::permissive;
use crate::policy::Plan;

fn word(offset: u16) -> Register {
    register(offset, Width::Word)
}

fn allow(place: Register, mask: u32) -> Exceptions {
    let mut exceptions = Exceptions::default();
    assert!(exceptions.allow(Allowed::new(place, mask).unwrap()));
    exceptions
}

/// Where Device Control of the drawn devices is.
const DEVCTL: Register = match Register::new(0x88, Width::Word) {
    Some(register) => register,
    None => panic!(),
};

#[test]
fn a_guest_clears_error_bits_of_status_one_by_one_and_sets_none() {
    let mut rig = Rig::new(&nvme(), &Exceptions::default());
    rig.hardware[6..8].copy_from_slice(&[0x10, 0xf9]);
    rig.write(register(7, Width::Byte), 0x01);
    assert_eq!(rig.load(word(6)), 0xf810);
    rig.write(register(4, Width::Dword), 0x4000_0002);
    assert_eq!(rig.load(word(6)), 0xb810);
    rig.write(word(6), 0);
    assert_eq!(rig.load(word(6)), 0xb810);
    rig.write(word(6), 0xffff);
    assert_eq!((rig.load(word(6)), rig.denied()), (0x0010, vec![]));
}

#[test]
fn a_guest_clears_error_bits_of_device_status_without_touching_device_control() {
    let mut rig = Rig::new(&nvme(), &Exceptions::default());
    rig.hardware[0x8a] = 0x0f;
    let control = rig.load(DEVCTL);
    rig.write(word(0x8a), 0x0001);
    assert_eq!(rig.load(word(0x8a)), 0x000e);
    let both = register(0x88, Width::Dword);
    rig.write(both, 0x000e_0000 | control);
    assert_eq!((rig.load(word(0x8a)), rig.load(DEVCTL)), (0, control));
}

#[test]
fn a_guest_sets_relaxed_ordering_no_snoop_and_a_smaller_read_size() {
    let mut rig = Rig::new(&nvme(), &Exceptions::default());
    assert_eq!(rig.load(DEVCTL), 0x2810);
    for value in [0x0000, 0x1810, 0x2000, 0x0800, 0x0010, 0x2810] {
        rig.write(DEVCTL, value);
        assert_eq!((rig.load(DEVCTL), rig.read(DEVCTL)), (value, Some(value)));
    }
    // By bytes as well.
    rig.write(register(0x89, Width::Byte), 0x10);
    assert_eq!(rig.load(DEVCTL), 0x1010);
    assert_eq!(rig.denied(), []);
}

#[test]
fn a_larger_read_size_than_dom0_has_found_right_is_clamped_and_counted() {
    let mut rig = Rig::new(&nvme(), &Exceptions::default());
    for value in [0x3810, 0x5810, 0x7810] {
        rig.write(DEVCTL, value);
        assert_eq!(rig.read(DEVCTL), Some(0x2810));
        assert_eq!(rig.denied(), [("DEVCTL", 0x88, value)]);
    }
    let mut rig = Rig::new(&nvme(), &allow(DEVCTL, 0x7000));
    rig.write(DEVCTL, 0x5810);
    assert_eq!((rig.load(DEVCTL), rig.denied()), (0x5810, vec![]));
    // Two codes have no meaning, and get none by an exception.
    rig.write(DEVCTL, 0x7810);
    assert_eq!((rig.load(DEVCTL), rig.denied().len()), (0x5810, 1));
}

#[test]
fn error_reporting_is_the_guests_wish_only_and_not_denied() {
    let mut rig = Rig::new(&nvme(), &Exceptions::default());
    assert_eq!(rig.read(DEVCTL), Some(0x2810));
    rig.write(DEVCTL, 0x2817);
    assert_eq!((rig.load(DEVCTL), rig.read(DEVCTL)), (0x2810, Some(0x2817)));
    rig.write(register(0x89, Width::Byte), 0x28);
    assert_eq!((rig.read(DEVCTL), rig.denied()), (Some(0x2817), vec![]));
    rig.guest.forget_guest();
    assert_eq!(rig.read(DEVCTL), Some(0x2810));
    // A person may want the messages.
    let mut rig = Rig::new(&nvme(), &allow(DEVCTL, 0x000f));
    rig.write(DEVCTL, 0x2817);
    assert_eq!((rig.load(DEVCTL), rig.read(DEVCTL)), (0x2817, Some(0x2817)));
}

#[test]
fn a_reset_that_a_guest_can_not_do_is_neither_offered_nor_done() {
    let mut rig = Rig::new(&nvme(), &permissive());
    let offered = rig.read(register(0x84, Width::Dword)).unwrap();
    assert_eq!(offered, 0x0000_8000, "no FLR and no phantom functions");
    rig.write(DEVCTL, 0xaa10);
    assert_eq!(rig.load(DEVCTL) & 0x8200, 0);
    assert_eq!(rig.denied(), [("DEVCTL", 0x88, 0xaa10)]);
}

#[test]
fn product_data_can_be_read_and_not_written() {
    let (address, data) = (word(0x6a), register(0x6c, Width::Dword));
    for exceptions in [Exceptions::default(), permissive()] {
        let mut rig = Rig::new(&full(), &exceptions);
        rig.write(address, 0x0014);
        assert_eq!(rig.load(address), 0x0014);
        let before = rig.load(data);
        rig.write(data, 0x1234_5678);
        rig.write(address, 0x8018);
        rig.write(register(0x6a, Width::Byte), 0x20);
        assert_eq!((rig.load(address), rig.load(data)), (0x0014, before));
        let names: Vec<_> = rig.denied().into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["VPD_DATA", "VPD_ADDRESS"]);
    }
}

#[test]
fn an_exception_opens_its_bits_of_its_register_and_nothing_else() {
    let link = word(0x90);
    let mut rig = Rig::new(&nvme(), &allow(link, 0x0003));
    let old = rig.load(link);
    rig.write(link, !old & 0xffff);
    assert_eq!(rig.load(link), old ^ 0x0003);
    assert_eq!(rig.denied(), [("LNKCTL", 0x90, !old & 0xffff)]);
    // Bits that can't be had are not had.
    let mut rig = Rig::new(&nvme(), &allow(link, 0xffff));
    rig.write(link, !old & 0xffff);
    assert_eq!(rig.load(link), old ^ 0x0343);
    // By a double word that the register is part of.
    let mut rig = Rig::new(&nvme(), &allow(register(0x90, Width::Dword), 0xffff_0001));
    rig.write(register(0x90, Width::Dword), !0);
    assert_eq!(rig.load(link), old | 1);
    assert_eq!(rig.guest.writable(link), 1);
}

#[test]
fn an_exception_by_offset_opens_space_without_a_row() {
    let place = word(0xf0);
    let mut rig = Rig::new(&nvme(), &allow(place, 0x00f0));
    let old = rig.load(register(0xf0, Width::Dword));
    rig.write(register(0xf0, Width::Dword), !old);
    let new = rig.load(register(0xf0, Width::Dword));
    assert_eq!(new, old ^ 0x00f0);
    let denied = rig.denied();
    assert!(denied.contains(&("", 0xf0, !old & 0xffff)), "{denied:x?}");
    // What lies in a hidden capability, or beyond the end, stays as it is.
    for place in [word(0x110), word(0x104)] {
        let mut rig = Rig::new(&nvme(), &allow(place, 0xffff));
        let old = rig.load(place);
        rig.write(place, !old & 0xffff);
        assert_eq!((rig.load(place), rig.guest.writable(place)), (old, 0));
        assert_eq!(rig.denied(), [("AER", place.offset(), !old & 0xffff)]);
    }
}

#[test]
fn permissive_opens_the_devices_own_space_byte_by_byte_beside_a_row() {
    let mut rig = Rig::new(&e1000e(), &permissive());
    rig.write(register(0x40, Width::Dword), 0x1234_5678);
    assert_eq!(rig.load(register(0x40, Width::Dword)), 0x1234_5678);
    // A header and, behind it, two bytes that no row has: MSI's data is 12 bytes in.
    let beside = register(0xf4, Width::Dword);
    rig.write(beside, 0xaabb_ccdd);
    assert_eq!(rig.load(beside), 0xaabb_ccdd);
    assert_eq!(rig.denied(), []);
}

#[test]
fn without_a_row_a_write_is_denied_by_its_place_and_width() {
    let mut rig = Rig::new(&e1000e(), &Exceptions::default());
    let place = register(0x45, Width::Byte);
    let old = rig.load(place);
    rig.write(place, old);
    assert_eq!(rig.denied(), []);
    rig.write(place, !old & 0xff);
    rig.write(place, 0x77);
    let [denied] = rig.guest.dropped().writes() else { panic!() };
    assert_eq!((denied.name, denied.register), ("", place));
    assert_eq!((denied.count, denied.last), (2, 0x77));
}

#[test]
fn the_latency_timer_of_an_express_device_is_0_without_a_look_at_the_hardware() {
    let timer = register(0x0d, Width::Byte);
    let mut rig = Rig::new(&nvme(), &Exceptions::default());
    assert_eq!(rig.guest.plan(Access::Read(timer)), Plan::Answer(0));
    assert_eq!(rig.guest.plan(Access::Write(timer, 0x40)), Plan::Answer(0));
    assert_eq!(rig.denied(), [("LATENCY_TIMER", 0x0d, 0x40)]);
    // On a conventional bus it is the hardware's; and so it is for who may write it.
    for mut rig in [
        Rig::new(&rtl8139(), &Exceptions::default()),
        Rig::new(&nvme(), &allow(timer, 0xff)),
        Rig::new(&nvme(), &permissive()),
    ] {
        rig.hardware[0x0d] = 0x20;
        assert_eq!(rig.read(timer), Some(0x20));
    }
}

#[test]
fn a_register_that_reads_all_ones_is_not_written_back() {
    let mut rig = Rig::new(&nvme(), &Exceptions::default());
    // Nobody answers.
    rig.hardware[0x88..0x8a].fill(0xff);
    rig.write(DEVCTL, 0x2000);
    assert_eq!(rig.load(DEVCTL), 0xffff);
    // A byte of ones may be what a device has.
    let timer = register(0x0d, Width::Byte);
    let mut rig = Rig::new(&rtl8139(), &allow(timer, 0x0f));
    rig.hardware[0x0d] = 0xff;
    rig.write(timer, 0x00);
    assert_eq!(rig.load(timer), 0xf0);
}

//! Config space as a guest sees it.

use pcidom_pci::fake::FakeFunction;
use pcidom_pci::regs::{command as bits, header, msi, pm};
use pcidom_pci::{VirtualBdf, Width};
use pcidom_xenbus::pciif::RawOp;
use proptest::prelude::*;

use super::{Bed, read, sbdf};
use crate::VirtualFunction;

const COMMAND: u16 = header::COMMAND;

#[test]
fn the_header_reads_as_recorded_without_asking_the_hardware() {
    let mut bed = Bed::nvme();
    assert_eq!(bed.read(0x00, 4), 0x0010_1b36);
    assert_eq!(bed.read(0x08, 4), 0x0108_0202);
    assert_eq!(bed.read(0x0b, 1), 0x01);
    assert_eq!(bed.read(0x2c, 4), 0x1100_1af4);
    assert_eq!(bed.read(0x3c, 2), 0x010b);
    assert_eq!(bed.asked, 0);
}

/// Also advisory 337: what a lent device says there now is not believed.
#[test]
fn registers_that_can_not_change_are_read_once_by_the_scan_and_never_again() {
    let mut bed = Bed::nic();
    let constants = bed.function.constants.clone();
    let (pm, msi) = (bed.function.pm.unwrap(), bed.function.msi.unwrap());
    let before: Vec<u32> = constants
        .iter()
        .map(|c| bed.read(c.register.offset(), c.register.width().bytes().into()))
        .collect();
    let others = [(0x28, 4), (0x2c, 4), (0x34, 4), (0x38, 4), (0x3c, 4), (pm.offset, 4)];
    for (offset, size) in
        others.into_iter().chain([(msi.offset, 4), (0xe4, 4), (0xec, 4)])
    {
        bed.read(offset, size);
    }
    assert_eq!(bed.asked, 0);
    for constant in &constants {
        bed.dom0.hardware_mut().set_bytes(constant.register.offset(), &[0xaa; 1]);
    }
    let after: Vec<u32> = constants
        .iter()
        .map(|c| bed.read(c.register.offset(), c.register.width().bytes().into()))
        .collect();
    let recorded: Vec<u32> = constants.iter().map(|c| c.value).collect();
    assert_eq!((&before, &after), (&recorded, &recorded));
    assert_eq!(bed.asked, 0);
}

/// Status, Device Status, Link Status and the like are the hardware's at every read.
#[test]
fn registers_that_change_by_themselves_are_read_from_the_hardware() {
    let mut bed = Bed::nic();
    let express = bed.function.pcie.unwrap().offset;
    for offset in [0x06, express + 0x0a, express + 0x12] {
        bed.dom0.hardware_mut().set_bytes(offset, &[0x55]);
        assert_eq!(bed.read(offset, 1), 0x55);
        bed.dom0.hardware_mut().set_bytes(offset, &[0x66]);
        assert_eq!(bed.read(offset, 1), 0x66);
    }
}

#[test]
fn a_read_takes_one_hardware_access_at_most_whatever_it_spans() {
    let mut bed = Bed::nic();
    for offset in (0..0x1000).step_by(4) {
        let before = bed.asked;
        bed.read(offset, 4);
        assert!(bed.asked <= before + 1, "{offset:#x}");
    }
}

#[test]
fn bytes_words_and_double_words_show_the_same_everywhere() {
    let mut bed = Bed::nic();
    bed.write(COMMAND, 2, 0x0547);
    bed.enable_msix(&[0, 1]);
    for offset in (0..0x1000_u16).step_by(4) {
        let whole = bed.read(offset, 4);
        let bytes: u32 = (0..4).map(|n| bed.read(offset + n, 1) << (8 * n)).sum();
        let words: u32 = (0..2).map(|n| bed.read(offset + 2 * n, 2) << (16 * n)).sum();
        assert_eq!((bytes, words), (whole, whole), "{offset:#x}");
    }
}

#[test]
fn a_guest_that_saves_and_restores_all_of_it_changes_nothing() {
    let mut bed = Bed::nic();
    bed.write(COMMAND, 2, 0x0006);
    let before = bed.dom0.hardware().bytes().to_vec();
    let saved: Vec<u32> =
        (0..0x1000).step_by(4).map(|offset| bed.read(offset, 4)).collect();
    for (n, value) in (0_u16..).zip(&saved) {
        assert_eq!(bed.write(4 * n, 4, *value), 0);
    }
    assert_eq!(bed.dom0.hardware().bytes(), before);
    let again: Vec<u32> =
        (0..0x1000).step_by(4).map(|offset| bed.read(offset, 4)).collect();
    assert_eq!(again, saved);
}

#[test]
fn bars_are_sized_without_touching_the_hardware() {
    let mut bed = Bed::nic();
    let sizes = [
        (0x10, 0xfffe_0000, 0xfe64_0000),
        (0x18, 0xffff_ffe1, 0xc001),
        (0x1c, 0xffff_c000, 0xfe68_0000),
        (0x20, 0, 0),
        (0x30, 0xfffc_0000, 0xfe60_0000),
    ];
    for (offset, size, address) in sizes {
        for all_ones in [u32::MAX, 0xffff_f800] {
            // Linux leaves the flag bits of a ROM out, and some leave those of a BAR.
            let sizing = all_ones == u32::MAX || offset == 0x30;
            bed.write(offset, 4, all_ones);
            assert_eq!(bed.read(offset, 4), if sizing { size } else { address });
        }
        bed.write(offset, 4, address);
        assert_eq!(bed.read(offset, 4), address);
    }
    assert_eq!(bed.asked, 0);
    assert_eq!(bed.dom0.hardware().writes(), []);
}

#[test]
fn the_halves_of_a_64_bit_bar_are_sized_one_by_one() {
    let mut bed = Bed::nvme();
    assert_eq!((bed.read(0x10, 4), bed.read(0x14, 4)), (0xfe40_0004, 0));
    bed.write(0x10, 4, 0xffff_fff0);
    assert_eq!((bed.read(0x10, 4), bed.read(0x14, 4)), (0xffff_c004, 0));
    bed.write(0x14, 4, u32::MAX);
    bed.write(0x10, 4, 0xfe40_0004);
    assert_eq!((bed.read(0x10, 4), bed.read(0x14, 4)), (0xfe40_0004, u32::MAX));
    // The upper half has no flag bits to ignore.
    bed.write(0x14, 4, 0xffff_fff0);
    assert_eq!(bed.read(0x14, 4), 0);
    // A device that lies after it was lent (advisory 337) is not believed.
    bed.dom0.hardware_mut().set_bytes(0x10, &[0; 4]);
    assert_eq!(bed.read(0x10, 4), 0xfe40_0004);
}

#[test]
fn a_guest_that_moves_a_bar_is_counted_and_not_obeyed() {
    let mut bed = Bed::nvme();
    bed.write(0x10, 4, 0x8000_0000);
    assert_eq!(bed.read(0x10, 4), 0xfe40_0004);
    let status = bed.server.functions().next().unwrap();
    let [dropped] = status.dropped.writes() else { panic!("{:?}", status.dropped) };
    assert_eq!((dropped.name, dropped.register.offset()), ("BAR0", 0x10));
    assert_eq!((dropped.count, dropped.last), (1, 0x8000_0000));
}

/// Advisory 120: decode, SERR and parity belong to the host.
#[test]
fn command_keeps_decode_in_the_hardware_whatever_the_guest_writes() {
    let mut bed = Bed::nic();
    for value in [0, 0x0547, bits::BUS_MASTER, 0, u16::MAX, bits::SERR | bits::PARITY, 0]
    {
        assert_eq!(bed.write(COMMAND, 2, value.into()), 0);
        let hardware = bed.hardware(COMMAND);
        let decode = bits::IO | bits::MEMORY;
        assert_eq!(hardware & decode, decode, "{value:#x}");
        assert_eq!(hardware & (bits::SERR | bits::PARITY), 0, "{value:#x}");
        assert_eq!(hardware & bits::BUS_MASTER, value & bits::BUS_MASTER, "{value:#x}");
        assert_eq!(hardware & bits::INTX_DISABLE, value & bits::INTX_DISABLE);
        // The guest sees what it wrote.
        let shown = u16::try_from(bed.read(COMMAND, 2)).unwrap();
        let truth = 0x07ff & !bits::INVALIDATE;
        assert_eq!(shown & truth, value & truth, "{value:#x}");
    }
}

#[test]
fn toggling_decode_while_sizing_costs_no_hardware_access() {
    let mut bed = Bed::nvme();
    bed.write(COMMAND, 2, 0x0006);
    let before = bed.asked;
    for _ in 0..10 {
        bed.write(COMMAND, 2, 0x0004);
        bed.write(0x10, 4, u32::MAX);
        bed.write(COMMAND, 2, 0x0006);
    }
    assert_eq!(bed.asked, before);
}

#[test]
fn a_byte_of_command_leaves_the_other_byte_alone() {
    let mut bed = Bed::nvme();
    bed.write(COMMAND, 2, 0x0546);
    bed.write(COMMAND, 1, 0x02);
    assert_eq!(bed.read(COMMAND, 2), 0x0502);
    bed.write(COMMAND + 1, 1, 0x00);
    assert_eq!(bed.read(COMMAND, 2), 0x0002);
    assert_eq!(bed.hardware(COMMAND) & bits::INTX_DISABLE, 0);
}

#[test]
fn a_failed_command_write_is_done_again_next_time() {
    let mut bed = Bed::nvme();
    bed.fail_at = Some(1);
    assert_eq!(bed.write(COMMAND, 2, 0x0006), -5);
    assert_eq!(bed.hardware(COMMAND) & bits::BUS_MASTER, 0);
    assert_eq!(bed.write(COMMAND, 2, 0x0006), 0);
    assert_ne!(bed.hardware(COMMAND) & bits::BUS_MASTER, 0);
}

/// Advisories 128, 129, 337: they are Xen's, and tell where its vectors live.
#[test]
fn message_address_and_data_are_neither_shown_nor_written() {
    let mut bed = Bed::nic();
    let msi = bed.function.msi.unwrap().offset;
    bed.dom0.hardware_mut().set_bytes(msi + 4, &[0xaa; 12]);
    bed.dom0.hardware_mut().take_writes();
    for offset in msi + 4..msi + 14 {
        assert_eq!(bed.read(offset, 1), 0);
    }
    assert_eq!(bed.read(msi + 4, 4), 0);
    assert_eq!(bed.write(msi, 4, u32::MAX), 0);
    assert_eq!(bed.write(msi + 4, 4, 0x1234_5678), 0);
    assert_eq!(bed.write(msi + 12, 2, 0x1234), 0);
    assert_eq!(bed.dom0.hardware().writes(), []);
    assert_eq!(bed.read(msi + msi::CONTROL, 2) & 1, 0);
}

#[test]
fn mask_bits_of_msi_are_hidden_too() {
    let mut device = FakeFunction::builder(0x1234, 0x5678, 0x02_0000, 1);
    // 64-bit and maskable: address, upper address, data, mask, pending.
    device.memory_bar(0, 0x1000, false).capability(0x50, 0x05, &[0x80, 0x01], &[0x01, 0]);
    let mut hardware = device.build(&[(0x10, 0xfe00_0000), (0x04, 2)]);
    hardware.set_bytes(0x54, &[0xaa; 20]);
    let mut bed = Bed::new(hardware);
    bed.dom0.hardware_mut().take_writes();
    assert_eq!(bed.read(0x60, 4), 0);
    assert_eq!(bed.read(0x64, 4), 0xaaaa_aaaa, "pending bits are no secret");
    assert_eq!(bed.write(0x60, 4, 1), 0);
    assert_eq!(bed.dom0.hardware().writes(), []);
}

#[test]
fn power_state_stays_d0_and_pme_is_not_offered() {
    let mut bed = Bed::nic();
    let at = bed.function.pm.unwrap().offset;
    let mut waking = bed.function.clone();
    waking.pm.as_mut().unwrap().capabilities = 0xc803;
    bed.server.add(VirtualBdf(sbdf("00:00.0")), VirtualFunction::new(&waking));
    assert_eq!(bed.read(at + pm::CAPABILITIES, 2), 0x0003);
    assert_eq!(bed.write(at + pm::CONTROL, 2, 0x0000), 0);
    assert_eq!(bed.write(at + pm::CONTROL, 2, 0x0103), 0);
    assert_eq!(bed.read(at + pm::CONTROL, 2), pm::NO_SOFT_RESET.into());
    assert_eq!(bed.dom0.hardware().writes(), []);
    let status = bed.server.functions().next().unwrap();
    let names: Vec<_> =
        status.dropped.writes().iter().map(|w| (w.name, w.count)).collect();
    assert_eq!(names, [("PMCSR", 1)]);
}

#[test]
fn starting_a_self_test_is_denied_and_nothing_else_of_that_write_is_done() {
    let mut bed = Bed::nvme();
    assert_eq!(bed.write(0x0f, 1, 0x40), -3);
    assert_eq!(bed.write(0x0c, 4, 0x4000_0010), -3);
    assert_eq!(bed.dom0.hardware().writes(), []);
    // What restores a saved value passes: the cache line size is the guest's.
    assert_eq!(bed.write(0x0c, 4, 0x0000_0010), 0);
    assert_eq!(bed.read(0x0c, 1), 0x10);
}

#[test]
fn dropped_writes_are_counted_by_name_and_the_table_is_bounded() {
    let mut bed = Bed::nvme();
    let control = bed.function.msix.unwrap().control();
    bed.write(control, 2, 0xc040);
    bed.write(control, 2, 0x8040);
    let status = bed.server.functions().next().unwrap();
    let [dropped] = status.dropped.writes() else { panic!("{:?}", status.dropped) };
    assert_eq!((dropped.name, dropped.count), ("MSIX_CONTROL", 2));
    assert_eq!((dropped.register.offset(), dropped.last), (control, 0x8040));
    for offset in (0x100..0x1000).step_by(4) {
        bed.write(offset, 4, offset.into());
    }
    let status = bed.server.functions().next().unwrap();
    assert_eq!(status.dropped.writes().len(), crate::policy::MAX_DROPPED);
    assert_eq!(status.dropped.others(), 960 - 31);
    assert_eq!(status.dropped.writes().last().unwrap().name, "");
}

#[test]
fn absent_functions_read_all_ones_and_not_found() {
    let mut bed = Bed::nvme();
    for op in [
        RawOp { devfn: 1, ..read(0, 4) },
        RawOp { devfn: 8, ..read(0, 4) },
        RawOp { bus: 1, ..read(0, 4) },
        RawOp { domain: 1, ..read(0, 4) },
        RawOp { domain: 0x1_0000, ..read(0, 4) },
        RawOp { bus: 0x100, ..read(0, 4) },
        RawOp { devfn: 0x100, ..read(0, 4) },
        RawOp { devfn: u32::MAX, ..read(0, 4) },
    ] {
        assert_eq!(bed.op(op), (-1, u32::MAX), "{op:?}");
    }
    assert_eq!(bed.asked, 0);
}

#[test]
fn places_outside_config_space_are_invalid() {
    let mut bed = Bed::nvme();
    for (offset, size) in [
        (0x1000, 4),
        (0x0ffe, 4),
        (2, 4),
        (1, 2),
        (0, 0),
        (0, 3),
        (0, 8),
        (0, -4),
        (-4, 4),
        (i32::MIN, 1),
        (i32::MAX, 1),
        (0x1_0000, 4),
    ] {
        let op = RawOp { offset, size, ..read(0, 4) };
        assert_eq!(bed.op(op), (-2, u32::MAX), "{offset:#x}+{size}");
    }
    let mut small = bed.function.clone();
    small.space = 0x100;
    bed.server.add(VirtualBdf(sbdf("00:00.0")), VirtualFunction::new(&small));
    assert_eq!(bed.op(read(0x100, 4)), (-2, u32::MAX));
    assert_eq!(bed.op(read(0xfc, 4)).0, 0);
}

#[test]
fn errors_of_dom0_reach_the_guest_as_codes_of_the_protocol() {
    use pcidom_pci::AccessError as E;
    for (error, code) in [
        (E::NoDevice, -1),
        (E::NoRegister, -2),
        (E::Refused, -3),
        (E::TimedOut, -5),
        (E::LinkDown, -5),
        (E::Failed(-19), -5),
        (E::Failed(0x87), -5),
    ] {
        let mut bed = Bed::nvme();
        bed.dom0.fail_with(Some(error));
        assert_eq!(bed.op(read(0x06, 2)), (code, u32::MAX), "{error}");
    }
}

#[test]
fn the_multifunction_bit_follows_the_guests_bus() {
    let mut bed = Bed::nvme();
    let mut second = bed.function.clone();
    second.sbdf = sbdf("01:00.1");
    second.header_type = 0x80;
    assert_eq!(bed.read(0x0e, 1), 0);
    bed.server.add(VirtualBdf(sbdf("00:00.1")), VirtualFunction::new(&second));
    assert_eq!(bed.read(0x0e, 1), 0x80);
    bed.server.remove(sbdf("01:00.0"));
    assert_eq!(bed.op(RawOp { devfn: 1, ..read(0x0e, 1) }), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Advisory 131: the log of hardware writes is what the table allows, and nothing else.
    #[test]
    fn nothing_but_what_the_table_allows_is_ever_written(
        writes in prop::collection::vec(
            (0..0x400_u16, prop_oneof![Just(1), Just(2), Just(4)], any::<u32>()),
            1..60,
        ),
    ) {
        let mut bed = Bed::nic();
        let express = bed.function.pcie.unwrap().offset;
        for (dword, size, value) in writes {
            bed.write(4 * dword, size, value);
        }
        for (register, value) in bed.dom0.hardware().writes() {
            let allowed = match (register.offset(), register.width()) {
                (header::COMMAND, Width::Word) => {
                    let decode = u32::from(bits::IO | bits::MEMORY);
                    prop_assert_eq!(value & decode, decode);
                    u32::from(!(bits::SERR | bits::PARITY))
                }
                (header::CACHE_LINE_SIZE, Width::Byte) => 0xff,
                (header::STATUS, Width::Word) => 0xf900,
                (at, Width::Word) if at == express + 0x0a => 0x000f,
                // The read size was 128 bytes, and more is not to be had.
                (at, Width::Word) if at == express + 0x08 => 0x0810,
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(value & !allowed, 0, "{:?}", register);
        }
    }
}

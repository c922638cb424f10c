//! Config space: what a guest writes and the hardware must not see.

use pcidom_pci::regs::{command as bits, header};
use pcidom_pci::{Register, Width};
use pcidom_sim::xen::devices::Hand;
use pcidom_toolstack::verb::Reply;
use pcidom_xenbus::pciif::{RawOp, command};

use super::Raw;

fn word_at(bytes: &[u8], offset: u16) -> u16 {
    u16::from_le_bytes([bytes[usize::from(offset)], bytes[usize::from(offset) + 1]])
}

#[test]
fn xsa_120_decode_and_error_reporting_are_not_the_guests() {
    let mut raw = Raw::new(4);
    let kept = bits::MEMORY | bits::IO | 0x0140; // SERR# and parity errors
    let before = word_at(&raw.hardware(), header::COMMAND) & kept;
    assert!(before & bits::MEMORY != 0);
    for value in [0, 0xffff, 0x0140, 0x0007, 0x0400, 0xfffc] {
        for (offset, size) in [(4, 2), (4, 1), (5, 1), (4, 4)] {
            raw.write(offset, size, value);
            let now = word_at(&raw.hardware(), header::COMMAND) & kept;
            assert_eq!(now, before, "{size} bytes {value:#x} at {offset}");
            assert!(raw.scene.world.xen().decodes_memory(raw.device()));
        }
    }
    raw.scene.check();
}

/// The addendum: a guest's MSI-X table is reached through memory decode by Xen as well.
#[test]
fn xsa_120_decode_goes_off_only_after_msix_at_the_end_of_a_loan() {
    let mut raw = Raw::new(4);
    let enable = RawOp { cmd: command::ENABLE_MSIX, value: 2, ..RawOp::default() };
    assert_eq!(raw.op(enable, &[0, 1]).err, 0);
    let (device, xen) = (raw.device(), raw.scene.world.xen().clone());
    assert!(xen.msix_control(device) & 0x8000 != 0);
    xen.with_hardware(device, Hand::Dom0, |b| b.hardware_mut().take_writes());
    let reply = raw.scene.detach(raw.guest, device, true);
    assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
    let writes =
        xen.with_hardware(device, Hand::Dom0, |b| b.hardware_mut().take_writes());
    let control = raw.function.msix.as_ref().unwrap().control();
    let control = Register::new(control, Width::Word).unwrap();
    let command = Register::new(header::COMMAND, Width::Word).unwrap();
    let power = raw.function.pm.as_ref().unwrap().offset + 4;
    let power = Register::new(power, Width::Word).unwrap();
    let (mut enabled, mut decode_off) = (true, 0);
    for (register, value) in writes.unwrap() {
        if register == control {
            enabled = value & 0x8000 != 0;
        }
        // The way through D3hot is this card's reset.
        let resets = register == power && value & 3 == 3;
        if resets || register == command && value & u32::from(bits::MEMORY) == 0 {
            decode_off += 1;
            assert!(!enabled, "decode off while MSI-X is on");
        }
    }
    assert!(!enabled && decode_off > 0, "it was reset");
    assert!(xen.decodes_memory(device));
    raw.scene.check();
}

#[test]
fn xsa_128_a_write_over_several_fields_reaches_only_what_it_may() {
    let mut raw = Raw::new(4);
    let msi = raw.function.msi.as_ref().unwrap().offset;
    let msix = raw.function.msix.as_ref().unwrap().offset;
    let before = raw.hardware();
    for base in [msi, msix] {
        // Id, next pointer and control in one; then message address and data, or the table.
        for offset in [base, base + 2, base + 4, base + 8, base + 10, base + 12] {
            for size in [4, 2, 1] {
                for value in [!0, 0, 0xfee0_0000, 0x0001_4041] {
                    if offset % 4 == 0 || size < 4 {
                        raw.write(offset, size, value);
                    }
                }
            }
        }
    }
    let after = raw.hardware();
    for base in [msi, msix] {
        let range = usize::from(base)..usize::from(base) + 16;
        assert_eq!(after[range.clone()], before[range], "capability at {base:#x}");
    }
}

#[test]
fn xsa_129_mask_bits_are_xens() {
    let mut raw = Raw::new(4);
    let enable = RawOp { cmd: command::ENABLE_MSIX, value: 1, ..RawOp::default() };
    assert_eq!(raw.op(enable, &[0]).err, 0);
    let control = raw.function.msix.as_ref().unwrap().control();
    let before = word_at(&raw.hardware(), control);
    // Function Mask, which Xen takes for its own doing, and Enable.
    for value in [0xc000, 0x4000, 0x8000, 0] {
        raw.write(control, 2, value);
        raw.write(control + 1, 1, value >> 8);
        assert_eq!(word_at(&raw.hardware(), control), before, "{value:#x}");
    }
    raw.scene.check();
}

/// Whether a loan may change it by plain writes: command, status and cache line size, and in PCI
/// Express the control and status of the device.
fn may_change(raw: &Raw, place: Register) -> bool {
    let express = raw.function.pcie.as_ref().unwrap().offset;
    let device = [express + 8, express + 10];
    match place.offset() {
        header::CACHE_LINE_SIZE => place.width() == Width::Byte,
        header::COMMAND | header::STATUS => place.width() == Width::Word,
        offset => device.contains(&offset) && place.width() == Width::Word,
    }
}

#[test]
fn xsa_131_registers_that_nobody_described_are_not_written() {
    let mut raw = Raw::new(4);
    let (before, from) = (raw.hardware(), raw.records());
    let (device, xen) = (raw.device(), raw.scene.world.xen().clone());
    let written =
        || xen.with_hardware(device, Hand::Dom0, |b| b.hardware_mut().take_writes());
    written();
    for size in [4_u16, 2, 1] {
        for offset in (0..0x1000).step_by(usize::from(size)) {
            for value in [!0, 0, 0xa5a5_a5a5] {
                raw.write(offset, size.into(), value);
            }
        }
    }
    // Also those that would have changed nothing in this device.
    let written = written().unwrap();
    assert!(!written.is_empty());
    for (place, value) in written {
        assert!(may_change(&raw, place), "{place:?} {value:#x}");
    }
    assert_ne!(before, raw.hardware());
    // No reset, no power state, no interrupt: nothing happened that Xen would know of.
    assert_eq!(raw.records(), from);
    assert!(raw.scene.world.xen().decodes_memory(raw.device()));
    raw.scene.check();
}

use super::{e1000e, nvme, sbdf};
use crate::access::AccessError;
use crate::fake::{FakeBackend, FakeFunction, Fault, run};
use crate::function::{Af, Bar, BarKind, Function, Msi, Msix, Pcie, Pm, Rom};
use crate::function::{BarRegister, ExtendedCapability, Subsystem};
use crate::regs::capability;
use crate::scan::{MAX_CAPABILITIES, MAX_EXTENDED_CAPABILITIES, ScanError, scan};

fn scanned(backend: &mut FakeBackend) -> Result<Function, ScanError> {
    run(backend, |config| async move { scan(&config).await }).0
}

/// A function with one capability list, given as (offset, id and next pointer).
fn with_list(list: &[(u16, [u8; 2])]) -> FakeBackend {
    let mut builder = FakeFunction::builder(0x1234, 0x5678, 0xff_0000, 0);
    builder.put(0x06, &[0x10, 0x00]).put(0x34, &[0x40]);
    for (offset, bytes) in list {
        builder.put(*offset, bytes);
    }
    FakeBackend::new(sbdf(), builder.build(&[]))
}

#[test]
fn the_nvme_is_found_as_it_is() {
    let mut backend = nvme();
    let before = backend.hardware().bytes().to_vec();
    let function = scanned(&mut backend).unwrap();
    assert_eq!((function.vendor, function.device), (0x1b36, 0x0010));
    assert_eq!((function.class, function.revision), (0x01_0802, 2));
    assert_eq!(function.subsystem, Some(Subsystem { vendor: 0x1af4, device: 0x1100 }));
    assert_eq!((function.interrupt_line, function.interrupt_pin), (0x0b, 1));
    let kind = BarKind::Memory { wide: true, prefetchable: false };
    let bar = Bar { index: 0, kind, address: 0xfe40_0000, size: 0x4000 };
    assert_eq!(function.bars, [bar]);
    assert_eq!(function.bar_registers.len(), 6);
    assert_eq!(function.rom, None);
    let expected = Msix {
        offset: 0x40,
        table_size: 65,
        table_bar: 0,
        table_offset: 0x2000,
        pba_bar: 0,
        pba_offset: 0x3000,
    };
    assert_eq!(function.msix, Some(expected));
    assert_eq!(function.msix_table(), Some(0xfe40_2000));
    let pcie = Pcie {
        offset: 0x80,
        version: 2,
        port_type: 0,
        flr: true,
        control: 0,
        slot: None,
    };
    assert_eq!(function.pcie, Some(pcie));
    let pm = Pm { offset: 0x60, no_soft_reset: true, capabilities: 0x0003 };
    assert_eq!(function.pm, Some(pm));
    assert_eq!((function.msi, function.af, function.list_cut_at), (None, None, None));
    assert_eq!(function.space, 4096);
    assert_eq!(
        function.to_string(),
        "0000:01:00.0 1b36:0010 class 01.08.02, BAR0 mem64 0xfe400000+0x4000, \
         caps: MSI-X(65 @ BAR0+0x2000) PCIe(FLR) PM"
    );
    // No register stays in its sizing mode, and sizing is dom0's own affair.
    assert_eq!(scanned(&mut backend), Ok(function));
    assert_eq!(backend.hardware().writes(), []);
    assert_eq!(backend.hardware().bytes(), before);
}

#[test]
fn the_nic_has_every_kind_of_bar() {
    let function = scanned(&mut e1000e()).unwrap();
    let sizes: Vec<_> = function.bars.iter().map(|bar| (bar.index, bar.size)).collect();
    assert_eq!(sizes, [(0, 0x2_0000), (1, 0x2_0000), (2, 0x20), (3, 0x4000)]);
    assert_eq!(
        function.bar(2).map(|bar| (bar.kind, bar.address)),
        Some((BarKind::Io, 0xc000))
    );
    let register = BarRegister { offset: 0x30, value: 0xfe60_0000 };
    let rom = Rom { register, address: 0xfe60_0000, size: 0x4_0000 };
    assert_eq!(function.rom, Some(rom));
    let msi = Msi {
        offset: 0xd0,
        is_64bit: true,
        maskable: false,
        vectors: 1,
        control_bits: 0x80,
    };
    assert_eq!((function.msi, msi.length()), (Some(msi), 14));
    assert_eq!(function.msix_table(), Some(0xfe68_0000));
    assert_eq!(function.decode(), 0b11);
    assert_eq!(
        function.to_string(),
        "0000:01:00.0 8086:10d3 class 02.00.00, BAR0 mem32 0xfe640000+0x20000, \
         BAR1 mem32 0xfe660000+0x20000, BAR2 io 0xc000+0x20, \
         BAR3 mem32 0xfe680000+0x4000, ROM 0xfe600000+0x40000, \
         caps: MSI-X(5 @ BAR3+0x0) MSI(1) PCIe(no FLR) PM"
    );
}

#[test]
fn a_bar_above_4_gib_keeps_all_its_bits() {
    let mut builder = FakeFunction::builder(0x1234, 0x5678, 0xff_0000, 0);
    builder.memory_bar(2, 1 << 33, true);
    let hardware = builder.build(&[(0x18, 0), (0x1c, 0x38)]);
    let function = scanned(&mut FakeBackend::new(sbdf(), hardware)).unwrap();
    let kind = BarKind::Memory { wide: true, prefetchable: false };
    let bar = Bar { index: 2, kind, address: 0x38_0000_0000, size: 1 << 33 };
    assert_eq!(function.bars, [bar]);
}

#[test]
fn nobody_there_is_an_error() {
    let mut backend = nvme();
    backend.fail_with(Some(AccessError::NoDevice));
    assert_eq!(scanned(&mut backend), Err(ScanError::Absent));
    backend.fail_with(Some(AccessError::TimedOut));
    assert_eq!(scanned(&mut backend), Err(ScanError::Access(AccessError::TimedOut)));

    let empty = FakeFunction::builder(0xffff, 0xffff, 0, 0).build(&[]);
    assert_eq!(scanned(&mut FakeBackend::new(sbdf(), empty)), Err(ScanError::Absent));

    // dom0 goes on giving out the ids of a device that fell off the bus.
    let mut backend = nvme();
    backend.hardware_mut().set_fault(Fault::Gone);
    assert_eq!(scanned(&mut backend), Err(ScanError::NotResponding));
}

#[test]
fn a_header_of_another_type_is_an_error() {
    let mut builder = FakeFunction::builder(0x1234, 0x5678, 0x06_0700, 0);
    let cardbus = builder.put(0x0e, &[0x82]).build(&[]);
    let mut backend = FakeBackend::new(sbdf(), cardbus);
    assert_eq!(scanned(&mut backend), Err(ScanError::HeaderType(0x82)));
}

#[test]
fn a_bridge_has_two_bars_and_no_subsystem() {
    let mut builder = FakeFunction::builder(0x1234, 0x5678, 0x06_0400, 0);
    // What follows BAR1 there are bus numbers and windows, which must not be written.
    let bridge = builder.put(0x0e, &[0x81]).put(0x18, &[0, 1, 1, 0]).build(&[]);
    let function = scanned(&mut FakeBackend::new(sbdf(), bridge)).unwrap();
    assert_eq!((function.bar_registers.len(), function.subsystem), (2, None));
    assert!(function.is_bridge());
}

#[test]
fn a_looping_list_ends() {
    let mut backend = with_list(&[(0x40, [0x09, 0x50]), (0x50, [0x09, 0x40])]);
    let function = scanned(&mut backend).unwrap();
    assert_eq!(function.capabilities.len(), 2);
    assert_eq!(function.list_cut_at, Some(0x40));
    assert!(function.to_string().ends_with("caps: (list broken at 0x40)"));
}

#[test]
fn the_longest_list_fits_exactly() {
    let list: Vec<_> = (0x40..0x100_u16)
        .step_by(4)
        .map(|at| (at, [0x09, u8::try_from(at + 4).unwrap_or(0)]))
        .collect();
    let function = scanned(&mut with_list(&list)).unwrap();
    assert_eq!(function.capabilities.len(), MAX_CAPABILITIES);
    assert_eq!(function.list_cut_at, None);
}

#[test]
fn reserved_bits_of_pointers_are_masked_and_bad_pointers_cut_the_list() {
    let mut backend = with_list(&[(0x40, [0x09, 0x53]), (0x50, [0x09, 0x3c])]);
    let function = scanned(&mut backend).unwrap();
    let offsets: Vec<_> =
        function.capabilities.iter().map(|known| known.offset).collect();
    assert_eq!(
        (offsets.as_slice(), function.list_cut_at),
        (&[0x40, 0x50][..], Some(0x3c))
    );

    let function = scanned(&mut with_list(&[(0x40, [0xff, 0xff])])).unwrap();
    assert_eq!((function.capabilities.len(), function.list_cut_at), (0, Some(0x40)));
}

#[test]
fn capabilities_that_run_out_of_the_space_are_not_parsed() {
    for id in [capability::PM, capability::MSI, capability::MSIX, capability::PCIE] {
        let function =
            scanned(&mut with_list(&[(0x40, [0x09, 0xfc]), (0xfc, [id, 0])])).unwrap();
        assert_eq!(function.capabilities.len(), 2);
        let Function { pm, msi, msix, pcie, .. } = function;
        // Only MSI's control word fits, and with it nothing of use.
        assert_eq!((pm, msi, msix, pcie), (None, None, None, None), "{id:#x}");
    }
}

#[test]
fn an_msix_table_outside_its_bar_is_not_given_an_address() {
    for (bar, offset, entries) in
        [(0, 0x3c00, 65), (7, 0, 1), (1, 0, 1), (0, 0xffff_fff8, 2)]
    {
        let mut builder = FakeFunction::builder(0x1234, 0x5678, 0xff_0000, 0);
        builder.memory_bar(0, 0x4000, true).msix(0x40, entries, bar, offset, 0, 0);
        let function =
            scanned(&mut FakeBackend::new(sbdf(), builder.build(&[]))).unwrap();
        assert_eq!(function.msix_table(), None, "{bar} {offset:#x}");
        assert!(function.to_string().contains("unusable"));
    }
}

#[test]
fn an_extended_list_without_end_is_followed_to_the_bound() {
    let mut builder = FakeFunction::builder(0x1234, 0x5678, 0xff_0000, 0);
    builder.pcie(0x40, false);
    for n in 0..200_u16 {
        let (offset, next) = (0x100 + 4 * n, u32::from(0x104 + 4 * n));
        builder.put(offset, &(next << 20 | 0x1_000b).to_le_bytes());
    }
    let function = scanned(&mut FakeBackend::new(sbdf(), builder.build(&[]))).unwrap();
    assert_eq!(function.extended.len(), MAX_EXTENDED_CAPABILITIES);
    assert!(function.list_cut_at.is_some());
}

#[test]
fn advanced_features_and_the_extended_list_are_found() {
    let mut builder = FakeFunction::builder(0x1234, 0x5678, 0xff_0000, 0);
    builder
        .pcie(0x40, false)
        .capability(0x90, capability::AF, &[6, 3, 0, 0], &[])
        .put(0x100, &0x1402_0001_u32.to_le_bytes())
        .put(0x140, &0x1401_000b_u32.to_le_bytes());
    let function = scanned(&mut FakeBackend::new(sbdf(), builder.build(&[]))).unwrap();
    assert_eq!(function.af, Some(Af { offset: 0x90, flr: true, pending: true }));
    let aer = ExtendedCapability { id: 1, version: 2, offset: 0x100 };
    let vendor = ExtendedCapability { id: 0xb, version: 1, offset: 0x140 };
    assert_eq!(function.extended, [aer, vendor]);
    // The second header points at itself.
    assert_eq!(function.list_cut_at, Some(0x140));
}

#[test]
fn without_ecam_a_pcie_function_has_conventional_space() {
    let mut builder = FakeFunction::builder(0x1234, 0x5678, 0xff_0000, 0);
    builder.pcie(0x40, true).put(0x100, &[0xff; 4]);
    let function = scanned(&mut FakeBackend::new(sbdf(), builder.build(&[]))).unwrap();
    assert_eq!((function.space, function.extended.len()), (256, 0));
    assert!(!function.has_extended_space());
}

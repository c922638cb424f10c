//! The register table, whole: every place, every width, on devices of several kinds.

mod layouts;
mod rules;

use pcidom_loan::Exceptions;
use pcidom_pci::Width;

use layouts::{Rig, all, places, register};

const PATTERNS: [u32; 6] =
    [0, u32::MAX, 0x5555_5555, 0xaaaa_aaaa, 0x8000_0001, 0x00ff_1234];

fn permissive() -> Exceptions {
    let mut exceptions = Exceptions::default();
    exceptions.permissive = true;
    exceptions
}

#[test]
fn a_dump_read_by_a_guest_is_the_one_computed_from_the_table() {
    for layout in all() {
        let mut rig = Rig::new(&layout, &Exceptions::default());
        let lines: Vec<_> = rig.guest.lines().collect();
        assert_eq!(4 * lines.len(), layout.raw.len(), "{}", layout.name);
        for place in places(rig.function.space) {
            let whole = register(place.offset() & !3, Width::Dword);
            let line = lines[usize::from(whole.offset() / 4)];
            let shown = line.shown(rig.load(whole)) >> (8 * (place.offset() & 3));
            let expected = Some(shown & place.width().mask());
            assert_eq!(rig.read(place), expected, "{} {place:?}", layout.name);
        }
    }
}

#[test]
fn a_write_changes_only_bits_that_the_table_names_whatever_its_place_and_width() {
    for layout in all() {
        for exceptions in [Exceptions::default(), permissive()] {
            let mut rig = Rig::new(&layout, &exceptions);
            let lines: Vec<_> = rig.guest.lines().collect();
            // Error bits to clear.
            rig.hardware[7] = 0xf9;
            let mut before = rig.hardware.clone();
            for place in places(rig.function.space) {
                let at = usize::from(place.offset() & !3);
                let line = lines[at / 4];
                for pattern in PATTERNS {
                    before.copy_from_slice(&rig.hardware);
                    rig.write(place, pattern);
                    if before == rig.hardware {
                        continue;
                    }
                    let word = |bytes: &[u8]| {
                        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
                    };
                    let (old, new) = (word(&before), word(&rig.hardware));
                    let may = line.write | line.clear & !new;
                    let what = format!("{} {place:?} {pattern:#x}", layout.name);
                    assert_eq!((old ^ new) & !may, 0, "{what}");
                    // And nothing elsewhere.
                    assert_eq!(before[..at], rig.hardware[..at], "{what}");
                    assert_eq!(before[at + 4..], rig.hardware[at + 4..], "{what}");
                }
            }
        }
    }
}

/// Said once more, without the table: what no exception may open.
#[test]
fn no_exception_opens_decode_messages_resets_power_or_what_is_hidden() {
    for layout in all() {
        let mut rig = Rig::new(&layout, &permissive());
        let before = rig.hardware.clone();
        for place in places(rig.function.space) {
            for pattern in PATTERNS {
                rig.write(place, pattern);
            }
        }
        let word_of = |bytes: &[u8], at: u16| {
            let at = usize::from(at);
            u16::from_le_bytes([bytes[at], bytes[at + 1]])
        };
        let word = |at: u16| word_of(&before, at);
        let now = |at: u16| word_of(&rig.hardware, at);
        let name = layout.name;
        assert_eq!(
            now(4) & 0x0043,
            rig.function.decode() & 0x0043,
            "{name}: decode, parity"
        );
        assert_eq!(now(4) & 0x0100, 0, "{name}: SERR");
        for bar in (0x10..0x28).step_by(2).chain([0x30, 0x32, 0x3c, 0x34]) {
            assert_eq!(now(bar), word(bar), "{name}: {bar:#x}");
        }
        for found in &rig.function.capabilities {
            assert_eq!(now(found.offset), word(found.offset), "{name}: a header");
        }
        if let Some(pm) = rig.function.pm {
            assert_eq!(now(pm.offset + 4), word(pm.offset + 4), "{name}: PMCSR");
        }
        let messages = rig.function.msi.map(|msi| msi.control());
        let vectors = rig.function.msix.map(|msix| msix.control());
        for control in [messages, vectors] {
            assert!(
                control.is_none_or(|at| now(at) == word(at)),
                "{name}: message control"
            );
        }
        if let Some(express) = rig.function.pcie {
            let at = express.offset + 8;
            assert_eq!(
                (now(at) ^ word(at)) & 0x8200,
                0,
                "{name}: FLR, phantom functions"
            );
        }
        for secret in &layout.secrets {
            let (was, is) = (&before[secret.clone()], &rig.hardware[secret.clone()]);
            assert_eq!(was, is, "{name}: {secret:x?}");
        }
    }
}

/// Advisories 128, 129, 337, and whatever tells of other functions or of the host.
#[test]
fn messages_and_hidden_capabilities_read_as_nothing() {
    for layout in all() {
        for exceptions in [Exceptions::default(), permissive()] {
            let mut rig = Rig::new(&layout, &exceptions);
            for place in places(rig.function.space) {
                let value = rig.read(place).unwrap();
                let bytes = value.to_le_bytes();
                for (at, byte) in (usize::from(place.offset())..).zip(bytes) {
                    let secret = layout.secrets.iter().any(|secret| secret.contains(&at));
                    let read = at < usize::from(place.end());
                    // In an extended header's place there is a null capability.
                    assert!(
                        !(secret && read) || byte == 0,
                        "{} {at:#x} {value:#x}",
                        layout.name
                    );
                }
            }
        }
    }
}

/// What Linux does with a device: walk both lists, which must end and hold what is shown.
#[test]
fn a_guest_finds_both_lists_whole_and_without_what_is_hidden() {
    let found = |name: &str| {
        let layout = all().into_iter().find(|layout| layout.name == name).unwrap();
        let mut rig = Rig::new(&layout, &Exceptions::default());
        let mut read =
            |at: u32, width| rig.read(register(at.try_into().unwrap(), width)).unwrap();
        let mut ids = Vec::new();
        let mut at = read(0x34, Width::Byte);
        while at != 0 {
            ids.push(read(at, Width::Byte));
            at = read(at + 1, Width::Byte);
            assert!(ids.len() < 48, "{name}: {ids:x?}");
        }
        let mut extended = Vec::new();
        at = if layout.raw.len() > 0x100 { 0x100 } else { 0 };
        while at != 0 && read(at, Width::Dword) != 0 {
            let word = read(at, Width::Dword);
            extended.push((at, word & 0xffff));
            at = word >> 20;
            assert!(extended.len() < 960, "{name}: {extended:x?}");
        }
        (ids, extended)
    };
    let nothing = Vec::new;
    assert_eq!(found("nvme"), (vec![0x11, 1, 0x10], vec![(0x100, 0), (0x148, 0x19)]));
    let nic = (vec![1, 5, 0x10, 0x11], vec![(0x100, 0), (0x140, 3)]);
    assert_eq!(found("e1000e"), nic);
    assert_eq!(found("ahci"), (vec![5, 1, 0x12], nothing()));
    assert_eq!(found("rtl8139"), (vec![1], nothing()));
    assert_eq!(found("bare"), (nothing().iter().map(|(at, _)| *at).collect(), nothing()));
    let full = vec![(0x100, 3), (0x200, 0xb), (0x400, 0x18)];
    assert_eq!(found("full"), (vec![1, 5, 3, 0x10, 7, 9, 0x7e], full));
    // MSI lies in Power Management's place there, so the list ends with it.
    assert_eq!(found("malformed").1, [(0x100, 0), (0x104, 0xb)]);
    assert_eq!(found("endless"), (vec![0x10], nothing()));
}

/// A driver that saves all of config space and writes it back is not worth a word.
#[test]
fn writing_back_what_was_read_is_not_denied() {
    for layout in all() {
        let mut rig = Rig::new(&layout, &Exceptions::default());
        let before = rig.hardware.clone();
        for at in (0..rig.function.space).step_by(4) {
            let place = register(at, Width::Dword);
            let value = rig.read(place).unwrap();
            rig.write(place, value);
        }
        assert_eq!(rig.denied(), [], "{}", layout.name);
        assert_eq!(rig.hardware[8..], before[8..], "{}", layout.name);
    }
}

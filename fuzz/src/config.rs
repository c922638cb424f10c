//! A device that says anything of itself, and a guest that reads and writes anywhere in it.
//!
//! An input is what the device's config space holds and then accesses of the guest:
//!
//! * a byte that chooses what it is made from, and how many places are overwritten (modulo
//!   16); each of them an offset (2), a length (modulo 16) and that many bytes;
//! * 8 bytes: which bits of the BARs and of the ROM's register can be written (each byte
//!   gives the number of zeros below);
//! * if bit 5 of the first byte is set, exceptions: a byte (bit 0: permissive; how many
//!   registers, from bit 1 on), and for each register width, offset (2) and mask (4);
//! * accesses, each a byte (bit 0: a write, bits 1 and 2: the width), offset (2) and, of a
//!   write, value (4).

use std::sync::OnceLock;

use pciback::policy::{Field, ReadRule};
use pcidom_loan::{Allowed, Exceptions, MAX_ALLOWED};
use pcidom_pci::fake::FakeFunction;
use pcidom_pci::regs::header;
use pcidom_pci::{Access, Config, Function, Question, Register, Sbdf, Width, scan};
use pcidom_script::{Progress, Script};
use pcidom_xenbus::pciif::{FRONT_ACTIVE, command, word};

use crate::device::Model;
use crate::guest::Guest;
use crate::input::Input;
use crate::rights::SHOWN;

/// Most accesses of one input.
const MAX_ACCESSES: usize = 48;
/// Questions of one scan: 48 capabilities and as many as fit into extended space, with a few
/// reads each.
const MAX_QUESTIONS: usize = 4000;

/// The bit of an input's first byte that says that exceptions follow.
const EXCEPTIONS: u8 = 1 << 5;
/// The header's BIST, and the bit of it that starts a test.
const BIST: u16 = 0x0f;
const START_BIST: u32 = 1 << 6;
/// Extended capabilities that a guest finds at most.
const MAX_EXTENDED: usize = 64;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(model) = device(&mut input) else { return };
    // What is logged of it.
    let text = model.function.to_string();
    assert!(text.len() < 1000 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    check_table(model.fields());
    // A bridge is not lent: pciback's bus refuses it.
    if model.function.is_bridge() {
        return;
    }
    let mut guest = Guest::new([&model].into_iter());
    guest.add(0);
    check_list(&mut guest, &model);
    for _ in 0..MAX_ACCESSES {
        if input.is_empty() {
            break;
        }
        access(&mut guest, &model, &mut input);
    }
    guest.end();
}

/// Rows don't lie over each other, and each can be written as one register.
fn check_table(fields: &[Field]) {
    for (n, field) in fields.iter().enumerate() {
        let (start, end) = (field.register.offset(), field.register.end());
        for other in fields.iter().skip(n + 1) {
            let apart = other.register.offset() >= end || other.register.end() <= start;
            assert!(apart, "{field:?} {other:?}");
        }
    }
}

/// Scans what the input describes.
fn device(input: &mut Input<'_>) -> Option<Model> {
    static BASES: OnceLock<[Vec<u8>; 4]> = OnceLock::new();
    let bases = BASES.get_or_init(|| {
        let blank = FakeFunction::builder(0x1234, 0x5678, 0x01_0802, 0).build(&[]);
        [
            FakeFunction::nvme_like(),
            FakeFunction::e1000e_like(),
            blank,
            FakeFunction::port_like(1, 2, true),
        ]
        .map(|fake| fake.bytes().to_vec())
    });
    let first = input.byte();
    let mut bytes = bases[usize::from(first >> 6)].clone();
    for _ in 0..first % 16 {
        let at = usize::from(input.word()) % bytes.len();
        let length = usize::from(input.byte() % 16);
        for (place, byte) in bytes.iter_mut().skip(at).zip(input.bytes(length)) {
            *place = *byte;
        }
    }
    let masks = std::array::from_fn::<u32, 8, _>(|_| match input.byte() {
        0..=3 => 0,
        zeros => u32::MAX.checked_shl(u32::from(zeros % 32)).unwrap_or(0),
    });
    let exceptions =
        if first & EXCEPTIONS == 0 { Exceptions::default() } else { exceptions(input) };
    let sbdf = Sbdf::new(0, 1, 0, 0)?;
    let function = learn(sbdf, &bytes, &masks)?;
    assert!(function.capabilities.len() < 64 && function.extended.len() < 1024);
    Some(Model::new(function, bytes, exceptions))
}

/// What a person lets the guest write besides.
fn exceptions(input: &mut Input<'_>) -> Exceptions {
    let first = input.byte();
    let mut exceptions = Exceptions::default();
    exceptions.permissive = first & 1 != 0;
    for _ in 0..usize::from(first >> 1) % (MAX_ALLOWED + 1) {
        let width = input.pick(&[Width::Byte, Width::Word, Width::Dword]);
        let register = Register::new(input.word() & 0x1fff, width);
        let mask = input.dword() & width.mask();
        let allowed = register.and_then(|register| Allowed::new(register, mask));
        let added = allowed.is_none_or(|allowed| exceptions.allow(allowed));
        assert!(added, "no place for {allowed:?}");
    }
    exceptions
}

/// Which address register an offset belongs to: the BARs, and the ROM of either header.
fn address_register(offset: u16) -> Option<usize> {
    match offset {
        header::BAR0..0x28 => Some(usize::from(offset - header::BAR0) / 4),
        header::ROM => Some(6),
        header::BRIDGE_ROM => Some(7),
        _ => None,
    }
}

fn learn(sbdf: Sbdf, bytes: &[u8], masks: &[u32; 8]) -> Option<Function> {
    let mut sizing = [None; 8];
    let read = |sizing: &[Option<u32>; 8], register: Register| {
        let at = usize::from(register.offset());
        let width = usize::from(register.width().bytes());
        let place = bytes.get(at..at + width).unwrap_or(&[]);
        let value =
            place.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let sized =
            address_register(register.offset()).and_then(|n| sizing[n].zip(masks.get(n)));
        match sized {
            Some((written, mask)) => value & 0xf | written & mask & !0xf,
            None => value,
        }
    };
    let mut progress = Script::start(|asker| {
        let config = Config::new(asker, sbdf);
        async move { scan(&config).await }
    });
    for _ in 0..MAX_QUESTIONS {
        let (question, script) = match progress {
            Progress::Done(result) => return result.ok(),
            Progress::Asks(question, script) => (question, script),
        };
        let answer = match question {
            Question::Wait(_) => 0,
            Question::Look(_, register) | Question::Access(_, Access::Read(register)) => {
                read(&sizing, register)
            }
            Question::Access(_, Access::Write(register, value)) => {
                let number = address_register(register.offset());
                let number = number.expect("a scan writes address registers only");
                // Linux takes the recorded value back, and sizes on ones.
                let sizes = value | 0x7ff == u32::MAX;
                sizing[number] = sizes.then_some(value);
                0
            }
        };
        progress = script.resume(Ok(answer));
    }
    panic!("a scan that does not end");
}

/// The extended list that a guest finds ends, and has nothing hidden in it.
fn check_list(guest: &mut Guest<'_>, model: &Model) {
    if model.function.space <= 0x100 {
        return;
    }
    let mut offset = 0x100;
    for _ in 0..=MAX_EXTENDED {
        let (err, head) = ask(guest, command::CONF_READ, offset, 4, 0);
        assert_eq!(err, 0);
        assert!(SHOWN.contains(&(head as u16)), "shows {head:#x} at {offset:#x}");
        offset = (head >> 20) as u16 & !3;
        if offset == 0 {
            return;
        }
    }
    panic!("the extended list does not end");
}

fn access(guest: &mut Guest<'_>, model: &Model, input: &mut Input<'_>) {
    let kind = input.byte();
    let size = [1, 2, 4, 4][usize::from(kind >> 1 & 3)];
    let offset = input.word() & 0x1fff;
    if kind & 1 != 0 {
        let value = input.dword();
        let err = ask(guest, command::CONF_WRITE, offset, size, value).0;
        log::trace!("write {offset:#x}+{size} = {value:#x}: {err}");
        // What is not done is answered with success, but for a self test.
        let tests = (offset..offset + size).contains(&BIST)
            && value >> (8 * (BIST - offset)) & START_BIST != 0;
        let good = is_inside(model, offset, size) && !tests;
        assert_eq!(err == 0, good, "write {offset:#x}+{size} = {value:#x}: {err}");
        return;
    }
    let (err, value) = ask(guest, command::CONF_READ, offset, size, 0);
    log::trace!("read {offset:#x}+{size}: {err} {value:#x}");
    assert_eq!(
        err == 0,
        is_inside(model, offset, size),
        "read {offset:#x}+{size}: {err}"
    );
    if err != 0 {
        return;
    }
    // Whatever the width, the same bits.
    let bytes = (offset..offset + size).rev();
    let whole = bytes.fold(0, |whole, at| {
        let (err, byte) = ask(guest, command::CONF_READ, at, 1, 0);
        assert_eq!(err, 0);
        whole << 8 | byte
    });
    assert_eq!(whole, value, "{offset:#x}+{size} is another one byte by byte");
    check_shown(model, offset, size, value);
}

fn is_inside(model: &Model, offset: u16, size: u16) -> bool {
    offset.is_multiple_of(size) && offset < model.function.space
}

/// What is known exactly of what a guest sees.
fn check_shown(model: &Model, offset: u16, size: u16, value: u32) {
    let register = Width::from_bytes(size.into());
    let register = register.and_then(|width| Register::new(offset, width)).unwrap();
    if model.rights.hides(register) {
        assert_eq!(value, 0, "{offset:#x} is hidden");
        return;
    }
    assert!(!model.is_message(register) || value == 0, "shows {value:#x} of a message");
    let at = |field: &&Field| {
        field.register.offset() == offset && field.register.width().bytes() == size
    };
    match model.fields().iter().find(at).map(|field| field.read) {
        Some(ReadRule::Constant(constant)) => assert_eq!(value, constant),
        Some(ReadRule::Masked(mask)) => assert_eq!(value & !mask, 0),
        Some(ReadRule::Address(_)) if offset < header::ROM => {
            let bars = &model.function.bars;
            let known = value == 0
                || bars.iter().any(|bar| {
                    let mask = bar.size.wrapping_neg();
                    let halves = [bar.address, mask].map(|n| [n, n >> 32]);
                    let near = |n: &u64| (*n as u32 ^ value) & !0xf == 0;
                    halves.as_flattened().iter().any(near)
                });
            assert!(known, "BAR at {offset:#x} shows {value:#x}");
        }
        _ => {}
    }
}

/// A whole request of the guest.
fn ask(
    guest: &mut Guest<'_>,
    cmd: u32,
    offset: u16,
    size: u16,
    value: u32,
) -> (i32, u32) {
    let words = [cmd, 0, 0, 0, 0, offset.into(), size.into(), value];
    for (n, value) in words.into_iter().enumerate() {
        guest.page.set(word::OP + n, value);
    }
    guest.page.set(word::FLAGS, FRONT_ACTIVE);
    guest.call(|server, page, now, out| server.on_event(page, now, out));
    guest.settle();
    assert_eq!(guest.page.get(word::FLAGS), 0, "not answered");
    (guest.page.get(word::OP_ERR).cast_signed(), guest.page.get(word::OP_VALUE))
}

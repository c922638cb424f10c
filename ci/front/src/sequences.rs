//! What is asked, as data: each sequence stands for itself and leaves interrupts off.
//!
//! The first function is an NVMe drive with more than 128 MSI-X vectors, the second one a
//! network card with both MSI and MSI-X; both are PCI Express functions, whose config space
//! is 4096 bytes.

use pcidom_xenbus::pciif::command;

use crate::link::Place;

/// To whom a request goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To {
    /// The n-th function of the link.
    Function(usize),
    /// The first function's place with this added to it: nobody, if the backend is right.
    Beside(Place),
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// One read.
    Read { offset: i32, size: i32 },
    /// One write.
    Write { offset: i32, size: i32, value: u32 },
    /// Reads of one size at every offset from one to another, counted by their answers.
    ReadAll { size: i32, from: i32, to: i32 },
    /// A command without arguments.
    Command(u32),
    /// Turn on MSI-X: `count` is what the request says, the entries are what it holds.
    Msix { count: u32, entries: Entries },
}

/// MSI-X entries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entries {
    /// 0, 1, 2, ...: so many.
    First(u16),
    /// These.
    These(&'static [u16]),
}

/// One request, and its name in the output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) to: To,
    pub(crate) what: What,
}

const DRIVE: To = To::Function(0);
const CARD: To = To::Function(1);

/// COMMAND: memory decode and bus mastering; only bus mastering; INTx off.
const DECODE: u32 = 0x0006;
const NO_DECODE: u32 = 0x0004;
const COMMAND: i32 = 0x04;

const fn step(name: &'static str, to: To, what: What) -> Step {
    Step { name, to, what }
}

const fn read(name: &'static str, offset: i32, size: i32) -> Step {
    step(name, DRIVE, What::Read { offset, size })
}

const fn write(name: &'static str, offset: i32, size: i32, value: u32) -> Step {
    step(name, DRIVE, What::Write { offset, size, value })
}

const fn beside(name: &'static str, domain: u32, bus: u32, devfn: u32) -> Step {
    let place = Place { domain, bus, devfn };
    step(name, To::Beside(place), What::Read { offset: 0, size: 4 })
}

const fn command(name: &'static str, to: To, number: u32) -> Step {
    step(name, to, What::Command(number))
}

const fn msix(name: &'static str, to: To, count: u16) -> Step {
    step(name, to, What::Msix { count: count as u32, entries: Entries::First(count) })
}

const fn these(name: &'static str, entries: &'static [u16]) -> Step {
    #[expect(clippy::cast_possible_truncation, reason = "at most a few, in this file")]
    let count = entries.len() as u32;
    step(name, DRIVE, What::Msix { count, entries: Entries::These(entries) })
}

/// Says `count`, and holds as many entries as there is room for.
const fn says(name: &'static str, count: u32) -> Step {
    step(name, DRIVE, What::Msix { count, entries: Entries::First(128) })
}

/// Everything, in this order.
pub(crate) const ALL: &[(&str, &[Step])] = &[
    ("config", CONFIG),
    ("place", PLACE),
    ("command", COMMANDS),
    ("msix", MSIX),
    ("decode", MEMORY_DECODE),
    ("kinds", KINDS),
];

/// What is asked when the domain is about to end: interrupts stay on.
pub(crate) const LAST: &[Step] =
    &[msix("drive-stays-on", DRIVE, 3), msix("card-stays-on", CARD, 3)];

/// Config space: sizes, alignments, ends.
const CONFIG: &[Step] = &[
    read("ids", 0, 4),
    read("vendor-low-byte", 0, 1),
    read("size-0", 0, 0),
    read("size-3", 0, 3),
    read("size-8", 0, 8),
    read("size-negative", 0, -4),
    read("size-low-bits-right", 0, 0x0001_0004),
    read("last-dword", 4092, 4),
    read("last-byte", 4095, 1),
    read("across-the-end", 4094, 4),
    read("behind-the-end", 4096, 4),
    read("far-behind", 0x0001_0000, 4),
    read("offset-negative", -4, 4),
    read("offset-smallest", i32::MIN, 1),
    read("offset-largest", i32::MAX, 1),
    step("bytes-0", DRIVE, What::ReadAll { size: 1, from: 0, to: 272 }),
    step("words-0", DRIVE, What::ReadAll { size: 2, from: 0, to: 272 }),
    step("dwords-0", DRIVE, What::ReadAll { size: 4, from: 0, to: 272 }),
    step("bytes-end", DRIVE, What::ReadAll { size: 1, from: 4080, to: 4112 }),
    step("words-end", DRIVE, What::ReadAll { size: 2, from: 4080, to: 4112 }),
    step("dwords-end", DRIVE, What::ReadAll { size: 4, from: 4080, to: 4112 }),
    write("write-ids", 0, 4, 0),
    read("ids-after-it", 0, 4),
    write("write-size-3", 4, 3, 0),
    write("write-odd-word", 5, 2, 0),
    write("write-behind-the-end", 4096, 4, 0),
    write("write-negative", -4, 4, 0),
];

/// Addresses where there is nothing, among them some that are right in their low bits.
const PLACE: &[Step] = &[
    beside("domain-1", 1, 0, 0),
    beside("domain-17-bits", 0x0001_0000, 0, 0),
    beside("bus-1", 0, 1, 0),
    beside("bus-9-bits", 0, 0x100, 0),
    beside("function-7", 0, 0, 7),
    beside("slot-31", 0, 0, 31 << 3),
    beside("devfn-9-bits", 0, 0, 0x100),
    beside("all-ones", u32::MAX, u32::MAX, u32::MAX),
    step(
        "msix-at-slot-31",
        To::Beside(Place { domain: 0, bus: 0, devfn: 31 << 3 }),
        What::Msix { count: 1, entries: Entries::First(1) },
    ),
    step(
        "disable-at-slot-31",
        To::Beside(Place { domain: 0, bus: 0, devfn: 31 << 3 }),
        What::Command(command::DISABLE_MSIX),
    ),
];

/// Commands that a frontend can't send, and those it can without anything to be done.
const COMMANDS: &[Step] = &[
    command("aer-detected", DRIVE, command::AER_DETECTED),
    command("aer-resume", DRIVE, command::AER_RESUME),
    command("aer-mmio", DRIVE, command::AER_MMIO),
    command("aer-slot-reset", DRIVE, command::AER_SLOT_RESET),
    command("multi-msi", DRIVE, command::ENABLE_MULTI_MSI),
    command("11", DRIVE, 11),
    command("read-in-low-bits", DRIVE, 0x100),
    command("all-ones", DRIVE, u32::MAX),
    command("disable-msi-when-off", DRIVE, command::DISABLE_MSI),
    command("disable-msix-when-off", DRIVE, command::DISABLE_MSIX),
    command("msi-that-the-drive-lacks", DRIVE, command::ENABLE_MSI),
];

/// MSI-X: as many vectors as the page holds, and lists that are wrong.
const MSIX: &[Step] = &[
    msix("128-entries", DRIVE, 128),
    command("off-after-128", DRIVE, command::DISABLE_MSIX),
    says("129-entries", 129),
    says("0-entries", 0),
    says("all-ones-entries", u32::MAX),
    says("33-bits-of-entries", 1 << 31),
    these("one-twice", &[0, 1, 0]),
    these("behind-the-table", &[0, 129]),
    these("far-behind-the-table", &[0xffff]),
    these("last-of-the-table", &[128]),
    these("backwards", &[5, 3, 1]),
    msix("again-without-disable", DRIVE, 2),
    these("wrong-list-while-on", &[7, 7]),
    command("off-by-the-wrong-command", DRIVE, command::DISABLE_MSI),
    command("off-twice", DRIVE, command::DISABLE_MSIX),
];

/// MSI-X is in memory space; what the guest makes of decode must not matter.
const MEMORY_DECODE: &[Step] = &[
    write("off", COMMAND, 2, NO_DECODE),
    read("reads-off", COMMAND, 2),
    msix("msix", DRIVE, 2),
    write("off-while-on", COMMAND, 2, 0),
    command("msix-off", DRIVE, command::DISABLE_MSIX),
    write("on", COMMAND, 2, DECODE),
    read("reads-on", COMMAND, 2),
];

/// Both kinds of message interrupts at one function.
const KINDS: &[Step] = &[
    command("msi", CARD, command::ENABLE_MSI),
    command("msi-again", CARD, command::ENABLE_MSI),
    msix("msix-while-msi-is-on", CARD, 3),
    command("msi-while-msix-is-on", CARD, command::ENABLE_MSI),
    msix("too-many-msix-while-msi-is-on", CARD, 6),
    command("off", CARD, command::DISABLE_MSI),
    msix("all-of-the-card", CARD, 5),
    msix("and-some-of-the-drive", DRIVE, 3),
    command("card-off", CARD, command::DISABLE_MSIX),
    command("drive-off", DRIVE, command::DISABLE_MSIX),
];

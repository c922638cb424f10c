//! Devices of several kinds, as memory: every bit can be written, so that what does not
//! change was kept from it by the table alone.

use pcidom_loan::Exceptions;
use pcidom_pci::dump::scan_dump;
use pcidom_pci::{Access, Function, Register, Width};

use crate::VirtualFunction;
use crate::policy::{Plan, Step};
use crate::tests::sbdf;

/// One kind of device.
pub(super) struct Layout {
    pub(super) name: &'static str,
    pub(super) raw: Vec<u8>,
    /// Where messages, and what nobody may see, are: told by who drew the layout.
    pub(super) secrets: Vec<std::ops::Range<usize>>,
}

struct Drawing(Vec<u8>, Vec<std::ops::Range<usize>>);

impl Drawing {
    fn new(space: usize, ids: u32, class: u32) -> Self {
        let mut raw = vec![0; space];
        // Bytes of the device's own behind the header; not zero, so that they show.
        (0x40..space).for_each(|at| raw[at] = u8::try_from(at % 251).unwrap() | 1);
        let mut drawing = Self(raw, Vec::new());
        drawing.put(0, &ids.to_le_bytes()).put(8, &(class << 8).to_le_bytes());
        drawing.put(0x04, &[0x03, 0, 0x10, 0]).put(0x3c, &[0x0b, 1, 0, 0]);
        drawing
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Capabilities at these places, each with what is behind its header.
    fn list(&mut self, all: &[(u8, u8, &[u8])]) -> &mut Self {
        let mut link = 0x34;
        for (at, id, body) in all {
            let place = usize::from(*at);
            self.put(link, &[*at]).put(place, &[*id, 0]).put(place + 2, body);
            link = place + 1;
        }
        self
    }

    fn extended(&mut self, all: &[(usize, u16)]) -> &mut Self {
        for (n, (at, id)) in all.iter().enumerate() {
            let next = all.get(n + 1).map_or(0, |(next, _)| *next);
            let next = u32::try_from(next).unwrap();
            let word = next << 20 | 1 << 16 | u32::from(*id);
            self.put(*at, &word.to_le_bytes());
        }
        self
    }

    fn secret(&mut self, range: std::ops::Range<usize>) -> &mut Self {
        self.1.push(range);
        self
    }

    fn done(&self, name: &'static str) -> Layout {
        Layout { name, raw: self.0.clone(), secrets: self.1.clone() }
    }
}

/// PCI Express, version 2: capabilities, control with 512-byte reads, status.
const EXPRESS: [u8; 10] = [0x02, 0, 0x18, 0x80, 0, 0x10, 0x10, 0x28, 0, 0];
const PM: [u8; 6] = [0x03, 0xc8, 0x08, 0, 0, 0];

pub(super) fn nvme() -> Layout {
    let mut nvme = Drawing::new(0x1000, 0x0010_1b36, 0x01_0802);
    nvme.put(0x10, &0xfe40_0004_u32.to_le_bytes())
        .list(&[
            (0x40, 0x11, &[0x40, 0, 0, 0x20, 0, 0, 0, 0x30, 0, 0]),
            (0x60, 0x01, &PM),
            (0x80, 0x10, &EXPRESS),
        ])
        .extended(&[(0x100, 0x01), (0x148, 0x19)])
        .secret(0x104..0x148);
    nvme.done("nvme")
}

/// As the 82574: a PCI Express capability of version 1 that ends with the space.
pub(super) fn e1000e() -> Layout {
    let mut nic = Drawing::new(0x1000, 0x10d3_8086, 0x02_0000);
    let mut express = EXPRESS;
    express[0] = 0x01;
    nic.put(0x10, &0xfe64_0000_u32.to_le_bytes())
        .put(0x18, &0xc001_u32.to_le_bytes())
        .put(0x30, &0xfe60_0000_u32.to_le_bytes())
        .list(&[
            (0xc8, 0x01, &PM),
            (0xd0, 0x05, &[0x80, 0]),
            (0xe0, 0x10, &express),
            (0xa0, 0x11, &[4, 0, 3, 0, 0, 0, 3, 0x20, 0, 0]),
        ])
        .extended(&[(0x100, 0x01), (0x140, 0x03)])
        .secret(0xd4..0xde)
        .secret(0x104..0x140);
    nic.done("e1000e")
}

pub(super) fn ahci() -> Layout {
    let mut disks = Drawing::new(0x100, 0x2922_8086, 0x01_0601);
    disks
        .put(0x20, &0xc041_u32.to_le_bytes())
        .put(0x24, &0xfebd_1000_u32.to_le_bytes())
        .list(&[(0x80, 0x05, &[0x80, 0]), (0x70, 0x01, &PM), (0xa8, 0x12, &[0x10, 0])])
        .secret(0x84..0x8e);
    disks.done("ahci")
}

pub(super) fn rtl8139() -> Layout {
    let mut nic = Drawing::new(0x100, 0x8139_10ec, 0x02_0000);
    nic.put(0x10, &0xc101_u32.to_le_bytes())
        .put(0x14, &0xfebd_2000_u32.to_le_bytes())
        .list(&[(0x50, 0x01, &PM)]);
    nic.done("rtl8139")
}

/// No capabilities, whatever is at the pointer.
pub(super) fn bare() -> Layout {
    let mut bare = Drawing::new(0x100, 0x5678_1234, 0xff_0000);
    bare.put(0x06, &[0, 0]).put(0x34, &[0x41]).put(0x10, &0xc101_u32.to_le_bytes());
    bare.done("bare")
}

/// All that the table has a word for.
pub(super) fn full() -> Layout {
    let mut full = Drawing::new(0x1000, 0x5678_1234, 0x02_0000);
    full.put(0x10, &0xfe40_000c_u32.to_le_bytes())
        .put(0x14, &[0x38, 0, 0, 0])
        .list(&[
            (0x40, 0x01, &PM),
            (0x48, 0x13, &[6, 3, 0, 0]),
            (0x50, 0x05, &[0x80, 0x01]),
            (0x68, 0x03, &[0, 0]),
            (0x70, 0x10, &EXPRESS),
            (0xac, 0x07, &[0, 0]),
            (0xb4, 0x09, &[0x10, 0]),
            (0xd0, 0x14, &[0, 0]),
            (0xf0, 0x7e, &[0, 0]),
        ])
        .extended(&[
            (0x100, 0x03),
            (0x140, 0x01),
            (0x180, 0x10),
            (0x1c0, 0x0f),
            (0x200, 0x0b),
            (0x300, 0x0d),
            (0x340, 0xbeef),
            (0x400, 0x18),
        ])
        .secret(0x48..0x50)
        .secret(0x54..0x64)
        .secret(0xd0..0xf0)
        .secret(0x140..0x200)
        .secret(0x300..0x400);
    full.done("full")
}

/// MSI inside Power Management, a second MSI, a third one cut off by the end, and a list
/// that comes back to its start. And all kinds of that in the extended list.
pub(super) fn malformed() -> Layout {
    let mut broken = Drawing::new(0x1000, 0x5678_1234, 0x02_0000);
    broken
        .list(&[
            (0x40, 0x01, &PM),
            (0x44, 0x05, &[0x80, 0]),
            (0x60, 0x05, &[0x80, 0]),
            (0x80, 0x10, &EXPRESS),
            (0xc0, 0x10, &EXPRESS),
            (0xf8, 0x05, &[0x80, 0x01]),
        ])
        .put(0xf9, &[0x40])
        .extended(&[(0x100, 0x01), (0x104, 0x0b), (0xffc, 0x10)])
        .put(0xffe, &[0x01, 0x10])
        .secret(0x48..0x52)
        .secret(0x60..0x78)
        .secret(0xc0..0x100)
        .secret(0xffc..0x1000);
    broken.done("malformed")
}

/// An extended list that does not end before its bound.
pub(super) fn endless() -> Layout {
    let mut endless = Drawing::new(0x1000, 0x5678_1234, 0x02_0000);
    let all: Vec<(usize, u16)> = (0..80).map(|n| (0x100 + 8 * n, 0x0b)).collect();
    endless.list(&[(0x80, 0x10, &EXPRESS)]).extended(&all).secret(0x104..0x1000);
    endless.done("endless")
}

pub(super) fn all() -> [Layout; 8] {
    [nvme(), e1000e(), ahci(), rtl8139(), bare(), full(), malformed(), endless()]
}

/// A device with this layout and its guest.
pub(super) struct Rig {
    pub(super) hardware: Vec<u8>,
    pub(super) function: Function,
    pub(super) guest: VirtualFunction,
    /// Status registers, whose bits are read-only or cleared by writing 1: those bits.
    clears: Vec<(u16, u32)>,
}

impl Rig {
    pub(super) fn new(layout: &Layout, exceptions: &Exceptions) -> Self {
        let function = scan_dump(sbdf("01:00.0"), &layout.raw).unwrap();
        let mut clears = vec![(0x06, 0xf900)];
        clears.extend(function.pcie.map(|found| (found.offset + 10, 0x000f)));
        let mut hardware = layout.raw.clone();
        // As a function is lent.
        hardware[4..6].copy_from_slice(&function.decode().to_le_bytes());
        Self {
            hardware,
            guest: VirtualFunction::new(&function).with(exceptions),
            function,
            clears,
        }
    }

    pub(super) fn load(&self, register: Register) -> u32 {
        let at = usize::from(register.offset());
        let bytes = &self.hardware[at..usize::from(register.end())];
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    fn store(&mut self, register: Register, value: u32) {
        let old = self.load(register);
        let clears = self.clears.iter().find(|(at, _)| *at == register.offset());
        let new = match clears {
            Some((_, bits)) => {
                assert_eq!(register.width(), Width::Word, "{register:?}");
                old & !(value & bits)
            }
            None => value,
        };
        let place = usize::from(register.offset())..usize::from(register.end());
        let bytes = new.to_le_bytes();
        self.hardware[place.clone()].copy_from_slice(&bytes[..place.len()]);
    }

    /// What the guest reads; `None` if it is refused.
    pub(super) fn read(&mut self, register: Register) -> Option<u32> {
        match self.guest.plan(Access::Read(register)) {
            Plan::Answer(value) => Some(value & register.width().mask()),
            Plan::Read(at, view) => {
                Some(view.over(self.load(at)) & register.width().mask())
            }
            Plan::Refuse(_) => None,
            Plan::Write(_) => panic!("a read that writes"),
        }
    }

    pub(super) fn write(&mut self, register: Register, value: u32) {
        let value = value & register.width().mask();
        let Plan::Write(steps) = self.guest.plan(Access::Write(register, value)) else {
            return;
        };
        for step in steps {
            let access = match step {
                Step::Write(at, value) => Some(Access::Write(at, value)),
                Step::Merge(merge) => {
                    let old = self.load(merge.register);
                    self.guest.merge(&merge, old)
                }
            };
            if let Some(Access::Write(at, value)) = access {
                self.store(at, value);
                self.guest.wrote(Access::Write(at, value), true);
            }
        }
    }

    /// Names of the registers whose writes were denied or changed, and the last values.
    pub(super) fn denied(&self) -> Vec<(&'static str, u16, u32)> {
        let all = self.guest.dropped().writes().iter();
        all.map(|w| (w.name, w.register.offset(), w.last)).collect()
    }
}

pub(super) fn register(offset: u16, width: Width) -> Register {
    Register::new(offset, width).unwrap()
}

/// Every register there can be in `space`.
pub(super) fn places(space: u16) -> impl Iterator<Item = Register> {
    let widths = [Width::Byte, Width::Word, Width::Dword];
    let all = (0..space)
        .flat_map(move |at| widths.into_iter().filter_map(move |w| Register::new(at, w)));
    all.filter(move |place| place.end() <= space)
}

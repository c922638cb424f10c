//! What the daemon goes by for one device: taken from dom0's sysfs, never from pcidom.

use std::fmt;

use pcidom_xenbus::Pirq;

use super::{HostError, Quirk, RawDevice};

// Offsets and bits: PCI Local Bus Specification 3.0, chapter 6 and appendix H;
// PCI Express Base Specification 5.0, 7.5.3.
const COMMAND: usize = 0x04;
const COMMAND_MASTER: u16 = 1 << 2;
const STATUS: usize = 0x06;
const STATUS_REGISTER: u16 = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const HEADER_TYPE: usize = 0x0e;
const HEADER_KIND: u8 = 0x7f;
const HEADER_BRIDGE: u8 = 1;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const BRIDGE_CONTROL: u16 = 0x3e;
const CAP_MSI: u8 = 0x05;
const CAP_EXPRESS: u8 = 0x10;
const CAP_MSIX: u8 = 0x11;
const CAP_AF: u8 = 0x13;
const DEVICE_CONTROL: u16 = 8;
const DEVICE_STATUS: u16 = 10;
/// Slot Implemented, in the PCI Express Capabilities register at 2.
const SLOT_IMPLEMENTED: u16 = 1 << 8;
const SLOT_CAPABILITIES: usize = 0x14;
const HOT_PLUG_CAPABLE: u32 = 1 << 6;
const SLOT_CONTROL: u16 = 0x18;
const SLOT_STATUS: u16 = 0x1a;
const AF_CAPABILITIES: usize = 3;
const AF_FLR: u8 = 1 << 1;
const AF_CONTROL: u16 = 4;
const MSI_ENABLE: u16 = 1 << 0;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASKALL: u16 = 1 << 14;
const MSIX_SIZE: u16 = 0x7ff;

/// More capabilities than fit between the header's end and 256: a list that loops.
const MAX_CAPABILITIES: usize = 48;
/// Six BARs and the ROM, the lines of `resource` that libxl gives rights to.
const RESOURCES: usize = 7;
/// `IORESOURCE_IO` and `IORESOURCE_MEM` (linux/ioport.h).
const RESOURCE_IO: u64 = 0x100;
const RESOURCE_MEMORY: u64 = 0x200;

const PAGE_SHIFT: u32 = 12;

/// Which address space a BAR is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory.
    Memory,
}

/// One assigned BAR or the ROM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// 0 to 5, 6 for the ROM.
    pub index: u8,
    /// Which address space.
    pub kind: BarKind,
    /// First address or port.
    pub start: u64,
    /// How many bytes or ports.
    pub length: u64,
}

impl Bar {
    /// The first page that holds some of it.
    pub const fn first_page(self) -> u64 {
        self.start >> PAGE_SHIFT
    }

    /// How many pages hold some of it.
    pub const fn pages(self) -> u64 {
        (self.start.saturating_add(self.length.saturating_sub(1)) >> PAGE_SHIFT)
            - self.first_page()
            + 1
    }
}

/// Where the MSI-X table is, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixTable {
    /// How many entries.
    pub entries: u16,
    /// Base of the BAR that holds it, as Xen wants it.
    pub bar_base: u64,
}

/// What a device has, by dom0's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its assigned BARs.
    pub bars: Vec<Bar>,
    /// Its interrupt line's GSI, if it has one.
    pub gsi: Option<Pirq>,
    /// Offset of the MSI capability.
    pub msi: Option<u16>,
    /// Offset of the MSI-X capability and the table.
    pub msix: Option<(u16, MsixTable)>,
    /// The registers pcidom needs to reset it.
    pub quirks: Vec<Quirk>,
    /// A bridge, here called a port: it helps to reset others and is never lent.
    pub port: bool,
}

/// What is not quiet about a device that should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unquiet {
    /// It answers no config reads.
    NoAnswer,
    /// Bus mastering is on.
    BusMaster,
    /// MSI is enabled.
    Msi,
    /// MSI-X is enabled.
    Msix,
    /// All of MSI-X is masked: Xen would refuse to assign it.
    MaskAll,
    /// A BAR is not where dom0 put it.
    Bar(u8),
}

impl fmt::Display for Unquiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer => f.write_str("it does not answer"),
            Self::BusMaster => f.write_str("bus mastering is on"),
            Self::Msi => f.write_str("MSI is enabled"),
            Self::Msix => f.write_str("MSI-X is enabled"),
            Self::MaskAll => f.write_str("MSI-X is masked as a whole"),
            Self::Bar(index) => write!(f, "BAR {index} is not where dom0 put it"),
        }
    }
}

fn byte(config: &[u8], offset: usize) -> Option<u8> {
    config.get(offset).copied()
}

fn word(config: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes([byte(config, offset)?, byte(config, offset + 1)?]))
}

fn dword(config: &[u8], offset: usize) -> Option<u32> {
    let [low, high] = [word(config, offset)?, word(config, offset + 2)?];
    Some(u32::from(high) << 16 | u32::from(low))
}

/// Offset of the first capability of this kind.
fn capability(config: &[u8], wanted: u8) -> Option<u16> {
    if word(config, STATUS)? & STATUS_CAPABILITIES == 0 {
        return None;
    }
    let mut offset = byte(config, CAPABILITIES)? & !3;
    for _ in 0..MAX_CAPABILITIES {
        if offset < 0x40 {
            return None;
        }
        if byte(config, offset.into())? == wanted {
            return Some(offset.into());
        }
        offset = byte(config, usize::from(offset) + 1)? & !3;
    }
    None
}

impl DeviceFacts {
    /// Reads them out of what sysfs shows.
    pub fn read(raw: &RawDevice) -> Result<Self, HostError> {
        let config = &raw.config;
        let header = byte(config, HEADER_TYPE);
        if header.is_none() || Self::is_silent(raw) {
            return Err(HostError("the device does not answer config reads".into()));
        }
        let port = header.is_some_and(|kind| kind & HEADER_KIND == HEADER_BRIDGE);
        let Self { bars, gsi, .. } = Self::of_resources(raw);
        // A port's is nobody's business, wherever its table is.
        let msix = match capability(config, CAP_MSIX).filter(|_| !port) {
            Some(at) => Some((at, msix_table(config, at, &bars)?)),
            None => None,
        };
        Ok(Self {
            gsi,
            msi: capability(config, CAP_MSI),
            msix,
            quirks: if port { port_registers(config) } else { own_registers(config) },
            port,
            bars,
        })
    }

    /// What dom0 remembers of a device whatever it answers: what rights to it are made of.
    pub fn of_resources(raw: &RawDevice) -> Self {
        // libxl's rule for a line: 0 and 255 mean none.
        let gsi = u16::try_from(raw.irq).ok().filter(|irq| (1..255).contains(irq));
        Self {
            bars: read_bars(&raw.resources),
            gsi: gsi.map(Pirq),
            msi: None,
            msix: None,
            quirks: Vec::new(),
            port: false,
        }
    }

    /// Whether it answers config reads with nothing but ones.
    pub fn is_silent(raw: &RawDevice) -> bool {
        word(&raw.config, 0) == Some(0xffff)
    }

    /// What keeps the device from being given to a guest now, by what `raw` shows.
    pub fn unquiet(&self, raw: &RawDevice) -> Option<Unquiet> {
        let config = &raw.config;
        let bit = |offset: usize, bit| word(config, offset).is_some_and(|w| w & bit != 0);
        let cap = |offset: u16| usize::from(offset) + 2;
        let command = word(config, COMMAND).filter(|command| *command != 0xffff);
        let Some(command) = command else { return Some(Unquiet::NoAnswer) };
        if command & COMMAND_MASTER != 0 {
            return Some(Unquiet::BusMaster);
        }
        if self.msi.is_some_and(|at| bit(cap(at), MSI_ENABLE)) {
            return Some(Unquiet::Msi);
        }
        if let Some((at, _)) = self.msix {
            if bit(cap(at), MSIX_ENABLE) {
                return Some(Unquiet::Msix);
            }
            if bit(cap(at), MSIX_MASKALL) {
                return Some(Unquiet::MaskAll);
            }
        }
        let moved = |bar: &&Bar| {
            bar.index < 6 && bar_address(config, bar.index) != Some(bar.start)
        };
        self.bars.iter().find(moved).map(|bar| Unquiet::Bar(bar.index))
    }
}

/// The address in a BAR register.
fn bar_address(config: &[u8], index: u8) -> Option<u64> {
    let offset = BAR0 + 4 * usize::from(index);
    let low = dword(config, offset)?;
    if low & 1 != 0 {
        return Some(u64::from(low & !3));
    }
    let high = if low >> 1 & 3 == 2 { dword(config, offset + 4)? } else { 0 };
    Some(u64::from(high) << 32 | u64::from(low & !0xf))
}

fn read_bars(resources: &[[u64; 3]]) -> Vec<Bar> {
    let lines = (0u8..).zip(resources.iter().take(RESOURCES));
    let bars = lines.filter_map(|(index, &[start, end, flags])| {
        let kind = match flags {
            flags if flags & RESOURCE_IO != 0 => BarKind::Io,
            flags if flags & RESOURCE_MEMORY != 0 => BarKind::Memory,
            _ => return None,
        };
        let length = end.checked_sub(start)?.checked_add(1)?;
        (start != 0).then_some(Bar { index, kind, start, length })
    });
    bars.collect()
}

fn msix_table(config: &[u8], at: u16, bars: &[Bar]) -> Result<MsixTable, HostError> {
    let at = usize::from(at);
    let (control, table) = (word(config, at + 2), dword(config, at + 4));
    let bar = table.and_then(|table| {
        let holds =
            |bar: &&Bar| bar.kind == BarKind::Memory && u32::from(bar.index) == table & 7;
        bars.iter().find(holds)
    });
    match (control, bar) {
        (Some(control), Some(bar)) => {
            Ok(MsixTable { entries: (control & MSIX_SIZE) + 1, bar_base: bar.start })
        }
        _ => Err(HostError("its MSI-X table is in no BAR that dom0 knows".into())),
    }
}

/// What a function's own reset methods need: Device Control, for FLR and to restore it, and
/// AF Control where that has one. (The power state is always let through.) And what pcidom's
/// table lets a guest do: clear the error bits of both status registers.
fn own_registers(config: &[u8]) -> Vec<Quirk> {
    let mut quirks = vec![Quirk { offset: STATUS_REGISTER, bytes: 2 }];
    if let Some(express) = capability(config, CAP_EXPRESS) {
        quirks.push(Quirk { offset: express + DEVICE_CONTROL, bytes: 2 });
        quirks.push(Quirk { offset: express + DEVICE_STATUS, bytes: 2 });
    }
    if let Some(advanced) = capability(config, CAP_AF)
        && byte(config, usize::from(advanced) + AF_CAPABILITIES)
            .is_some_and(|has| has & AF_FLR != 0)
    {
        quirks.push(Quirk { offset: advanced + AF_CONTROL, bytes: 1 });
    }
    quirks
}

/// What resetting all below a port needs: Bridge Control, and where devices may be plugged
/// the registers that tell of it, since a reset looks like an unplugging.
fn port_registers(config: &[u8]) -> Vec<Quirk> {
    let mut quirks = vec![Quirk { offset: BRIDGE_CONTROL, bytes: 2 }];
    let Some(express) = capability(config, CAP_EXPRESS) else { return quirks };
    let at = usize::from(express);
    let slot = word(config, at + 2).is_some_and(|has| has & SLOT_IMPLEMENTED != 0);
    let slots = dword(config, at + SLOT_CAPABILITIES);
    if slot && slots.is_some_and(|has| has & HOT_PLUG_CAPABLE != 0) {
        quirks.push(Quirk { offset: express + SLOT_CONTROL, bytes: 2 });
        quirks.push(Quirk { offset: express + SLOT_STATUS, bytes: 2 });
    }
    quirks
}

#[cfg(test)]
mod tests {
    use super::{Bar, BarKind, DeviceFacts, MsixTable, Unquiet};
    use crate::fake;
    use crate::host::Quirk;

    #[test]
    fn facts_of_an_nvme() {
        let raw = fake::nvme();
        let facts = DeviceFacts::read(&raw).unwrap();
        let bar =
            Bar { index: 0, kind: BarKind::Memory, start: 0xfe60_0000, length: 0x4000 };
        assert_eq!(facts.bars, [bar]);
        assert_eq!((bar.first_page(), bar.pages()), (0xfe600, 4));
        let table = MsixTable { entries: 65, bar_base: 0xfe60_0000 };
        assert_eq!(facts.msix, Some((0x40, table)));
        let two = |offset| Quirk { offset, bytes: 2 };
        assert_eq!(facts.quirks, [two(0x06), two(0x88), two(0x8a)]);
        assert_eq!(facts.unquiet(&raw), None);
    }

    #[test]
    fn a_function_gets_af_control_only_where_that_resets_it() {
        let two = |offset| Quirk { offset, bytes: 2 };
        for (capabilities, control) in [(0b11, Some(0xa4)), (0b01, None), (0, None)] {
            let mut raw = fake::nvme();
            raw.config[0x81] = 0xa0;
            raw.config[0xa0..0xa4].copy_from_slice(&[0x13, 0, 6, capabilities]);
            let control = control.map(|offset| Quirk { offset, bytes: 1 });
            let wanted: Vec<_> =
                [two(0x06), two(0x88), two(0x8a)].into_iter().chain(control).collect();
            let facts = DeviceFacts::read(&raw).unwrap();
            assert_eq!((facts.port, facts.quirks), (false, wanted));
        }
    }

    #[test]
    fn a_port_gets_bridge_control_and_a_hot_plug_slots_registers() {
        let two = |offset| Quirk { offset, bytes: 2 };
        let plain = vec![two(0x3e)];
        let slot = vec![two(0x3e), two(0x58), two(0x5a)];
        for (flags, slots, wanted) in
            [(1, 0x40, &slot), (1, 0x20, &plain), (0, 0x40, &plain)]
        {
            let mut raw = fake::port();
            raw.config[0x43] = flags;
            raw.config[0x54] = slots;
            let facts = DeviceFacts::read(&raw).unwrap();
            assert_eq!((facts.port, &facts.quirks), (true, wanted));
        }
        // With several functions, and no PCI Express at all.
        let mut raw = fake::port();
        raw.config[0x0e] = 0x81;
        raw.config[0x06] = 0;
        let facts = DeviceFacts::read(&raw).unwrap();
        assert_eq!((facts.port, facts.quirks), (true, plain));
    }

    #[test]
    fn where_a_ports_msix_table_is_does_not_matter() {
        let mut raw = fake::port();
        raw.config[0x41] = 0x80;
        raw.config[0x80] = 0x11;
        assert_eq!(DeviceFacts::read(&raw).unwrap().msix, None);
    }

    #[test]
    fn a_bar_that_is_no_multiple_of_a_page_counts_every_page_it_touches() {
        let bar = |start, length| Bar { index: 0, kind: BarKind::Memory, start, length };
        assert_eq!(bar(0x1000, 0x100).pages(), 1);
        assert_eq!(bar(0x1f80, 0x100).pages(), 2);
        assert_eq!(bar(0x1000, 0x1001).pages(), 2);
    }

    #[test]
    fn what_is_not_quiet_is_named() {
        type Change = fn(&mut [u8]);
        let cases: [(Change, Unquiet); 6] = [
            (|c| c[4] |= 4, Unquiet::BusMaster),
            (|c| c[0x43] |= 0x80, Unquiet::Msix),
            (|c| c[0x43] |= 0x40, Unquiet::MaskAll),
            (|c| c[0x12] = 0x70, Unquiet::Bar(0)),
            (|c| c[0x14] = 1, Unquiet::Bar(0)),
            (|c| c.fill(0xff), Unquiet::NoAnswer),
        ];
        let facts = DeviceFacts::read(&fake::nvme()).unwrap();
        for (change, expected) in cases {
            let mut raw = fake::nvme();
            change(&mut raw.config);
            assert_eq!(facts.unquiet(&raw), Some(expected));
        }
    }

    #[test]
    fn hostile_config_space_ends_in_an_error_or_in_nothing_found() {
        let mut raw = fake::nvme();
        // A capability that points at itself, and a table in a BAR that is not there.
        raw.config[0x40] = 0x99;
        raw.config[0x41] = 0x40;
        assert_eq!(DeviceFacts::read(&raw).unwrap().msix, None);
        let mut raw = fake::nvme();
        raw.config[0x44] = 5;
        assert!(DeviceFacts::read(&raw).is_err());
        raw.config.truncate(3);
        assert!(DeviceFacts::read(&raw).is_err());
    }
}

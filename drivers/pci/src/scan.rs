//! Learning what a function is, over dom0's pciback.
//!
//! dom0 emulates BAR sizing: all ones make the next read give the size, and writing the
//! recorded value ends that. None of it reaches the hardware, so the function may decode
//! and its owner may even use it meanwhile.

use alloc::vec::Vec;

use crate::access::{
    AccessError, CONVENTIONAL_SPACE, Config, EXTENDED_SPACE, Register, Width,
};
use crate::function::{
    Af, Bar, BarKind, BarRegister, Buses, Capability, Constant, ExtendedCapability,
    Function, Msi, Msix, Pcie, Pm, Rom, Subsystem,
};
use crate::regs::{af, bar, capability, extended, header, msi, msix, pcie, pm, status};

/// Capabilities a list can have: each takes at least one double word between the header
/// and the end of conventional space.
pub const MAX_CAPABILITIES: usize = ((CONVENTIONAL_SPACE - header::END) / 4) as usize;

/// Extended capabilities that are followed. The space has room for 960 bare headers;
/// real functions have under 20, and each costs a round trip to dom0.
pub const MAX_EXTENDED_CAPABILITIES: usize = 64;

/// Why a function was not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Nobody answers at this address.
    #[error("there is no function at this address")]
    Absent,
    /// dom0 knows it, but the hardware does not answer.
    #[error("the function does not respond (Class Code at 0x08 reads 0xffffffff)")]
    NotResponding,
    /// A header that is neither an endpoint's nor a bridge's.
    #[error("Header Type (0x0e) is {0:#04x}, which is neither an endpoint nor a bridge")]
    HeaderType(u8),
    /// An access failed.
    #[error("config space access failed: {0}")]
    Access(#[from] AccessError),
}

/// Learns everything about the function behind `config`.
///
/// Changes nothing in the hardware. A capability list that is broken is cut where it
/// breaks ([`Function::list_cut_at`]).
pub async fn scan(config: &Config) -> Result<Function, ScanError> {
    let ids = match config.read32(header::VENDOR_ID).await {
        Err(AccessError::NoDevice) => return Err(ScanError::Absent),
        ids => ids?,
    };
    let (vendor, device) = halves(ids);
    if vendor == 0xffff || vendor == 0 {
        return Err(ScanError::Absent);
    }
    // The ids above are dom0's memory; this is the first word from the hardware.
    let class_word = config.read32(header::REVISION_AND_CLASS).await?;
    if class_word == u32::MAX {
        return Err(ScanError::NotResponding);
    }
    let [revision, ..] = class_word.to_le_bytes();
    let header_type = config.read8(header::HEADER_TYPE).await?;
    let (bar_count, rom_at, endpoint) = match header_type & !header::MULTI_FUNCTION {
        header::TYPE_ENDPOINT => (header::ENDPOINT_BARS, header::ROM, true),
        header::TYPE_BRIDGE => (header::BRIDGE_BARS, header::BRIDGE_ROM, false),
        _ => return Err(ScanError::HeaderType(header_type)),
    };
    let subsystem = if endpoint {
        let (vendor, device) = halves(config.read32(header::SUBSYSTEM).await?);
        Some(Subsystem { vendor, device })
    } else {
        None
    };
    let buses = if endpoint {
        None
    } else {
        let numbers = config.read32(header::BRIDGE_BUSES).await?.to_le_bytes();
        let [_, secondary, subordinate, _] = numbers;
        // Firmware that gave none leaves 0 there, which is no bus below anything.
        (secondary != 0).then_some(Buses { secondary, subordinate })
    };
    let (line, pin) = {
        let [line, pin] = config.read16(header::INTERRUPT_LINE).await?.to_le_bytes();
        (line, pin)
    };

    let (bars, bar_registers) = scan_bars(config, bar_count).await?;
    let mut function = Function {
        sbdf: config.target(),
        vendor,
        device,
        class: class_word >> 8,
        revision,
        subsystem,
        header_type,
        interrupt_line: line,
        interrupt_pin: pin,
        bars,
        bar_registers,
        rom: scan_rom(config, rom_at).await?,
        capabilities: Vec::new(),
        list_cut_at: None,
        extended: Vec::new(),
        pm: None,
        msi: None,
        msix: None,
        pcie: None,
        af: None,
        buses,
        space: CONVENTIONAL_SPACE,
        constants: Vec::new(),
        line_off: false,
    };
    if endpoint {
        header_constants(config, &mut function).await?;
    }
    if config.read16(header::STATUS).await? & status::CAPABILITIES != 0 {
        walk_capabilities(config, &mut function).await?;
    }
    if function.pcie.is_some() {
        walk_extended(config, &mut function).await?;
    }
    Ok(function)
}

/// Low and high half of a double word.
const fn halves(word: u32) -> (u16, u16) {
    let [a, b, c, d] = word.to_le_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

/// Records a register that can't change.
fn record(function: &mut Function, offset: u16, width: Width, value: u32) {
    if let Some(register) = Register::new(offset, width) {
        function.constants.push(Constant { register, value });
    }
}

/// Reads and records double words that can't change.
async fn record_all(
    config: &Config,
    function: &mut Function,
    registers: &[u16],
) -> Result<(), AccessError> {
    for offset in registers {
        let value = config.read32(*offset).await?;
        record(function, *offset, Width::Dword, value);
    }
    Ok(())
}

/// What is read-only in the header of an endpoint and nowhere else in [`Function`].
async fn header_constants(
    config: &Config,
    function: &mut Function,
) -> Result<(), AccessError> {
    record_all(config, function, &[header::CIS, header::RESERVED]).await?;
    let grant = config.read16(header::MIN_GRANT).await?;
    record(function, header::MIN_GRANT, Width::Word, grant.into());
    // Behind the Capabilities Pointer, which has a rule of its own.
    let [_, byte, word @ ..] = config.read32(header::CAPABILITIES).await?.to_le_bytes();
    let word = u16::from_le_bytes(word);
    record(function, header::CAPABILITIES + 1, Width::Byte, byte.into());
    record(function, header::CAPABILITIES + 2, Width::Word, word.into());
    Ok(())
}

/// Writes `ones`, reads the size mask, and writes the recorded value back.
async fn size_register(
    config: &Config,
    offset: u16,
    ones: u32,
) -> Result<(u32, u32), AccessError> {
    // A scan that was cut off may have left it in its sizing mode. dom0 passes nothing on
    // to the hardware but the recorded value.
    config.write32(offset, 0).await?;
    let value = config.read32(offset).await?;
    config.write32(offset, ones).await?;
    let mask = config.read32(offset).await;
    // Whatever the read gave, the register must not stay in its sizing mode.
    config.write32(offset, value).await?;
    Ok((value, mask?))
}

async fn scan_bars(
    config: &Config,
    count: u8,
) -> Result<(Vec<Bar>, Vec<BarRegister>), AccessError> {
    let mut bars = Vec::new();
    let mut registers = Vec::new();
    let mut index = 0;
    while index < count {
        let first = index;
        let offset = header::bar(first);
        index += 1;
        let (value, mask) = size_register(config, offset, u32::MAX).await?;
        registers.push(BarRegister { offset, value });
        if value & bar::IO != 0 {
            let size = size_of(u64::from(mask & !bar::IO_FLAGS) | (u64::MAX << 32));
            // Ports have 16 bits, and so many devices leave the upper half of the mask 0.
            let size = size.map(|size| size & 0xffff).filter(|size| *size != 0);
            let address = u64::from(value & !bar::IO_FLAGS);
            let kind = BarKind::Io;
            bars.extend(size.map(|size| Bar { index: first, kind, address, size }));
            continue;
        }
        let wide = value & bar::TYPE == bar::TYPE_64 && index < count;
        let mut address = u64::from(value & !bar::MEMORY_FLAGS);
        let mut size_mask = u64::from(mask & !bar::MEMORY_FLAGS);
        if wide {
            let offset = header::bar(index);
            index += 1;
            let (value, mask) = size_register(config, offset, u32::MAX).await?;
            registers.push(BarRegister { offset, value });
            address |= u64::from(value) << 32;
            size_mask |= u64::from(mask) << 32;
        } else if size_mask != 0 {
            size_mask |= u64::MAX << 32;
        }
        let prefetchable = value & bar::PREFETCHABLE != 0;
        let kind = BarKind::Memory { wide, prefetchable };
        let size = size_of(size_mask);
        bars.extend(size.map(|size| Bar { index: first, kind, address, size }));
    }
    Ok((bars, registers))
}

/// The size a mask of writable address bits stands for; `None` if there is no such bit.
const fn size_of(mask: u64) -> Option<u64> {
    if mask == 0 { None } else { Some(mask.wrapping_neg()) }
}

async fn scan_rom(config: &Config, offset: u16) -> Result<Option<Rom>, AccessError> {
    let (value, mask) = size_register(config, offset, bar::ROM_SIZING).await?;
    let mask = mask & bar::ROM_ADDRESS;
    Ok((mask != 0).then(|| Rom {
        register: BarRegister { offset, value },
        address: value & bar::ROM_ADDRESS,
        size: mask.wrapping_neg(),
    }))
}

async fn walk_capabilities(
    config: &Config,
    function: &mut Function,
) -> Result<(), AccessError> {
    let mut pointer = config.read8(header::CAPABILITIES).await?;
    for _ in 0..MAX_CAPABILITIES {
        // The two low bits are reserved and masked by software (PCI 6.7).
        let offset = u16::from(pointer & !0b11);
        if offset == 0 {
            return Ok(());
        }
        let seen = function.capabilities.iter().any(|known| known.offset == offset);
        if offset < header::END || seen {
            function.list_cut_at = Some(offset);
            return Ok(());
        }
        let start = config.read16(offset).await?;
        let [id, next] = start.to_le_bytes();
        if id == 0xff {
            function.list_cut_at = Some(offset);
            return Ok(());
        }
        record(function, offset, Width::Word, start.into());
        function.capabilities.push(Capability { id, offset });
        parse_capability(config, function, id, offset).await?;
        pointer = next;
    }
    // Only a list that takes up the whole space leads here.
    let beyond = u16::from(pointer & !0b11);
    function.list_cut_at = (beyond != 0).then_some(beyond);
    Ok(())
}

/// Reads what we need of a capability. The first of a kind counts; one that does not fit
/// into conventional space is left alone.
async fn parse_capability(
    config: &Config,
    function: &mut Function,
    id: u8,
    offset: u16,
) -> Result<(), AccessError> {
    let fits = |length: u16| offset + length <= CONVENTIONAL_SPACE;
    match id {
        capability::PM if function.pm.is_none() && fits(pm::LENGTH) => {
            let control = config.read16(offset + pm::CONTROL).await?;
            let no_soft_reset = control & pm::NO_SOFT_RESET != 0;
            let capabilities = config.read16(offset + pm::CAPABILITIES).await?;
            function.pm = Some(Pm { offset, no_soft_reset, capabilities });
        }
        capability::MSI if function.msi.is_none() && fits(msi::CONTROL + 2) => {
            let control = config.read16(offset + msi::CONTROL).await?;
            let found = Msi {
                offset,
                is_64bit: control & msi::ADDRESS_64 != 0,
                maskable: control & msi::MASKABLE != 0,
                // 6 and 7 are reserved; 5 (32 vectors) is the most there is.
                vectors: 1 << ((control & msi::MULTIPLE_CAPABLE) >> 1).min(5),
                control_bits: control & !msi::WRITABLE,
            };
            function.msi = fits(found.length()).then_some(found);
        }
        capability::MSIX if function.msix.is_none() && fits(msix::LENGTH) => {
            let control = config.read16(offset + msix::CONTROL).await?;
            let table = config.read32(offset + msix::TABLE).await?;
            let pba = config.read32(offset + msix::PBA).await?;
            let [table_bar, ..] = (table & msix::BIR).to_le_bytes();
            let [pba_bar, ..] = (pba & msix::BIR).to_le_bytes();
            function.msix = Some(Msix {
                offset,
                table_size: (control & msix::TABLE_SIZE) + 1,
                table_bar,
                table_offset: table & !msix::BIR,
                pba_bar,
                pba_offset: pba & !msix::BIR,
            });
        }
        capability::PCIE if function.pcie.is_none() && fits(pcie::DEVICE_STATUS + 2) => {
            let word = config.read16(offset + pcie::FLAGS).await?;
            let [flags, _] = word.to_le_bytes();
            let at = offset + pcie::DEVICE_CAPABILITIES;
            let abilities = config.read32(at).await?;
            record(function, at, Width::Dword, abilities);
            let (version, port_type) = (flags & 0xf, flags >> 4);
            let flr = abilities & pcie::FLR_CAPABLE != 0;
            let control = config.read16(offset + pcie::DEVICE_CONTROL).await?;
            let control = control & !pcie::INITIATE_FLR;
            let has_slot = function.buses.is_some()
                && word & pcie::SLOT_IMPLEMENTED != 0
                && fits(pcie::SLOT_STATUS + 2);
            let mut slot = None;
            if has_slot {
                let abilities = config.read32(offset + pcie::SLOT_CAPABILITIES).await?;
                let control = config.read16(offset + pcie::SLOT_CONTROL).await?;
                slot = (abilities & pcie::HOT_PLUG_CAPABLE != 0).then_some(control);
            }
            function.pcie = Some(Pcie { offset, version, port_type, flr, control, slot });
            let link = offset + pcie::LINK_CAPABILITIES;
            let second = [
                offset + pcie::DEVICE_CAPABILITIES_2,
                offset + pcie::LINK_CAPABILITIES_2,
            ];
            // Version 2 has all registers; before, those of a link could be left out.
            let all = version >= 2 && fits(pcie::LENGTH);
            if all
                || port_type != pcie::TYPE_INTEGRATED && fits(pcie::LINK_CAPABILITIES + 4)
            {
                record_all(config, function, &[link]).await?;
            }
            if all {
                record_all(config, function, &second).await?;
            }
        }
        capability::AF if function.af.is_none() && fits(af::LENGTH) => {
            let word = config.read16(offset + af::LENGTH_FIELD).await?;
            let at = offset + af::LENGTH_FIELD;
            record(function, at, Width::Word, word.into());
            let [_, abilities] = word.to_le_bytes();
            let flr = abilities & af::HAS_FLR != 0;
            let pending = abilities & af::HAS_PENDING != 0;
            function.af = Some(Af { offset, flr, pending });
        }
        _ => {}
    }
    Ok(())
}

/// Follows the extended list. A host without ECAM answers with an error or all ones at its
/// first header: the function then has conventional space only, as Linux sees it too.
async fn walk_extended(
    config: &Config,
    function: &mut Function,
) -> Result<(), AccessError> {
    let mut offset = extended::START;
    let mut word = match config.read32(offset).await {
        Err(error @ (AccessError::TimedOut | AccessError::LinkDown)) => {
            return Err(error);
        }
        Err(_) | Ok(u32::MAX) => return Ok(()),
        Ok(word) => word,
    };
    function.space = EXTENDED_SPACE;
    for _ in 0..MAX_EXTENDED_CAPABILITIES {
        record(function, offset, Width::Dword, word);
        if word == 0 {
            return Ok(());
        }
        let (id, upper) = halves(word);
        let [version, _] = (upper & 0xf).to_le_bytes();
        function.extended.push(ExtendedCapability { id, version, offset });
        // The two low bits are reserved and masked by software (PCIe 7.6.3).
        let next = upper >> 4 & !0b11;
        if next == 0 {
            return Ok(());
        }
        let seen = function.extended.iter().any(|known| known.offset == next);
        if next < extended::START || seen {
            function.list_cut_at = function.list_cut_at.or(Some(next));
            return Ok(());
        }
        offset = next;
        word = config.read32(offset).await?;
        if word == u32::MAX {
            function.list_cut_at = function.list_cut_at.or(Some(offset));
            return Ok(());
        }
    }
    function.list_cut_at = function.list_cut_at.or(Some(offset));
    Ok(())
}

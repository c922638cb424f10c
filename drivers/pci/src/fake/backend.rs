//! What the A-link leads to: Linux's xen-pciback, not permissive.

use alloc::vec::Vec;
use core::time::Duration;

use crate::access::{Access, AccessError, Answer, Register, Width};
use crate::address::Sbdf;
use crate::fake::hardware::FakeFunction;
use crate::regs::{bar, capability, command, header, msi, msix, pm};
use crate::scan::MAX_CAPABILITIES;

/// Command bits that the backend shows as the hardware has them; the others are a shadow.
const REAL_COMMAND: u16 = 0x02bc;

/// What dom0 has been told to let through, beyond what it always does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Armed {
    /// `allow_interrupt_control`.
    pub interrupt_control: bool,
    /// `quirks`: offset and bytes of each field.
    pub quirks: Vec<(u16, u16)>,
    /// `permissive`.
    pub permissive: bool,
    /// No backend of Linux: but for COMMAND it writes whatever it is told, so that all that keeps
    /// a guest from the hardware is who asks it.
    pub everything: bool,
}

/// One BAR register as the backend emulates it.
#[derive(Clone, Copy, Debug)]
struct Emulated {
    offset: u16,
    recorded: u32,
    size: u32,
    sizing_bits: u32,
    sizing: bool,
}

/// dom0's backend in front of one function.
#[derive(Clone, Debug)]
pub struct FakeBackend {
    sbdf: Sbdf,
    hardware: FakeFunction,
    armed: Armed,
    ids: u32,
    shadow: u16,
    /// Linux believes that decoding is on.
    enabled: bool,
    /// Linux believes that the function is a bus master.
    master: bool,
    bars: Vec<Emulated>,
    failing: Option<AccessError>,
    /// pcidom can read the hardware's own config space.
    window: bool,
}

impl FakeBackend {
    /// Binds `hardware`: records ids and BARs, as they are now.
    pub fn new(sbdf: Sbdf, mut hardware: FakeFunction) -> Self {
        let ids = hardware.word(header::VENDOR_ID);
        let mut bars = Vec::new();
        let mut upper_half = false;
        let (count, rom) = match hardware.is_bridge() {
            true => (header::BRIDGE_BARS, header::BRIDGE_ROM),
            false => (header::ENDPOINT_BARS, header::ROM),
        };
        let offsets = (0..count).map(header::bar).chain([rom]);
        for offset in offsets {
            let Some(register) = Register::new(offset, Width::Dword) else { continue };
            let recorded = hardware.read(register);
            hardware.write(register, u32::MAX);
            let size = hardware.read(register);
            hardware.write(register, recorded);
            let fixed_bits = match (offset, upper_half, recorded & bar::IO != 0) {
                (offset, ..) if offset == rom => !bar::ROM_ADDRESS,
                (_, true, _) => 0,
                (_, _, true) => bar::IO_FLAGS,
                _ => bar::MEMORY_FLAGS,
            };
            upper_half = offset != rom
                && !upper_half
                && recorded & (bar::IO | bar::TYPE) == bar::TYPE_64;
            let sizing_bits = !fixed_bits;
            bars.push(Emulated { offset, recorded, size, sizing_bits, sizing: false });
        }
        hardware.take_writes();
        Self {
            sbdf,
            ids,
            // What a bed's dom0 shows at first: I/O and SERR, whatever the hardware has.
            shadow: 0x0103,
            enabled: true,
            master: false,
            bars,
            armed: Armed::default(),
            hardware,
            failing: None,
            window: true,
        }
    }

    /// As the pool's daemon arms it: interrupt control, and the quirks for Status, and for
    /// Device Control and Status of a function whose PCIe capability is at `pcie`.
    pub fn armed(mut self, pcie: Option<u16>) -> Self {
        self.armed.interrupt_control = true;
        self.armed.quirks.push((header::STATUS, 2));
        let express = pcie.map(|at| [(at + 8, 2), (at + 10, 2)]);
        self.armed.quirks.extend(express.into_iter().flatten());
        self
    }

    /// What is let through; a put clears it.
    pub fn arms(&mut self) -> &mut Armed {
        &mut self.armed
    }

    /// The function's physical address.
    pub const fn sbdf(&self) -> Sbdf {
        self.sbdf
    }

    /// The function itself.
    pub const fn hardware(&self) -> &FakeFunction {
        &self.hardware
    }

    /// The function itself, to break or to change.
    pub const fn hardware_mut(&mut self) -> &mut FakeFunction {
        &mut self.hardware
    }

    /// Answers every access with this error from now on, or no longer.
    pub fn fail_with(&mut self, error: Option<AccessError>) {
        self.failing = error;
    }

    /// Lets time pass.
    pub fn elapse(&mut self, time: Duration) {
        self.hardware.elapse(time);
    }

    /// Answers one access as the ring would.
    pub fn access(&mut self, access: Access) -> Answer {
        if let Some(error) = self.failing {
            return Err(error);
        }
        match access {
            Access::Read(register) => Ok(self.read(register)),
            Access::Write(register, value) => self.write(register, value).map(|()| 0),
        }
    }

    /// Whether [`FakeBackend::look`] can see the hardware; at first it can.
    pub const fn set_window(&mut self, open: bool) {
        self.window = open;
    }

    /// Answers a look, past the backend if there is a window.
    pub fn look(&mut self, register: Register) -> Answer {
        match self.window {
            true => Ok(self.hardware.read(register)),
            false => self.access(Access::Read(register)),
        }
    }

    fn read(&self, register: Register) -> u32 {
        let aligned = register.offset() & !0b11;
        let word = match aligned {
            header::VENDOR_ID => self.ids,
            header::COMMAND => {
                let word = self.hardware_word(aligned);
                word & !0xffff | u32::from(self.shown_command())
            }
            _ => match self.bars.iter().find(|known| known.offset == aligned) {
                Some(known) if known.sizing => known.size,
                Some(known) => known.recorded,
                None => return self.hardware.read(register),
            },
        };
        word >> (8 * (register.offset() - aligned)) & register.width().mask()
    }

    fn hardware_word(&self, offset: u16) -> u32 {
        Register::new(offset, Width::Dword)
            .map_or(u32::MAX, |register| self.hardware.read(register))
    }

    fn shown_command(&self) -> u16 {
        let [low, high, ..] = self.hardware_word(header::COMMAND).to_le_bytes();
        let real = u16::from_le_bytes([low, high]);
        real & REAL_COMMAND | self.shadow & !REAL_COMMAND
    }

    fn write(&mut self, register: Register, value: u32) -> Result<(), AccessError> {
        let value = value & register.width().mask();
        let (start, end) = (register.offset(), register.end());
        let overlaps = |offset: u16, length: u16| start < offset + length && offset < end;
        if overlaps(header::COMMAND, 2) {
            let merged = self.merged(register, value);
            let [low, high, ..] = merged.to_le_bytes();
            self.write_command(u16::from_le_bytes([low, high]));
            return Ok(());
        }
        if self.armed.everything {
            self.hardware.write(register, value);
            return Ok(());
        }
        let merged = self.merged(register, value);
        let hit = self.bars.iter_mut().find(|known| overlaps(known.offset, 4));
        if let Some(known) = hit {
            known.sizing = merged | !known.sizing_bits == u32::MAX && known.size != 0;
            let (offset, recorded) = (known.offset, known.recorded);
            let restores = !known.sizing && merged == recorded;
            if restores && self.hardware_word(offset) != recorded {
                self.write_hardware(offset, Width::Dword, recorded);
            }
            return Ok(());
        }
        if overlaps(header::CACHE_LINE_SIZE, 1) {
            let shift =
                8 * (header::CACHE_LINE_SIZE - start.min(header::CACHE_LINE_SIZE));
            self.write_hardware(header::CACHE_LINE_SIZE, Width::Byte, value >> shift);
            return Ok(());
        }
        for (id, own, other, control) in [
            (capability::MSI, msi::ENABLE, (capability::MSIX, msix::ENABLE), 2),
            (
                capability::MSIX,
                msix::ENABLE | msix::MASKALL,
                (capability::MSI, msi::ENABLE),
                2,
            ),
        ] {
            let Some(offset) = self.find(id).map(|at| at + control) else { continue };
            if overlaps(offset, 2) {
                return self.write_message_control(offset, own, other, register, value);
            }
        }
        if let Some(at) = self.find(capability::PM).map(|at| at + pm::CONTROL)
            && overlaps(at, 2)
        {
            self.set_power_state(at, value >> (8 * (at - start.min(at))));
            return Ok(());
        }
        if let Some(at) = self.find(capability::VPD).map(|at| at + 2)
            && overlaps(at, 2)
        {
            if merged >> (8 * (at & 3)) & 0x8000 != 0 {
                return Err(AccessError::Refused);
            }
            self.hardware.write(register, value);
            return Ok(());
        }
        let mut quirks = self.armed.quirks.iter();
        let quirk = quirks.find(|(offset, size)| overlaps(*offset, *size));
        if let Some((offset, size)) = quirk {
            // Only what falls on the field; a whole one is all that we promise to send.
            if start <= *offset && offset + size <= end {
                self.hardware.write(register, value);
            }
        } else if self.armed.permissive {
            self.hardware.write(register, value);
        }
        // Everything else is dropped, and answered with success.
        Ok(())
    }

    /// The aligned double word around `register` with `value` in its place.
    fn merged(&self, register: Register, value: u32) -> u32 {
        let aligned = register.offset() & !0b11;
        let shift = 8 * (register.offset() - aligned);
        let word =
            Register::new(aligned, Width::Dword).map_or(0, |whole| self.read(whole));
        word & !(register.width().mask() << shift) | value << shift
    }

    fn write_hardware(&mut self, offset: u16, width: Width, value: u32) {
        if let Some(register) = Register::new(offset, width) {
            self.hardware.write(register, value);
        }
    }

    fn hardware_command(&mut self, set: u16, clear: u16) {
        let [low, high, ..] = self.hardware_word(header::COMMAND).to_le_bytes();
        let old = u16::from_le_bytes([low, high]);
        let new = old & !clear | set;
        if new != old {
            self.write_hardware(header::COMMAND, Width::Word, new.into());
        }
    }

    /// `command_write` of conf_space_header.c: decode bits switch what Linux believes, and
    /// only a change of that belief reaches the hardware.
    fn write_command(&mut self, value: u16) {
        let decode = value & (command::IO | command::MEMORY) != 0;
        if decode && !self.enabled {
            let io = self.bars.iter().any(|known| known.recorded & bar::IO != 0);
            let io = if io { command::IO } else { 0 };
            self.hardware_command(command::MEMORY | io, 0);
        } else if !decode && self.enabled {
            self.hardware_command(0, command::BUS_MASTER);
            self.master = false;
        }
        self.enabled = decode;
        let master = value & command::BUS_MASTER != 0;
        if master != self.master {
            let bit = command::BUS_MASTER;
            let (set, clear) = if master { (bit, 0) } else { (0, bit) };
            self.hardware_command(set, clear);
            self.master = master;
        }
        if self.armed.interrupt_control {
            let bit = command::INTX_DISABLE;
            let set = value & bit;
            self.hardware_command(set, bit & !set);
        }
        self.shadow = value;
    }

    /// `pm_ctrl_write` of conf_space_capability.c: Linux changes the state, and restores the
    /// BARs of a function that has lost them.
    fn set_power_state(&mut self, at: u16, value: u32) {
        let Some(register) = Register::new(at, Width::Word) else { return };
        let old = self.hardware.read(register);
        let state = u32::from(pm::STATE);
        if (old ^ value) & state == 0 {
            return;
        }
        self.hardware.write(register, old & !state | value & state);
        if value & state == 0 && old & u32::from(pm::NO_SOFT_RESET) == 0 {
            for known in self.bars.clone() {
                self.write_hardware(known.offset, Width::Dword, known.recorded);
            }
        }
    }

    /// `msi_msix_flags_write` of conf_space_capability.c.
    fn write_message_control(
        &mut self,
        offset: u16,
        allowed: u16,
        other: (u8, u16),
        register: Register,
        value: u32,
    ) -> Result<(), AccessError> {
        let whole = register.offset() == offset && register.width() == Width::Word;
        if !whole {
            // The backend merges; the fake insists on what we promise to send.
            return Err(AccessError::Refused);
        }
        let old = self.hardware.read(register);
        if value == old {
            return Ok(());
        }
        let changed = value ^ old;
        let (other_id, other_enable) = other;
        let other_control = self.find(other_id).map(|at| self.hardware.word(at + 2));
        let other_on =
            other_control.is_some_and(|word| word & u32::from(other_enable) != 0);
        let enables = value & changed & u32::from(allowed) != 0;
        let refused = !self.armed.interrupt_control
            || changed & !u32::from(allowed) != 0
            || (enables && other_on);
        if refused {
            return Err(AccessError::Refused);
        }
        self.hardware.write(register, value);
        Ok(())
    }

    fn find(&self, id: u8) -> Option<u16> {
        let byte = |at: u16| self.hardware.word(at).to_le_bytes();
        let [first, ..] = byte(header::CAPABILITIES);
        let mut at = first;
        for _ in 0..MAX_CAPABILITIES {
            if at == 0 {
                return None;
            }
            let [found, next, ..] = byte(at.into());
            if found == id {
                return Some(at.into());
            }
            at = next;
        }
        None
    }
}

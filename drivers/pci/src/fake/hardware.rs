//! The silicon.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use crate::access::{EXTENDED_SPACE, Register};
use crate::regs::{af, bar, capability, header, msix, pcie, pm, status};
use crate::reset::Method;

/// How a [`FakeFunction`] misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// It doesn't.
    #[default]
    None,
    /// Does not come back after a reset.
    NeverReady,
    /// After a reset the word at 0x08 is this one.
    Identity(u32),
    /// After a reset the word at 0x2c is this one.
    Subsystem(u32),
    /// Has what this method takes and does nothing; with the secondary bus, that of a slot.
    Ignores(Method),
    /// After a reset its BARs are 0 and stay so.
    LosesBars,
    /// After a reset Device Control is 0 and stays so.
    LosesControl,
    /// After a reset it is in D3hot and stays so.
    Sleeps,
    /// After a reset MSI-X Enable is on.
    KeepsMsix,
    /// Claims pending transactions for ever.
    AlwaysPending,
    /// Function Mask is set after a reset, as Xen leaves it after a reset at the wrong time.
    MaskedAfterReset,
    /// Function Mask stays set whatever is written, until a reset, as Xen holds it.
    MaskHeld,
    /// Fell off the bus: reads all ones, ignores writes.
    Gone,
    /// The same until the port above resets it.
    Hangs,
}

/// One function's config space as the hardware has it.
#[derive(Clone, Debug)]
pub struct FakeFunction {
    bytes: Vec<u8>,
    /// Bits that a write changes.
    writable: Vec<u8>,
    /// Bits that writing 1 clears.
    clears: Vec<u8>,
    /// What reset makes of `bytes`.
    defaults: Vec<u8>,
    /// Where the PCIe capability is, if it can FLR.
    flr_at: Option<u16>,
    /// Where the PCIe capability is.
    pcie_at: Option<u16>,
    af_at: Option<u16>,
    pm_at: Option<u16>,
    msix_at: Option<u16>,
    /// The port above holds the bus in reset.
    held: bool,
    /// Slot events that were reported by an interrupt.
    alarms: u32,
    ready_after: Duration,
    /// What is left of a reset.
    resetting: Option<Duration>,
    resets: u32,
    fault: Fault,
    writes: Vec<(Register, u32)>,
}

impl FakeFunction {
    /// A function with these ids and nothing else; class in the low 24 bits.
    pub fn builder(vendor: u16, device: u16, class: u32, revision: u8) -> Builder {
        let space = usize::from(EXTENDED_SPACE);
        let mut builder = Builder(Self {
            bytes: vec![0; space],
            writable: vec![0; space],
            clears: vec![0; space],
            defaults: Vec::new(),
            flr_at: None,
            pcie_at: None,
            af_at: None,
            pm_at: None,
            msix_at: None,
            held: false,
            alarms: 0,
            ready_after: Duration::ZERO,
            resetting: None,
            resets: 0,
            fault: Fault::None,
            writes: Vec::new(),
        });
        let ids = u32::from(device) << 16 | u32::from(vendor);
        builder.put(header::VENDOR_ID, &ids.to_le_bytes());
        let word = class << 8 | u32::from(revision);
        builder.put(header::REVISION_AND_CLASS, &word.to_le_bytes());
        // Command: IO, memory, master, parity, SERR, INTx disable.
        builder.allow(header::COMMAND, &0x0547_u16.to_le_bytes());
        builder.allow(header::CACHE_LINE_SIZE, &[0xff]);
        builder.allow(header::INTERRUPT_LINE, &[0xff]);
        let errors = status::ERRORS.to_le_bytes();
        place(&mut builder.0.clears, header::STATUS, &errors);
        builder
    }

    /// What the hardware answers to a read.
    pub fn read(&self, register: Register) -> u32 {
        let mask = register.width().mask();
        if self.is_silent() {
            return mask;
        }
        self.word(register.offset()) & mask
    }

    /// What the hardware does with a write.
    pub fn write(&mut self, register: Register, value: u32) {
        let value = value & register.width().mask();
        self.writes.push((register, value));
        if self.is_silent() {
            return;
        }
        let flr = self.flr_at.map(|at| at + pcie::DEVICE_CONTROL + 1);
        let advanced = self.af_at.map(|at| at + af::CONTROL);
        let (bus_held, power) = (self.holds_bus(), self.power_state());
        let mut reset = None;
        let places = register.offset()..register.end();
        for (offset, byte) in places.zip(value.to_le_bytes()) {
            let at = usize::from(offset);
            let mut writable = self.writable.get(at).copied().unwrap_or(0);
            if self.has_lost(offset) {
                writable = 0;
            }
            let clears = self.clears.get(at).copied().unwrap_or(0);
            if let Some(old) = self.bytes.get_mut(at) {
                *old = (*old & !writable | byte & writable) & !(byte & clears);
            }
            if flr == Some(offset) && byte & 0x80 != 0 {
                reset = Some(Method::FunctionLevel);
            }
            if advanced == Some(offset) && byte & af::INITIATE_FLR != 0 {
                reset = Some(Method::AdvancedFeatures);
            }
        }
        if self.fault == Fault::MaskHeld {
            self.set_maskall();
        }
        if power == pm::STATE && self.power_state() == 0 && self.loses_state() {
            reset = Some(Method::PowerState);
        }
        if bus_held && !self.holds_bus() {
            self.slot_event();
        }
        if let Some(method) = reset
            && self.fault != Fault::Ignores(method)
        {
            self.reset();
        }
    }

    /// Does what a reset does: writable registers to their defaults, then silence for a while.
    pub fn reset(&mut self) {
        self.bytes.clone_from(&self.defaults);
        self.resetting = Some(self.ready_after);
        self.resets += 1;
        match self.fault {
            Fault::Identity(word) => {
                place(&mut self.bytes, header::REVISION_AND_CLASS, &word.to_le_bytes());
            }
            Fault::Subsystem(word) => {
                place(&mut self.bytes, header::SUBSYSTEM, &word.to_le_bytes());
            }
            Fault::MaskedAfterReset => self.set_maskall(),
            Fault::MaskHeld | Fault::Hangs => self.fault = Fault::None,
            Fault::Sleeps => {
                if let Some(at) = self.pm_at {
                    place(&mut self.bytes, at + pm::CONTROL, &pm::STATE.to_le_bytes());
                }
            }
            Fault::KeepsMsix => self.set_message_control(msix::ENABLE),
            _ => {}
        }
    }

    /// The port above begins or ends to hold the bus in reset.
    pub fn set_held(&mut self, held: bool) {
        if self.fault == Fault::Ignores(Method::SecondaryBus) || self.held == held {
            return;
        }
        self.held = held;
        if held {
            self.reset();
        }
        self.resetting = Some(self.ready_after);
    }

    /// Whether it is a bridge that holds the bus below in reset.
    pub fn holds_bus(&self) -> bool {
        let [.., low, _] = self.word(header::INTERRUPT_LINE).to_le_bytes();
        self.is_bridge() && u16::from(low) & header::BUS_RESET != 0
    }

    /// The buses below it, if it is a bridge.
    pub fn buses(&self) -> Option<(u8, u8)> {
        let [_, secondary, subordinate, _] =
            self.word(header::BRIDGE_BUSES).to_le_bytes();
        self.is_bridge().then_some((secondary, subordinate))
    }

    /// Slot events that dom0 was interrupted for.
    pub const fn alarms(&self) -> u32 {
        self.alarms
    }

    /// Whether it has a bridge's header.
    pub fn is_bridge(&self) -> bool {
        let [_, _, kind, _] = self.word(header::CACHE_LINE_SIZE).to_le_bytes();
        kind & !header::MULTI_FUNCTION == header::TYPE_BRIDGE
    }

    /// The card below seems to have gone and come back.
    fn slot_event(&mut self) {
        let Some(at) = self.pcie_at.filter(|at| self.has_slot(*at)) else { return };
        let [low, high, ..] = self.word(at + pcie::SLOT_CONTROL).to_le_bytes();
        let control = u16::from_le_bytes([low, high]);
        if control & pcie::SLOT_ENABLES != 0 {
            self.alarms += 1;
        }
        let events = (1_u16 << 3 | 1 << 8).to_le_bytes();
        place(&mut self.bytes, at + pcie::SLOT_STATUS, &events);
    }

    fn has_slot(&self, pcie: u16) -> bool {
        self.is_bridge()
            && self.word(pcie + pcie::FLAGS) & u32::from(pcie::SLOT_IMPLEMENTED) != 0
    }

    fn power_state(&self) -> u16 {
        let [low, ..] =
            self.pm_at.map_or(0, |at| self.word(at + pm::CONTROL)).to_le_bytes();
        u16::from(low) & pm::STATE
    }

    fn loses_state(&self) -> bool {
        let control = self.pm_at.map(|at| self.word(at + pm::CONTROL));
        control.is_some_and(|control| control & u32::from(pm::NO_SOFT_RESET) == 0)
    }

    /// Whether a write there is lost since the last reset.
    fn has_lost(&self, offset: u16) -> bool {
        let bars = header::BAR0..header::bar(header::ENDPOINT_BARS);
        let control = self.pcie_at.map(|at| at + pcie::DEVICE_CONTROL);
        let power = self.pm_at.map(|at| at + pm::CONTROL);
        self.resets > 0
            && match self.fault {
                Fault::LosesBars => bars.contains(&offset),
                // Its lower byte; the upper one has Initiate FLR.
                Fault::LosesControl => control == Some(offset),
                Fault::Sleeps => power == Some(offset),
                _ => false,
            }
    }

    /// Lets time pass.
    pub fn elapse(&mut self, time: Duration) {
        if self.held {
            return;
        }
        self.resetting = self
            .resetting
            .and_then(|left| left.checked_sub(time))
            .filter(|left| !left.is_zero());
    }

    /// Makes it misbehave from now on.
    pub fn set_fault(&mut self, fault: Fault) {
        self.fault = fault;
        if fault == Fault::MaskHeld {
            self.set_maskall();
        }
    }

    /// How long it is silent after FLR.
    pub fn set_ready_after(&mut self, time: Duration) {
        self.ready_after = time;
    }

    /// Resets so far.
    pub const fn resets(&self) -> u32 {
        self.resets
    }

    /// Every write that reached the hardware, in order.
    pub fn writes(&self) -> &[(Register, u32)] {
        &self.writes
    }

    /// Takes the writes so far.
    pub fn take_writes(&mut self) -> Vec<(Register, u32)> {
        core::mem::take(&mut self.writes)
    }

    /// Its config space as bytes, faults and silence aside.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The four bytes at `offset`, faults and silence aside.
    pub fn word(&self, offset: u16) -> u32 {
        let byte = |n: u16| {
            let at = usize::from(offset.saturating_add(n));
            self.bytes.get(at).copied().unwrap_or(0xff)
        };
        let mut word = u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]);
        if self.fault == Fault::AlwaysPending {
            let pcie = self.pcie_at.map(|at| at + pcie::DEVICE_STATUS);
            let advanced = self.af_at.map(|at| at + af::STATUS);
            if pcie == Some(offset) {
                word |= u32::from(pcie::TRANSACTIONS_PENDING);
            } else if advanced == Some(offset) {
                word |= u32::from(af::PENDING);
            }
        }
        word
    }

    /// Makes a byte read-only, with its default value.
    pub fn forbid(&mut self, offset: u16) {
        place(&mut self.writable, offset, &[0]);
    }

    /// Changes bytes behind everybody's back: the test as hardware or as Xen.
    pub fn set_bytes(&mut self, offset: u16, bytes: &[u8]) {
        place(&mut self.bytes, offset, bytes);
    }

    /// Whether it answers nothing, and no waiting changes that.
    pub const fn is_dead(&self) -> bool {
        matches!(self.fault, Fault::Gone | Fault::Hangs)
    }

    /// Whether it answers nothing now.
    pub fn is_silent(&self) -> bool {
        self.is_dead()
            || self.held
            || (self.fault == Fault::NeverReady && self.resets > 0)
            || self.resetting.is_some_and(|left| !left.is_zero())
    }

    fn set_maskall(&mut self) {
        self.set_message_control(msix::MASKALL);
    }

    fn set_message_control(&mut self, bits: u16) {
        if let Some(at) = self.msix_at {
            let [_, high] = bits.to_le_bytes();
            if let Some(byte) = self.bytes.get_mut(usize::from(at + msix::CONTROL + 1)) {
                *byte |= high;
            }
        }
    }
}

fn place(bytes: &mut [u8], offset: u16, values: &[u8]) {
    let from = usize::from(offset);
    for (byte, value) in bytes.iter_mut().skip(from).zip(values) {
        *byte = *value;
    }
}

/// Builds a [`FakeFunction`] register by register.
#[derive(Clone, Debug)]
pub struct Builder(FakeFunction);

impl Builder {
    /// Puts raw bytes, read-only unless [`Builder::allow`]ed.
    pub fn put(&mut self, offset: u16, bytes: &[u8]) -> &mut Self {
        place(&mut self.0.bytes, offset, bytes);
        self
    }

    /// Makes the bits of `mask` writable.
    pub fn allow(&mut self, offset: u16, mask: &[u8]) -> &mut Self {
        place(&mut self.0.writable, offset, mask);
        self
    }

    /// Makes the bits of `mask` such that writing 1 clears them.
    pub fn clear_by_one(&mut self, offset: u16, mask: &[u8]) -> &mut Self {
        place(&mut self.0.clears, offset, mask);
        self
    }

    /// Subsystem IDs.
    pub fn subsystem(&mut self, vendor: u16, device: u16) -> &mut Self {
        let word = u32::from(device) << 16 | u32::from(vendor);
        self.put(header::SUBSYSTEM, &word.to_le_bytes())
    }

    /// A memory BAR of `size` bytes, a power of two from 16; with `wide` it takes the next
    /// register too.
    pub fn memory_bar(&mut self, index: u8, size: u64, wide: bool) -> &mut Self {
        let mask = size.wrapping_neg() & !u64::from(bar::MEMORY_FLAGS);
        let flags = if wide { bar::TYPE_64 } else { 0 };
        let offset = header::bar(index);
        self.put(offset, &flags.to_le_bytes());
        let bytes = mask.to_le_bytes();
        let used = if wide { 8 } else { 4 };
        self.allow(offset, bytes.get(..used).unwrap_or(&[]))
    }

    /// An I/O BAR of `size` ports, a power of two from 4.
    pub fn io_bar(&mut self, index: u8, size: u32) -> &mut Self {
        let mask = size.wrapping_neg() & !bar::IO_FLAGS;
        self.put(header::bar(index), &bar::IO.to_le_bytes());
        self.allow(header::bar(index), &mask.to_le_bytes())
    }

    /// An expansion ROM of `size` bytes, a power of two from 2048.
    pub fn rom(&mut self, size: u32) -> &mut Self {
        let mask = size.wrapping_neg() & bar::ROM_ADDRESS | bar::ROM_ENABLE;
        self.allow(header::ROM, &mask.to_le_bytes())
    }

    /// Appends a capability at `offset`: `body` is what follows id and next pointer,
    /// `mask` its writable bits.
    pub fn capability(
        &mut self,
        offset: u8,
        id: u8,
        body: &[u8],
        mask: &[u8],
    ) -> &mut Self {
        let word = status::CAPABILITIES.to_le_bytes();
        self.put(header::STATUS, &word);
        // The list's last pointer, wherever it is, now leads here.
        let mut pointer = header::CAPABILITIES;
        let mut next = self.0.bytes.get(usize::from(pointer)).copied().unwrap_or(0);
        while next != 0 {
            pointer = u16::from(next) + 1;
            next = self.0.bytes.get(usize::from(pointer)).copied().unwrap_or(0);
        }
        self.put(pointer, &[offset]);
        let offset = u16::from(offset);
        self.put(offset, &[id, 0]);
        self.put(offset + 2, body);
        self.allow(offset + 2, mask)
    }

    /// Firmware's part: `values` are written to the registers named, after the state that
    /// resets lead to has been taken.
    pub fn build(&self, firmware: &[(u16, u32)]) -> FakeFunction {
        let mut function = self.0.clone();
        function.defaults.clone_from(&function.bytes);
        function.pcie_at = self.find(capability::PCIE);
        function.flr_at = function.pcie_at.filter(|at| {
            let abilities = function.word(at + pcie::DEVICE_CAPABILITIES);
            abilities & pcie::FLR_CAPABLE != 0
        });
        function.msix_at = self.find(capability::MSIX);
        function.pm_at = self.find(capability::PM);
        function.af_at = self.find(capability::AF).filter(|at| {
            let [.., abilities] = function.word(*at).to_le_bytes();
            abilities & af::HAS_FLR != 0
        });
        for (offset, value) in firmware {
            let register = Register::new(*offset, crate::access::Width::Dword);
            if let Some(register) = register {
                function.write(register, *value);
            }
        }
        function.writes.clear();
        function
    }

    fn find(&self, id: u8) -> Option<u16> {
        let byte = |at: u16| self.0.bytes.get(usize::from(at)).copied().unwrap_or(0);
        let mut at = u16::from(byte(header::CAPABILITIES));
        for _ in 0..crate::scan::MAX_CAPABILITIES {
            if at == 0 {
                break;
            }
            if byte(at) == id {
                return Some(at);
            }
            at = byte(at + 1).into();
        }
        None
    }
}

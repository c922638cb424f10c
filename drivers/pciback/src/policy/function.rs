//! A lent function as one guest sees it.

use alloc::vec::Vec;

use pcidom_loan::Exceptions;
use pcidom_pci::function::Function;
use pcidom_pci::regs::{command, header, msi, msix, pcie};
use pcidom_pci::{Access, Register, Sbdf, Width};
use pcidom_xenbus::pciif::OpError;

use super::address::AddressRegister;
use super::dropped::Dropped;
use super::field::{Field, Overlap, ReadRule, View, WriteRule, add};
use super::lists::Hidden;
use super::step::{Merge, Step};
use super::table::{self, Table};
use crate::interrupt::{Interrupts, Kind};

/// COMMAND bits a guest's write brings to the hardware, besides INTx disable. The other
/// bits live in the shadow only: decode stays on while a function is lent, and SERR and
/// parity reporting are the host's (advisory 120).
pub(super) const FORWARDED: u16 = command::BUS_MASTER | command::INVALIDATE;
/// COMMAND bits that exist (PCI 6.2.2); the others read 0.
pub(super) const COMMAND_BITS: u16 = 0x07ff;
/// DEVCTL: error reporting (PCIe 7.5.3.4). Its messages go to the host, so a guest's wish
/// stays in the shadow.
pub(super) const REPORTING: u32 = 0x000f;
/// DEVCTL: Max_Read_Request_Size.
const READ_SIZE: u32 = 0x7000;
/// DEVCTL: what a guest may change, Enable Relaxed Ordering, Enable No Snoop, and the read
/// size: they say how the device reaches the guest's own memory.
pub(super) const REQUESTS: u32 = 1 << 4 | 1 << 11 | READ_SIZE;
/// DEVCTL: the largest read size that has a meaning, 4096 bytes.
const LARGEST_READS: u32 = 0x5000;
/// VPD Address: the flag that makes it a write (PCI appendix I).
pub(super) const PRODUCT_WRITE: u32 = 1 << 15;
/// BIST: start the test (PCI 6.2.4). The function may be gone for two seconds.
const START_BIST: u32 = 1 << 6;
/// PMCSR: bits that mean something else than "D0, no PME" (PM 3.2.4). PME_Status is left
/// out: drivers clear it as a matter of course, and it always reads 0.
const POWER_REQUEST: u32 = 0x0103;

/// How one access of a guest is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// No hardware is needed: this value, or 0 for a write.
    Answer(u32),
    /// It is refused.
    Refuse(OpError),
    /// One hardware read, shown through a view.
    Read(Register, View),
    /// Writes, in this order.
    Write(Vec<Step>),
}

/// A lent function as one guest sees it: its register table and what belongs to it.
#[derive(Debug)]
pub struct VirtualFunction {
    function: Function,
    fields: Vec<Field>,
    addresses: Vec<AddressRegister>,
    hidden: Vec<Hidden>,
    permissive: bool,
    command: u16,
    /// DEVCTL: error reporting as the guest has it.
    reporting: u32,
    sent_command: Option<u16>,
    multifunction: bool,
    dropped: Dropped,
    /// Its interrupts and their leases.
    pub(crate) interrupts: Interrupts,
    /// Set once the loan is over: nothing may be asked about it any more.
    pub(crate) ended: bool,
}

impl VirtualFunction {
    /// As a guest finds it after a reset. The hardware must decode memory (and I/O if it
    /// has I/O BARs) and have bus mastering and MSI(-X) off.
    pub fn new(function: &Function) -> Self {
        let Table { fields, addresses, hidden } = table::build(function);
        Self {
            multifunction: function.header_type & header::MULTI_FUNCTION != 0,
            function: function.clone(),
            fields,
            addresses,
            hidden,
            permissive: false,
            command: 0,
            reporting: 0,
            sent_command: None,
            dropped: Dropped::default(),
            interrupts: Interrupts::new(),
            ended: false,
        }
    }

    /// The same without its line, which is another guest's: it has no pin, and INTx stays
    /// off in hardware.
    pub fn without_line(function: &Function) -> Self {
        let mut function = function.clone();
        (function.interrupt_pin, function.interrupt_line) = (0, 0);
        Self::new(&function)
    }

    /// The same with what a person lets the guest write besides, as far as the table lets
    /// itself be changed. A bridge is not lent, so nothing can be allowed for one.
    pub fn with(mut self, exceptions: &Exceptions) -> Self {
        if self.function.is_bridge() {
            return self;
        }
        self.permissive = exceptions.permissive;
        for allowed in exceptions.allowed() {
            for field in &mut self.fields {
                if let Some(overlap) = Overlap::of(allowed.register, field.register) {
                    field.granted |= overlap.to_field(allowed.mask) & field.grantable;
                }
            }
            if allowed.register.end() <= self.function.space {
                // If there is no row yet.
                add(&mut self.fields, Field::unknown(allowed.register, allowed.mask));
            }
        }
        for field in &mut self.fields {
            if self.permissive {
                field.granted = field.grantable;
            }
            // Who may write it is to see what came of it, whatever it should have held.
            if field.granted != 0 && matches!(field.read, ReadRule::Constant(_)) {
                field.read = ReadRule::Hardware;
            }
        }
        self
    }

    /// Its physical address.
    pub const fn sbdf(&self) -> Sbdf {
        self.function.sbdf
    }

    /// What its scan recorded.
    pub const fn function(&self) -> &Function {
        &self.function
    }

    /// The rows of its register table.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The capabilities that its guest does not see. They come before all rows.
    pub fn hidden(&self) -> &[Hidden] {
        &self.hidden
    }

    /// Whether space without a row may be written.
    pub(super) const fn is_permissive(&self) -> bool {
        self.permissive
    }

    /// Writes that were not done as asked.
    pub const fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    /// Whether its Header Type says that its virtual slot has more functions.
    pub(crate) const fn set_multifunction(&mut self, on: bool) {
        self.multifunction = on;
    }

    /// COMMAND as the hardware is to have it.
    pub(crate) fn hardware_command(&self) -> u16 {
        let messages = self.interrupts.enabled().is_some();
        let no_line = self.function.interrupt_pin == 0;
        let quiet = if messages || no_line { command::INTX_DISABLE } else { 0 };
        let asked = self.command & (FORWARDED | command::INTX_DISABLE);
        self.function.decode() | asked | quiet
    }

    /// The write that brings COMMAND to the hardware, unless it has that value already.
    pub(crate) fn command_write(&self) -> Option<Access> {
        let value = self.hardware_command();
        let register = Register::new(header::COMMAND, Width::Word)?;
        (self.sent_command != Some(value)).then(|| Access::Write(register, value.into()))
    }

    /// Notes how a hardware write ended: what COMMAND holds is known only after a success.
    pub(crate) fn wrote(&mut self, access: Access, done: bool) {
        if let Access::Write(register, value) = access
            && register.offset() == header::COMMAND
        {
            self.sent_command = u16::try_from(value).ok().filter(|_| done);
        }
    }

    /// Forgets what the guest has set: the next one on this link starts from a reset value.
    pub(crate) fn forget_guest(&mut self) {
        self.command = 0;
        self.reporting = 0;
        self.addresses.iter_mut().for_each(AddressRegister::settle);
    }

    /// The hardware was reset: nothing that the guest or we had set in it is left.
    pub(crate) fn forget_reset(&mut self) {
        self.forget_guest();
        self.sent_command = None;
        self.interrupts = Interrupts::new();
    }

    /// Whether the hardware may start DMA, as far as we know.
    pub(crate) fn may_master(&self) -> bool {
        self.sent_command.is_none_or(|sent| sent & command::BUS_MASTER != 0)
    }

    /// Turns an access of the guest into what is to be done, and takes up what it changes.
    pub(crate) fn plan(&mut self, access: Access) -> Plan {
        if access.register().end() > self.function.space {
            return Plan::Refuse(OpError::InvalidOffset);
        }
        match access {
            Access::Read(register) => {
                let view = self.view(register);
                match view.keep & register.width().mask() {
                    0 => Plan::Answer(view.set),
                    _ => Plan::Read(register, view),
                }
            }
            Access::Write(register, value) => self.plan_write(register, value),
        }
    }

    /// The hidden capability that `register` is in.
    fn hides(&self, register: Register) -> Option<Hidden> {
        self.hidden.iter().find(|hidden| hidden.contains(register)).copied()
    }

    /// What the guest sees at `register`, put together from the fields it touches.
    pub(super) fn view(&self, register: Register) -> View {
        if self.hides(register).is_some() {
            return View::local(0);
        }
        let mut view = View::HARDWARE;
        for field in &self.fields {
            let Some(overlap) = Overlap::of(register, field.register) else { continue };
            let of_field = self.view_of(field);
            view.keep &= !overlap.access_mask() | overlap.to_access(of_field.keep);
            view.set |= overlap.to_access(of_field.set);
        }
        view
    }

    fn view_of(&self, field: &Field) -> View {
        let enabled = |kind, bit: u16| match self.interrupts.enabled() {
            Some(on) if on == kind => u32::from(bit),
            _ => 0,
        };
        match field.read {
            ReadRule::Hardware => View::HARDWARE,
            ReadRule::Masked(keep) => View { keep, set: 0 },
            ReadRule::Constant(value) => View::local(value),
            ReadRule::Command => {
                View { keep: FORWARDED.into(), set: (self.command & !FORWARDED).into() }
            }
            ReadRule::Address(number) => {
                let known = self.addresses.get(usize::from(number));
                View::local(known.map_or(0, AddressRegister::read))
            }
            ReadRule::MsiControl(bits) => {
                View::local(u32::from(bits) | enabled(Kind::Msi, msi::ENABLE))
            }
            ReadRule::MsixControl(size) => {
                View::local(u32::from(size) | enabled(Kind::Msix, msix::ENABLE))
            }
            ReadRule::HeaderType(kind) => {
                let more = if self.multifunction { header::MULTI_FUNCTION } else { 0 };
                View::local((kind & !header::MULTI_FUNCTION | more).into())
            }
            ReadRule::DeviceControl => {
                let shadow = REPORTING & !field.granted;
                let keep = !shadow & !u32::from(pcie::INITIATE_FLR);
                View { keep, set: self.reporting & shadow }
            }
        }
    }

    fn plan_write(&mut self, register: Register, value: u32) -> Plan {
        if let Some(hidden) = self.hides(register) {
            if value != 0 {
                self.dropped.count(hidden.name(), register, value);
            }
            return Plan::Answer(0);
        }
        // Denied as a whole or not at all: a refused write must not have had effects.
        let denied = self.fields.iter().any(|field| {
            field.write == WriteRule::SelfTest
                && Overlap::of(register, field.register)
                    .is_some_and(|overlap| overlap.to_field(value) & START_BIST != 0)
        });
        let mut undescribed = register.width().mask();
        let mut steps = Vec::new();
        // By number, since a rule changes other parts of the function than the table.
        for number in 0..self.fields.len() {
            let Some(field) = self.fields.get(number).copied() else { break };
            let Some(overlap) = Overlap::of(register, field.register) else { continue };
            undescribed &= !overlap.access_mask();
            if !denied {
                steps.extend(self.write_field(field, overlap, value));
            } else if field.write == WriteRule::SelfTest {
                self.drop_write(field, overlap.to_field(value));
            }
        }
        if denied {
            return Plan::Refuse(OpError::AccessDenied);
        }
        if undescribed != 0 {
            self.write_undescribed(register, value, undescribed, &mut steps);
        }
        if steps.is_empty() { Plan::Answer(0) } else { Plan::Write(steps) }
    }

    /// A write to bytes without a row.
    fn write_undescribed(
        &self,
        register: Register,
        value: u32,
        covered: u32,
        steps: &mut Vec<Step>,
    ) {
        if !self.permissive {
            let wanted = value & covered;
            let (name, view) = ("", View::HARDWARE);
            let merge = Merge { register, name, wanted, covered, mask: 0, value, view };
            steps.push(Step::Merge(merge));
        } else if covered == register.width().mask() {
            steps.push(Step::Write(register, value));
        } else {
            // Byte by byte: dom0's backend drops what shares a write with its own fields.
            for (offset, byte) in (register.offset()..register.end()).zip(0..) {
                let shift: u32 = 8 * byte;
                if covered >> shift & 0xff != 0
                    && let Some(place) = Register::new(offset, Width::Byte)
                {
                    steps.push(Step::Write(place, value >> shift & 0xff));
                }
            }
        }
    }

    fn drop_write(&mut self, field: Field, value: u32) {
        self.dropped.count(field.name, field.register, value);
    }

    /// The write that `merge` leads to if the register holds `old`.
    pub(crate) fn merge(&mut self, merge: &Merge, old: u32) -> Option<Access> {
        if !merge.satisfies(old) {
            self.dropped.count(merge.name, merge.register, merge.wanted);
        }
        merge.access(old)
    }

    /// Applies a write to one field; gives the step it leads to.
    fn write_field(
        &mut self,
        field: Field,
        overlap: Overlap,
        value: u32,
    ) -> Option<Step> {
        let value = overlap.to_field(value);
        let covered = overlap.field_mask();
        let whole = overlap.covers(field.register);
        match field.write {
            WriteRule::Forward if whole => {
                return Some(Step::Write(field.register, value));
            }
            WriteRule::Clear(bits) => {
                let ones = value & bits;
                return (ones != 0).then_some(Step::Write(field.register, ones));
            }
            WriteRule::Command => {
                let (value, mask) = (low_half(value), low_half(covered));
                self.command = (self.command & !mask | value & mask) & COMMAND_BITS;
                return match self.command_write() {
                    Some(Access::Write(register, value)) => {
                        Some(Step::Write(register, value))
                    }
                    _ => None,
                };
            }
            WriteRule::DeviceControl => {
                self.reporting = self.reporting & !covered | value & REPORTING;
                let mask = (REQUESTS | field.granted) & covered;
                let limit = self.largest_reads(&field);
                let too_large =
                    mask & READ_SIZE == READ_SIZE && value & READ_SIZE > limit;
                let sent = if too_large { value & !READ_SIZE | limit } else { value };
                return Some(self.merge_step(&field, (value, sent), covered, mask));
            }
            WriteRule::Address(number) => {
                let register = self.addresses.get_mut(usize::from(number));
                let taken = register.is_some_and(|register| {
                    if whole {
                        return register.write(value);
                    }
                    register.settle();
                    false
                });
                if !taken {
                    self.drop_write(field, value);
                }
            }
            WriteRule::PowerState if value & POWER_REQUEST == 0 => {}
            WriteRule::ProductAddress if whole && value & PRODUCT_WRITE == 0 => {
                return Some(Step::Write(field.register, value));
            }
            WriteRule::Drop | WriteRule::SelfTest => {
                let shown = self.view_of(&field);
                if shown.keep & covered != 0 {
                    let mask = field.granted & covered;
                    return Some(self.merge_step(&field, (value, value), covered, mask));
                }
                if (value ^ shown.set) & covered != 0 {
                    self.drop_write(field, value);
                }
            }
            WriteRule::Forward | WriteRule::PowerState | WriteRule::ProductAddress => {
                self.drop_write(field, value);
            }
        }
        None
    }

    /// A merge, or a mere write where nothing of the old value stays.
    fn merge_step(
        &self,
        field: &Field,
        (wanted, value): (u32, u32),
        covered: u32,
        mask: u32,
    ) -> Step {
        let (register, name) = (field.register, field.name);
        if mask == register.width().mask() {
            return Step::Write(register, value);
        }
        let view = self.view_of(field);
        Step::Merge(Merge { register, name, wanted, covered, mask, value, view })
    }

    /// The largest read size that a guest may set: what dom0 has found right, which may keep
    /// completions small enough for a port above.
    fn largest_reads(&self, field: &Field) -> u32 {
        if field.granted & READ_SIZE == READ_SIZE {
            return LARGEST_READS;
        }
        let found = self.function.pcie.map_or(0, |pcie| pcie.control);
        (u32::from(found) & READ_SIZE).min(LARGEST_READS)
    }
}

fn low_half(value: u32) -> u16 {
    let [low, high, ..] = value.to_le_bytes();
    u16::from_le_bytes([low, high])
}

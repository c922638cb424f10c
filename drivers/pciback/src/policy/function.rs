//! A lent function as one guest sees it.

use alloc::vec::Vec;

use pcidom_pci::function::Function;
use pcidom_pci::regs::{command, header, msi, msix};
use pcidom_pci::{Access, Register, Sbdf, Width};
use pcidom_xenbus::pciif::OpError;

use super::address::AddressRegister;
use super::dropped::Dropped;
use super::field::{Field, Overlap, ReadRule, View, WriteRule};
use super::table;
use crate::interrupt::{Interrupts, Kind};

/// COMMAND bits a guest's write brings to the hardware, besides INTx disable. The other
/// bits live in the shadow only: decode stays on while a function is lent, and SERR and
/// parity reporting are the host's (advisory 120).
const FORWARDED: u16 = command::BUS_MASTER | command::INVALIDATE;
/// COMMAND bits that exist (PCI 6.2.2); the others read 0.
const COMMAND_BITS: u16 = 0x07ff;
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
    /// Hardware writes, in this order.
    Write(Vec<Access>),
}

/// A lent function as one guest sees it: its register table and what belongs to it.
#[derive(Debug)]
pub struct VirtualFunction {
    function: Function,
    fields: Vec<Field>,
    addresses: Vec<AddressRegister>,
    command: u16,
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
        let (fields, addresses) = table::build(function);
        Self {
            multifunction: function.header_type & header::MULTI_FUNCTION != 0,
            function: function.clone(),
            fields,
            addresses,
            command: 0,
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

    /// What the guest sees at `register`, put together from the fields it touches.
    fn view(&self, register: Register) -> View {
        let mut view = View::HARDWARE;
        for field in &self.fields {
            let Some(overlap) = Overlap::of(register, field.register) else { continue };
            let of_field = self.view_of(field.read);
            view.keep &= !overlap.access_mask() | overlap.to_access(of_field.keep);
            view.set |= overlap.to_access(of_field.set);
        }
        view
    }

    fn view_of(&self, rule: ReadRule) -> View {
        let enabled = |kind, bit: u16| match self.interrupts.enabled() {
            Some(on) if on == kind => u32::from(bit),
            _ => 0,
        };
        match rule {
            ReadRule::Hardware => View::HARDWARE,
            ReadRule::Masked(keep) => View { keep, set: 0 },
            ReadRule::Constant(value) => View::local(value),
            ReadRule::Command => {
                View { keep: FORWARDED.into(), set: (self.command & !FORWARDED).into() }
            }
            ReadRule::Address(number) => {
                View::local(self.addresses.get(number).map_or(0, AddressRegister::read))
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
        }
    }

    fn plan_write(&mut self, register: Register, value: u32) -> Plan {
        // Denied as a whole or not at all: a refused write must not have had effects.
        let denied = self.fields.iter().any(|field| {
            field.write == WriteRule::SelfTest
                && Overlap::of(register, field.register)
                    .is_some_and(|overlap| overlap.to_field(value) & START_BIST != 0)
        });
        let mut undescribed = register.width().mask();
        let mut accesses = Vec::new();
        // By number, since a rule changes other parts of the function than the table.
        for number in 0..self.fields.len() {
            let Some(field) = self.fields.get(number).copied() else { break };
            let Some(overlap) = Overlap::of(register, field.register) else { continue };
            undescribed &= !overlap.access_mask();
            if !denied {
                accesses.extend(self.write_field(field, overlap, value));
            } else if field.write == WriteRule::SelfTest {
                self.drop_write(field, overlap.to_field(value));
            }
        }
        if denied {
            return Plan::Refuse(OpError::AccessDenied);
        }
        if undescribed != 0 {
            self.dropped.count(None, register.offset() & !3, value & undescribed);
        }
        if accesses.is_empty() { Plan::Answer(0) } else { Plan::Write(accesses) }
    }

    fn drop_write(&mut self, field: Field, value: u32) {
        self.dropped.count(Some(field.name), field.register.offset(), value);
    }

    /// Applies a write to one field; gives the hardware write it leads to.
    fn write_field(
        &mut self,
        field: Field,
        overlap: Overlap,
        value: u32,
    ) -> Option<Access> {
        let value = overlap.to_field(value);
        let whole = overlap.covers(field.register);
        match field.write {
            WriteRule::Forward if whole => {
                return Some(Access::Write(field.register, value));
            }
            WriteRule::Command => {
                let [low, high, ..] = value.to_le_bytes();
                let [mask_low, mask_high, ..] = overlap.field_mask().to_le_bytes();
                let (value, mask) = (
                    u16::from_le_bytes([low, high]),
                    u16::from_le_bytes([mask_low, mask_high]),
                );
                self.command = (self.command & !mask | value & mask) & COMMAND_BITS;
                return self.command_write();
            }
            WriteRule::Address(number) => {
                let register = self.addresses.get_mut(number);
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
            WriteRule::Drop
            | WriteRule::Forward
            | WriteRule::SelfTest
            | WriteRule::PowerState => self.drop_write(field, value),
        }
        None
    }
}

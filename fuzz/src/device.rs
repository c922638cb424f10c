//! A lent function's hardware, and what may never be done to it.

use pciback::VirtualFunction;
use pciback::policy::Field;
use pcidom_loan::Exceptions;
use pcidom_pci::fake::{FakeBackend, FakeFunction, run};
use pcidom_pci::function::Function;
use pcidom_pci::regs::{command, header, msi, msix};
use pcidom_pci::{Access, Register, Sbdf, Width, scan};

use crate::rights::{FLR, READ_SIZE, Right, Rights};

/// COMMAND bits that a guest's wish brings to the hardware (docs/config-space.md).
const WISHES: u16 = command::BUS_MASTER | command::INVALIDATE | command::INTX_DISABLE;

/// A function as it was recorded, with what its guest may do and its bytes.
#[derive(Debug)]
pub(crate) struct Model {
    /// As it was scanned.
    pub(crate) function: Function,
    /// What a person lets its guest write besides.
    pub(crate) exceptions: Exceptions,
    /// What its guest may write.
    pub(crate) rights: Rights,
    fields: Vec<Field>,
    bytes: Vec<u8>,
}

impl Model {
    /// The function with these bytes.
    pub(crate) fn new(
        function: Function,
        bytes: Vec<u8>,
        exceptions: Exceptions,
    ) -> Self {
        let shown = VirtualFunction::new(&function).with(&exceptions);
        let fields = shown.fields().to_vec();
        let rights = Rights::of(&function, &exceptions);
        Self { function, exceptions, rights, fields, bytes }
    }

    /// As its guest finds it.
    pub(crate) fn shown(&self) -> VirtualFunction {
        VirtualFunction::new(&self.function).with(&self.exceptions)
    }

    /// One of the fakes at `address`.
    pub(crate) fn scanned(address: Sbdf, fake: FakeFunction) -> Self {
        let mut dom0 = FakeBackend::new(address, fake);
        let function = run(&mut dom0, |config| async move { scan(&config).await });
        let bytes = dom0.hardware().bytes().to_vec();
        Self::new(function.0.unwrap(), bytes, Exceptions::default())
    }

    /// The rows of its table.
    pub(crate) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Whether an access concerns what message interrupts are made of: nothing is ever
    /// learnt from there, and nothing is written (advisories 128 and 337).
    pub(crate) fn is_message(&self, register: Register) -> bool {
        let Some(msi) = &self.function.msi else { return false };
        let end = if msi.is_64bit { 14 } else { 10 };
        register.offset() < msi.offset.saturating_add(end)
            && register.end() > msi.offset.saturating_add(4)
    }
}

/// One device's hardware while it is lent.
#[derive(Debug)]
pub(crate) struct Hardware<'a> {
    model: &'a Model,
    bytes: Vec<u8>,
    /// Some write has failed: what is on may be left on.
    pub(crate) unsure: bool,
}

impl<'a> Hardware<'a> {
    /// As it is after a reset: decoding, and quiet.
    pub(crate) fn new(model: &'a Model) -> Self {
        let function = &model.function;
        let mut new = Self { model, bytes: model.bytes.clone(), unsure: false };
        new.put_word(Some(header::COMMAND), u16::MAX, function.decode());
        new.put_word(function.msi.map(|msi| msi.control()), msi::ENABLE, 0);
        let control = function.msix.map(|msix| msix.control());
        new.put_word(control, msix::ENABLE | msix::MASKALL, 0);
        new
    }

    fn word(&self, offset: Option<u16>) -> u16 {
        let register = offset.and_then(|at| Register::new(at, Width::Word));
        register.map_or(0, |register| self.read(register) as u16)
    }

    fn put_word(&mut self, offset: Option<u16>, mask: u16, value: u16) {
        let Some(at) = offset.map(usize::from) else { return };
        let new = self.word(offset) & !mask | value;
        if let Some(place) = self.bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&new.to_le_bytes());
        }
    }

    fn command(&self) -> u16 {
        self.word(Some(header::COMMAND))
    }

    fn msi(&self) -> u16 {
        self.word(self.model.function.msi.map(|msi| msi.control()))
    }

    fn msix(&self) -> u16 {
        self.word(self.model.function.msix.map(|msix| msix.control()))
    }

    /// What it is.
    pub(crate) const fn model(&self) -> &'a Model {
        self.model
    }

    /// A reset ends what was on.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.model);
    }

    /// It may send messages.
    pub(crate) fn sends(&self) -> bool {
        self.msi() & msi::ENABLE != 0 || self.msix() & msix::ENABLE != 0
    }

    /// It may write memory.
    pub(crate) fn masters(&self) -> bool {
        self.command() & command::BUS_MASTER != 0
    }

    /// Does an access that the server has asked for; `leased` if pirqs are mapped for it.
    pub(crate) fn access(&mut self, access: Access, leased: bool) -> u32 {
        let register = access.register();
        assert!(register.end() <= self.model.function.space, "beyond its space");
        match access {
            Access::Read(register) => {
                // Broken capabilities may have MSI-X's own control word there.
                let hidden =
                    self.model.is_message(register) && !self.is_vectors(register);
                assert!(!hidden, "reads a message at {register:?}");
                self.read(register)
            }
            Access::Write(register, value) => {
                self.write(register, value, leased);
                0
            }
        }
    }

    fn is_vectors(&self, register: Register) -> bool {
        let control = self.model.function.msix.map(|msix| msix.control());
        register.width() == Width::Word && Some(register.offset()) == control
    }

    fn read(&self, register: Register) -> u32 {
        let at = usize::from(register.offset());
        let bytes = self.bytes.iter().skip(at).take(register.width().bytes().into());
        bytes.rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    fn write(&mut self, register: Register, value: u32, leased: bool) {
        let function = &self.model.function;
        let word = value as u16;
        let messages = function.msi.map(|msi| msi.control());
        let is_word = |offset: Option<u16>| {
            register.width() == Width::Word && Some(register.offset()) == offset
        };
        if is_word(Some(header::COMMAND)) {
            let decode = function.decode();
            assert_eq!(word & !(WISHES | decode), 0, "COMMAND {word:#x}");
            assert_eq!(word & decode, decode, "decode is turned off: {word:#x}");
            self.put_word(Some(header::COMMAND), u16::MAX, word);
        } else if self.is_vectors(register) {
            let changed = word ^ self.msix();
            assert_eq!(changed & !(msix::ENABLE | msix::MASKALL), 0, "MSI-X {word:#x}");
            self.put_word(Some(register.offset()), u16::MAX, word);
            assert!(word & msix::ENABLE == 0 || leased, "MSI-X is on without a lease");
        } else if is_word(messages) {
            assert_eq!((word ^ self.msi()) & !msi::ENABLE, 0, "MSI {word:#x}");
            self.put_word(messages, u16::MAX, word);
            assert!(word & msi::ENABLE == 0 || leased, "MSI is on without a lease");
        } else {
            self.forward(register, value);
        }
        let quiet = self.command() & command::INTX_DISABLE != 0;
        assert!(quiet || !self.sends() || self.unsure, "messages while the line is on");
    }

    /// Whatever else is written must be the guest's right.
    fn forward(&mut self, register: Register, value: u32) {
        self.never(register);
        let rights = &self.model.rights;
        let old = self.read(register);
        let at = format!("{register:?}: {old:#x} becomes {value:#x}");
        let is_word = |offset: Option<u16>| {
            let touched = offset.is_some_and(|offset| {
                register.offset() < offset + 2 && register.end() > offset
            });
            let whole = register.width() == Width::Word;
            assert!(!touched || whole && Some(register.offset()) == offset, "{at}");
            touched
        };
        if is_word(rights.control) {
            let reads = value & READ_SIZE;
            let fits = reads <= rights.largest_reads || reads == old & READ_SIZE;
            assert!(fits, "reads too much, {at}");
            assert_eq!(value & FLR, 0, "resets it, {at}");
        }
        if is_word(rights.product) {
            assert_eq!(value & 0x8000, 0, "writes product data, {at}");
        }
        let places = (register.offset()..register.end()).zip(value.to_le_bytes());
        for (offset, new) in places {
            let place = &mut self.bytes[usize::from(offset)];
            *place = match rights.at(offset) {
                Right::Change(bits) => {
                    assert_eq!((*place ^ new) & !bits, 0, "only {bits:#x}, {at}");
                    new
                }
                // Beside bits that may be changed: written back as it was.
                Right::Unknown if *place == new => new,
                Right::Clear(bits) => {
                    assert_eq!(new & !bits, 0, "only clears {bits:#x}, {at}");
                    *place & !new
                }
                Right::Own if rights.product.is_some_and(|own| offset & !1 == own) => new,
                right => panic!("{right:?}, {at}"),
            };
        }
    }

    /// What nothing ever lets through.
    fn never(&self, register: Register) {
        let touches =
            |from: u16, to: u16| register.offset() < to && register.end() > from;
        let bars = header::BAR0..header::bar(header::ENDPOINT_BARS);
        assert!(!touches(bars.start, bars.end), "writes a BAR at {register:?}");
        assert!(!touches(header::ROM, header::ROM + 4), "writes the ROM's address");
        assert!(!self.model.is_message(register), "writes a message at {register:?}");
        let function = &self.model.function;
        if let Some(msix) = &function.msix {
            let end = msix.offset + msix::LENGTH;
            assert!(!touches(msix.offset, end), "writes MSI-X at {register:?}");
        }
        for found in &function.capabilities {
            let end = found.offset + 2;
            assert!(!touches(found.offset, end), "writes {found:?} at {register:?}");
        }
    }
}

//! What a person lets a guest write beyond pcidom's register table, for one loan.

use core::fmt;

use pcidom_pci::{Register, Width};

use crate::text::{decimal, hexadecimal};

/// Registers that can be named for one loan. Drivers that need more need `permissive`; and
/// the order that carries them has to fit a message.
pub const MAX_ALLOWED: usize = 8;

/// Bits of one register, written as `OFFSET+BYTES:MASK`, offset and mask in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The register.
    pub register: Register,
    /// Its bits.
    pub mask: u32,
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offset, bytes) = (self.register.offset(), self.register.width().bytes());
        write!(f, "{offset:x}+{bytes}:{:x}", self.mask)
    }
}

impl Allowed {
    /// `None` if it is no register, or has other bits than the register.
    pub fn new(register: Register, mask: u32) -> Option<Self> {
        let fits = mask != 0 && mask & !register.width().mask() == 0;
        fits.then_some(Self { register, mask })
    }

    fn parse(text: &str) -> Option<Self> {
        let (place, mask) = text.split_once(':')?;
        let (offset, bytes) = place.split_once('+')?;
        let offset = u16::try_from(hexadecimal(offset)?).ok()?;
        let width = Width::from_bytes(decimal(bytes)?)?;
        Self::new(Register::new(offset, width)?, hexadecimal(mask)?)
    }
}

/// All of a loan's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exceptions {
    /// Whatever can be allowed at all.
    pub permissive: bool,
    /// And these, from the first place on.
    allowed: [Option<Allowed>; MAX_ALLOWED],
}

impl Exceptions {
    /// Adds a register; false if there is no place left.
    pub fn allow(&mut self, new: Allowed) -> bool {
        let free = self.allowed.iter_mut().find(|place| place.is_none());
        free.map(|place| *place = Some(new)).is_some()
    }

    /// The registers.
    pub fn allowed(&self) -> impl Iterator<Item = Allowed> {
        self.allowed.iter().copied().flatten()
    }

    /// What `allow=` says, which is not empty.
    pub(crate) fn parse_allowed(&mut self, list: &str) -> Option<()> {
        list.split(',').try_for_each(|item| {
            Allowed::parse(item).filter(|new| self.allow(*new)).map(drop)
        })
    }
}

/// As options of an order.
impl fmt::Display for Exceptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.permissive { " permissive" } else { "" })?;
        for (n, allowed) in self.allowed().enumerate() {
            write!(f, "{}{allowed}", if n == 0 { " allow=" } else { "," })?;
        }
        Ok(())
    }
}

//! From the words a guest wrote to a request that can't be wrong.

use alloc::vec::Vec;

use pcidom_loan::{LeaseAsk, MAX_VECTORS};
use pcidom_pci::{Access, Register, Sbdf, VirtualBdf, Width};
use pcidom_xenbus::SharedPage;
use pcidom_xenbus::pciif::{
    MAX_MSIX_ENTRIES, OpError, RawMsixEntry, RawOp, command, load_msix, load_op,
};

// Whatever fits the page fits one request to the daemon, and its answer.
const _: () = assert!(MAX_MSIX_ENTRIES == MAX_VECTORS);

/// A request as it was copied out of the page, once (advisory 155).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The request slot.
    pub raw: RawOp,
    /// The entries, of an enable_msix only.
    pub entries: Vec<RawMsixEntry>,
}

/// What a guest asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which function.
    pub target: VirtualBdf,
    /// What is to be done with it.
    pub operation: Operation,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Access config space; the function may be smaller than the register's offset.
    Config(Access),
    /// Turn on MSI: one vector.
    EnableMsi,
    /// Turn on MSI-X with these table entries: 1 to 128, not yet checked against the table.
    EnableMsix(Vec<u16>),
    /// Turn on MSI-X with no vector, or with more than the page has room for: refused, with
    /// a word to the operator.
    BadCount(u32),
    /// Turn off message interrupts. Of which kind doesn't matter: stock frontends mix them
    /// up (design.md 4).
    Disable,
}

impl Operation {
    /// What to ask the daemon for.
    pub(crate) fn lease(&self) -> Option<LeaseAsk> {
        match self {
            Self::EnableMsi => Some(LeaseAsk::MapMsi),
            Self::EnableMsix(entries) => Some(LeaseAsk::MapMsix(entries.clone())),
            Self::Config(_) | Self::BadCount(_) | Self::Disable => None,
        }
    }
}

impl Copied {
    /// Copies the request out of `page`, each word once.
    pub fn load(page: &impl SharedPage) -> Self {
        let raw = load_op(page);
        let count = usize::try_from(raw.value).unwrap_or(usize::MAX);
        let wanted = raw.cmd == command::ENABLE_MSIX && count <= MAX_MSIX_ENTRIES;
        let entries = if wanted { load_msix(page, count) } else { Vec::new() };
        Self { raw, entries }
    }

    /// What the copy asks for.
    ///
    /// # Errors
    /// `NotImplemented` for a command that isn't one, `DevNotFound` for an address that
    /// can't be, `InvalidOffset` for a register that can't be.
    pub fn parse(&self) -> Result<Request, OpError> {
        let raw = &self.raw;
        // The command first, as a peer that speaks another dialect should hear so.
        if raw.cmd > command::DISABLE_MSIX {
            return Err(OpError::NotImplemented);
        }
        let target = Sbdf::from_wire(raw.domain, raw.bus, raw.devfn)
            .map(VirtualBdf)
            .ok_or(OpError::DevNotFound)?;
        let operation = match raw.cmd {
            command::CONF_READ => Operation::Config(Access::Read(self.register()?)),
            command::CONF_WRITE => {
                let register = self.register()?;
                let value = raw.value & register.width().mask();
                Operation::Config(Access::Write(register, value))
            }
            command::ENABLE_MSI => Operation::EnableMsi,
            command::ENABLE_MSIX => {
                let complete = usize::try_from(raw.value) == Ok(self.entries.len());
                if complete && !self.entries.is_empty() {
                    let entries = self.entries.iter().map(|e| e.entry);
                    Operation::EnableMsix(entries.collect())
                } else {
                    Operation::BadCount(raw.value)
                }
            }
            _ => Operation::Disable,
        };
        Ok(Request { target, operation })
    }

    fn register(&self) -> Result<Register, OpError> {
        let offset = u16::try_from(self.raw.offset).ok();
        let width = u32::try_from(self.raw.size).ok().and_then(Width::from_bytes);
        offset
            .zip(width)
            .and_then(|(offset, width)| Register::new(offset, width))
            .ok_or(OpError::InvalidOffset)
    }

    /// Whether the slot in the page still holds this request; `err` and `value` don't
    /// count, and `info` nobody uses.
    pub(crate) fn is_still_in(&self, page: &impl SharedPage) -> bool {
        let key = |op: &RawOp| (op.cmd, op.domain, op.bus, op.devfn, op.offset, op.size);
        key(&load_op(page)) == key(&self.raw)
    }
}

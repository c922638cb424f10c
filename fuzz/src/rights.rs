//! What a guest's writes may change of a function, byte by byte: docs/config-space.md once
//! more, without the table of `pciback::policy`.

use pcidom_loan::Exceptions;
use pcidom_pci::Register;
use pcidom_pci::function::Function;

/// What a guest's write may do to a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// No register that the document knows of.
    Unknown,
    /// Part of a capability that it does not see.
    Hidden,
    /// Set and clear these bits.
    Change(u8),
    /// Clear these bits, by ones.
    Clear(u8),
    /// Part of a word that has a rule of its own: COMMAND, VPD Address.
    Own,
}

/// DEVCTL: relaxed ordering, no snoop, read size.
const REQUESTS: u16 = 0x7810;
/// DEVCTL: read size.
pub(crate) const READ_SIZE: u32 = 0x7000;
/// DEVCTL: initiate FLR, of functions that can do that.
pub(crate) const FLR: u32 = 0x8000;
/// DEVCTL: the largest read size there is, 4096 bytes.
const LARGEST: u32 = 0x5000;
/// Entries of an extended list that ends.
const MAX_EXTENDED: usize = 64;
/// Where the conventional space ends.
const CONVENTIONAL: u16 = 0x100;
/// Extended capabilities that are shown.
pub(crate) const SHOWN: [u16; 16] = [
    0x00, 0x02, 0x03, 0x04, 0x09, 0x0b, 0x16, 0x18, 0x19, 0x1e, 0x1f, 0x22, 0x23, 0x25,
    0x26, 0x2a,
];

/// Rows of a capability: offset, bytes, what may be changed, what may be allowed besides,
/// what may be cleared.
type Row = (u16, u16, u16, u16, u16);

const fn fixed(offset: u16, bytes: u16) -> Row {
    (offset, bytes, 0, 0, 0)
}

const POWER: &[Row] = &[fixed(2, 2), fixed(4, 2), fixed(6, 2)];
const PCI_X: &[Row] = &[(2, 2, 0, 0x7f, 0), fixed(4, 4)];
const MSIX: &[Row] = &[fixed(2, 2), fixed(4, 4), fixed(8, 4)];
const EXPRESS: &[Row] = &[
    fixed(0x02, 2),
    fixed(0x04, 4),
    (0x08, 2, REQUESTS, 0x7dff, 0),
    (0x0a, 2, 0, 0, 0xf),
    fixed(0x0c, 4),
    (0x10, 2, 0, 0x343, 0),
    fixed(0x12, 2),
    fixed(0x14, 4),
    fixed(0x18, 2),
    fixed(0x1a, 2),
    fixed(0x1c, 2),
    fixed(0x1e, 2),
    fixed(0x20, 4),
    fixed(0x24, 4),
    (0x28, 2, 0, 0x75f, 0),
    fixed(0x2a, 2),
    fixed(0x2c, 4),
    fixed(0x30, 2),
    fixed(0x32, 2),
    fixed(0x34, 4),
    fixed(0x38, 2),
    fixed(0x3a, 2),
];

/// All of a function.
#[derive(Debug)]
pub(crate) struct Rights {
    bytes: Vec<Right>,
    /// What a person may allow besides.
    may: Vec<u8>,
    /// DEVCTL, if it is where the capability says.
    pub(crate) control: Option<u16>,
    /// VPD Address, likewise.
    pub(crate) product: Option<u16>,
    /// What DEVCTL's read size may be set to at most.
    pub(crate) largest_reads: u32,
}

impl Rights {
    /// What the guest of `function` may do, with these exceptions.
    pub(crate) fn of(function: &Function, exceptions: &Exceptions) -> Self {
        let mut rights = Self {
            bytes: vec![Right::Unknown; function.space.into()],
            may: vec![0; function.space.into()],
            control: None,
            product: None,
            largest_reads: 0,
        };
        rights.header();
        rights.messages(function);
        rights.headers(function);
        rights.others(function);
        rights.hide(function);
        rights.except(exceptions);
        rights
    }

    /// The byte at an offset.
    pub(crate) fn at(&self, offset: u16) -> Right {
        self.bytes[usize::from(offset)]
    }

    /// Whether a guest sees nothing of a register.
    pub(crate) fn hides(&self, register: Register) -> bool {
        self.at(register.offset()) == Right::Hidden
    }

    /// Takes a register unless some byte of it is another's already; whether it did.
    fn claim(&mut self, start: u16, rights: &[Right]) -> bool {
        let end = usize::from(start) + rights.len();
        let place = self.bytes.get_mut(usize::from(start)..end);
        let Some(place) = place else { return false };
        let free = place.iter().all(|right| *right == Right::Unknown);
        if free {
            place.copy_from_slice(rights);
        }
        free
    }

    fn rows(&mut self, base: u16, rows: &[Row]) {
        for (offset, bytes, change, grant, clear) in rows {
            let mut rights = if *clear == 0 {
                change.to_le_bytes().map(Right::Change).to_vec()
            } else {
                clear.to_le_bytes().map(Right::Clear).to_vec()
            };
            rights.resize((*bytes).into(), Right::Change(0));
            let start = base.saturating_add(*offset);
            // A capability may be cut off where its space ends.
            let cut = base < CONVENTIONAL && start + bytes > CONVENTIONAL;
            if !cut && self.claim(start, &rights) {
                let start = usize::from(start);
                self.may[start..start + 2].copy_from_slice(&grant.to_le_bytes());
            }
        }
    }

    fn header(&mut self) {
        self.bytes[..0x40].fill(Right::Change(0));
        self.bytes[0x04..0x06].fill(Right::Own);
        self.bytes[0x06..0x08].copy_from_slice(&[Right::Clear(0), Right::Clear(0xf9)]);
        self.bytes[0x0c] = Right::Change(0xff);
        self.may[0x0d] = 0xff;
    }

    fn messages(&mut self, function: &Function) {
        if let Some(msi) = &function.msi {
            let end = match (msi.is_64bit, msi.maskable) {
                (false, false) => 0x0c,
                (true, false) => 0x10,
                (false, true) => 0x14,
                (true, true) => 0x18,
            };
            self.rows(msi.offset, &[fixed(2, 2)]);
            for offset in (4..end).step_by(4) {
                self.rows(msi.offset, &[fixed(offset, 4)]);
            }
        }
        if let Some(msix) = &function.msix {
            self.rows(msix.offset, MSIX);
        }
    }

    /// The headers of all capabilities: hidden ones hide what is theirs afterwards.
    fn headers(&mut self, function: &Function) {
        let hidden = Self::hidden(function);
        for found in &function.capabilities {
            if !hidden.iter().any(|(start, _)| *start == found.offset) {
                self.rows(found.offset, &[fixed(0, 2)]);
            }
        }
        for found in &function.extended {
            self.rows(found.offset, &[fixed(0, 4)]);
        }
        self.rows(CONVENTIONAL, &[fixed(0, 4)]);
    }

    fn others(&mut self, function: &Function) {
        if let Some(power) = &function.pm {
            self.rows(power.offset, POWER);
        }
        if let Some(express) = &function.pcie {
            // A first version ends where its kind of device needs no more.
            let end = match (express.version, express.port_type) {
                (0 | 1, 9) => 0x0c,
                (0 | 1, _) => 0x14,
                _ => 0x3c,
            };
            let rows = EXPRESS.iter().filter(|(offset, ..)| *offset < end);
            for row in rows {
                self.rows(express.offset, &[*row]);
            }
            let control = express.offset.saturating_add(8);
            let [low, high] = REQUESTS.to_le_bytes().map(Right::Change);
            let there = control < CONVENTIONAL
                && [self.at(control), self.at(control + 1)] == [low, high];
            self.control = there.then_some(control);
            self.largest_reads = (u32::from(express.control) & READ_SIZE).min(LARGEST);
        }
        let first = |id| function.capabilities.iter().find(|found| found.id == id);
        if let Some(product) = first(0x03) {
            let address = product.offset.saturating_add(2);
            if self.claim(address, &[Right::Own, Right::Own]) {
                self.product = Some(address);
            }
            self.rows(product.offset, &[fixed(4, 4)]);
        }
        if let Some(found) = first(0x07) {
            self.rows(found.offset, PCI_X);
        }
    }

    /// Where hidden capabilities begin and end.
    fn hidden(function: &Function) -> Vec<(u16, u16)> {
        let mut hidden = Vec::new();
        let known = &function.capabilities;
        for (n, found) in known.iter().enumerate() {
            let again = known.iter().take(n).any(|other| other.id == found.id);
            // A kind with a table is shown if that is the one which was recorded.
            let recorded = match found.id {
                0x01 => function.pm.map(|pm| pm.offset),
                0x05 => function.msi.map(|msi| msi.offset),
                0x10 => function.pcie.map(|pcie| pcie.offset),
                0x11 => function.msix.map(|msix| msix.offset),
                0x03 | 0x07 if again => None,
                _ => Some(found.offset),
            };
            let length = match found.id {
                0x08 => 0x1c,
                0x13 => 8,
                0x14 => 0xc0,
                0x15 => 0x24,
                _ if recorded == Some(found.offset) => continue,
                0x01 | 0x03 | 0x07 => 8,
                0x05 => 24,
                0x11 => 12,
                _ => 0x3c,
            };
            let next = known.iter().map(|other| other.offset);
            let next = next.filter(|other| *other > found.offset).min();
            let end = (found.offset + length).min(next.unwrap_or(CONVENTIONAL));
            hidden.push((found.offset, end));
        }
        hidden
    }

    fn hide(&mut self, function: &Function) {
        let mut hidden = Self::hidden(function);
        let known = &function.extended;
        let endless = known.len() >= MAX_EXTENDED;
        for found in known {
            if !endless && SHOWN.contains(&found.id) {
                continue;
            }
            let next = known.iter().map(|other| other.offset);
            let next = next.filter(|other| *other > found.offset && !endless).min();
            // The list's first header is there in any case.
            let head = if found.offset == CONVENTIONAL { 4 } else { 0 };
            hidden.push((found.offset + head, next.unwrap_or(function.space)));
        }
        for (start, end) in hidden {
            let end = end.min(function.space);
            if start < end {
                self.bytes[usize::from(start)..usize::from(end)].fill(Right::Hidden);
            }
        }
    }

    fn except(&mut self, exceptions: &Exceptions) {
        for (may, right) in self.may.iter_mut().zip(&self.bytes) {
            match right {
                Right::Unknown => *may = 0xff,
                Right::Hidden => *may = 0,
                _ => {}
            }
        }
        let mut granted = vec![0_u8; self.bytes.len()];
        if exceptions.permissive {
            granted.clone_from(&self.may);
        }
        for allowed in exceptions.allowed() {
            let register = allowed.register;
            let bytes =
                (register.offset()..register.end()).zip(allowed.mask.to_le_bytes());
            for (at, mask) in bytes {
                let at = usize::from(at);
                if let Some(may) = self.may.get(at) {
                    granted[at] |= mask & may;
                }
            }
        }
        if let Some(control) = self.control {
            let high = granted[usize::from(control) + 1];
            let reads = READ_SIZE.to_le_bytes()[1];
            if high & reads == reads {
                self.largest_reads = LARGEST;
            }
        }
        for (right, granted) in self.bytes.iter_mut().zip(granted) {
            match right {
                Right::Unknown if granted != 0 => *right = Right::Change(granted),
                Right::Change(bits) => *bits |= granted,
                _ => {}
            }
        }
    }
}

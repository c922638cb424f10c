//! What must come of the table, for tools that compare it with what is: nothing of this is
//! part of the image.

use alloc::format;
use alloc::string::String;

use pcidom_pci::regs::{command, header, msi, msix};
use pcidom_pci::{Register, Width};

use super::field::{Field, Overlap, ReadRule, View, WriteRule};
use super::function::{
    COMMAND_BITS, FORWARDED, PRODUCT_WRITE, REPORTING, REQUESTS, VirtualFunction,
};

/// One aligned double word of config space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its offset.
    pub offset: u16,
    /// What a guest sees, which has changed nothing yet and uses no interrupts.
    pub view: View,
    /// Bits that a guest may see otherwise: it has set them itself, dom0 has another value
    /// than the hardware, or they tell whether its interrupts are on.
    pub free: u32,
    /// Bits that a guest's writes may set and clear in the hardware.
    pub write: u32,
    /// Bits that a guest's writes may clear in the hardware, by writing 1.
    pub clear: u32,
}

impl Line {
    /// What a guest sees if the hardware has `raw`.
    pub const fn shown(&self, raw: u32) -> u32 {
        self.view.over(raw)
    }
}

impl VirtualFunction {
    /// All of its config space as the table has it.
    pub fn lines(&self) -> impl Iterator<Item = Line> {
        let all = (0..self.function().space).step_by(4);
        all.filter_map(|offset| Register::new(offset, Width::Dword))
            .map(|register| self.line(register))
    }

    fn line(&self, register: Register) -> Line {
        let offset = register.offset();
        let view = self.view(register);
        let mut line = Line { offset, view, free: 0, write: 0, clear: 0 };
        if self.hidden().iter().any(|hidden| hidden.contains(register)) {
            return line;
        }
        let mut undescribed = u32::MAX;
        for field in self.fields() {
            let Some(overlap) = Overlap::of(register, field.register) else { continue };
            undescribed &= !overlap.access_mask();
            line.free |= overlap.to_access(free(field));
            line.write |= overlap.to_access(written(field));
            if let WriteRule::Clear(bits) = field.write {
                line.clear |= overlap.to_access(bits);
            }
        }
        if self.is_permissive() {
            line.write |= undescribed;
        }
        line
    }

    /// The row of a name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields().iter().find(|field| field.name == name)
    }

    /// The bits of a register that a guest's writes may set and clear in the hardware.
    pub fn writable(&self, register: Register) -> u32 {
        let aligned = Register::new(register.offset() & !3, Width::Dword);
        let line = aligned.map_or(0, |whole| self.line(whole).write);
        line >> (8 * (register.offset() & 3)) & register.width().mask()
    }
}

/// Bits of the row that the table does not tell from the raw ones alone.
const fn free(field: &Field) -> u32 {
    match field.read {
        ReadRule::Command => (COMMAND_BITS & !FORWARDED) as u32,
        ReadRule::HeaderType(_) => header::MULTI_FUNCTION as u32,
        ReadRule::MsiControl(_) => msi::ENABLE as u32,
        ReadRule::MsixControl(_) => msix::ENABLE as u32,
        ReadRule::DeviceControl => REPORTING,
        // dom0's backend shows its own number.
        _ if field.register.offset() == header::INTERRUPT_LINE => 0xff,
        _ => 0,
    }
}

/// Bits of the row that a guest may change.
fn written(field: &Field) -> u32 {
    let own = match field.write {
        WriteRule::Forward => field.register.width().mask(),
        WriteRule::Command => u32::from(FORWARDED | command::INTX_DISABLE),
        WriteRule::DeviceControl => REQUESTS,
        WriteRule::ProductAddress => field.register.width().mask() & !PRODUCT_WRITE,
        WriteRule::Drop
        | WriteRule::Clear(_)
        | WriteRule::Address(_)
        | WriteRule::SelfTest
        | WriteRule::PowerState => 0,
    };
    own | field.granted
}

/// All lines as text: offset, what a guest sees, and masks of bits that are free, that may be
/// written and that may be cleared. `raw` is what the hardware has.
pub fn text(function: &VirtualFunction, raw: &[u8]) -> String {
    let mut out = String::new();
    for line in function.lines() {
        let at = usize::from(line.offset);
        let bytes = raw.get(at..).and_then(|rest| rest.first_chunk());
        let bytes = bytes.copied().unwrap_or([0xff; 4]);
        let shown = line.shown(u32::from_le_bytes(bytes));
        let Line { offset, free, write, clear, .. } = line;
        out += &format!("{offset:03x} {shown:08x} {free:08x} {write:08x} {clear:08x}\n");
    }
    out
}

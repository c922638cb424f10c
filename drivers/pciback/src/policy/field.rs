//! Registers as rows of a table, and the one place that maps an access onto them.

use alloc::vec::Vec;

use pcidom_pci::Register;

use super::registers::Row;

/// A register the table has something to say about. What no field describes is readable
/// as is and read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name for people, as `pcidomctl status` shows it.
    pub name: &'static str,
    /// Where it is.
    pub register: Register,
    /// What a guest sees there.
    pub read: ReadRule,
    /// What a guest's write does.
    pub write: WriteRule,
    /// Bits that a person may let a guest write besides.
    pub grantable: u32,
    /// Those that a person has let this guest write.
    pub granted: u32,
}

impl Field {
    /// The register of `row`.
    pub(super) const fn of(row: &Row, register: Register) -> Self {
        let Row { name, read, write, grantable, .. } = *row;
        Self { name, register, read, write, grantable, granted: 0 }
    }

    /// A capability's header, which shows `value`.
    pub(super) const fn header(register: Register, value: u32) -> Self {
        let (read, write) = (ReadRule::Constant(value), WriteRule::Drop);
        let name = "CAPABILITY";
        Self { name, register, read, write, grantable: 0, granted: 0 }
    }

    /// A register without a rule, of which a person has let a guest write `granted`.
    pub(super) const fn unknown(register: Register, granted: u32) -> Self {
        let (read, write) = (ReadRule::Hardware, WriteRule::Drop);
        Self { name: "", register, read, write, grantable: u32::MAX, granted }
    }
}

/// What a guest reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadRule {
    /// What the hardware says.
    Hardware,
    /// These bits of what the hardware says; the others read 0.
    Masked(u32),
    /// This value: it can't change while the function is lent.
    Constant(u32),
    /// COMMAND: bits that are forwarded from the hardware, the others as the guest left them.
    Command,
    /// The recorded address or, after a sizing write, the size mask of this address register.
    Address(u8),
    /// MSI control: ENABLE as we set it, one vector, and these constant bits.
    MsiControl(u16),
    /// MSI-X control: ENABLE as we set it, nothing masked, and these constant bits.
    MsixControl(u16),
    /// Header type: multifunction as the guest's virtual bus has it.
    HeaderType(u8),
    /// DEVCTL: error reporting as the guest left it, the rest from the hardware.
    DeviceControl,
}

/// What a guest's write does. What is not done is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteRule {
    /// Answered with success; nothing reaches the hardware.
    Drop,
    /// As it is to the hardware, when the write covers the whole register.
    Forward,
    /// Ones in these bits, which clear them; nothing else.
    Clear(u32),
    /// COMMAND: see `VirtualFunction::hardware_command`.
    Command,
    /// The sizing latch of this address register; never the hardware.
    Address(u8),
    /// BIST: starting a self test is denied, the rest dropped.
    SelfTest,
    /// PMCSR: D0 is what it is in already, anything else is dropped.
    PowerState,
    /// DEVCTL: how the device asks for data, no larger pieces than it was found with.
    DeviceControl,
    /// VPD Address: an address to read from, not one to write to.
    ProductAddress,
}

/// Bits of an access: which are the hardware's, and what the others are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Bits taken from the hardware.
    pub keep: u32,
    /// Bits that are one besides; none of them in `keep`.
    pub set: u32,
}

impl View {
    /// All from the hardware.
    pub const HARDWARE: Self = Self { keep: u32::MAX, set: 0 };

    /// Nothing from the hardware.
    pub const fn local(value: u32) -> Self {
        Self { keep: 0, set: value }
    }

    /// What the guest sees if the hardware says `hardware`.
    pub const fn over(self, hardware: u32) -> u32 {
        hardware & self.keep | self.set
    }
}

/// The bytes that an access and a field have in common.
///
/// ```text
///   access  a.start ............. a.end          shift in access: bits from a.start
///   field          f.start ............ f.end    shift in field:  bits from f.start
///   common         max(starts)..min(ends)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overlap {
    mask: u32,
    in_access: u32,
    in_field: u32,
}

impl Overlap {
    /// `None` if they have no byte in common. An interval test: one that looks only at the
    /// request's ends misses a field strictly inside (protocol.md 5.1).
    pub(crate) fn of(access: Register, field: Register) -> Option<Self> {
        let start = access.offset().max(field.offset());
        let bytes = access.end().min(field.end()).checked_sub(start)?;
        let unused = 4_u32.checked_sub(u32::from(bytes))?;
        Some(Self {
            mask: u32::MAX.checked_shr(8 * unused)?,
            in_access: 8 * u32::from(start.checked_sub(access.offset())?),
            in_field: 8 * u32::from(start.checked_sub(field.offset())?),
        })
    }

    /// The common bits, where the access has them.
    pub(crate) fn access_mask(self) -> u32 {
        self.mask << self.in_access
    }

    /// The common bits, where the field has them.
    pub(crate) fn field_mask(self) -> u32 {
        self.mask << self.in_field
    }

    /// Moves bits of the field to where the access has them.
    pub(crate) fn to_access(self, field: u32) -> u32 {
        (field >> self.in_field & self.mask) << self.in_access
    }

    /// Moves bits of the access to where the field has them.
    pub(crate) fn to_field(self, access: u32) -> u32 {
        (access >> self.in_access & self.mask) << self.in_field
    }

    /// Whether the whole of `field` is in it.
    pub(crate) fn covers(self, field: Register) -> bool {
        self.field_mask() == field.width().mask()
    }
}

/// Adds `field` unless its place is taken: on a device whose capabilities overlap, the
/// first description holds, and the rest stays read-only.
pub(crate) fn add(fields: &mut Vec<Field>, field: Field) {
    let taken = fields.iter().any(|f| Overlap::of(f.register, field.register).is_some());
    if !taken {
        fields.push(field);
    }
}

#[cfg(test)]
mod tests {
    use super::Overlap;
    use pcidom_pci::{Register, Width};

    fn register(offset: u16, width: Width) -> Register {
        Register::new(offset, width).unwrap()
    }

    #[test]
    fn an_overlap_is_exactly_the_common_bytes_for_every_pair_of_places() {
        let widths = [Width::Byte, Width::Word, Width::Dword];
        let places = || {
            widths
                .iter()
                .flat_map(|w| (0..16).filter_map(|offset| Register::new(offset, *w)))
        };
        for access in places() {
            for field in places() {
                let common: Vec<u16> = (access.offset()..access.end())
                    .filter(|byte| (field.offset()..field.end()).contains(byte))
                    .collect();
                let Some(overlap) = Overlap::of(access, field) else {
                    assert!(common.is_empty(), "{access:?} {field:?}");
                    continue;
                };
                for byte in 0..4 {
                    let in_access = common.contains(&(access.offset() + byte));
                    assert_eq!(
                        overlap.access_mask() >> (8 * byte) & 0xff != 0,
                        in_access
                    );
                    let in_field = common.contains(&(field.offset() + byte));
                    assert_eq!(overlap.field_mask() >> (8 * byte) & 0xff != 0, in_field);
                }
            }
        }
    }

    #[test]
    fn a_field_strictly_inside_an_access_is_found() {
        let overlap =
            Overlap::of(register(0x0c, Width::Dword), register(0x0d, Width::Byte))
                .unwrap();
        assert_eq!(overlap.to_field(0x1122_3344), 0x33);
        assert_eq!(overlap.to_access(0x55), 0x5500);
        assert!(overlap.covers(register(0x0d, Width::Byte)));
    }

    #[test]
    fn a_byte_inside_a_wide_field_moves_to_its_place_and_back() {
        let field = register(0x10, Width::Dword);
        let overlap = Overlap::of(register(0x12, Width::Byte), field).unwrap();
        assert_eq!(overlap.to_field(0xab), 0x00ab_0000);
        assert_eq!(overlap.to_access(0x1234_5678), 0x34);
        assert!(!overlap.covers(field));
    }
}

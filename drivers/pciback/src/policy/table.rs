//! The register table of one function, built from what its scan recorded.
//!
//! To let a guest do more, change a row in `registers`; what no row allows never reaches the
//! hardware (advisory 131).

use alloc::vec::Vec;

use pcidom_pci::Register;
use pcidom_pci::access::CONVENTIONAL_SPACE;
use pcidom_pci::function::{BarKind, Function, Msi, Pcie};
use pcidom_pci::regs::{bar, capability, header, msix, pcie, pm};

use super::address::AddressRegister;
use super::field::{Field, ReadRule, add};
use super::lists::{Hidden, Lists};
use super::registers::{self, Row};

/// The last address register, after the BARs: the ROM.
const ROM: u8 = header::ENDPOINT_BARS;

/// What a function's scan makes of the policy.
pub(crate) struct Table {
    /// Its rows.
    pub(crate) fields: Vec<Field>,
    /// BARs and ROM, in the order their rows refer to.
    pub(crate) addresses: Vec<AddressRegister>,
    /// What comes before all rows.
    pub(crate) hidden: Vec<Hidden>,
}

/// Collects rows; a row that can't be at its offset, or whose place is taken, is left out.
struct Rows<'a> {
    function: &'a Function,
    fields: Vec<Field>,
}

impl Rows<'_> {
    fn all(&mut self, rows: &[Row], base: u16) {
        for row in rows {
            self.row(row, base.saturating_add(row.offset));
        }
    }

    fn row(&mut self, row: &Row, offset: u16) {
        let register = Register::new(offset, row.width);
        // All rows are of the conventional space, where a capability may be cut off.
        let register = register.filter(|at| at.end() <= CONVENTIONAL_SPACE);
        let Some(register) = register else { return };
        let read = match row.read {
            ReadRule::Masked(mask) => match recorded(self.function, register) {
                Some(value) => ReadRule::Constant(value & mask),
                None => row.read,
            },
            ReadRule::HeaderType(_) => ReadRule::HeaderType(self.function.header_type),
            ReadRule::MsiControl(_) => {
                let bits = self.function.msi.map(|msi| msi.control_bits);
                ReadRule::MsiControl(bits.unwrap_or(0))
            }
            ReadRule::MsixControl(_) => {
                let size = self.function.msix.map_or(0, |msix| msix.table_size);
                ReadRule::MsixControl(size.saturating_sub(1) & msix::TABLE_SIZE)
            }
            read => read,
        };
        self.put(Field { read, ..Field::of(row, register) });
    }

    fn put(&mut self, field: Field) {
        add(&mut self.fields, field);
    }
}

/// The rows of `function`, and what belongs to them.
///
/// The order matters for a device whose capabilities overlap: what comes first holds. So
/// messages come right after the header.
pub(crate) fn build(function: &Function) -> Table {
    let lists = Lists::of(function);
    let mut rows = Rows { function, fields: Vec::new() };
    let addresses = header_rows(lists.first, &mut rows);
    if let Some(msi) = &function.msi {
        msi_rows(msi, &mut rows);
    }
    if let Some(msix) = &function.msix {
        rows.all(registers::VECTOR_ROWS, msix.offset);
    }
    for (register, value) in lists.headers {
        rows.put(Field::header(register, value));
    }
    if let Some(power) = &function.pm {
        rows.all(registers::POWER_ROWS, power.offset);
    }
    if let Some(express) = &function.pcie {
        express_rows(express, &mut rows);
    }
    let of = |id| function.capabilities.iter().find(move |found| found.id == id);
    for (id, of_kind) in [
        (capability::VPD, registers::PRODUCT_ROWS),
        (registers::PCI_X_ID, registers::PCI_X_ROWS),
    ] {
        if let Some(found) = of(id) {
            rows.all(of_kind, found.offset);
        }
    }
    Table { fields: rows.fields, addresses, hidden: lists.hidden }
}

/// What the scan recorded of a register that can't change.
fn recorded(function: &Function, register: Register) -> Option<u32> {
    let after =
        |offset: Option<u16>, register: u16| Some(offset?.saturating_add(register));
    let power = function.pm.map(|found| found.offset);
    let vectors = function.msix.map(|found| found.offset);
    let offset = register.offset();
    Some(match offset {
        header::VENDOR_ID => function.vendor.into(),
        header::DEVICE_ID => function.device.into(),
        header::REVISION_AND_CLASS => function.revision_and_class(),
        header::SUBSYSTEM => {
            let ids = function.subsystem?;
            u32::from(ids.device) << 16 | u32::from(ids.vendor)
        }
        // PCIe 7.5.1.1.8: hardwired to 0.
        header::LATENCY_TIMER => function.pcie.map(|_| 0)?,
        header::INTERRUPT_LINE => function.interrupt_line.into(),
        header::INTERRUPT_PIN => function.interrupt_pin.into(),
        _ if Some(offset) == after(power, pm::CAPABILITIES) => {
            function.pm?.capabilities.into()
        }
        _ if Some(offset) == after(vectors, msix::TABLE) => {
            let found = function.msix?;
            found.table_offset & !msix::BIR | u32::from(found.table_bar) & msix::BIR
        }
        _ if Some(offset) == after(vectors, msix::PBA) => {
            let found = function.msix?;
            found.pba_offset & !msix::BIR | u32::from(found.pba_bar) & msix::BIR
        }
        _ => {
            let mut all = function.constants.iter();
            all.find(|constant| constant.register == register)?.value
        }
    })
}

fn header_rows(first: u8, rows: &mut Rows<'_>) -> Vec<AddressRegister> {
    let function = rows.function;
    let bridge = function.header_type & !header::MULTI_FUNCTION == header::TYPE_BRIDGE;
    let bars = if bridge { header::BRIDGE_BARS } else { header::ENDPOINT_BARS };
    for row in registers::HEADER_ROWS {
        match row.offset {
            header::CAPABILITIES => {
                let read = ReadRule::Constant(first.into());
                rows.row(&Row { read, ..*row }, row.offset);
            }
            header::ROM if bridge => rows.row(row, header::BRIDGE_ROM),
            // What a bridge has there is its own: buses, windows and control. Such rows
            // would be constants of an endpoint.
            header::BAR0..header::CAPABILITIES
                if bridge && row.offset >= header::bar(bars) => {}
            header::RESERVED | header::MIN_GRANT if bridge => {}
            _ => rows.row(row, row.offset),
        }
    }
    addresses(function, bars)
}

fn addresses(function: &Function, bars: u8) -> Vec<AddressRegister> {
    let mut addresses = Vec::new();
    let mut upper = None;
    for index in 0..ROM {
        addresses.push(match (upper.take(), function.bar(index)) {
            (Some(high), _) => high,
            (None, Some(found)) if index < bars => {
                if matches!(found.kind, BarKind::Memory { wide: true, .. }) {
                    upper = Some(AddressRegister::upper(found));
                }
                AddressRegister::lower(found)
            }
            (None, _) => AddressRegister::ABSENT,
        });
    }
    addresses.push(match &function.rom {
        // The enable bit always reads 0: the ROM shares a decoder with a BAR on some
        // devices, so a guest never switches it.
        Some(rom) => AddressRegister::new(
            rom.address & bar::ROM_ADDRESS,
            rom.size.wrapping_neg() & bar::ROM_ADDRESS,
            !bar::ROM_ADDRESS,
        ),
        None => AddressRegister::ABSENT,
    });
    addresses
}

/// MSI: message address, data and mask bits are Xen's (advisories 128, 129, 337), and show
/// where its vectors live; none of that is a guest's business.
fn msi_rows(found: &Msi, rows: &mut Rows<'_>) {
    const ADDRESS: u16 = 4;
    const HIGH: u16 = 8;
    const MASK: u16 = 16;
    for row in registers::MESSAGE_ROWS {
        // The table has the longest layout. What is not there does not take up a place.
        let absent = match row.offset {
            HIGH => !found.is_64bit,
            MASK.. => !found.maskable,
            _ => false,
        };
        let shift = if found.is_64bit { 0 } else { HIGH - ADDRESS };
        let offset = if row.offset > HIGH { row.offset - shift } else { row.offset };
        if !absent {
            rows.row(row, found.offset.saturating_add(offset));
        }
    }
}

/// PCI Express: a version 1 capability ends where its kind of device needs no more.
fn express_rows(found: &Pcie, rows: &mut Rows<'_>) {
    let length = match (found.version, found.port_type) {
        (0 | 1, pcie::TYPE_INTEGRATED) => pcie::LINK_CAPABILITIES,
        (0 | 1, _) => pcie::SLOT_CAPABILITIES,
        _ => pcie::LENGTH,
    };
    for row in registers::EXPRESS_ROWS.iter().filter(|row| row.offset < length) {
        rows.row(row, found.offset.saturating_add(row.offset));
    }
}

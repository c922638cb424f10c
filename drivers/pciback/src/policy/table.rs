//! The register table of one function, built from what its scan recorded.
//!
//! To let a guest do more, add a row here; what no row allows never reaches the hardware
//! (advisory 131).

use alloc::vec::Vec;

use pcidom_pci::function::{BarKind, Function, Msi, Msix, Pcie, Pm};
use pcidom_pci::regs::{bar, capability, header, msi, msix, pcie, pm};
use pcidom_pci::{Register, Width};

use super::address::AddressRegister;
use super::field::{Field, ReadRule, WriteRule, add};

/// PME_Support and the AUX current that comes with it: dom0 keeps PME off, so a guest must
/// not plan on waking anything (PM 3.2.3).
const PME_SUPPORT: u32 = 0xf9c0;
/// PowerState, PME_En and PME_Status of PMCSR (PM 3.2.4).
const POWER_AND_PME: u32 = 0x8103;

const BAR_NAMES: [&str; 6] = ["BAR 0", "BAR 1", "BAR 2", "BAR 3", "BAR 4", "BAR 5"];

/// Collects rows; a row that can't be at its offset, or whose place is taken, is left out.
struct Rows(Vec<Field>);

impl Rows {
    fn add(
        &mut self,
        name: &'static str,
        offset: u16,
        width: Width,
        read: ReadRule,
        write: WriteRule,
    ) {
        if let Some(register) = Register::new(offset, width) {
            add(&mut self.0, Field { name, register, read, write });
        }
    }

    /// As it is, read-only: such a row only gives dropped writes a name.
    fn named(&mut self, name: &'static str, offset: u16, width: Width) {
        self.add(name, offset, width, ReadRule::Hardware, WriteRule::Drop);
    }

    fn constant(&mut self, name: &'static str, offset: u16, width: Width, value: u32) {
        self.add(name, offset, width, ReadRule::Constant(value), WriteRule::Drop);
    }
}

/// The rows of `function`, and its address registers in the order their rows refer to.
pub(crate) fn build(function: &Function) -> (Vec<Field>, Vec<AddressRegister>) {
    let mut rows = Rows(Vec::new());
    let addresses = header_rows(function, &mut rows);
    if let Some(power) = &function.pm {
        power_rows(power, &mut rows);
    }
    if let Some(msi) = &function.msi {
        msi_rows(msi, &mut rows);
    }
    if let Some(msix) = &function.msix {
        msix_rows(msix, &mut rows);
    }
    if let Some(express) = &function.pcie {
        express_rows(express, &mut rows);
    }
    for found in &function.capabilities {
        if found.id == capability::VPD {
            rows.named("VPD address", found.offset.saturating_add(2), Width::Word);
            rows.named("VPD data", found.offset.saturating_add(4), Width::Dword);
        }
    }
    // Last: what has a row already keeps it.
    for found in &function.constants {
        let (at, width) = (found.register.offset(), found.register.width());
        rows.constant(found.name, at, width, found.value);
    }
    (rows.0, addresses)
}

fn header_rows(function: &Function, rows: &mut Rows) -> Vec<AddressRegister> {
    use ReadRule::{Command, Hardware, HeaderType};

    rows.constant("vendor", header::VENDOR_ID, Width::Word, function.vendor.into());
    rows.constant("device", header::DEVICE_ID, Width::Word, function.device.into());
    rows.add("command", header::COMMAND, Width::Word, Command, WriteRule::Command);
    rows.named("status", header::STATUS, Width::Word);
    let class = function.revision_and_class();
    rows.constant("class", header::REVISION_AND_CLASS, Width::Dword, class);
    let line = header::CACHE_LINE_SIZE;
    rows.add("cache line size", line, Width::Byte, Hardware, WriteRule::Forward);
    rows.named("latency timer", line + 1, Width::Byte);
    let kind = HeaderType(function.header_type);
    rows.add("header type", header::HEADER_TYPE, Width::Byte, kind, WriteRule::Drop);
    rows.add("BIST", line + 3, Width::Byte, Hardware, WriteRule::SelfTest);

    let bridge = function.header_type & !header::MULTI_FUNCTION == header::TYPE_BRIDGE;
    let addresses = address_rows(function, bridge, rows);
    if let Some(ids) = &function.subsystem {
        let value = u32::from(ids.device) << 16 | u32::from(ids.vendor);
        rows.constant("subsystem", header::SUBSYSTEM, Width::Dword, value);
    }
    if let Some(first) = function.capabilities.first() {
        rows.constant(
            "capabilities",
            header::CAPABILITIES,
            Width::Byte,
            first.offset.into(),
        );
    }
    let line = u32::from(function.interrupt_line);
    rows.constant("interrupt line", header::INTERRUPT_LINE, Width::Byte, line);
    let pin = u32::from(function.interrupt_pin);
    rows.constant("interrupt pin", header::INTERRUPT_PIN, Width::Byte, pin);
    addresses
}

fn address_rows(
    function: &Function,
    bridge: bool,
    rows: &mut Rows,
) -> Vec<AddressRegister> {
    let count = if bridge { header::BRIDGE_BARS } else { header::ENDPOINT_BARS };
    let mut addresses = Vec::new();
    let mut upper = None;
    for (index, name) in (0..count).zip(BAR_NAMES) {
        let address = match (upper.take(), function.bar(index)) {
            (Some(high), _) => high,
            (None, Some(found)) => {
                if matches!(found.kind, BarKind::Memory { wide: true, .. }) {
                    upper = Some(AddressRegister::upper(found));
                }
                AddressRegister::lower(found)
            }
            (None, None) => AddressRegister::ABSENT,
        };
        let number = addresses.len();
        let (read, write) = (ReadRule::Address(number), WriteRule::Address(number));
        rows.add(name, header::bar(index), Width::Dword, read, write);
        addresses.push(address);
    }
    let number = addresses.len();
    let rom = if bridge { header::BRIDGE_ROM } else { header::ROM };
    let (read, write) = (ReadRule::Address(number), WriteRule::Address(number));
    rows.add("ROM", rom, Width::Dword, read, write);
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

fn power_rows(power: &Pm, rows: &mut Rows) {
    let at = |offset: u16| power.offset.saturating_add(offset);
    let shown = u32::from(power.capabilities) & !PME_SUPPORT;
    rows.constant("power capabilities", at(pm::CAPABILITIES), Width::Word, shown);
    let shown = ReadRule::Masked(!POWER_AND_PME);
    rows.add("power state", at(pm::CONTROL), Width::Word, shown, WriteRule::PowerState);
    rows.named("power data", at(pm::CONTROL + 2), Width::Word);
}

/// MSI: message address, data and mask bits are Xen's (advisories 128, 129, 337), and show
/// where its vectors live; none of that is a guest's business.
fn msi_rows(found: &Msi, rows: &mut Rows) {
    const DWORD: u16 = 4;
    let control = (ReadRule::MsiControl(found.control_bits), WriteRule::Drop);
    rows.add("MSI control", found.control(), Width::Word, control.0, control.1);
    let mut next = found.offset.saturating_add(msi::CONTROL + 2);
    let mut hidden = |name| {
        rows.constant(name, next, Width::Dword, 0);
        next = next.saturating_add(DWORD);
    };
    hidden("MSI address");
    if found.is_64bit {
        hidden("MSI upper address");
    }
    hidden("MSI data");
    if found.maskable {
        hidden("MSI mask");
        rows.named("MSI pending", next, Width::Dword);
    }
}

fn msix_rows(found: &Msix, rows: &mut Rows) {
    let size = found.table_size.saturating_sub(1) & msix::TABLE_SIZE;
    let control = (ReadRule::MsixControl(size), WriteRule::Drop);
    rows.add("MSI-X control", found.control(), Width::Word, control.0, control.1);
    let places = [
        ("MSI-X table", msix::TABLE, found.table_offset, found.table_bar),
        ("MSI-X pending bits", msix::PBA, found.pba_offset, found.pba_bar),
    ];
    for (name, register, offset, bir) in places {
        let offset_in_capability = found.offset.saturating_add(register);
        let value = offset & !msix::BIR | u32::from(bir) & msix::BIR;
        rows.constant(name, offset_in_capability, Width::Dword, value);
    }
}

/// PCI Express: shown as it is, with names for what drivers like to write.
fn express_rows(found: &Pcie, rows: &mut Rows) {
    let at = |offset: u16| found.offset.saturating_add(offset);
    rows.named("device control", at(pcie::DEVICE_CONTROL), Width::Word);
    rows.named("device status", at(pcie::DEVICE_STATUS), Width::Word);
    // PCIe 7.5.3.7, 7.5.3.8, 7.5.3.16, 7.5.3.19.
    rows.named("link control", at(0x10), Width::Word);
    rows.named("link status", at(0x12), Width::Word);
    if found.version >= 2 {
        rows.named("device control 2", at(0x28), Width::Word);
        rows.named("link control 2", at(0x30), Width::Word);
    }
}

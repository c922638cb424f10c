//! `dump`: the config space of a pool device in hex, and its registers by name.
//!
//! It is read over the A-link between accesses of guests, a few double words at a time, so
//! that a reset of the device waits for no more than those. Dom0's backend shows what it
//! recorded for vendor, device and BARs, and the hardware for the rest.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;

use pciback::VirtualFunction;
use pciback::policy::lists::extended_name;
use pcidom_pci::function::Function;
use pcidom_pci::regs::{capability, command, header};
use pcidom_pci::{AccessError, Sbdf};

use super::super::Machine;
use super::super::tasks::Work;
use crate::platform::{Console, Platform};

/// Double words that are read in one go.
const WORDS: u16 = 16;
/// Bytes of a line.
const LINE: usize = 16;

/// Names of the COMMAND bits (PCI 6.2.2).
const COMMAND_BITS: [(u16, &str); 6] = [
    (command::IO, "io"),
    (command::MEMORY, "memory"),
    (command::BUS_MASTER, "bus master"),
    (command::PARITY, "parity"),
    (command::SERR, "SERR"),
    (command::INTX_DISABLE, "INTx disable"),
];

/// A device while it is read.
#[derive(Debug)]
pub(super) struct Dump {
    console: Console,
    function: Function,
    bytes: Vec<u8>,
    /// A piece is being read.
    asked: bool,
}

impl<P: Platform> Machine<P> {
    pub(super) fn start_dump(
        &mut self,
        console: Console,
        device: Sbdf,
        platform: &mut P,
    ) -> String {
        if self.monitor.dump.is_some() {
            return "another dump goes on".into();
        }
        let known = self.pool.get(&device);
        let Some(function) = known.and_then(|known| known.function.clone()) else {
            return format!("{device} is not a device of the pool");
        };
        let text = function.to_string();
        let bytes = Vec::new();
        self.monitor.dump = Some(Dump { console, function, bytes, asked: false });
        self.go_on_with_dump(console, platform);
        text
    }

    /// The console has shown everything: the next piece, if a dump is for it.
    pub(super) fn go_on_with_dump(&mut self, console: Console, platform: &mut P) {
        let Some(dump) = &mut self.monitor.dump else { return };
        if dump.console != console || dump.asked {
            return;
        }
        dump.asked = true;
        let device = dump.function.sbdf;
        let from = u16::try_from(dump.bytes.len()).unwrap_or(u16::MAX);
        let work = Work::Read { from, count: WORDS };
        let steps = self.tasks.start(device, Vec::new(), work, platform.now());
        self.task_steps(steps, platform);
    }

    /// A piece has been read.
    pub(in super::super) fn dump_read(
        &mut self,
        device: Sbdf,
        words: Result<Vec<u32>, AccessError>,
        platform: &mut P,
    ) {
        let expected = self.monitor.dump.take_if(|dump| dump.function.sbdf == device);
        // Nobody waits for it any more.
        let Some(mut dump) = expected else { return };
        let console = dump.console;
        let text = match words {
            Err(error) => format!("{device}: {error}"),
            Ok(words) => {
                let from = dump.bytes.len();
                dump.bytes.extend(words.into_iter().flat_map(u32::to_le_bytes));
                let mut text = hex(&dump.bytes, from);
                if dump.bytes.len() < dump.function.space.into() {
                    dump.asked = false;
                    self.monitor.dump = Some(dump);
                } else {
                    text += &explained(&dump.function, &dump.bytes);
                }
                text
            }
        };
        self.monitor.terminal(console).push_lines(&text);
        self.show(console, platform);
    }

    /// Somebody has seen enough.
    pub(super) fn end_dump(&mut self, console: Console) {
        self.monitor.dump.take_if(|dump| dump.console == console);
    }

    /// The device is gone, and what was asked of it.
    pub(in super::super) fn drop_dump(&mut self, device: Sbdf) {
        self.monitor.dump.take_if(|dump| dump.function.sbdf == device);
    }
}

/// Lines from offset `from` on; those that are all zero are left out.
fn hex(bytes: &[u8], from: usize) -> String {
    let mut out = String::new();
    let lines = bytes.chunks(LINE).enumerate().skip(from / LINE);
    for (n, line) in lines.filter(|(_, line)| line.iter().any(|byte| *byte != 0)) {
        let _ = write!(out, "{:03x}:", n * LINE);
        for byte in line {
            let _ = write!(out, " {byte:02x}");
        }
        out.push('\n');
    }
    out
}

/// Registers and capabilities by their names.
fn explained(function: &Function, bytes: &[u8]) -> String {
    let mut out = String::new();
    // The names are those of the table that decides what a guest may write.
    for field in VirtualFunction::new(function).fields() {
        let (offset, width) = (field.register.offset(), field.register.width());
        let place = bytes.get(usize::from(offset)..).unwrap_or_default();
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(place).take(width.bytes().into()) {
            *to = *from;
        }
        let value = u32::from_le_bytes(word);
        let digits = 2 + 2 * usize::from(width.bytes());
        let _ = write!(out, "{offset:#05x} {} {value:#0digits$x}", field.name);
        if offset == header::COMMAND {
            let set = COMMAND_BITS.iter().filter(|(bit, _)| value & u32::from(*bit) != 0);
            for (n, (_, name)) in set.enumerate() {
                out += if n == 0 { ": " } else { ", " };
                out += name;
            }
        }
        out.push('\n');
    }
    for found in &function.capabilities {
        let name = match found.id {
            capability::PM => "power management",
            capability::VPD => "vital product data",
            capability::MSI => "MSI",
            capability::VENDOR => "vendor-specific",
            capability::PCIE => "PCI Express",
            capability::MSIX => "MSI-X",
            capability::AF => "advanced features",
            _ => "",
        };
        let _ =
            writeln!(out, "{:#05x} capability {:#04x} {name}", found.offset, found.id);
    }
    for found in &function.extended {
        let name = extended_name(found.id);
        let (offset, id) = (found.offset, found.id);
        let _ = writeln!(out, "{offset:#05x} extended capability {id:#06x} {name}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn lines_of_zeros_are_left_out_and_the_others_keep_their_offsets() {
        let mut bytes = [0; 64];
        bytes[0x21] = 0xab;
        assert_eq!(
            hex(&bytes, 0),
            "020: 00 ab 00 00 00 00 00 00 00 00 00 00 00 00 00 00\n"
        );
        assert_eq!(hex(&bytes, 0x30), "");
    }
}

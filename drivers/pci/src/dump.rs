//! Learning what a function is from a dump of its config space, for tools.

use alloc::vec::Vec;

use pcidom_script::{Progress, Script};

use crate::access::{Access, AccessError, Answer, Config, Question, Register};
use crate::address::Sbdf;
use crate::function::Function;
use crate::regs::{bar, header};
use crate::scan::{ScanError, scan};

/// Scans `bytes`, the first 64, 256 or 4096 of a function's config space.
///
/// A dump does not tell sizes: every BAR and ROM with an address has the smallest one, and
/// those without an address are taken as absent.
pub fn scan_dump(device: Sbdf, bytes: &[u8]) -> Result<Function, ScanError> {
    let mut sizing = Vec::new();
    let mut progress = Script::start(|asker| {
        let config = Config::new(asker, device);
        async move { scan(&config).await }
    });
    loop {
        match progress {
            Progress::Done(result) => return result,
            Progress::Asks(question, script) => {
                progress = script.resume(answer(&question, bytes, &mut sizing));
            }
        }
    }
}

fn answer(question: &Question, bytes: &[u8], sizing: &mut Vec<u16>) -> Answer {
    match question {
        Question::Access(_, Access::Write(register, value)) => {
            sizing.retain(|offset| *offset != register.offset());
            if value | !bar::ROM_SIZING == u32::MAX {
                sizing.push(register.offset());
            }
            Ok(0)
        }
        Question::Access(_, Access::Read(register)) | Question::Look(_, register) => {
            let value = read(bytes, *register)?;
            let sized = sizing.contains(&register.offset());
            Ok(if sized { size_mask(*register, value) } else { value })
        }
        Question::Wait(_) => Ok(0),
    }
}

fn read(bytes: &[u8], register: Register) -> Answer {
    let at = usize::from(register.offset())..usize::from(register.end());
    let bytes = bytes.get(at).ok_or(AccessError::NoRegister)?;
    Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

/// What a BAR of the smallest size says of it.
const fn size_mask(register: Register, value: u32) -> u32 {
    let rom = matches!(register.offset(), header::ROM | header::BRIDGE_ROM);
    let flags = if rom {
        !bar::ROM_ADDRESS
    } else if value & bar::IO != 0 {
        bar::IO_FLAGS
    } else {
        bar::MEMORY_FLAGS
    };
    if value & !flags == 0 { 0 } else { !flags }
}

//! Config space through sysfs: one operation of pcifront for each access.

use crate::series::{late_time, median_time};
use crate::{Failure, result};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

const COMMAND: u64 = 0x04;
const STATUS: u64 = 0x06;
const CACHE_LINE_SIZE: u64 = 0x0c;
const LATENCY_TIMER: u64 = 0x0d;
const BAR0: u64 = 0x10;
const CAPABILITIES: u64 = 0x34;
const INTERRUPT_LINE: u64 = 0x3c;
const BUS_MASTER: u16 = 1 << 2;

const POWER: u8 = 0x01;
const EXPRESS: u8 = 0x10;
const MSIX: u8 = 0x11;

/// The conventional part of a config space, which the sweep reads.
const SWEPT: usize = 256;

/// Accesses between two looks at the clock, an even number since writes have two values by turns.
/// In a PV guest a look is a system call through Xen,
/// which takes up to a third of what one access takes.
const AT_ONCE: u32 = 8;

/// A list that is longer runs in circles.
const MAX_CAPABILITIES: usize = 48;

/// Writes the byte to every place of the config space, four, two and one at a time.
pub(crate) fn sweep(path: &str, pattern: u8) -> Result<(), Failure> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let end = file.metadata()?.len();
    let mut refused = 0_u32;
    let mut write = |bytes: &[u8]| {
        for offset in (0..end).step_by(bytes.len()) {
            refused += u32::from(file.write_all_at(bytes, offset).is_err());
        }
    };
    write(&[pattern; 4]);
    write(&[pattern; 2]);
    write(&[pattern]);
    result("sweep/bytes", end);
    result("sweep/refused", refused);
    Ok(())
}

/// Measures every kind of access, `rounds` times each or a few more.
///
/// Nothing else may use the device meanwhile: its bus mastering goes off and on.
pub(crate) fn measure(path: &str, rounds: u32) -> Result<(), Failure> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut space = [0_u8; SWEPT];
    // The kernel makes one access of four bytes after the other of it.
    let sweep =
        median_time(rounds.div_ceil(8), |_| Ok(file.read_exact_at(&mut space, 0)?))?;
    result("read/sweep", sweep / u64::try_from(SWEPT / 4)?);
    let capability = |id| find(&space, id).ok_or(format!("no capability {id:#x}"));
    let (power, express, msix) =
        (capability(POWER)?, capability(EXPRESS)?, capability(MSIX)?);
    for (name, offset) in [
        ("COMMAND", COMMAND),
        ("STATUS", STATUS),
        ("PMCSR", power + 4),
        ("MSI-X-control", msix + 2),
        ("DEVSTA", express + 0xa),
        ("LNKSTA", express + 0x12),
    ] {
        let mut value = [0; 2];
        let time = time_of_one(rounds, |_| Ok(file.read_exact_at(&mut value, offset)?))?;
        result(&format!("read/{name}"), time);
    }
    for (name, offset) in
        [("latency-timer", LATENCY_TIMER), ("interrupt-line", INTERRUPT_LINE)]
    {
        let same = read::<1>(&file, offset)?;
        write(&file, rounds, name, offset, [same, same])?;
    }
    let bar = read::<4>(&file, BAR0)?;
    write(&file, rounds, "BAR0", BAR0, [bar, bar])?;
    let line = read::<1>(&file, CACHE_LINE_SIZE)?;
    let other = line.map(|byte| byte ^ 0x10);
    write(&file, rounds, "cache-line-size", CACHE_LINE_SIZE, [other, line])?;
    let command = read::<2>(&file, COMMAND)?;
    let without = (u16::from_le_bytes(command) & !BUS_MASTER).to_le_bytes();
    write(&file, rounds, "bus-master", COMMAND, [without, command])
}

/// How long an access takes: a read, and a write that reaches the hardware.
pub(crate) fn measure_access(path: &str, rounds: u32) -> Result<(), Failure> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut value = [0; 2];
    let time = median_time(rounds, |_| Ok(file.read_exact_at(&mut value, STATUS)?))?;
    result("access/read", time);
    let line = read::<1>(&file, CACHE_LINE_SIZE)?;
    let time = median_time(rounds, |_| Ok(file.write_all_at(&line, CACHE_LINE_SIZE)?))?;
    result("access/write", time);
    Ok(())
}

/// How long 99 of 100 accesses take at most: reads, and writes that reach the hardware.
pub(crate) fn measure_late(path: &str, rounds: u32) -> Result<(), Failure> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut value = [0; 2];
    let time = late_time(rounds, |_| Ok(file.read_exact_at(&mut value, STATUS)?))?;
    result("late/read", time);
    let line = read::<1>(&file, CACHE_LINE_SIZE)?;
    let time = late_time(rounds, |_| Ok(file.write_all_at(&line, CACHE_LINE_SIZE)?))?;
    result("late/write", time);
    Ok(())
}

fn read<const N: usize>(file: &File, offset: u64) -> Result<[u8; N], Failure> {
    let mut value = [0; N];
    file.read_exact_at(&mut value, offset)?;
    Ok(value)
}

/// The median time of one access, of `rounds` or a few more.
fn time_of_one(
    rounds: u32,
    mut access: impl FnMut(u32) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let time = median_time(rounds.div_ceil(AT_ONCE), |group| {
        (0..AT_ONCE).try_for_each(|number| access(group * AT_ONCE + number))
    })?;
    Ok(time / u64::from(AT_ONCE))
}

/// Writes the two values by turns, the second one last.
fn write<const N: usize>(
    file: &File,
    rounds: u32,
    name: &str,
    offset: u64,
    values: [[u8; N]; 2],
) -> Result<(), Failure> {
    let [first, second] = values;
    let time = time_of_one(rounds, |number| {
        let value = if number.is_multiple_of(2) { first } else { second };
        Ok(file.write_all_at(&value, offset)?)
    })?;
    result(&format!("write/{name}"), time);
    Ok(())
}

/// Where the capability is.
fn find(space: &[u8; SWEPT], id: u8) -> Option<u64> {
    let byte = |at: u8| space.get(usize::from(at)).copied();
    let mut at = byte(u8::try_from(CAPABILITIES).ok()?)?;
    for _ in 0..MAX_CAPABILITIES {
        if at < 0x40 {
            return None;
        }
        if byte(at)? == id {
            return Some(at.into());
        }
        at = byte(at.checked_add(1)?)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_capabilities() {
        let mut space = [0; SWEPT];
        space[0x34] = 0x40;
        space[0x40..0x42].copy_from_slice(&[MSIX, 0x80]);
        space[0x80..0x82].copy_from_slice(&[EXPRESS, 0]);
        assert_eq!(find(&space, MSIX), Some(0x40));
        assert_eq!(find(&space, EXPRESS), Some(0x80));
        assert_eq!(find(&space, POWER), None);
    }

    #[test]
    fn a_circle_of_capabilities_ends() {
        let mut space = [0; SWEPT];
        space[0x34] = 0x40;
        space[0x40..0x42].copy_from_slice(&[MSIX, 0x40]);
        assert_eq!(find(&space, POWER), None);
        assert_eq!(find(&[0xff; SWEPT], POWER), None);
    }
}

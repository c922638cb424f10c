//! Attacks by the shared page.

use alloc::vec::Vec;
use core::time::Duration;

use pcidom_xenbus::SharedPage;
use pcidom_xenbus::pciif::{FRONT_ACTIVE, RawMsixEntry, RawOp, command, word};

use super::{BURST, Enemy};
use crate::ask::{ask, put};
use crate::xen::{give_way, now};

/// COMMAND, and bus mastering on and off with decode on.
const COMMAND: i32 = 0x04;
const MASTER: [u32; 2] = [0x6, 0x2];
/// Cache Line Size.
const LINE: i32 = 0x0c;
/// Where the list of capabilities begins; Power Management, and its control register.
const CAPABILITIES: i32 = 0x34;
const POWER: u32 = 0x01;
const CONTROL: i32 = 4;
/// D3hot and D0.
const D3: u32 = 3;
/// A list that is longer runs in circles.
const MAX_CAPABILITIES: u32 = 48;

/// Between the beginnings of two writes of `hog`, by way of pcidom and in emulation, where that is
/// quickest: it makes 170 to 230 in a second.
const PACE: Duration = Duration::from_micros(4_350);

/// Vectors that are turned on and off.
const VECTORS: u16 = 2;

const PLACES: [u32; 6] = [0, 1, 0x1f, 0x100, 0x0001_0000, u32::MAX];
const OFFSETS: [i32; 8] = [0, 1, 3, 0xfff, 0x1000, -1, i32::MIN, i32::MAX];
const SIZES: [i32; 8] = [0, 1, 2, 3, 4, 8, -4, i32::MAX];
const COUNTS: [u32; 6] = [0, 129, 0x8000, 0x0001_0001, 1 << 31, u32::MAX];
const COMMANDS: [u32; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x100, u32::MAX];
/// Flags that the frontend doesn't have, and those that the backend has.
const FLAGS: [u32; 5] = [0, 1 << 1, 1 << 2, 0x8000_0000, !FRONT_ACTIVE];

impl Enemy<'_> {
    /// A request to the first function of the link.
    fn op(&self, cmd: u32, offset: i32, size: i32, value: u32) -> RawOp {
        let at = self.link.functions.first().copied().unwrap_or_default();
        let crate::link::Place { domain, bus, devfn } = at;
        RawOp { cmd, err: 77, domain, bus, devfn, offset, size, value }
    }

    /// Puts a request and counts its answer.
    fn put(&mut self, op: &RawOp, entries: &[RawMsixEntry]) -> Option<u32> {
        self.count.tries += 1;
        let answer = ask(self.xen, self.link, op, entries);
        match &answer {
            None => self.count.unanswered += 1,
            Some(answer) if answer.err == 0 => self.count.done += 1,
            Some(_) => self.count.refused += 1,
        }
        answer.filter(|answer| answer.err == 0).map(|answer| answer.value)
    }

    fn read(&mut self, offset: i32, size: i32) -> Option<u32> {
        let op = self.op(command::CONF_READ, offset, size, 0);
        self.put(&op, &[])
    }

    fn write_config(&mut self, offset: i32, size: i32, value: u32) {
        let op = self.op(command::CONF_WRITE, offset, size, value);
        self.put(&op, &[]);
    }

    /// Where the device's power management is.
    fn power(&mut self) -> Option<i32> {
        let mut at = self.read(CAPABILITIES, 1)?;
        for _ in 0..MAX_CAPABILITIES {
            let place = i32::try_from(at).ok().filter(|at| *at >= 0x40)?;
            if self.read(place, 1)? == POWER {
                return Some(place);
            }
            at = self.read(place + 1, 1)?;
        }
        None
    }
}

/// Rewrites requests and flags while they are read and served.
pub(super) fn rewrite(enemy: &mut Enemy<'_>) {
    let entries: Vec<RawMsixEntry> =
        (0..8).map(|entry| RawMsixEntry { vector: 0, entry }).collect();
    while enemy.goes_on() {
        let op = match enemy.random.next() % 4 {
            0 => enemy.op(command::CONF_WRITE, LINE, 1, 0x10),
            1 => enemy.op(command::CONF_READ, COMMAND, 4, 0),
            2 => enemy.op(command::ENABLE_MSIX, 0, 0, 129),
            _ => enemy.op(command::CONF_READ, 0, 2, 0),
        };
        put(enemy.link, &op, &entries);
        enemy.count.tries += 1;
        for _ in 0..BURST {
            // The flags, the request, the first entries.
            let at = enemy.random.next() as usize % (word::MSIX + 8);
            let (bits, value) = (enemy.random.next(), enemy.random.next());
            let value = if bits & 1 == 0 { value & 0xf } else { value };
            enemy.link.page.store(at, value);
        }
        give_way();
    }
    enemy.link.page.store(word::FLAGS, 0);
}

/// Lies in one field or more of each request.
pub(super) fn lies(enemy: &mut Enemy<'_>) {
    let entries = [RawMsixEntry { vector: 0xffff, entry: 0xffff }; 128];
    while enemy.goes_on() {
        let truth = enemy.op(command::CONF_READ, 0, 4, 0);
        let which = enemy.random.next();
        let random = &mut enemy.random;
        let mut lie = |bit: u32, from: &[u32], truth: u32| match which & bit {
            0 => truth,
            _ => random.pick(from).unwrap_or(truth),
        };
        let cmd = lie(1, &COMMANDS, truth.cmd);
        let domain = lie(2, &PLACES, truth.domain);
        let bus = lie(4, &PLACES, truth.bus);
        let devfn = lie(8, &PLACES, truth.devfn);
        let value = random.pick(&COUNTS).unwrap_or(0);
        let offset = random.pick(&OFFSETS).unwrap_or(0);
        let size = random.pick(&SIZES).unwrap_or(0);
        let flags = random.pick(&FLAGS).unwrap_or(0);
        enemy.link.page.store(word::FLAGS, flags);
        enemy.put(
            &RawOp { cmd, err: -1, domain, bus, devfn, offset, size, value },
            &entries,
        );
    }
    enemy.link.page.store(word::FLAGS, 0);
}

/// Turns interrupts on and off: each is work for the daemon and for dom0.
pub(super) fn vectors(enemy: &mut Enemy<'_>) {
    let entries: Vec<RawMsixEntry> =
        (0..VECTORS).map(|entry| RawMsixEntry { vector: 0, entry }).collect();
    while enemy.goes_on() {
        let on = enemy.op(command::ENABLE_MSIX, 0, 0, VECTORS.into());
        enemy.put(&on, &entries);
        let off = enemy.op(command::DISABLE_MSIX, 0, 0, 0);
        enemy.put(&off, &[]);
    }
}

/// Power states, bus mastering, cache lines: writes that must reach the hardware, so that the
/// link to dom0 has no rest.
pub(super) fn hog(enemy: &mut Enemy<'_>) {
    hog_at(enemy, Duration::ZERO);
}

/// The same, as often as it gets through pcidom: for a guest on dom0's own pciback.
pub(super) fn paced(enemy: &mut Enemy<'_>) {
    hog_at(enemy, PACE);
}

fn hog_at(enemy: &mut Enemy<'_>, pace: Duration) {
    let power = enemy.power();
    let mut next = now();
    let mut write = |enemy: &mut Enemy<'_>, offset, size, value| {
        if next > now() {
            enemy.xen.sleep(Some(next));
        }
        // A change of the power state takes dom0 longer than this, which is made up for.
        next = next.after(pace);
        enemy.write_config(offset, size, value);
    };
    while enemy.goes_on() {
        for state in [D3, 0] {
            if let Some(power) = power {
                write(enemy, power + CONTROL, 2, state);
            }
            for (line, master) in [0x10, 0].into_iter().zip(MASTER) {
                write(enemy, LINE, 1, line);
                write(enemy, COMMAND, 2, master);
            }
        }
    }
}

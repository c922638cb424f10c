//! Puts a sequence, one line of output for each step:
//!
//! ```text
//! @@FRONT op=SEQUENCE/STEP err=CODE value=HEX
//! @@FRONT op=SEQUENCE/STEP err=0 value=HEX pirqs=DIFFERENT bound=USABLE
//! @@FRONT op=SEQUENCE/STEP done=COUNT refused=COUNT other=COUNT
//! ```

use alloc::vec::Vec;

use pcidom_xenbus::pciif::{OpError, RawMsixEntry, RawOp, command};

use crate::ask::{Answer, ask};
use crate::link::{Link, Place};
use crate::say::say;
use crate::sequences::{Entries, Step, To, What};
use crate::xen::{Xen, can_bind};

/// Puts all requests of a sequence.
pub(crate) fn play(xen: &mut Xen, link: &Link, sequence: &str, steps: &[Step]) {
    for Step { name, to, what } in steps {
        let Some(place) = place(link, *to) else {
            say!("@@FRONT op={sequence}/{name} err=no-such-function");
            continue;
        };
        if let What::ReadAll { size, from, to } = *what {
            let (done, refused, other) = read_all(xen, link, place, size, from..to);
            say!(
                "@@FRONT op={sequence}/{name} done={done} refused={refused} other={other}"
            );
            continue;
        }
        let (op, entries) = request(place, *what);
        let Some(answer) = ask(xen, link, &op, &entries) else {
            say!("@@FRONT op={sequence}/{name} err=none");
            continue;
        };
        let Answer { err, value, .. } = answer;
        match pirqs(&op, &answer) {
            None => say!("@@FRONT op={sequence}/{name} err={err} value={value:#x}"),
            Some(pirqs) => {
                let different = pirqs.len();
                let bound = pirqs.into_iter().filter(|pirq| can_bind(xen, *pirq)).count();
                say!(
                    "@@FRONT op={sequence}/{name} err={err} value={value:#x} \
                     pirqs={different} bound={bound}"
                );
            }
        }
    }
}

fn place(link: &Link, to: To) -> Option<Place> {
    match to {
        To::Function(number) => link.functions.get(number).copied(),
        To::Beside(more) => link.functions.first().map(|first| Place {
            domain: first.domain.wrapping_add(more.domain),
            bus: first.bus.wrapping_add(more.bus),
            devfn: first.devfn.wrapping_add(more.devfn),
        }),
    }
}

fn request(place: Place, what: What) -> (RawOp, Vec<RawMsixEntry>) {
    let Place { domain, bus, devfn } = place;
    // What an answer leaves alone shows: no code is 77.
    let op = RawOp { err: 77, domain, bus, devfn, ..RawOp::default() };
    let plain = |op| (op, Vec::new());
    match what {
        What::Read { offset, size } => {
            plain(RawOp { cmd: command::CONF_READ, offset, size, ..op })
        }
        What::Write { offset, size, value } => {
            plain(RawOp { cmd: command::CONF_WRITE, offset, size, value, ..op })
        }
        What::ReadAll { size, from, .. } => {
            plain(RawOp { cmd: command::CONF_READ, offset: from, size, ..op })
        }
        What::Command(cmd) => plain(RawOp { cmd, ..op }),
        What::Msix { count, entries } => {
            let entry = |entry| RawMsixEntry { vector: 0, entry };
            let entries = match entries {
                Entries::First(count) => (0..count).map(entry).collect(),
                Entries::These(these) => these.iter().copied().map(entry).collect(),
            };
            (RawOp { cmd: command::ENABLE_MSIX, value: count, ..op }, entries)
        }
    }
}

/// The different pirqs that an answer gives, if it is one that gives any.
fn pirqs(op: &RawOp, answer: &Answer) -> Option<Vec<u32>> {
    let mut found: Vec<u32> = match op.cmd {
        _ if answer.err != 0 => return None,
        command::ENABLE_MSI => [answer.value].into(),
        command::ENABLE_MSIX => answer.vectors.iter().copied().map(u32::from).collect(),
        _ => return None,
    };
    found.sort_unstable();
    found.dedup();
    found.retain(|pirq| *pirq != 0);
    Some(found)
}

/// How many reads were done, were refused as an offset that isn't one, and anything else.
fn read_all(
    xen: &mut Xen,
    link: &Link,
    place: Place,
    size: i32,
    offsets: core::ops::Range<i32>,
) -> (u32, u32, u32) {
    let (mut done, mut refused, mut other) = (0, 0, 0);
    for offset in offsets {
        let (op, entries) = request(place, What::Read { offset, size });
        match ask(xen, link, &op, &entries).map(|answer| answer.err) {
            Some(0) => done += 1,
            Some(err) if err == OpError::InvalidOffset as i32 => refused += 1,
            _ => other += 1,
        }
    }
    (done, refused, other)
}

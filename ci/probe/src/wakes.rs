//! How often a domain woke, by Xen's own trace.
//!
//! A trace (`xentrace -e 0x21000`) is a row of records: a word with the event in bits 0 to
//! 27, the number of extra words in bits 28 to 30, and in bit 31 whether a time stamp of
//! two words comes first. See `struct t_rec` in Xen's public/trace.h.

use crate::{Failure, result};
use std::fs;

/// `TRC_SCHED_RUNSTATE_CHANGE`, with the old state in bits 8 to 11 and the new one in bits 4
/// to 7 taken out.
const RUNSTATE_CHANGE: u32 = 0x0002_1001;
const BLOCKED: u32 = 2;

/// Counts changes of the domain's vCPUs from blocked to anything.
pub(crate) fn count(trace: &str, domain: u16) -> Result<(), Failure> {
    let bytes = fs::read(trace)?;
    let words: Vec<u32> = bytes
        .chunks_exact(4)
        .filter_map(|word| Some(u32::from_le_bytes(word.try_into().ok()?)))
        .collect();
    let (records, wakes) = scan(&words, domain);
    if records == 0 {
        return Err("the trace is empty".into());
    }
    result("wakes", wakes);
    Ok(())
}

/// How many records there are, and how many wake-ups of the domain are in them.
fn scan(mut words: &[u32], domain: u16) -> (u64, u64) {
    let (mut records, mut wakes) = (0, 0);
    while let Some((head, rest)) = words.split_first() {
        let stamp = if head >> 31 == 1 { 2 } else { 0 };
        let extra = usize::try_from(head >> 28 & 7).unwrap_or(0);
        let Some((record, rest)) = rest.split_at_checked(stamp + extra) else { break };
        let (event, old) = (head & 0x0fff_ffff, head >> 8 & 0xf);
        // The first extra word is the vCPU, below the domain.
        let of = record.get(stamp).map(|word| word >> 16);
        if event & !0xff0 == RUNSTATE_CHANGE
            && old == BLOCKED
            && of == Some(domain.into())
        {
            wakes += 1;
        }
        records += 1;
        words = rest;
    }
    (records, wakes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with a time stamp and one extra word.
    fn change(old: u32, new: u32, domain: u32) -> [u32; 4] {
        let event = RUNSTATE_CHANGE | old << 8 | new << 4;
        [1 << 31 | 1 << 28 | event, 5, 6, domain << 16]
    }

    #[test]
    fn counts_the_ends_of_blocking() {
        let mut words = vec![0x1001_f003, 0];
        words.extend(change(BLOCKED, 1, 7));
        words.extend(change(1, 0, 7));
        words.extend(change(BLOCKED, 1, 8));
        words.extend(change(0, BLOCKED, 7));
        words.extend(change(BLOCKED, 0, 7));
        assert_eq!(scan(&words, 7), (6, 2));
        assert_eq!(scan(&words, 9), (6, 0));
    }

    #[test]
    fn a_cut_record_ends_the_trace() {
        assert_eq!(scan(&change(BLOCKED, 1, 7)[..3], 7), (0, 0));
    }
}

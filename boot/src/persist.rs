//! The place of what outlives a restart in place.
//!
//! The section `.persist` is the last one of the image. The builder clears it with the rest
//! of a new domain; the image itself never does, so after a restart in place it holds what
//! the generation before has stored. For now that is only the head: which generation this
//! is. A record is believed when its magic and its checksum are right, and counts as absent
//! otherwise.

use core::cell::UnsafeCell;

const MAGIC: u64 = u64::from_le_bytes(*b"pcidom\0\x01");

/// The record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    magic: u64,
    /// How often this domain has restarted in place: 0 for a fresh one.
    pub generation: u32,
    reserved: u32,
    checksum: u64,
}

#[repr(C, align(4096))]
struct Place(UnsafeCell<Record>);

// SAFETY: only `load` and `store` touch it, each with one volatile access, and the image has
// one vCPU and no interrupts.
unsafe impl Sync for Place {}

#[cfg_attr(not(test), unsafe(link_section = ".persist"))]
static PLACE: Place =
    Place(UnsafeCell::new(Record { magic: 0, generation: 0, reserved: 0, checksum: 0 }));

impl Record {
    /// A record of `generation`.
    pub const fn new(generation: u32) -> Self {
        let mut record = Self { magic: MAGIC, generation, reserved: 0, checksum: 0 };
        record.checksum = record.sum();
        record
    }

    /// FNV-1a over the words before the checksum: it tells damage, not malice.
    const fn sum(&self) -> u64 {
        let words = [self.magic, self.generation as u64, self.reserved as u64];
        let mut sum = 0xcbf2_9ce4_8422_2325_u64;
        let mut rest: &[u64] = &words;
        while let [word, more @ ..] = rest {
            sum = (sum ^ *word).wrapping_mul(0x0100_0000_01b3);
            rest = more;
        }
        sum
    }

    fn valid(&self) -> bool {
        self.magic == MAGIC && self.checksum == self.sum()
    }
}

/// What the generation before has stored, if it is whole.
pub fn load() -> Option<Record> {
    // SAFETY: the place is valid for any bytes (integers only), and nothing else accesses it
    // at the same time.
    let record = unsafe { PLACE.0.get().read_volatile() };
    record.valid().then_some(record)
}

/// Stores the record for the next generation.
pub fn store(record: Record) {
    // SAFETY: as in `load`.
    unsafe { PLACE.0.get().write_volatile(record) };
}

#[cfg(test)]
mod tests {
    use super::Record;

    #[test]
    fn a_cleared_or_damaged_record_does_not_count() {
        assert!(!Record::default().valid());
        let mut record = Record::new(3);
        assert!(record.valid());
        record.generation = 4;
        assert!(!record.valid());
    }
}

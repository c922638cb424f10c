//! One direction of a byte ring in a shared page: the rings of XenStore and of the console.

use pcidom_xenbus::SharedPage;

use super::page::Page;

/// Where a ring is in its page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    /// Offset of its bytes.
    pub(crate) bytes: usize,
    /// How many: a power of two.
    pub(crate) size: u32,
    /// Offset of the consumer's index; the producer's is the next word.
    pub(crate) indices: usize,
}

impl Ring {
    fn consumer(self) -> usize {
        self.indices / 4
    }

    fn producer(self) -> usize {
        self.indices / 4 + 1
    }

    fn place(self, index: u32) -> usize {
        self.bytes + (index & (self.size - 1)) as usize
    }

    /// Bytes in the ring, or `None` if the indices make no sense.
    pub(crate) fn filled(self, page: &Page) -> Option<u32> {
        let filled = page.load(self.producer()).wrapping_sub(page.load(self.consumer()));
        (filled <= self.size).then_some(filled)
    }

    /// Room for bytes; none if the indices make no sense.
    pub(crate) fn room(self, page: &Page) -> u32 {
        self.filled(page).map_or(0, |filled| self.size - filled)
    }

    /// Adds `bytes`, for which there is room, and publishes them at once.
    pub(crate) fn put(self, page: &Page, bytes: impl Iterator<Item = u8>) {
        let mut index = page.load(self.producer());
        page.barrier();
        for byte in bytes {
            page.set_byte(self.place(index), byte);
            index = index.wrapping_add(1);
        }
        page.barrier();
        page.store(self.producer(), index);
    }

    /// Copies the first bytes that are there into `into`, which is not longer, and leaves
    /// them there.
    pub(crate) fn peek(self, page: &Page, into: &mut [u8]) {
        page.barrier();
        let mut index = page.load(self.consumer());
        for byte in into {
            *byte = page.byte(self.place(index));
            index = index.wrapping_add(1);
        }
    }

    /// Gives `count` bytes, which are there, back to the producer.
    pub(crate) fn consume(self, page: &Page, count: u32) {
        page.barrier();
        let index = page.load(self.consumer());
        page.store(self.consumer(), index.wrapping_add(count));
    }
}

//! Log text that waits for its way out: whole lines or nothing.

use alloc::collections::VecDeque;

/// Bytes that wait, oldest first. Allocates only in [`Backlog::with_room`].
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bytes: VecDeque<u8>,
    room: usize,
    /// Lines that found no room since somebody was told.
    lost: u32,
}

impl Backlog {
    /// No room at all.
    pub(crate) const fn new() -> Self {
        Self { bytes: VecDeque::new(), room: 0, lost: 0 }
    }

    /// Room for that many bytes.
    pub(crate) fn with_room(room: usize) -> Self {
        Self { bytes: VecDeque::with_capacity(room), room, lost: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// At most that part of the room (1 over `part`) is in use.
    pub(crate) fn is_below(&self, part: usize) -> bool {
        self.bytes.len() <= self.room / part
    }

    /// Adds text that leaves half of the room for the log, or nothing and `false`.
    pub(crate) fn push_text(&mut self, text: &[u8]) -> bool {
        let fits = self.bytes.len() + text.len() <= self.room / 2;
        if fits {
            self.bytes.extend(text);
        }
        fits
    }

    /// Adds a line, or counts it as lost.
    pub(crate) fn push(&mut self, line: &[u8]) {
        if self.bytes.len() + line.len() > self.room {
            self.lost = self.lost.saturating_add(1);
        } else {
            self.bytes.extend(line);
        }
    }

    /// The oldest bytes, as many as lie together.
    pub(crate) fn front(&self) -> &[u8] {
        self.bytes.as_slices().0
    }

    /// Drops the oldest `count` bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
    }

    /// How many lines were lost since the last call, once there is room to say so.
    pub(crate) fn take_lost(&mut self) -> Option<u32> {
        let tell = self.lost > 0 && self.bytes.len() < self.room / 2;
        tell.then(|| core::mem::take(&mut self.lost))
    }
}

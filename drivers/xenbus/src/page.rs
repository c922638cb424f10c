//! Memory that a peer can write at any moment.

/// Words in a page.
pub const PAGE_WORDS: usize = 1024;

/// One 4 KiB page shared with another domain.
///
/// There is no way to get a reference into it: a word is loaded or stored once, by value,
/// and whatever is checked is the copy. Implementations access each word exactly once per
/// call, never tear it, and never panic; a `word` beyond the page reads 0 and is not
/// written.
pub trait SharedPage {
    /// Loads word number `word` (byte offset divided by four).
    fn load(&self, word: usize) -> u32;
    /// Stores it.
    fn store(&self, word: usize, value: u32);
    /// Sets bits as one locked operation with full ordering; returns what was there.
    fn fetch_or(&self, word: usize, bits: u32) -> u32;
    /// Keeps only `bits` as one locked operation with full ordering; returns what was there.
    fn fetch_and(&self, word: usize, bits: u32) -> u32;
    /// Everything loaded or stored before is seen by the peer before what comes after.
    fn barrier(&self);
}

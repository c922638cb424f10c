//! A page that others write at any moment, by address.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use pcidom_xenbus::SharedPage;
use pcidom_xenbus::page::PAGE_WORDS;

/// Names a page; who holds it may access the page. Not cloned outside this module's users,
/// which see to it that a page given back is not accessed any more.
#[derive(Debug)]
pub(crate) struct Page(NonNull<u32>);

// SAFETY: it is an address, valid on every CPU, and all accesses through it are atomic or
// volatile.
unsafe impl Send for Page {}

impl Page {
    /// The page at `first`.
    ///
    /// # Safety
    ///
    /// `first` is the start of a page that stays mapped, readable and writable, for as long
    /// as the result is used, and to whose contents no reference exists.
    pub(crate) const unsafe fn new(first: NonNull<u32>) -> Self {
        Self(first)
    }

    fn word(&self, word: usize) -> Option<*mut u32> {
        (word < PAGE_WORDS).then(|| self.0.as_ptr().wrapping_add(word))
    }

    fn atomic(&self, word: usize) -> Option<&AtomicU32> {
        let word = self.word(word)?;
        // SAFETY: an aligned word inside the page (`new`); an atomic may be changed by
        // others at any time.
        Some(unsafe { AtomicU32::from_ptr(word) })
    }

    /// Byte number `n`; 0 beyond the page.
    pub(crate) fn byte(&self, n: usize) -> u8 {
        let Some(word) = self.word(n / 4) else { return 0 };
        let byte = word.cast::<u8>().wrapping_add(n % 4);
        // SAFETY: a byte inside the page (`new`).
        unsafe { byte.read_volatile() }
    }

    /// Stores byte number `n`; nothing happens beyond the page.
    pub(crate) fn set_byte(&self, n: usize, value: u8) {
        let Some(word) = self.word(n / 4) else { return };
        let byte = word.cast::<u8>().wrapping_add(n % 4);
        // SAFETY: a byte inside the page (`new`).
        unsafe { byte.write_volatile(value) };
    }

    /// Zeroes all of it.
    pub(crate) fn clear(&self) {
        for word in 0..PAGE_WORDS {
            self.store(word, 0);
        }
    }
}

impl SharedPage for Page {
    fn load(&self, word: usize) -> u32 {
        let Some(word) = self.word(word) else { return 0 };
        // SAFETY: an aligned word inside the page (`new`); volatile, so it is loaded once.
        unsafe { word.read_volatile() }
    }

    fn store(&self, word: usize, value: u32) {
        let Some(word) = self.word(word) else { return };
        // SAFETY: as in `load`.
        unsafe { word.write_volatile(value) };
    }

    fn fetch_or(&self, word: usize, bits: u32) -> u32 {
        self.atomic(word).map_or(0, |word| word.fetch_or(bits, Ordering::SeqCst))
    }

    fn fetch_and(&self, word: usize, bits: u32) -> u32 {
        self.atomic(word).map_or(0, |word| word.fetch_and(bits, Ordering::SeqCst))
    }

    fn barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

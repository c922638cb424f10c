//! A page that a peer writes at any moment, and what may be written into it by us.

use std::cell::{Cell, RefCell};

use pcidom_xenbus::SharedPage;
use pcidom_xenbus::page::PAGE_WORDS;
use pcidom_xenbus::pciif::word;

/// Words that are kept: what lies behind the AER slot is used by nobody, and a smaller page
/// is faster to make.
const KEPT: usize = word::AER + 8;

const _: () = assert!(KEPT < PAGE_WORDS);

/// Which end of the link we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// pciback: answers requests.
    Back,
    /// pcifront: makes requests, answers AER.
    Front,
}

/// The page, with a check of everything that we store.
#[derive(Debug)]
pub(crate) struct Page {
    words: RefCell<[u32; KEPT]>,
    end: End,
    /// Loads until the word that was loaded changes behind our back, and to what.
    change: Cell<Option<(u8, u32)>>,
    stores: Cell<u32>,
}

impl Page {
    /// A zeroed one.
    pub(crate) fn new(end: End) -> Self {
        Self {
            words: RefCell::new([0; KEPT]),
            end,
            change: Cell::new(None),
            stores: Cell::new(0),
        }
    }

    /// The peer writes a word.
    pub(crate) fn set(&self, word: usize, value: u32) {
        if let Some(place) = self.words.borrow_mut().get_mut(word) {
            *place = value;
        }
    }

    /// The peer looks at one.
    pub(crate) fn get(&self, word: usize) -> u32 {
        self.words.borrow().get(word).copied().unwrap_or(0)
    }

    /// The peer changes a word right after we have loaded it, `after` loads from now.
    pub(crate) fn change_after(&self, after: u8, value: u32) {
        self.change.set(Some((after, value)));
    }

    /// How often we have stored anything.
    pub(crate) const fn stores(&self) -> u32 {
        self.stores.get()
    }

    fn note_store(&self) {
        self.stores.set(self.stores.get().wrapping_add(1));
    }
}

impl SharedPage for Page {
    fn load(&self, word: usize) -> u32 {
        let value = self.get(word);
        match self.change.take() {
            Some((0, other)) => self.set(word, other),
            Some((left, other)) => self.change.set(Some((left - 1, other))),
            None => {}
        }
        value
    }

    fn store(&self, word: usize, value: u32) {
        let allowed = match self.end {
            // Nothing else is ours to write: a guest may have moved on.
            End::Back => {
                matches!(word, word::OP_ERR | word::OP_VALUE)
                    || (word::MSIX..word::AER).contains(&word)
            }
            End::Front => {
                (word::OP..word::OP + 8).contains(&word) || word == word::AER_ERR
            }
        };
        assert!(allowed, "{:?} stores into word {word}", self.end);
        self.note_store();
        self.set(word, value);
    }

    fn fetch_or(&self, word: usize, bits: u32) -> u32 {
        use pcidom_xenbus::pciif::{AER_HANDLER, FRONT_ACTIVE};
        let own = if self.end == End::Front { AER_HANDLER | FRONT_ACTIVE } else { 0 };
        assert!(word == word::FLAGS && bits & !own == 0, "sets {bits:#x} in {word}");
        self.note_store();
        let old = self.get(word);
        self.set(word, old | bits);
        old
    }

    fn fetch_and(&self, word: usize, bits: u32) -> u32 {
        use pcidom_xenbus::pciif::{BACK_ACTIVE, FRONT_ACTIVE};
        let own = if self.end == End::Front { BACK_ACTIVE } else { FRONT_ACTIVE };
        assert!(word == word::FLAGS && !bits == own, "clears {:#x} in {word}", !bits);
        self.note_store();
        let old = self.get(word);
        self.set(word, old & bits);
        old
    }

    fn barrier(&self) {}
}

//! A page that two domains share.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use pcidom_xenbus::SharedPage;
use pcidom_xenbus::page::PAGE_WORDS;

/// Called after each load with the word's number; what it returns is stored in that word,
/// as if the peer had written it before the next load.
pub type LoadHook = Box<dyn FnMut(usize) -> Option<u32>>;

struct Inner {
    words: Vec<Cell<u32>>,
    loads: Vec<Cell<u32>>,
    hook: RefCell<Option<LoadHook>>,
}

/// One 4 KiB page. Clones are the same page.
#[derive(Clone)]
pub struct SimPage(Rc<Inner>);

impl SimPage {
    /// A page of zeroes.
    #[expect(clippy::new_without_default, reason = "a page of memory has no default")]
    pub fn new() -> Self {
        let words = vec![Cell::new(0); PAGE_WORDS];
        let loads = words.clone();
        Self(Rc::new(Inner { words, loads, hook: RefCell::new(None) }))
    }

    /// Lets `hook` play the peer that changes the page between two loads.
    pub fn set_hook(&self, hook: Option<LoadHook>) {
        *self.0.hook.borrow_mut() = hook;
    }

    /// How often `word` was loaded so far: twice for one request is a double fetch
    /// (advisory 155).
    pub fn loads(&self, word: usize) -> u32 {
        self.0.loads.get(word).map_or(0, Cell::get)
    }

    /// What the word holds, without counting as a load: for tests.
    pub fn peek(&self, word: usize) -> u32 {
        self.0.words.get(word).map_or(0, Cell::get)
    }

    /// Whether both are the same memory.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    fn update(&self, word: usize, change: impl FnOnce(u32) -> u32) -> u32 {
        let Some(cell) = self.0.words.get(word) else { return 0 };
        let before = cell.get();
        cell.set(change(before));
        before
    }
}

impl fmt::Debug for SimPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head: Vec<u32> = self.0.words.iter().take(12).map(Cell::get).collect();
        f.debug_tuple("SimPage").field(&head).finish()
    }
}

impl SharedPage for SimPage {
    fn load(&self, word: usize) -> u32 {
        let Some(cell) = self.0.words.get(word) else { return 0 };
        let value = cell.get();
        if let Some(loads) = self.0.loads.get(word) {
            loads.set(loads.get() + 1);
        }
        // Taken out while it runs: a hook that loads does not call itself.
        let hook = self.0.hook.borrow_mut().take();
        if let Some(mut hook) = hook {
            if let Some(next) = hook(word) {
                cell.set(next);
            }
            self.0.hook.borrow_mut().get_or_insert(hook);
        }
        value
    }

    fn store(&self, word: usize, value: u32) {
        self.update(word, |_| value);
    }

    fn fetch_or(&self, word: usize, bits: u32) -> u32 {
        self.update(word, |before| before | bits)
    }

    fn fetch_and(&self, word: usize, bits: u32) -> u32 {
        self.update(word, |before| before & bits)
    }

    fn barrier(&self) {}
}

#[cfg(test)]
mod tests {
    use super::SimPage;
    use pcidom_xenbus::SharedPage;

    #[test]
    fn a_hook_changes_what_the_next_load_sees() {
        let page = SimPage::new();
        page.store(3, 7);
        page.set_hook(Some(Box::new(|word| (word == 3).then_some(8))));
        assert_eq!((page.load(3), page.load(3), page.loads(3)), (7, 8, 2));
        page.set_hook(None);
        assert_eq!(page.fetch_or(3, 1), 8);
        assert_eq!(page.fetch_and(3, 1), 9);
        assert_eq!(page.peek(3), 1);
    }

    #[test]
    fn words_beyond_the_page_read_zero_and_are_not_written() {
        let page = SimPage::new();
        page.store(1024, 1);
        assert_eq!((page.load(1024), page.fetch_or(usize::MAX, 1)), (0, 0));
    }
}

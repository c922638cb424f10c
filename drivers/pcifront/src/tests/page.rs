use core::cell::RefCell;

use pcidom_xenbus::SharedPage;
use pcidom_xenbus::page::PAGE_WORDS;

/// What was done to a page, to check the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Store(usize),
    Or(u32),
    And(u32),
    Barrier,
}

/// A page of memory that remembers what was done to it.
#[derive(Debug)]
pub(super) struct FakePage {
    words: RefCell<Vec<u32>>,
    steps: RefCell<Vec<Step>>,
}

impl FakePage {
    pub(super) fn new() -> Self {
        Self { words: RefCell::new(vec![0; PAGE_WORDS]), steps: RefCell::default() }
    }

    /// The peer's hand: no step of ours.
    pub(super) fn poke(&self, word: usize, value: u32) {
        self.words.borrow_mut()[word] = value;
    }

    pub(super) fn peek(&self, word: usize) -> u32 {
        self.words.borrow()[word]
    }

    pub(super) fn take_steps(&self) -> Vec<Step> {
        self.steps.take()
    }

    fn log(&self, step: Step) {
        self.steps.borrow_mut().push(step);
    }
}

impl SharedPage for FakePage {
    fn load(&self, word: usize) -> u32 {
        self.words.borrow().get(word).copied().unwrap_or(0)
    }

    fn store(&self, word: usize, value: u32) {
        self.log(Step::Store(word));
        if let Some(place) = self.words.borrow_mut().get_mut(word) {
            *place = value;
        }
    }

    fn fetch_or(&self, word: usize, bits: u32) -> u32 {
        self.log(Step::Or(bits));
        let old = self.load(word);
        self.poke(word, old | bits);
        old
    }

    fn fetch_and(&self, word: usize, bits: u32) -> u32 {
        self.log(Step::And(bits));
        let old = self.load(word);
        self.poke(word, old & bits);
        old
    }

    fn barrier(&self) {
        self.log(Step::Barrier);
    }
}

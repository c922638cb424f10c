//! The page of a procedure that no request in a page has started.

use pcidom_xenbus::SharedPage;

/// There is none, ever.
#[derive(Debug)]
pub(super) enum NoPage {}

impl SharedPage for NoPage {
    fn load(&self, _: usize) -> u32 {
        match *self {}
    }
    fn store(&self, _: usize, _: u32) {
        match *self {}
    }
    fn fetch_or(&self, _: usize, _: u32) -> u32 {
        match *self {}
    }
    fn fetch_and(&self, _: usize, _: u32) -> u32 {
        match *self {}
    }
    fn barrier(&self) {
        match *self {}
    }
}

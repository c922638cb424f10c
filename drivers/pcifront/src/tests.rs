//! The A-link against scripted peers: a page in memory, and the words of XenStore.

mod aer;
mod exports;
mod link;
mod page;
mod ring;

//! The backend of a PV PCI link towards one guest, without any I/O.
//!
//! * [`link`]: the XenBus state machine, told what is in XenStore, answering with what to
//!   write there; it gives each function its place on the guest's [`vbus`].
//! * [`serve`]: takes the guest's requests out of the shared page and answers them, from
//!   the register table in [`policy`] or through accesses and leases it asks for.
//! * [`interrupt`]: what a lease is, and which interrupts are on.
//!
//! The event loop owns pages, ports, XenStore and the link to dom0. It feeds both parts
//! and does what they ask.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod ask;
mod counters;
mod deliver;
pub mod interrupt;
pub mod link;
pub mod policy;
mod procedure;
pub mod request;
pub mod serve;
#[cfg(test)]
mod tests;
pub mod vbus;

pub use counters::Counters;
pub use interrupt::{Kind, LeaseError, Leases, Mode, Trouble};
pub use link::Link;
pub use policy::VirtualFunction;
pub use serve::{Finished, FunctionStatus, Server};
pub use vbus::VirtualBus;

//! The A-link: pcidom as the PCI frontend of dom0's xen-pciback.
//!
//! * [`exports`]: what the backend's directory says it exports.
//! * [`link`](mod@link): the XenBus state machine, from first sight to the last goodbye.
//! * [`ring`]: the one request slot of the shared page.
//! * [`aer`]: error reports that dom0 sends the other way.
//!
//! All of it is pure: XenStore, grants, event channels and time come in as values and go
//! out as actions.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod aer;
pub mod exports;
pub mod link;
pub mod ring;
#[cfg(test)]
mod tests;

pub use aer::{AerReport, announce_aer, serve_aer};
pub use exports::{Export, MAX_EXPORTS, parse_exports};
pub use link::{Action, Event, Link, State};
pub use ring::{OP_DEADLINE, OpSlot, SubmitError};

//! XenStore and XenBus as both ends of a link see them, without any I/O.
//!
//! * [`ids`]: the numbers Xen hands out, each its own type.
//! * [`state`]: the states of a XenBus link.
//! * [`page`]: memory shared with a peer, and [`pciif`]: the one page of a PCI link.
//! * [`wire`]: XenStore messages, and [`client`]: a XenStore client that is handed
//!   messages and hands out messages.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod client;
pub mod ids;
pub mod page;
pub mod pciif;
pub mod state;
pub mod store;
pub mod wire;

pub use ids::{DomId, GrantRef, Mfn, Pirq, Port};
pub use page::SharedPage;
pub use state::XenbusState;

//! The event loop of pcidom, over a [`Platform`]: real Xen in the image, or the simulator.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod linger;
pub mod machine;
pub mod platform;

pub use machine::trace;
pub use machine::{Event, Halt, Machine};
pub use platform::{ConfigPage, Console, HeapUse, Platform, XenError};

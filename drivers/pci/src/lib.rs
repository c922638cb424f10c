//! What a PCI function is: addresses, registers, capabilities, access, reset.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod access;
pub mod address;

pub use access::{Access, AccessError, Answer, Config, Question, Register, Width};
pub use address::{ParseAddressError, Sbdf, VirtualBdf};

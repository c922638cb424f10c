//! What a PCI function is: addresses, registers, capabilities, access, reset.
//!
//! * [`address`]: names of functions, and [`access`]: what can be asked of one.
//! * [`regs`]: the registers by the names of the specifications.
//! * [`scan`](mod@scan): learn what a function is, as a [`Function`]; [`dump`]: from a file.
//! * [`reset`]: make it quiet, or reset it.
//! * `fake`: a function and dom0's backend in front of it, for tests (feature `fake`).
//!
//! Scans and resets are scripts (`pcidom-script`): they ask for one access or one pause at
//! a time, and whoever drives them decides how it is done.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod access;
pub mod address;
pub mod dump;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod function;
pub mod regs;
pub mod reset;
pub mod scan;
#[cfg(test)]
mod tests;

pub use access::{Access, AccessError, Answer, Config, Question, Register, Width};
pub use address::{ParseAddressError, Sbdf, VirtualBdf};
pub use function::{Bar, BarKind, Capability, Function};
pub use reset::{Method, ResetError};
pub use scan::{ScanError, scan};

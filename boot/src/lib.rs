//! What a PV image needs before it can be a Rust program, and around it.
//!
//! * `entry` (no items of its own): ELF notes, the entry stub, the hypercall page and the
//!   memory functions that prebuilt `core` expects.
//! * [`info`]: what Xen says at the start, typed.
//! * [`memory`]: the address space that Xen's builder has made, and pages of it that can be
//!   given another frame.
//! * [`trap`]: exceptions; they report and end the domain.
//! * [`persist`]: where the record is that outlives a restart in place.
//! * [`power`]: how the domain ends.
//!
//! The image supplies one function, `extern "C" fn pcidom_entry(*const start_info) -> !`.
//! It is entered once, on the boot stack, with event upcalls masked; they stay masked, since
//! prebuilt `core` keeps data below its stack pointer (the red zone), where Xen would put the
//! frame of an upcall.
#![cfg_attr(not(test), no_std)]
#![expect(
    unsafe_code,
    reason = "this crate is where the image touches page tables, stacks and Xen"
)]

#[cfg(not(test))]
mod entry;
pub mod info;
pub mod memory;
pub mod persist;
pub mod power;
pub mod stack;
pub mod trap;

//! The stacks: one to run on, one to report a trap on.

use core::cell::UnsafeCell;

use x86_64::VirtAddr;

use crate::memory::{AddressSpace, PAGE_SIZE};

/// The boot stack with its guard page. Deepest use seen is a few KiB; 64 KiB leaves room for
/// formatting and for XenStore jobs that hold a message on the stack.
pub const STACK_BYTES: usize = 64 * 1024 + PAGE_SIZE;
/// The stack of the trap report: it formats a few lines.
pub const TRAP_STACK_BYTES: usize = 16 * 1024;

/// Memory for a stack: only its address is ever used.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Stack<const BYTES: usize>(UnsafeCell<[u8; BYTES]>);

// SAFETY: the contents are touched by the stack pointer alone, and by volatile loads of the
// trap report, which runs when nothing else does.
unsafe impl<const BYTES: usize> Sync for Stack<BYTES> {}

/// What the image runs on. Its lowest page is the guard.
pub static BOOT_STACK: Stack<STACK_BYTES> = Stack(UnsafeCell::new([0; STACK_BYTES]));
/// What traps are reported on, so that a broken stack pointer does no further harm.
pub static TRAP_STACK: Stack<TRAP_STACK_BYTES> =
    Stack(UnsafeCell::new([0; TRAP_STACK_BYTES]));

impl<const BYTES: usize> Stack<BYTES> {
    /// Its lowest address.
    pub fn bottom(&self) -> VirtAddr {
        VirtAddr::from_ptr(self.0.get())
    }

    /// The address behind its last byte.
    pub fn top(&self) -> VirtAddr {
        self.bottom() + BYTES as u64
    }
}

/// Takes the guard page below the boot stack out of the address space: an overflow is then
/// the end of the domain (Xen cannot push the fault's frame) instead of silent damage.
///
/// # Errors
///
/// The errno of `update_va_mapping`.
pub fn guard_boot_stack(space: &AddressSpace) -> Result<(), i32> {
    // SAFETY: the page is part of `BOOT_STACK`, nothing refers to its contents, and the
    // stack pointer is above it, or the overflow has already happened.
    unsafe { space.unmap(BOOT_STACK.bottom()) }
}

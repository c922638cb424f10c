//! Hypercalls of a 64-bit PV domain, through the hypercall page.
//!
//! The convention is the one of arch-x86/xen-x86_64.h: arguments in rdi, rsi, rdx, r10 and
//! r8, the result in rax, every argument register clobbered; Xen fills the page with stubs
//! of [`STUB_SIZE`] bytes that end in `syscall`, which costs rcx and r11 too. The stub pushes
//! on the caller's stack, so none of the blocks below is `nostack`.
//!
//! The page itself belongs to the image: it defines the symbol `hypercall_page`, 4 KiB and
//! page-aligned, and names it in its `XEN_ELFNOTE_HYPERCALL_PAGE`. These functions are
//! generic over the call number so that a program which makes no hypercall (a test on the
//! host) does not need the symbol.

use core::arch::asm;

/// Bytes of one stub in the hypercall page.
pub const STUB_SIZE: usize = 32;

/// Hypercall number `NR` with one argument.
///
/// # Safety
///
/// The argument is what that call expects, and what the call does to memory that the
/// argument leads to, or to the address space, breaks no rule of Rust.
#[inline]
pub unsafe fn hypercall1<const NR: usize>(a1: u64) -> i64 {
    let result;
    // SAFETY: the call clobbers what is listed and nothing else; the rest is the caller's
    // promise.
    unsafe {
        asm!(
            "call hypercall_page + {offset}",
            offset = const NR * STUB_SIZE,
            lateout("rax") result,
            inlateout("rdi") a1 => _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// Hypercall number `NR` with two arguments.
///
/// # Safety
///
/// As for [`hypercall1`].
#[inline]
pub unsafe fn hypercall2<const NR: usize>(a1: u64, a2: u64) -> i64 {
    let result;
    // SAFETY: as in `hypercall1`.
    unsafe {
        asm!(
            "call hypercall_page + {offset}",
            offset = const NR * STUB_SIZE,
            lateout("rax") result,
            inlateout("rdi") a1 => _,
            inlateout("rsi") a2 => _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// Hypercall number `NR` with three arguments.
///
/// # Safety
///
/// As for [`hypercall1`].
#[inline]
pub unsafe fn hypercall3<const NR: usize>(a1: u64, a2: u64, a3: u64) -> i64 {
    let result;
    // SAFETY: as in `hypercall1`.
    unsafe {
        asm!(
            "call hypercall_page + {offset}",
            offset = const NR * STUB_SIZE,
            lateout("rax") result,
            inlateout("rdi") a1 => _,
            inlateout("rsi") a2 => _,
            inlateout("rdx") a3 => _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// Hypercall number `NR` with four arguments.
///
/// # Safety
///
/// As for [`hypercall1`].
#[inline]
pub unsafe fn hypercall4<const NR: usize>(a1: u64, a2: u64, a3: u64, a4: u64) -> i64 {
    let result;
    // SAFETY: as in `hypercall1`.
    unsafe {
        asm!(
            "call hypercall_page + {offset}",
            offset = const NR * STUB_SIZE,
            lateout("rax") result,
            inlateout("rdi") a1 => _,
            inlateout("rsi") a2 => _,
            inlateout("rdx") a3 => _,
            inlateout("r10") a4 => _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

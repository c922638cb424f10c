//! Panics and traps: say what and where, then end the domain (`on_crash=` decides the rest).

use alloc::rc::Rc;
use core::panic::PanicInfo;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use pcidom_boot::power::{Reason, shutdown};
use pcidom_boot::trap::Trap;
use pcidom_kernel::trace::Ring;

use super::logger::{last_words, start_time};

static PANICKING: AtomicBool = AtomicBool::new(false);

/// The ring of [`keep_trace`], for the end.
static TRACE: AtomicPtr<Ring> = AtomicPtr::new(null_mut());

/// Entries of the ring that are shown at the end: COM2 takes 0.4 s for them.
const LAST_ENTRIES: usize = 64;

/// The ring of events that a panic or a trap shows. Called once.
pub(crate) fn keep_trace() -> Rc<Ring> {
    let ring = Rc::new(Ring::new(start_time()));
    // Leaked, so it stays whatever becomes of the machine that writes it.
    TRACE.store(Rc::into_raw(Rc::clone(&ring)).cast_mut(), Ordering::Relaxed);
    ring
}

fn show_trace() {
    // Taken, so that a trap in here does not come back.
    let ring = TRACE.swap(null_mut(), Ordering::Relaxed);
    // SAFETY: `keep_trace` has leaked it, and nobody has a reference to what is in its cells:
    // there is one thread of execution, and it is here.
    if let Some(ring) = unsafe { ring.as_ref() } {
        for line in ring.last(LAST_ENTRIES) {
            last_words(format_args!("  {line}"));
        }
    }
}

#[panic_handler]
fn panicked(panic: &PanicInfo<'_>) -> ! {
    // A panic while this one is reported: no more words.
    if PANICKING.swap(true, Ordering::Relaxed) {
        shutdown(Reason::Crash);
    }
    match panic.location() {
        Some(at) => last_words(format_args!(
            "PANIC at {}:{}: {}",
            at.file(),
            at.line(),
            panic.message()
        )),
        None => last_words(format_args!("PANIC: {}", panic.message())),
    }
    show_trace();
    shutdown(Reason::Crash)
}

/// Reports a trap. Addresses are of the image as linked: `addr2line -e pcidom` reads them.
pub(crate) fn trapped(trap: &Trap) -> ! {
    let name = trap.name();
    last_words(format_args!("TRAP {} ({name}) at rip {:#x}", trap.vector, trap.rip));
    if let Some(error) = trap.error {
        last_words(format_args!("  error code {error:#x}"));
    }
    if let Some(address) = trap.address {
        last_words(format_args!("  address {address:#x}"));
    }
    last_words(format_args!("  rsp {:#x}, rflags {:#x}", trap.rsp, trap.rflags));
    for caller in trap.callers.iter().take_while(|caller| **caller != 0) {
        last_words(format_args!("  from {caller:#x}"));
    }
    show_trace();
    shutdown(Reason::Crash)
}

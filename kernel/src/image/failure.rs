//! Panics and traps: say what and where, then end the domain (`on_crash=` decides the rest).

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use pcidom_boot::power::{Reason, shutdown};
use pcidom_boot::trap::Trap;

use super::logger::last_words;

static PANICKING: AtomicBool = AtomicBool::new(false);

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
    shutdown(Reason::Crash)
}

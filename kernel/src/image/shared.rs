//! The `shared_info` page: pending events and time (public/xen.h).
//!
//! Xen writes it at any moment, so it is never a reference: each field is loaded or changed
//! by address.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use pcidom_boot::memory::{AddressSpace, PageArray, RAM};
use pcidom_script::Instant;
use x86_64::VirtAddr;
use x86_64::structures::paging::PhysFrame;
use xen_sys::{shared_info, vcpu_info, vcpu_time_info};

/// Ports of the two-level event channel interface (`EVTCHN_2L_NR_CHANNELS`).
pub(crate) const PORTS: u32 = 4096;

static WINDOW: PageArray<1> = PageArray::new();
/// Where the page is mapped; 0 until it is.
static ADDRESS: AtomicU64 = AtomicU64::new(0);
/// The latest time that was told, in nanoseconds: time never goes back.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// Maps the page, masks upcalls and every port (masked ports still wake `SCHEDOP_poll`).
pub(crate) fn map(space: &AddressSpace, frame: PhysFrame) -> Result<VirtAddr, i32> {
    let window = WINDOW.page(0).ok_or(-xen_sys::XEN_EINVAL)?;
    let address = VirtAddr::from_ptr(window.as_ptr());
    // SAFETY: the window is a page of a `PageArray` that only this function maps.
    unsafe { space.map(address, frame, RAM) }?;
    ADDRESS.store(address.as_u64(), Ordering::Relaxed);
    let mask = address + offset_of!(vcpu_info, evtchn_upcall_mask) as u64;
    // SAFETY: `mask` is that byte of vCPU 0, in the page just mapped.
    unsafe { mask.as_mut_ptr::<u8>().write_volatile(1) };
    for word in 0..u64::from(PORTS / 64) {
        let at = address + offset_of!(shared_info, evtchn_mask) as u64 + word * 8;
        // SAFETY: one of the 64 words of the array, in the page just mapped.
        unsafe { at.as_mut_ptr::<u64>().write_volatile(u64::MAX) };
    }
    Ok(address)
}

fn pending_word(port: u32) -> Option<(*mut u64, u64)> {
    let address = ADDRESS.load(Ordering::Relaxed);
    if address == 0 || port >= PORTS {
        return None;
    }
    let offset =
        offset_of!(shared_info, evtchn_pending) as u64 + u64::from(port / 64) * 8;
    Some((VirtAddr::new_truncate(address + offset).as_mut_ptr(), 1 << (port % 64)))
}

/// Whether an event of `port` is pending; it is not any more then.
pub(crate) fn take_pending(port: u32) -> bool {
    let Some((word, bit)) = pending_word(port) else { return false };
    // SAFETY: a word of the pending array in the mapped page, aligned; Xen too changes it
    // only with atomic operations, and the reference ends with this statement.
    let word = unsafe { AtomicU64::from_ptr(word) };
    // A look first: most ports have nothing, and the other one locks the bus.
    word.load(Ordering::Relaxed) & bit != 0
        && word.fetch_and(!bit, Ordering::SeqCst) & bit != 0
}

/// Whether an event of `port` is pending. Does not take it.
pub(crate) fn is_pending(port: u32) -> bool {
    let Some((word, bit)) = pending_word(port) else { return false };
    // SAFETY: as in `take_pending`.
    let word = unsafe { AtomicU64::from_ptr(word) };
    word.load(Ordering::SeqCst) & bit != 0
}

/// Time now: Xen system time, so nanoseconds since the host's start. Zero before the page is
/// mapped.
pub(crate) fn now() -> Instant {
    let address = ADDRESS.load(Ordering::Relaxed);
    if address == 0 {
        return Instant::default();
    }
    let info = VirtAddr::new_truncate(address + offset_of!(vcpu_info, time) as u64)
        .as_ptr::<vcpu_time_info>();
    let version = info.cast::<u32>();
    loop {
        // SAFETY: `version` is the first field of that structure, in the mapped page.
        let before = unsafe { version.read_volatile() };
        fence(Ordering::Acquire);
        // SAFETY: the structure of vCPU 0, plain numbers, so a torn copy is no worse than a
        // wrong one, and the version tells.
        let copy = unsafe { info.read_volatile() };
        // SAFETY: every x86-64 CPU has a TSC, and Xen lets its domains read it or emulates.
        let ticks = unsafe { core::arch::x86_64::_rdtsc() };
        fence(Ordering::Acquire);
        // SAFETY: as for the first load.
        let after = unsafe { version.read_volatile() };
        if before == after && before & 1 == 0 {
            let time = scale(&copy, ticks);
            let latest = LATEST.fetch_max(time, Ordering::Relaxed);
            return Instant::from_nanos(latest.max(time));
        }
    }
}

/// Nanoseconds at `ticks`, by the rule in public/xen.h.
fn scale(time: &vcpu_time_info, ticks: u64) -> u64 {
    // Another CPU's counter may be behind the one that Xen took the time by.
    let passed = ticks.saturating_sub(time.tsc_timestamp);
    let shift = u32::from(time.tsc_shift.unsigned_abs());
    let shifted = if time.tsc_shift < 0 {
        passed.checked_shr(shift)
    } else {
        passed.checked_shl(shift)
    };
    let product = u128::from(shifted.unwrap_or(0)) * u128::from(time.tsc_to_system_mul);
    let passed = u64::try_from(product >> 32).unwrap_or(0);
    time.system_time.wrapping_add(passed)
}

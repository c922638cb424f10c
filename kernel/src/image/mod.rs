//! The platform of the image: everything that talks to Xen. The one place of `unsafe` in this
//! package.
//!
//! | module | what it is about |
//! |---|---|
//! | `shared` | the page shared with Xen: pending events, time |
//! | `page`, `ring` | memory that others write; byte rings in it |
//! | `call` | hypercalls that take a structure |
//! | `events`, `grants`, `config`, `store` | the parts of [`XenPlatform`] |
//! | `console`, `backlog`, `logger` | text for people |
//! | `heap`, `failure` | what every `no_std` program needs |
//! | `probe` | attempts at what must be refused (feature `probe-bar`) |
#![expect(unsafe_code, reason = "hypercalls, shared pages and the allocator")]

mod backlog;
mod call;
mod config;
mod console;
mod events;
mod failure;
mod grants;
mod heap;
mod logger;
mod page;
mod platform;
#[cfg(feature = "probe-bar")]
mod probe;
mod ring;
mod shared;
mod store;

use alloc::rc::Rc;

use log::LevelFilter;
use pcidom_boot::info::StartInfo;
use pcidom_boot::memory::AddressSpace;
use pcidom_boot::persist::{self, Record};
use pcidom_boot::{power, stack, trap};
use pcidom_kernel::trace::Ring;
use xen_sys::start_info;

use self::console::{Com2, PvConsole};
pub(crate) use self::platform::XenPlatform;

/// What the machine needs to know about this start.
#[derive(Debug)]
pub(crate) struct Boot {
    /// How often this domain has restarted in place.
    pub(crate) generation: u8,
    /// Where the last events are kept.
    pub(crate) trace: Rc<Ring>,
    #[cfg(feature = "probe-bar")]
    space: AddressSpace,
    #[cfg(feature = "probe-bar")]
    crash: probe::Crash,
}

/// Where boot code goes on, on the boot stack with upcalls masked.
#[unsafe(no_mangle)]
extern "C" fn pcidom_entry(raw: *const start_info) -> ! {
    // SAFETY: Xen's builder has put the structure there; it is mapped, and nobody writes it.
    let info = StartInfo::new(unsafe { &*raw });
    // SAFETY: it is this domain's own.
    let space = unsafe { AddressSpace::new(&info) };
    heap::start();
    let shared = shared::map(&space, info.shared_info);
    let com2 = Com2::new();
    let com2_is_granted = com2.is_some();
    let pv = info.console.and_then(|ring| PvConsole::new(&space, ring));
    let level = info.option("loglevel").and_then(|level| level.parse().ok());
    let level = level.unwrap_or(LevelFilter::Info);
    logger::start(logger::Ways { pv, com2, xen: info.initial_domain }, level);

    let generation =
        persist::load().map_or(0, |record| record.generation.wrapping_add(1));
    persist::store(Record::new(generation));
    banner(&info, com2_is_granted, generation);
    let trace = failure::keep_trace();
    protect(&space, shared);
    #[cfg(feature = "probe-bar")]
    let crash = probe::Crash::asked_for(&info);
    let platform = match XenPlatform::new(&info, space) {
        Ok(platform) => platform,
        Err(error) => fail(format_args!("{error}")),
    };
    let [generation, ..] = generation.to_le_bytes();
    crate::main(
        Boot {
            generation,
            trace,
            #[cfg(feature = "probe-bar")]
            space,
            #[cfg(feature = "probe-bar")]
            crash,
        },
        platform,
    )
}

fn banner(info: &StartInfo, com2: bool, generation: u32) {
    let (major, minor) = call::xen_version();
    let heap = heap::usage();
    log::info!(
        "pcidom {} on Xen {major}.{minor} ({}), {} KiB of memory, {} KiB of heap",
        env!("CARGO_PKG_VERSION"),
        info.magic(),
        info.pages * 4,
        heap.size / 1024,
    );
    if generation > 0 {
        log::warn!("restart number {generation} of this domain");
    }
    if !info.command_line().is_empty() {
        log::info!("command line: {}", info.command_line());
    }
    if !com2 {
        log::info!(
            "COM2 is not granted (ioports=[\"2f8-2ff\"]): log on this console only"
        );
    }
    log::debug!(
        "shared_info {:#x}, page tables {:#x} ({} frames), frame list {:#x}",
        info.shared_info.start_address(),
        info.page_table,
        info.page_table_frames,
        info.frame_list,
    );
}

/// Sets the traps and the guard page. Without them a bug is only harder to find.
fn protect(space: &AddressSpace, shared: Result<x86_64::VirtAddr, i32>) {
    let shared = match shared {
        Ok(shared) => shared,
        Err(errno) => fail(format_args!("cannot map shared_info: {errno}")),
    };
    // SAFETY: `shared` is where the page has been mapped.
    if let Err(errno) = unsafe { trap::install(shared, failure::trapped) } {
        log::warn!("no trap handlers: {errno}");
    }
    if let Err(errno) = stack::guard_boot_stack(space) {
        log::warn!("no guard page below the stack: {errno}");
    }
}

/// Ends the domain because it cannot work.
fn fail(why: core::fmt::Arguments<'_>) -> ! {
    logger::last_words(why);
    power::shutdown(power::Reason::Crash)
}

/// Ends the domain as its toolstack has asked.
pub(crate) fn halt(how: pcidom_kernel::Halt) -> ! {
    let (what, reason) = match how {
        pcidom_kernel::Halt::PowerOff => ("power off", power::Reason::PowerOff),
        pcidom_kernel::Halt::Reboot => ("reboot", power::Reason::Reboot),
    };
    let heap = heap::usage();
    log::debug!("heap: {} bytes in use, {} at most", heap.used, heap.peak);
    logger::last_words(format_args!("pcidom: {what}"));
    power::shutdown(reason)
}

#[cfg(feature = "probe-bar")]
impl Boot {
    /// Tries to reach a device that has just become ready: its memory BARs and its
    /// interrupt. Everything must be refused; the log says so. Then it crashes, if asked to.
    pub(crate) fn probe(&self, device: &pcidom_pci::function::Function) {
        log::info!("probe-bar: {}", device.sbdf);
        for bar in &device.bars {
            if matches!(bar.kind, pcidom_pci::function::BarKind::Memory { .. }) {
                // Logged there; nothing depends on it.
                let _ = probe::try_map_bar(&self.space, bar.address);
            }
        }
        if device.interrupt_pin != 0 {
            let _ = probe::try_map_irq(i32::from(device.interrupt_line));
        }
        self.crash.now();
    }
}

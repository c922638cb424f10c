//! The image `pcidom`: the event loop on real Xen.
#![no_std]
#![no_main]

extern crate alloc;

mod image;

use alloc::rc::Rc;

use pcidom_kernel::{Machine, Platform};

use crate::image::{Boot, XenPlatform};

/// Events taken before deadlines are looked at again: one for each port there can be.
const EVENTS_PER_TURN: usize = 128;

/// Serves until the toolstack wants the domain to end. Each turn takes what has happened,
/// then does what is due, then sleeps until there is more: no tick.
fn main(boot: Boot, mut platform: XenPlatform) -> ! {
    let mut machine =
        Machine::start(boot.generation, Rc::clone(&boot.trace), &mut platform);
    loop {
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = platform.next_event() else { break };
            machine.handle(event, &mut platform);
        }
        if machine.next_deadline().is_some_and(|deadline| deadline <= platform.now()) {
            machine.tick(&mut platform);
        }
        #[cfg(feature = "probe-bar")]
        for device in machine.take_ready() {
            boot.probe(&device);
        }
        if let Some(how) = machine.halt() {
            image::halt(how);
        }
        platform.wait(machine.next_deadline(), machine.awaits_dom0());
    }
}

//! A PCI frontend that asks what Linux's never asks, as a PV guest of its own.
//!
//! It boots in place of Linux, connects to its PCI backend by the protocol, puts one request
//! after the other and prints what it was answered. It judges nothing: the scenario that boots
//! it knows what is right.
//!
//! | module | what it is about |
//! |---|---|
//! | `xen` | the floor: hypercalls, shared pages, the entry; the only `unsafe` |
//! | `say` | lines on the console |
//! | `nodes` | XenStore, one request at a time |
//! | `link` | the handshake with the backend |
//! | `ask` | one request in the shared page, and its answer |
//! | `sequences` | what is asked, as data |
//! | `play` | puts a sequence and prints the answers |
#![no_std]
#![no_main]

extern crate alloc;

mod ask;
mod link;
mod nodes;
mod play;
mod say;
mod sequences;
mod xen;

use pcidom_boot::power::{Reason, shutdown};

use crate::link::Link;
use crate::say::say;
use crate::xen::Xen;

/// Connects, asks everything, then waits for the toolstack.
fn main(mut xen: Xen) -> ! {
    match Link::connect(&mut xen) {
        Ok(link) => {
            for (name, steps) in sequences::ALL {
                play::play(&mut xen, &link, name, steps);
            }
            say!("@@FRONT done");
            nodes::wait_until(&mut xen, "control/shutdown", |text| {
                text.is_some_and(|text| !text.is_empty())
            });
            // Ends in the middle of everything, as a guest that is switched off does.
            play::play(&mut xen, &link, "last", sequences::LAST);
        }
        Err(error) => say!("@@FRONT failed {error}"),
    }
    shutdown(Reason::PowerOff)
}

//! A PCI frontend that asks what Linux's never asks, as a PV guest of its own.
//!
//! It boots in place of Linux, connects to its PCI backend by the protocol, puts one request
//! after the other and prints what it was answered. It judges nothing: the scenario that boots
//! it knows what is right.
//!
//! Words of its command line make it a flood of XenStore instead: `flood=SECONDS`, and before it
//! `link=yes` for one that has a PCI link. `hostile=ATTACK seconds=SECONDS` makes it attack its
//! backend, by one of the names in `hostile`.
//!
//! | module | what it is about |
//! |---|---|
//! | `xen` | the floor: hypercalls, shared pages, the entry; the only `unsafe` |
//! | `say` | lines on the console |
//! | `nodes` | XenStore, one request at a time |
//! | `link` | the handshake with the backend |
//! | `ask` | one request in the shared page, and its answer |
//! | `sequences` | what is asked, as data |
//! | `flood` | the flood of XenStore |
//! | `hostile` | the attacks on the backend |
//! | `play` | puts a sequence and prints the answers |
#![no_std]
#![no_main]

extern crate alloc;

mod ask;
mod flood;
mod hostile;
mod link;
mod nodes;
mod play;
mod say;
mod sequences;
mod xen;

use alloc::string::String;

use pcidom_boot::info::StartInfo;
use pcidom_boot::power::{Reason, shutdown};

use crate::link::Link;
use crate::say::say;
use crate::xen::Xen;

fn main(mut xen: Xen, info: &StartInfo) -> ! {
    let done = match (info.option("flood"), info.option("hostile")) {
        (Some(seconds), _) => {
            flood(&mut xen, seconds, info.option("link") == Some("yes"))
        }
        (None, Some(attack)) => {
            hostile::attack(&mut xen, attack, info.option("seconds").unwrap_or("60"))
        }
        (None, None) => questions(&mut xen),
    };
    if let Err(error) = done {
        say!("@@FRONT failed {error}");
    }
    shutdown(Reason::PowerOff)
}

/// Connects if it has a link, and floods XenStore.
fn flood(xen: &mut Xen, seconds: &str, has_link: bool) -> Result<(), String> {
    let time = flood::seconds(seconds)?;
    // It stays open as long as the flood lasts.
    let link = has_link.then(|| Link::connect(xen)).transpose()?;
    flood::flood(xen, time);
    drop(link);
    Ok(())
}

/// Connects, asks everything, then waits for the toolstack.
fn questions(xen: &mut Xen) -> Result<(), String> {
    let link = Link::connect(xen)?;
    for (name, steps) in sequences::ALL {
        play::play(xen, &link, name, steps);
    }
    say!("@@FRONT done");
    nodes::wait_until(xen, "control/shutdown", |text| {
        text.is_some_and(|text| !text.is_empty())
    });
    // Ends in the middle of everything, as a guest that is switched off does.
    play::play(xen, &link, "last", sequences::LAST);
    Ok(())
}

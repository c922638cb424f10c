//! The XenStore ring: whole messages only (io/xs_wire.h).
//!
//! A request is written completely before the server sees any of it, and a reply is taken
//! only when all of it is there. So a restart in place at any moment leaves no half message
//! on either ring. The one exception is a reply longer than the ring (1024 bytes, header
//! included): it can only come in pieces, and they are collected here.

use alloc::vec::Vec;
use core::mem::offset_of;

use pcidom_boot::info;
use pcidom_boot::memory::AddressSpace;
use pcidom_xenbus::Port;
use xen_sys::{
    XENSTORE_PAYLOAD_MAX, XENSTORE_RING_SIZE, xenstore_domain_interface, xsd_sockmsg,
};

use super::console::boot_page;
use super::events::Events;
use super::page::Page;
use super::ring::Ring;

const REQUESTS: Ring = Ring {
    bytes: offset_of!(xenstore_domain_interface, req),
    size: 1024,
    indices: offset_of!(xenstore_domain_interface, req_cons),
};

const REPLIES: Ring = Ring {
    bytes: offset_of!(xenstore_domain_interface, rsp),
    size: 1024,
    indices: offset_of!(xenstore_domain_interface, rsp_cons),
};

const HEADER: usize = size_of::<xsd_sockmsg>();

/// Our end of the ring.
#[derive(Debug)]
pub(crate) struct Store {
    page: Page,
    port: Port,
    /// The beginning of a reply longer than the ring, and its whole length.
    long: Option<(Vec<u8>, usize)>,
    /// The other end broke the rules: nothing more is sent or taken.
    broken: bool,
}

impl Store {
    /// The ring of this domain, if its page is where Xen says.
    pub(crate) fn new(space: &AddressSpace, ring: info::Ring) -> Option<Self> {
        let page = boot_page(space, ring)?;
        Some(Self { page, port: Port(ring.port), long: None, broken: false })
    }

    /// The port that fires when the ring has moved.
    pub(crate) const fn port(&self) -> Port {
        self.port
    }

    /// Publishes a whole message, or nothing.
    pub(crate) fn send(&mut self, message: &[u8]) -> bool {
        if self.broken {
            return false;
        }
        if message.len() > XENSTORE_RING_SIZE {
            // The client never makes one; it would wait for room for ever.
            log::error!("a XenStore request of {} bytes cannot be sent", message.len());
            return false;
        }
        if (REQUESTS.room(&self.page) as usize) < message.len() {
            return false;
        }
        REQUESTS.put(&self.page, message.iter().copied());
        Events::notify(self.port);
        true
    }

    /// Takes one whole message.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        if self.broken {
            return None;
        }
        let Some(filled) = REPLIES.filled(&self.page) else {
            self.broken("its indices make no sense");
            return None;
        };
        if let Some((mut message, whole)) = self.long.take() {
            self.collect(&mut message, whole, filled);
            if message.len() == whole {
                return Some(message);
            }
            self.long = Some((message, whole));
            return None;
        }
        if (filled as usize) < HEADER {
            return None;
        }
        let mut header = [0; HEADER];
        REPLIES.peek(&self.page, &mut header);
        let [.., a, b, c, d] = header;
        let payload = u32::from_le_bytes([a, b, c, d]) as usize;
        if payload > XENSTORE_PAYLOAD_MAX {
            self.broken("it announces a message that is too long");
            return None;
        }
        let whole = HEADER + payload;
        let mut message = Vec::with_capacity(whole);
        if whole > XENSTORE_RING_SIZE {
            self.collect(&mut message, whole, filled);
            self.long = Some((message, whole));
            return None;
        }
        if (filled as usize) < whole {
            return None;
        }
        self.collect(&mut message, whole, filled);
        Some(message)
    }

    /// Moves bytes from the ring to the end of `message`, up to `whole`.
    fn collect(&self, message: &mut Vec<u8>, whole: usize, filled: u32) {
        let had = message.len();
        let wanted = u32::try_from(whole - had).unwrap_or(0).min(filled);
        if wanted == 0 {
            return;
        }
        message.resize(had + wanted as usize, 0);
        REPLIES.peek(&self.page, message.get_mut(had..).unwrap_or_default());
        REPLIES.consume(&self.page, wanted);
        Events::notify(self.port);
    }

    fn broken(&mut self, why: &str) {
        log::error!("the XenStore ring is broken: {why}; restart this domain");
        self.broken = true;
    }
}

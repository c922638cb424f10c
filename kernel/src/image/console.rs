//! The ways text leaves the domain: PV console, COM2, and Xen's own console for a first
//! domain. Nothing here blocks.

use pcidom_boot::info;
use pcidom_boot::memory::AddressSpace;
use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};
use xen_sys::{evtchn_send, physdev_set_iopl, xencons_interface};

use super::call::{call, xen_console};
use super::page::Page;
use super::ring::Ring;

const OUT: Ring = Ring {
    bytes: core::mem::offset_of!(xencons_interface, out),
    size: 2048,
    indices: core::mem::offset_of!(xencons_interface, out_cons),
};

const IN: Ring = Ring {
    bytes: core::mem::offset_of!(xencons_interface, r#in),
    size: 1024,
    indices: core::mem::offset_of!(xencons_interface, in_cons),
};

/// Base port of COM2.
const COM2: u16 = 0x2f8;

/// The PV console ring.
#[derive(Debug)]
pub(crate) struct PvConsole {
    page: Page,
    port: u32,
}

impl PvConsole {
    /// The console of this domain, if its page is where Xen says.
    pub(crate) fn new(space: &AddressSpace, ring: info::Ring) -> Option<Self> {
        let page = boot_page(space, ring)?;
        Some(Self { page, port: ring.port })
    }

    /// Writes what there is room for; returns how much that was.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(OUT.room(&self.page) as usize);
        if count > 0 {
            OUT.put(&self.page, bytes.iter().copied().take(count));
            self.notify();
        }
        count
    }

    /// Throws away what people have typed: nobody reads it yet.
    pub(crate) fn drain_input(&mut self) {
        if let Some(count @ 1..) = IN.filled(&self.page) {
            IN.consume(&self.page, count);
            self.notify();
        }
    }

    fn notify(&self) {
        // A console without its other end is no reason to do anything.
        let _ = call(&mut evtchn_send { port: self.port });
    }
}

/// The page of a ring that Xen's builder has set up and mapped.
pub(crate) fn boot_page(space: &AddressSpace, ring: info::Ring) -> Option<Page> {
    let address = space.address_of(ring.frame)?;
    let first = core::ptr::NonNull::new(address.as_mut_ptr())?;
    // SAFETY: a page of our RAM that the builder gave away as this ring: mapped since boot,
    // not part of the image, and no reference leads there.
    Some(unsafe { Page::new(first) })
}

/// COM2, if the domain was given its I/O ports (`ioports=["2f8-2ff"]`).
pub(crate) struct Com2(Uart16550<PioBackend>);

impl Com2 {
    /// Finds out. Without the ports, reads give all ones, and the driver's init sees it.
    pub(crate) fn new() -> Option<Self> {
        call(&mut physdev_set_iopl { iopl: 1 }).ok()?;
        // SAFETY: these are COM2's ports, used by nothing else here; since the call above,
        // access to ports that were not granted is harmless (Xen ignores it).
        let mut uart = unsafe { Uart16550::new_port(COM2) }.ok()?;
        let config = Config { baud_rate: BaudRate::Baud115200, ..Config::DEFAULT };
        uart.init(config).ok()?;
        Some(Self(uart))
    }

    /// Writes what fits its FIFO now, 16 bytes at most; returns how much that was.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.send_bytes(bytes)
    }
}

/// Xen's own console: takes all or, if we are not the first domain, nothing.
pub(crate) fn write_to_xen(bytes: &[u8]) -> usize {
    if xen_console(bytes) { bytes.len() } else { 0 }
}

//! The ways text leaves the domain: PV console, COM2, and Xen's own console for a first
//! domain. Nothing here blocks.

use pcidom_boot::info;
use pcidom_boot::memory::AddressSpace;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::{FifoTriggerLevel, IER};
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
/// Its interrupt on every PC.
pub(crate) const COM2_IRQ: u32 = 3;

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

    /// Takes what was typed; how many bytes.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> usize {
        let filled = IN.filled(&self.page).unwrap_or(0) as usize;
        let count = filled.min(into.len());
        let Some(into) = into.get_mut(..count).filter(|into| !into.is_empty()) else {
            return 0;
        };
        IN.peek(&self.page, into);
        IN.consume(&self.page, u32::try_from(count).unwrap_or(0));
        self.notify();
        count
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
        let config = Config {
            baud_rate: BaudRate::Baud115200,
            // People type one byte at a time.
            fifo_trigger_level: Some(FifoTriggerLevel::One),
            ..Config::DEFAULT
        };
        uart.init(config).ok()?;
        Some(Self(uart))
    }

    /// Interrupts for input from now on.
    pub(crate) fn listen(&mut self) {
        self.0.enable_interrupts(IER::DATA_READY);
    }

    /// Whether something was typed.
    pub(crate) fn has_input(&mut self) -> bool {
        self.0.ready_to_receive().is_ok()
    }

    /// Takes what was typed; how many bytes.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> usize {
        self.0.receive_bytes(into)
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

//! Hypercalls from dom0, through Linux's privcmd driver.
#![expect(unsafe_code, reason = "hypercalls")]

use std::ffi::{c_int, c_ulong};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// Linux: `IOCTL_PRIVCMD_HYPERCALL`.
const HYPERCALL: c_ulong = 0x0030_5000;

/// Linux: `struct privcmd_hypercall`.
#[repr(C)]
struct Call {
    op: u64,
    arguments: [u64; 5],
}

unsafe extern "C" {
    fn ioctl(file: c_int, request: c_ulong, ...) -> c_int;
}

/// The driver, open.
#[derive(Debug)]
pub(crate) struct Privcmd(File);

impl Privcmd {
    /// For root only.
    pub(crate) fn open() -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/xen/privcmd").map(Self)
    }

    /// A hypercall with the address of a structure, after another argument or alone.
    ///
    /// # Safety
    ///
    /// `T` is what Xen takes there, and what it points to is in use, hence present, until the call
    /// is over.
    pub(crate) unsafe fn call<T>(
        &self,
        op: u64,
        first: Option<u64>,
        structure: &mut T,
    ) -> io::Result<()> {
        let address = (&raw mut *structure).addr() as u64;
        let arguments = match first {
            Some(first) => [first, address, 0, 0, 0],
            None => [address, 0, 0, 0, 0],
        };
        let mut call = Call { op, arguments };
        // SAFETY: `Call` is laid out as the driver expects, the rest is the caller's promise.
        let result = unsafe { ioctl(self.0.as_raw_fd(), HYPERCALL, &raw mut call) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

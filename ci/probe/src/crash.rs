//! Ends a domain as a crash of its own would, from dom0: the toolstack then does what its
//! `on_crash=` says. Stock `xl` can destroy a domain but not do this.
#![expect(unsafe_code, reason = "a hypercall through dom0's privcmd driver")]

use std::ffi::{c_int, c_ulong};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

use crate::Failure;

/// Linux: `IOCTL_PRIVCMD_HYPERCALL`.
const HYPERCALL: c_ulong = 0x0030_5000;
/// Xen: `__HYPERVISOR_sched_op`, `SCHEDOP_remote_shutdown`, `SHUTDOWN_crash`.
const SCHED_OP: u64 = 29;
const REMOTE_SHUTDOWN: u64 = 4;
const CRASH: u32 = 3;

/// Linux: `struct privcmd_hypercall`.
#[repr(C)]
struct Call {
    op: u64,
    arguments: [u64; 5],
}

/// Xen: `struct sched_remote_shutdown`.
#[repr(C)]
struct RemoteShutdown {
    domain: u16,
    padding: u16,
    reason: u32,
}

unsafe extern "C" {
    fn ioctl(file: c_int, request: c_ulong, ...) -> c_int;
}

/// The domain stops at once, with the reason "crash".
pub(crate) fn crash(domain: u16) -> Result<(), Failure> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/xen/privcmd")?;
    let shutdown = RemoteShutdown { domain, padding: 0, reason: CRASH };
    let address = u64::try_from((&raw const shutdown).addr())?;
    let mut call = Call { op: SCHED_OP, arguments: [REMOTE_SHUTDOWN, address, 0, 0, 0] };
    // SAFETY: both structures are laid out as the driver and Xen expect, live through the call,
    // and are on a page of the stack that is in use, hence present.
    let result = unsafe { ioctl(file.as_raw_fd(), HYPERCALL, &raw mut call) };
    if result != 0 {
        return Err(Box::new(io::Error::last_os_error()));
    }
    Ok(())
}

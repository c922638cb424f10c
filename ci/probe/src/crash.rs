//! Ends a domain as a crash of its own would, from dom0: the toolstack then does what its
//! `on_crash=` says. Stock `xl` can destroy a domain but not do this.
#![expect(unsafe_code, reason = "a hypercall")]

use crate::Failure;
use crate::privcmd::Privcmd;

/// Xen: `__HYPERVISOR_sched_op`, `SCHEDOP_remote_shutdown`, `SHUTDOWN_crash`.
const SCHED_OP: u64 = 29;
const REMOTE_SHUTDOWN: u64 = 4;
const CRASH: u32 = 3;

/// Xen: `struct sched_remote_shutdown`.
#[repr(C)]
struct RemoteShutdown {
    domain: u16,
    padding: u16,
    reason: u32,
}

/// The domain stops at once, with the reason "crash".
pub(crate) fn crash(domain: u16) -> Result<(), Failure> {
    let mut shutdown = RemoteShutdown { domain, padding: 0, reason: CRASH };
    // SAFETY: the structure is what this operation takes, and has no pointers.
    unsafe { Privcmd::open()?.call(SCHED_OP, Some(REMOTE_SHUTDOWN), &mut shutdown) }?;
    Ok(())
}

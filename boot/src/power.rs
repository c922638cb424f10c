//! How the domain ends (`SCHEDOP_shutdown`, public/sched.h).

use xen_sys::hypercall::hypercall2;
use xen_sys::{
    __HYPERVISOR_sched_op, SCHEDOP_shutdown, SHUTDOWN_crash, SHUTDOWN_poweroff,
    SHUTDOWN_reboot, sched_shutdown,
};

/// Why the domain ends: the toolstack acts on it (`on_poweroff`, `on_reboot`, `on_crash`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `SHUTDOWN_poweroff`
    PowerOff,
    /// `SHUTDOWN_reboot`
    Reboot,
    /// `SHUTDOWN_crash`
    Crash,
}

/// Ends the domain.
pub fn shutdown(reason: Reason) -> ! {
    let argument = sched_shutdown {
        reason: match reason {
            Reason::PowerOff => SHUTDOWN_poweroff,
            Reason::Reboot => SHUTDOWN_reboot,
            Reason::Crash => SHUTDOWN_crash,
        },
    };
    loop {
        // SAFETY: the argument is the structure that the call expects; Xen reads it only.
        // The call does not return, and if Xen ever lets it, it is made again.
        unsafe {
            hypercall2::<__HYPERVISOR_sched_op>(
                SCHEDOP_shutdown,
                (&raw const argument).expose_provenance() as u64,
            )
        };
    }
}

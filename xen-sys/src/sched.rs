//! public/sched.h

use crate::evtchn_port_t;

/// Give the CPU to others for now.
pub const SCHEDOP_yield: u64 = 0;
/// Wait for an upcall. It unmasks upcalls: pcidom never uses it.
pub const SCHEDOP_block: u64 = 1;
/// End the domain.
pub const SCHEDOP_shutdown: u64 = 2;
/// Wait for one of some ports, or for a time.
pub const SCHEDOP_poll: u64 = 3;

/// Ports that one [`SCHEDOP_poll`] takes (Xen's `do_poll` refuses more with `EINVAL`; the
/// header does not name the number).
pub const MAX_POLL_PORTS: usize = 128;

/// Argument of [`SCHEDOP_shutdown`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct sched_shutdown {
    /// `SHUTDOWN_*`
    pub reason: u32,
}

/// Argument of [`SCHEDOP_poll`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sched_poll {
    /// The ports.
    pub ports: *mut evtchn_port_t,
    /// How many.
    pub nr_ports: u32,
    /// Xen system time to wake up at, in ns; 0 for never.
    pub timeout: u64,
}

/// The domain ended cleanly.
pub const SHUTDOWN_poweroff: u32 = 0;
/// It wants to start anew.
pub const SHUTDOWN_reboot: u32 = 1;
/// It is saved.
pub const SHUTDOWN_suspend: u32 = 2;
/// It failed.
pub const SHUTDOWN_crash: u32 = 3;

//! public/vcpu.h

/// Whether a vCPU runs, since when, and how long it was in each state.
pub const VCPUOP_get_runstate_info: u64 = 4;

/// Result of [`VCPUOP_get_runstate_info`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct vcpu_runstate_info {
    /// `RUNSTATE_*`
    pub state: i32,
    /// System time, in ns, of the last change to `state`.
    pub state_entry_time: u64,
    /// For each `RUNSTATE_*`, in ns.
    pub time: [u64; 4],
}

/// On a CPU.
pub const RUNSTATE_running: usize = 0;
/// It could run, and another vCPU has the CPU.
pub const RUNSTATE_runnable: usize = 1;
/// It waits for an event.
pub const RUNSTATE_blocked: usize = 2;
/// Neither: paused, or not there yet.
pub const RUNSTATE_offline: usize = 3;

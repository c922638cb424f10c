//! public/event_channel.h

use crate::domid_t;

/// A port of an event channel.
pub type evtchn_port_t = u32;

/// Connect to a port that another domain made for us.
pub const EVTCHNOP_bind_interdomain: u64 = 0;
/// Bind a virtual interrupt.
pub const EVTCHNOP_bind_virq: u64 = 1;
/// Bind a port to a physical interrupt.
pub const EVTCHNOP_bind_pirq: u64 = 2;
/// Close a port.
pub const EVTCHNOP_close: u64 = 3;
/// Send an event.
pub const EVTCHNOP_send: u64 = 4;
/// Ask about a port.
pub const EVTCHNOP_status: u64 = 5;
/// Make a port that another domain may connect to.
pub const EVTCHNOP_alloc_unbound: u64 = 6;

/// Status: free.
pub const EVTCHNSTAT_closed: u32 = 0;
/// Status: waits for the other end.
pub const EVTCHNSTAT_unbound: u32 = 1;
/// Status: connected to another domain.
pub const EVTCHNSTAT_interdomain: u32 = 2;

/// Argument of [`EVTCHNOP_alloc_unbound`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct evtchn_alloc_unbound {
    /// In: whose port.
    pub dom: domid_t,
    /// In: who may connect.
    pub remote_dom: domid_t,
    /// Out: the port.
    pub port: evtchn_port_t,
}

/// Argument of [`EVTCHNOP_bind_interdomain`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct evtchn_bind_interdomain {
    /// In: the other domain.
    pub remote_dom: domid_t,
    /// In: its port.
    pub remote_port: evtchn_port_t,
    /// Out: our port.
    pub local_port: evtchn_port_t,
}

/// Argument of [`EVTCHNOP_bind_pirq`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct evtchn_bind_pirq {
    /// In: which, of this domain's.
    pub pirq: u32,
    /// In: `BIND_PIRQ__*`
    pub flags: u32,
    /// Out: our port.
    pub port: evtchn_port_t,
}

/// Argument of [`EVTCHNOP_bind_virq`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct evtchn_bind_virq {
    /// In: `VIRQ_*`
    pub virq: u32,
    /// In: for which vCPU.
    pub vcpu: u32,
    /// Out: the port.
    pub port: evtchn_port_t,
}

/// Argument of [`EVTCHNOP_close`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct evtchn_close {
    /// In: the port.
    pub port: evtchn_port_t,
}

/// Argument of [`EVTCHNOP_send`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct evtchn_send {
    /// In: our port.
    pub port: evtchn_port_t,
}

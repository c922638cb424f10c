//! Event channels: which ports are ours, which have fired, and waiting for them.
//!
//! Upcalls and all ports stay masked towards Xen. `SCHEDOP_poll` wakes up for a masked port,
//! and an event stays pending until it is taken, so masking a port here only means leaving
//! it out.

use alloc::vec::Vec;
use core::hint;
use core::time::Duration;

use pcidom_kernel::XenError;
use pcidom_kernel::linger::{CROWDED, GIVE_WAY_EVERY, Lingered};
use pcidom_script::Instant;
use pcidom_xenbus::{DomId, Port};
use xen_sys::{
    DOMID_SELF, MAX_POLL_PORTS, XEN_ENOSPC, XENIRQSTAT_needs_eoi, evtchn_alloc_unbound,
    evtchn_bind_interdomain, evtchn_bind_pirq, evtchn_close, evtchn_send, physdev_eoi,
    physdev_irq_status_query, sched_poll,
};

use super::call::{call, give_way, running_since};
use super::shared;

#[derive(Clone, Copy, Debug)]
struct Known {
    port: Port,
    masked: bool,
}

/// The ports of the image: as many as one `SCHEDOP_poll` takes.
#[derive(Debug)]
pub(crate) struct Events {
    /// Those in use. Its room is there from the start: the heap is the same with and without guests.
    known: Vec<Known>,
    /// Where the next search begins, so that no port is always first.
    next: usize,
}

impl Events {
    /// No ports yet.
    pub(crate) fn new() -> Self {
        Self { known: Vec::with_capacity(MAX_POLL_PORTS), next: 0 }
    }

    /// Waits for events of `port` too.
    pub(crate) fn add(&mut self, port: Port) -> Result<(), XenError> {
        if self.known.len() == MAX_POLL_PORTS {
            return Err(XenError { call: "SCHEDOP_poll", errno: -XEN_ENOSPC });
        }
        self.known.push(Known { port, masked: false });
        Ok(())
    }

    /// `EVTCHNOP_alloc_unbound`
    pub(crate) fn alloc_unbound(&mut self, peer: DomId) -> Result<Port, XenError> {
        let mut argument =
            evtchn_alloc_unbound { dom: DOMID_SELF, remote_dom: peer.0, port: 0 };
        call(&mut argument)?;
        self.keep(Port(argument.port))
    }

    /// `EVTCHNOP_bind_interdomain`. Xen makes an event pending on the new port itself.
    pub(crate) fn bind_interdomain(
        &mut self,
        peer: DomId,
        port: Port,
    ) -> Result<Port, XenError> {
        let mut argument = evtchn_bind_interdomain {
            remote_dom: peer.0,
            remote_port: port.0,
            local_port: 0,
        };
        call(&mut argument)?;
        self.keep(Port(argument.local_port))
    }

    /// `EVTCHNOP_bind_pirq`, for an interrupt that the toolstack has mapped (`irqs=`). Also
    /// says whether it wants [`Events::served`] each time.
    pub(crate) fn bind_pirq(&mut self, pirq: u32) -> Result<(Port, bool), XenError> {
        let mut argument = evtchn_bind_pirq { pirq, flags: 0, port: 0 };
        call(&mut argument)?;
        let port = self.keep(Port(argument.port))?;
        let mut status = physdev_irq_status_query { irq: pirq, flags: 0 };
        call(&mut status)?;
        Ok((port, status.flags & XENIRQSTAT_needs_eoi != 0))
    }

    /// `PHYSDEVOP_eoi`
    pub(crate) fn served(pirq: u32) {
        if let Err(error) = call(&mut physdev_eoi { irq: pirq }) {
            log::warn!("pirq {pirq}: {error}");
        }
    }

    fn keep(&mut self, port: Port) -> Result<Port, XenError> {
        match self.add(port) {
            Ok(()) => Ok(port),
            Err(error) => {
                // An open port that nobody listens to would only leak.
                let _ = call(&mut evtchn_close { port: port.0 });
                Err(error)
            }
        }
    }

    /// `EVTCHNOP_send`
    pub(crate) fn notify(port: Port) {
        if let Err(error) = call(&mut evtchn_send { port: port.0 }) {
            // The other end is gone: its own state tells, by other ways.
            log::debug!("port {port}: {error}");
        }
    }

    /// Leaves `port` out, or not any more.
    pub(crate) fn set_masked(&mut self, port: Port, masked: bool) {
        if let Some(known) = self.known.iter_mut().find(|known| known.port == port) {
            known.masked = masked;
        }
    }

    /// `EVTCHNOP_close`
    pub(crate) fn close(&mut self, port: Port) {
        self.known.retain(|known| known.port != port);
        if let Err(error) = call(&mut evtchn_close { port: port.0 }) {
            log::warn!("port {port}: {error}");
        }
    }

    /// The next port that has fired; its event is taken.
    pub(crate) fn take(&mut self) -> Option<Port> {
        let (first, then) = self.known.split_at(self.next.min(self.known.len()));
        let in_turn = (self.next..).zip(then).chain((0..).zip(first));
        for (index, known) in in_turn {
            if !known.masked && shared::take_pending(known.port.0) {
                self.next = index + 1;
                return Some(known.port);
            }
        }
        None
    }

    fn is_any_pending(&self) -> bool {
        let mut listened = self.known.iter().filter(|known| !known.masked);
        listened.any(|known| shared::is_pending(known.port.0))
    }

    /// Looks for an event until `end`, awake but giving way to others: at once, since the one that
    /// was served may share the CPU, and then now and then.
    pub(crate) fn linger(&self, end: Instant) -> Lingered {
        let mut before = shared::now();
        let mut give_way_at = before;
        while !self.is_any_pending() {
            if before >= end {
                return Lingered::Quiet;
            }
            let gives_way = before >= give_way_at;
            if gives_way {
                give_way();
            } else {
                hint::spin_loop();
            }
            let now = shared::now();
            if gives_way {
                give_way_at = now.after(GIVE_WAY_EVERY);
            }
            // A clock that has jumped alone proves nothing: an interrupt of Xen's, or an
            // emulated CPU that had to wait itself.
            if now.since(before) > CROWDED
                && running_since().is_some_and(|since| since > before.as_nanos())
            {
                return Lingered::Crowded;
            }
            before = now;
        }
        Lingered::Came
    }

    /// Waits until a port fires that is not masked, or until `deadline`. May return early.
    pub(crate) fn wait(&self, deadline: Option<Instant>) {
        // Xen rounds a wait that has passed up to some time; and 0 would mean no end.
        if deadline
            .is_some_and(|deadline| deadline.since(shared::now()) == Duration::ZERO)
        {
            return;
        }
        let mut ports = [0; MAX_POLL_PORTS];
        let listened = self.known.iter().filter(|known| !known.masked);
        let mut count = 0;
        for (place, known) in ports.iter_mut().zip(listened) {
            *place = known.port.0;
            count += 1;
        }
        let mut argument = sched_poll {
            ports: ports.as_mut_ptr(),
            nr_ports: count,
            timeout: deadline.map_or(0, Instant::as_nanos),
        };
        if let Err(error) = call(&mut argument) {
            log::error!("cannot wait: {error}");
        }
    }
}

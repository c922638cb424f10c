//! Event channels (public/event_channel.h).

use pcidom_xenbus::{DomId, Pirq, Port};

use super::domains::Life;
use super::errno::{EEXIST, EINVAL, EPERM, ESRCH};
use super::{Xen, XenResult, refused};
use crate::agenda::Happening;

/// Where a port leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nowhere yet: this domain may bind to it.
    Unbound(DomId),
    /// To a port of another domain.
    Interdomain(DomId, Port),
    /// From an interrupt of a device.
    Pirq(Pirq),
}

/// One port of a domain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub(super) end: End,
    pending: bool,
    masked: bool,
    /// Events sent through it, for checks of "one event per answer".
    sent: u32,
}

impl Xen {
    /// `EVTCHNOP_alloc_unbound`.
    pub fn alloc_unbound(&self, caller: DomId, remote: DomId) -> XenResult<Port> {
        let call = "alloc_unbound";
        if self.life(remote).is_none() {
            return refused(call, ESRCH);
        }
        self.add_port(caller, End::Unbound(remote), call)
    }

    /// `EVTCHNOP_bind_interdomain`. The new port is pending at once.
    pub fn bind_interdomain(
        &self,
        caller: DomId,
        remote: DomId,
        remote_port: Port,
    ) -> XenResult<Port> {
        let call = "bind_interdomain";
        let end = {
            let state = self.state();
            let Some(peer) = state.domains.get(&remote) else {
                return refused(call, ESRCH);
            };
            peer.ports.get(&remote_port).map(|channel| channel.end)
        };
        if end != Some(End::Unbound(caller)) {
            return refused(call, EINVAL);
        }
        let port = self.add_port(caller, End::Interdomain(remote, remote_port), call)?;
        self.with_port(remote, remote_port, |channel| {
            channel.end = End::Interdomain(caller, port);
        });
        self.raise(caller, port);
        Ok(port)
    }

    /// `EVTCHNOP_bind_pirq`: only with the right to the interrupt, and only once.
    pub fn bind_pirq(&self, caller: DomId, pirq: Pirq) -> XenResult<Port> {
        let call = "bind_pirq";
        {
            let state = self.state();
            let Some(domain) = state.domains.get(&caller) else {
                return refused(call, ESRCH);
            };
            if !domain.pirqs.contains_key(&pirq) {
                return refused(call, EPERM);
            }
            if domain.ports.values().any(|channel| channel.end == End::Pirq(pirq)) {
                return refused(call, EEXIST);
            }
        }
        self.add_port(caller, End::Pirq(pirq), call)
    }

    /// `EVTCHNOP_send`. The other end may be gone; only a port that is not the caller's is
    /// an error.
    pub fn notify(&self, caller: DomId, port: Port) -> XenResult<()> {
        let end = self.with_port(caller, port, |channel| {
            channel.sent += 1;
            channel.end
        });
        match end {
            Some(End::Interdomain(remote, remote_port)) => {
                self.raise(remote, remote_port);
                Ok(())
            }
            Some(_) => Ok(()),
            None => refused("evtchn_send", EINVAL),
        }
    }

    /// Events that were sent through a port.
    pub fn events_sent(&self, domain: DomId, port: Port) -> u32 {
        self.with_port(domain, port, |channel| channel.sent).unwrap_or(0)
    }

    /// The mask bit of a port. A pending one is reported when it is unmasked.
    pub fn set_masked(&self, caller: DomId, port: Port, masked: bool) {
        let wake = self.with_port(caller, port, |channel| {
            channel.masked = masked;
            channel.pending && !masked
        });
        if wake == Some(true) {
            self.wake(caller);
        }
    }

    /// `EVTCHNOP_close`. The other end becomes unbound.
    pub fn close(&self, caller: DomId, port: Port) -> XenResult<()> {
        let closed = {
            let mut state = self.state_mut();
            let domain = state.domains.get_mut(&caller);
            domain.and_then(|domain| domain.ports.remove(&port))
        };
        match closed.map(|channel| channel.end) {
            Some(End::Interdomain(remote, remote_port)) => {
                self.with_port(remote, remote_port, |channel| {
                    channel.end = End::Unbound(caller);
                });
                Ok(())
            }
            Some(_) => Ok(()),
            None => refused("evtchn_close", EINVAL),
        }
    }

    /// Takes one pending port that is not masked, and clears its bit.
    pub fn take_pending(&self, caller: DomId) -> Option<Port> {
        let mut state = self.state_mut();
        let ports = &mut state.domains.get_mut(&caller)?.ports;
        let ready = |channel: &Channel| channel.pending && !channel.masked;
        let (port, channel) = ports.iter_mut().find(|(_, channel)| ready(channel))?;
        channel.pending = false;
        Some(*port)
    }

    /// Takes the pending bit of this port alone, masked or not, as a guest polls for it.
    pub fn take_event(&self, caller: DomId, port: Port) -> bool {
        let take =
            |channel: &mut Channel| core::mem::replace(&mut channel.pending, false);
        self.with_port(caller, port, take).unwrap_or(false)
    }

    /// Whether events of a port are held back.
    pub fn is_masked(&self, domain: DomId, port: Port) -> bool {
        self.with_port(domain, port, |channel| channel.masked).unwrap_or(false)
    }

    /// Whether the port leads to a port of another domain.
    pub fn is_connected(&self, domain: DomId, port: Port) -> bool {
        let end = self.with_port(domain, port, |channel| channel.end);
        matches!(end, Some(End::Interdomain(..)))
    }

    /// The port at the other end of a connected one.
    pub fn peer_port(&self, domain: DomId, port: Port) -> Option<Port> {
        match self.with_port(domain, port, |channel| channel.end) {
            Some(End::Interdomain(_, peer)) => Some(peer),
            _ => None,
        }
    }

    /// The ports a domain has open.
    pub fn open_ports(&self, domain: DomId) -> Vec<Port> {
        let state = self.state();
        let ports = state.domains.get(&domain).map(|domain| domain.ports.keys().copied());
        ports.into_iter().flatten().collect()
    }

    /// The port that `pirq` is bound to.
    pub fn pirq_port(&self, domain: DomId, pirq: Pirq) -> Option<Port> {
        let state = self.state();
        let mut ports = state.domains.get(&domain)?.ports.iter();
        ports.find(|(_, channel)| channel.end == End::Pirq(pirq)).map(|(port, _)| *port)
    }

    /// XenStore's event for a domain: replies came, or room was made.
    pub(crate) fn raise_store_event(&self, domain: DomId) {
        let first = match self.state_mut().domains.get_mut(&domain) {
            Some(domain) => !core::mem::replace(&mut domain.store_event, true),
            None => false,
        };
        if first {
            self.wake(domain);
        }
    }

    /// Takes XenStore's event.
    pub(crate) fn take_store_event(&self, domain: DomId) -> bool {
        let mut state = self.state_mut();
        let domain = state.domains.get_mut(&domain);
        domain.is_some_and(|domain| core::mem::replace(&mut domain.store_event, false))
    }

    /// Sets the pending bit; whoever runs there notices after a while.
    pub(super) fn raise(&self, domain: DomId, port: Port) {
        let wake = self.with_port(domain, port, |channel| {
            let first = !core::mem::replace(&mut channel.pending, true);
            first && !channel.masked
        });
        if wake == Some(true) {
            self.wake(domain);
        }
    }

    /// Lets a domain look around after the time an event takes.
    pub(crate) fn wake(&self, domain: DomId) {
        self.agenda().within(&self.delays().event, Happening::Wake(domain));
    }

    pub(super) fn close_all_ports(&self, domain: DomId) {
        for port in self.open_ports(domain) {
            let _: XenResult<()> = self.close(domain, port);
        }
    }

    fn add_port(&self, caller: DomId, end: End, call: &'static str) -> XenResult<Port> {
        let mut state = self.state_mut();
        let domain = state.domains.get_mut(&caller).filter(|d| d.life == Life::Running);
        let Some(domain) = domain else { return refused(call, ESRCH) };
        let port = Port(domain.next_port);
        domain.next_port += 1;
        domain
            .ports
            .insert(port, Channel { end, pending: false, masked: false, sent: 0 });
        Ok(port)
    }

    fn with_port<T>(
        &self,
        domain: DomId,
        port: Port,
        act: impl FnOnce(&mut Channel) -> T,
    ) -> Option<T> {
        let mut state = self.state_mut();
        state.domains.get_mut(&domain)?.ports.get_mut(&port).map(act)
    }
}

#[cfg(test)]
mod tests {
    use pcidom_xenbus::{DomId, Port};

    use crate::agenda::Agenda;
    use crate::xen::domains::DomainConfig;
    use crate::xen::{Delays, Xen};

    fn pair() -> (Xen, DomId, DomId) {
        let xen = Xen::new(&Agenda::new(1), Delays::default());
        let one = xen.create_domain(DomainConfig::default());
        let two = xen.create_domain(DomainConfig::default());
        (xen, one, two)
    }

    #[test]
    fn only_the_named_domain_binds_and_it_gets_an_event_at_once() {
        let (xen, one, two) = pair();
        let port = xen.alloc_unbound(one, two).unwrap();
        assert!(xen.bind_interdomain(DomId::DOM0, one, port).is_err());
        let other = xen.bind_interdomain(two, one, port).unwrap();
        assert!(xen.bind_interdomain(two, one, port).is_err());
        assert_eq!(xen.take_pending(two), Some(other));
        assert_eq!(xen.take_pending(two), None);
        xen.notify(two, other).unwrap();
        xen.notify(two, other).unwrap();
        assert_eq!(xen.take_pending(one), Some(port));
        assert_eq!(xen.take_pending(one), None);
    }

    #[test]
    fn a_masked_port_keeps_its_event() {
        let (xen, one, two) = pair();
        let port = xen.alloc_unbound(one, two).unwrap();
        let other = xen.bind_interdomain(two, one, port).unwrap();
        xen.set_masked(one, port, true);
        xen.notify(two, other).unwrap();
        assert_eq!(xen.take_pending(one), None);
        xen.set_masked(one, port, false);
        assert_eq!(xen.take_pending(one), Some(port));
    }

    #[test]
    fn a_closed_end_is_no_error_for_the_other() {
        let (xen, one, two) = pair();
        let port = xen.alloc_unbound(one, two).unwrap();
        let other = xen.bind_interdomain(two, one, port).unwrap();
        xen.destroy_domain(DomId::DOM0, one).unwrap();
        assert_eq!(xen.notify(two, other), Ok(()));
        assert!(xen.notify(two, Port(9999)).is_err());
        assert!(xen.alloc_unbound(one, two).is_err());
    }
}

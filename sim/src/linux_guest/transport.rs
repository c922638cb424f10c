//! `do_pci_op` of xen-pcifront: one op at a time, polled for, given up after 2 s.

use pcidom_script::Instant;
use pcidom_xenbus::pciif::{self, MAX_MSIX_ENTRIES, RawMsixEntry, RawOp, command, word};
use pcidom_xenbus::{DomId, Port, SharedPage};

use super::OP_TIMEOUT;
use crate::page::SimPage;
use crate::xen::Xen;

/// An op as the driver asks for it.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) raw: RawOp,
    pub(super) entries: Vec<RawMsixEntry>,
}

/// An op that is in the page.
#[derive(Debug)]
pub(super) struct OpInFlight {
    pub(super) op: RawOp,
    pub(super) sent: Instant,
    pub(super) deadline: Instant,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct OpAnswer {
    pub(super) raw: RawOp,
    pub(super) entries: Vec<RawMsixEntry>,
    pub(super) timed_out: bool,
    pub(super) link_was_down: bool,
}

impl OpAnswer {
    /// "pciback not responding!!!"
    pub(super) const fn none(raw: RawOp, link_was_down: bool) -> Self {
        Self { raw, entries: Vec::new(), timed_out: true, link_was_down }
    }
}

/// The page and the port of the link.
#[derive(Debug, Default)]
pub(super) struct Transport {
    pub(super) open: Option<(SimPage, Port)>,
}

impl Transport {
    pub(super) fn page(&self) -> Option<SimPage> {
        self.open.as_ref().map(|(page, _)| page.clone())
    }

    /// Copies the whole op into the page, sets the flag, notifies.
    pub(super) fn send(&self, xen: &Xen, domain: DomId, op: Op) -> OpInFlight {
        let now = xen.now();
        if let Some((page, port)) = &self.open {
            // What the op left of an earlier one in its tail goes along, as in Linux.
            pciif::store_op(page, &op.raw);
            pciif::store_msix(page, &op.entries);
            page.barrier();
            page.fetch_or(word::FLAGS, pciif::FRONT_ACTIVE);
            // A port whose other end is gone: nobody answers, and the time-out tells.
            let _: Result<(), _> = xen.notify(domain, *port);
        }
        OpInFlight { op: op.raw, sent: now, deadline: now.after(OP_TIMEOUT) }
    }

    /// Looks whether the flag is clear, or the time is over.
    pub(super) fn poll(
        &self,
        xen: &Xen,
        domain: DomId,
        op: &OpInFlight,
        now: Instant,
    ) -> Option<OpAnswer> {
        let late = now >= op.deadline;
        let Some((page, port)) = &self.open else {
            return late.then(|| OpAnswer::none(op.op, true));
        };
        let _: bool = xen.take_event(domain, *port);
        if page.load(word::FLAGS) & pciif::FRONT_ACTIVE == 0 {
            let raw = pciif::load_op(page);
            // Linux copies the entries back after every op, and looks at them after this.
            let asked = op.op.cmd == command::ENABLE_MSIX;
            let count = if asked { MAX_MSIX_ENTRIES } else { 0 };
            let entries = pciif::load_msix(page, count);
            return Some(OpAnswer {
                raw,
                entries,
                timed_out: false,
                link_was_down: false,
            });
        }
        if !late {
            return None;
        }
        page.fetch_and(word::FLAGS, !pciif::FRONT_ACTIVE);
        Some(OpAnswer::none(op.op, !xen.is_connected(domain, *port)))
    }

    /// The backend has set its flag.
    pub(super) fn error_reported(&self) -> bool {
        let flags = self.open.as_ref().map_or(0, |(page, _)| page.load(word::FLAGS));
        flags & pciif::BACK_ACTIVE != 0
    }
}

//! Who uses the A-link next.
//!
//! One access is in flight on the A-link at a time, for everybody. Every customer (a guest,
//! or a task such as a scan or a reset) has at most one access waiting, so first come, first
//! served is round robin: nobody waits for more than one access of each other customer.

use alloc::collections::VecDeque;

use pcidom_pci::{Access, Answer, Sbdf, VirtualBdf};
use pcidom_script::Instant;
use pcidom_xenbus::{DomId, SharedPage};
use pcifront::OpSlot;

/// Who asked for an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Customer {
    /// A guest's request, or what its link's end needs.
    Guest(DomId),
    /// The task that works on this device.
    Task(Sbdf),
}

#[derive(Debug)]
struct Waiting {
    customer: Customer,
    at: VirtualBdf,
    access: Access,
}

/// The queue in front of the A-link's one slot.
#[derive(Debug)]
pub(super) struct Bus {
    slot: OpSlot,
    /// The access in the slot, and who still waits for it.
    in_flight: Option<Option<Customer>>,
    queue: VecDeque<Waiting>,
}

impl Bus {
    pub(super) const fn new() -> Self {
        Self { slot: OpSlot::new(), in_flight: None, queue: VecDeque::new() }
    }

    /// Lets an access wait for its turn.
    pub(super) fn push(&mut self, customer: Customer, at: VirtualBdf, access: Access) {
        self.queue.push_back(Waiting { customer, at, access });
    }

    /// Looks at the slot: whose access has ended, and how.
    pub(super) fn poll(
        &mut self,
        page: &impl SharedPage,
        now: Instant,
    ) -> Option<(Customer, Answer)> {
        let answer = self.slot.poll(page, now)?;
        self.in_flight.take().flatten().map(|customer| (customer, answer))
    }

    /// Starts the next access, if the slot is free. Returns whether the backend must be
    /// notified, or who failed at once.
    pub(super) fn start(&mut self, page: &impl SharedPage, now: Instant) -> Started {
        if self.in_flight.is_some() {
            return Started::Nothing;
        }
        let Some(next) = self.queue.pop_front() else { return Started::Nothing };
        match self.slot.submit(page, now, next.at, next.access) {
            Ok(()) => {
                self.in_flight = Some(Some(next.customer));
                Started::Notify
            }
            Err(error) => Started::Failed(next.customer, Err(error.into())),
        }
    }

    /// Forgets what a customer waits for. An access in flight goes on; its answer is dropped.
    pub(super) fn forget(&mut self, customer: Customer) {
        self.queue.retain(|waiting| waiting.customer != customer);
        if self.in_flight == Some(Some(customer)) {
            self.in_flight = Some(None);
        }
    }

    /// When the access in flight is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.in_flight.and(self.slot.deadline())
    }

    /// The link is gone: everybody who waits has failed.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Customer> + use<> {
        self.slot = OpSlot::new();
        let queue = core::mem::take(&mut self.queue).into_iter().map(|w| w.customer);
        self.in_flight.take().flatten().into_iter().chain(queue)
    }
}

/// What [`Bus::start`] did.
#[derive(Debug)]
pub(super) enum Started {
    /// Nothing waits, or the slot is busy.
    Nothing,
    /// The request is in the page: tell the backend.
    Notify,
    /// The slot takes nothing now: this customer's access has failed.
    Failed(Customer, Answer),
}

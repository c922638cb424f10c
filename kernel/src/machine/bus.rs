//! Who uses the A-link next.
//!
//! One access is in flight on the A-link at a time, for everybody. Every customer (a guest,
//! or a task such as a scan or a reset) has at most one access waiting, so first come, first
//! served is round robin: nobody waits for more than one access of each other customer.
//!
//! A guest's access that dom0 does not answer in time fails, and so do those that come while
//! the slot is still taken by it: guests have their own deadline. A task has not, so its
//! access waits and is tried again: a reset must not fail because dom0 was busy.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use pcidom_pci::{Access, AccessError, Answer, Sbdf, VirtualBdf};
use pcidom_script::Instant;
use pcidom_xenbus::{DomId, SharedPage};
use pcifront::OpSlot;

/// How long a task's access may take with all its tries. A loan's reset is waited for by the
/// daemon for 30 s.
pub(super) const TASK_PATIENCE: Duration = Duration::from_secs(10);

/// Who asked for an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Customer {
    /// A guest's request, or what its link's end needs.
    Guest(DomId),
    /// The task that works on this device.
    Task(Sbdf),
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// `None` once nobody waits for it any more.
    customer: Option<Customer>,
    at: VirtualBdf,
    access: Access,
    since: Instant,
    /// A guest that has used up its share has to wait.
    not_before: Option<Instant>,
}

impl Waiting {
    /// Until when it is tried again; guests' are not.
    fn patience(&self) -> Option<Instant> {
        let task = matches!(self.customer, Some(Customer::Task(_)));
        task.then(|| self.since.after(TASK_PATIENCE))
    }

    fn is_patient(&self, now: Instant) -> bool {
        self.patience().is_some_and(|until| now < until)
    }
}

/// The queue in front of the A-link's one slot.
#[derive(Debug)]
pub(super) struct Bus {
    slot: OpSlot,
    in_flight: Option<Waiting>,
    queue: VecDeque<Waiting>,
}

impl Bus {
    pub(super) const fn new() -> Self {
        Self { slot: OpSlot::new(), in_flight: None, queue: VecDeque::new() }
    }

    /// Gives back the room of those that waited.
    pub(super) fn give_back_room(&mut self) {
        self.queue.shrink_to_fit();
    }

    /// Lets an access wait for its turn.
    pub(super) fn push(
        &mut self,
        customer: Customer,
        at: VirtualBdf,
        access: Access,
        since: Instant,
        not_before: Option<Instant>,
    ) {
        let customer = Some(customer);
        self.queue.push_back(Waiting { customer, at, access, since, not_before });
    }

    /// Looks at the slot: whose access has ended, and how.
    pub(super) fn poll(
        &mut self,
        page: &impl SharedPage,
        now: Instant,
    ) -> Option<(Customer, Answer)> {
        let answer = self.slot.poll(page, now)?;
        let ended = self.in_flight.take()?;
        if answer == Err(AccessError::TimedOut) && ended.is_patient(now) {
            self.queue.push_back(ended);
            return None;
        }
        ended.customer.map(|customer| (customer, answer))
    }

    /// Starts the next access, if the slot is free. Returns whether the backend must be
    /// notified, or who failed at once.
    pub(super) fn start(&mut self, page: &impl SharedPage, now: Instant) -> Started {
        if self.in_flight.is_some() {
            return Started::Nothing;
        }
        if self.slot.is_stuck() {
            return self.fail_one(now);
        }
        let due = |waiting: &Waiting| waiting.not_before.is_none_or(|until| until <= now);
        let first = self.queue.iter().position(due);
        let next = first.and_then(|index| self.queue.remove(index));
        let Some(next) = next else { return Started::Nothing };
        if self.slot.submit(page, now, next.at, next.access).is_ok() {
            self.in_flight = Some(next);
            return Started::Notify;
        }
        // Stuck since this moment.
        self.queue.push_front(next);
        self.fail_one(now)
    }

    /// Nothing can be started: the first that does not want to wait fails.
    fn fail_one(&mut self, now: Instant) -> Started {
        let hurried = self.queue.iter().position(|waiting| !waiting.is_patient(now));
        let failed = hurried.and_then(|index| self.queue.remove(index));
        let customer = failed.and_then(|waiting| waiting.customer);
        customer.map_or(Started::Nothing, Started::Failed)
    }

    /// Forgets what a customer waits for. An access in flight goes on; its answer is dropped.
    pub(super) fn forget(&mut self, customer: Customer) {
        self.queue.retain(|waiting| waiting.customer != Some(customer));
        if let Some(waiting) = &mut self.in_flight
            && waiting.customer == Some(customer)
        {
            waiting.customer = None;
        }
    }

    /// Whether an access is with dom0 that is not overdue.
    pub(super) const fn is_in_flight(&self) -> bool {
        self.in_flight.is_some() && self.slot.deadline().is_some()
    }

    /// When something is given up, or may be started at last.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let slot = self.in_flight.and(self.slot.deadline());
        let of = |waiting: &Waiting| [waiting.patience(), waiting.not_before];
        let queue = || self.queue.iter().flat_map(of).flatten().min();
        slot.or_else(queue)
    }

    /// The link is gone: everybody who waits has failed.
    pub(super) fn take_all(&mut self) -> Vec<Customer> {
        self.slot = OpSlot::new();
        let queue = core::mem::take(&mut self.queue);
        let all = self.in_flight.take().into_iter().chain(queue);
        all.filter_map(|waiting| waiting.customer).collect()
    }
}

/// What [`Bus::start`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Started {
    /// Nothing waits, or the slot is busy.
    Nothing,
    /// The request is in the page: tell the backend.
    Notify,
    /// The slot takes nothing now: this customer's access has run out of time.
    Failed(Customer),
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::{Bus, Customer, Started, TASK_PATIENCE};
    use pcidom_pci::{Access, AccessError, Register, Sbdf, VirtualBdf, Width};
    use pcidom_script::Instant;
    use pcidom_xenbus::pciif::{FRONT_ACTIVE, word};
    use pcidom_xenbus::{DomId, SharedPage};
    use pcifront::OP_DEADLINE;

    struct Page([Cell<u32>; 1024]);

    impl SharedPage for Page {
        fn load(&self, word: usize) -> u32 {
            self.0[word].get()
        }
        fn store(&self, word: usize, value: u32) {
            self.0[word].set(value);
        }
        fn fetch_or(&self, word: usize, bits: u32) -> u32 {
            self.0[word].replace(self.0[word].get() | bits)
        }
        fn fetch_and(&self, word: usize, bits: u32) -> u32 {
            self.0[word].replace(self.0[word].get() & bits)
        }
        fn barrier(&self) {}
    }

    fn page() -> Page {
        Page([const { Cell::new(0) }; 1024])
    }

    fn push(bus: &mut Bus, customer: Customer, now: Instant) {
        let at = VirtualBdf(Sbdf::new(0, 0, 0, 0).unwrap());
        let access = Access::Read(Register::new(4, Width::Word).unwrap());
        bus.push(customer, at, access, now, None);
    }

    fn complete(page: &Page) {
        page.store(word::OP_ERR, 0);
        page.fetch_and(word::FLAGS, !FRONT_ACTIVE);
    }

    #[test]
    fn customers_take_turns() {
        let (mut bus, page, now) = (Bus::new(), page(), Instant::default());
        let customers = [1, 2, 3].map(|n| Customer::Guest(DomId(n)));
        for customer in customers {
            push(&mut bus, customer, now);
        }
        for customer in customers.iter().cycle().take(7) {
            assert_eq!(bus.start(&page, now), Started::Notify);
            complete(&page);
            assert_eq!(bus.poll(&page, now).map(|(who, _)| who), Some(*customer));
            push(&mut bus, *customer, now);
        }
    }

    #[test]
    fn while_the_slot_is_stuck_guests_fail_at_once_and_tasks_wait() {
        let (mut bus, page, now) = (Bus::new(), page(), Instant::default());
        let task = Customer::Task(Sbdf::new(0, 1, 0, 0).unwrap());
        let guest = Customer::Guest(DomId(1));
        push(&mut bus, task, now);
        assert_eq!(bus.start(&page, now), Started::Notify);
        let late = now.after(OP_DEADLINE);
        assert_eq!(bus.poll(&page, late), None);
        push(&mut bus, guest, late);
        assert_eq!(bus.start(&page, late), Started::Failed(guest));
        assert_eq!(bus.start(&page, late), Started::Nothing);
        complete(&page);
        assert_eq!(bus.poll(&page, late), None);
        assert_eq!(bus.start(&page, late), Started::Notify);
        complete(&page);
        assert_eq!(bus.poll(&page, late), Some((task, Ok(0))));
    }

    #[test]
    fn a_task_gives_up_in_the_end() {
        let (mut bus, page, now) = (Bus::new(), page(), Instant::default());
        let task = Customer::Task(Sbdf::new(0, 1, 0, 0).unwrap());
        push(&mut bus, task, now);
        assert_eq!(bus.start(&page, now), Started::Notify);
        assert_eq!(bus.poll(&page, now.after(OP_DEADLINE)), None);
        let end = bus.deadline().unwrap();
        assert_eq!(end, now.after(TASK_PATIENCE));
        assert_eq!(bus.start(&page, end), Started::Failed(task));
        assert_eq!(bus.deadline(), None);
    }

    #[test]
    fn a_guests_access_has_one_try() {
        let (mut bus, page, now) = (Bus::new(), page(), Instant::default());
        let guest = Customer::Guest(DomId(1));
        push(&mut bus, guest, now);
        assert_eq!(bus.start(&page, now), Started::Notify);
        let ended = bus.poll(&page, now.after(OP_DEADLINE));
        assert_eq!(ended, Some((guest, Err(AccessError::TimedOut))));
    }
}

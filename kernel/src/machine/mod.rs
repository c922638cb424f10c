//! The event loop: everything pcidom does, driven by events, over a [`Platform`].
//!
//! | module | what it is about |
//! |---|---|
//! | `alink` | the pool: our frontend towards dom0 |
//! | `bus` | whose access goes over the A-link next |
//! | `windows` | config space that is read without dom0 |
//! | `tasks` | scans and resets of pool devices |
//! | `loans`, `leases`, `waits` | what the daemon orders, pirqs asked of it, how long that took |
//! | `resets` | which way a device is reset, and which rules forbid it |
//! | `guests`, `storm`, `pace` | the backend of each guest, and what it may cost |
//! | `chain`, `jobs` | XenStore work |
//! | `backoff` | when to try again |
//! | `room` | memory given back when nobody needs it |
//! | `stop` | the end of the domain: loans first |
//! | `report` | answers to `pcidomctl status` |
//! | `monitor` | answers to people at a console |
//! | `trace` | the last events |

mod alink;
mod backoff;
mod bus;
mod chain;
mod guests;
mod jobs;
mod leases;
mod loans;
mod monitor;
mod pace;
mod report;
mod resets;
mod room;
mod stop;
mod storm;
mod tasks;
pub mod trace;
mod waits;
mod windows;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use pciback::LeaseError;
use pcidom_loan::LoanId;
use pcidom_pci::function::Function;
use pcidom_pci::{Access, AccessError, Answer, Sbdf};
use pcidom_script::Instant;
use pcidom_xenbus::client::Client;
use pcidom_xenbus::{DomId, Pirq, Port};
use vecmap::{VecMap, VecSet};

use self::alink::{Alink, PoolDevice};
use self::bus::{Bus, Customer};
use self::chain::LinkId;
use self::guests::Guest;
use self::jobs::{Done, token};
use self::loans::Loan;
use self::monitor::Monitor;
use self::stop::Stop;
use self::tasks::{Ended, TaskStep, Tasks};
use self::trace::{Ring, Trace};
use self::windows::Windows;
use crate::platform::{Console, Platform};

/// What has happened outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A port has fired.
    Port(Port),
    /// The XenStore ring has moved.
    Store,
    /// Something was typed on a console, or it has room again.
    Console(Console),
}

/// How the domain is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// `xl shutdown`
    PowerOff,
    /// `xl reboot`
    Reboot,
}

/// The whole of pcidom.
#[derive(Debug)]
pub struct Machine<P: Platform> {
    store: Client<Done>,
    alink: Alink<P>,
    bus: Bus,
    windows: Windows<P>,
    tasks: Tasks,
    pool: VecMap<Sbdf, PoolDevice>,
    /// Devices that the daemon has in quarantine: no right of ours is left.
    quarantined: VecSet<Sbdf>,
    loans: VecMap<LoanId, Loan>,
    guests: VecMap<DomId, Guest<P>>,
    /// Accesses that ended without the A-link.
    access_answers: VecDeque<(Customer, Answer)>,
    /// Leases for guests' servers.
    lease_answers: VecDeque<(DomId, Result<Vec<Pirq>, LeaseError>)>,
    /// Devices that have become ready since somebody asked.
    newly_ready: Vec<Function>,
    monitor: Monitor,
    trace: Rc<Ring>,
    started: bool,
    ready: bool,
    halt: Option<Halt>,
    stop: Stop,
    /// How many resets were begun.
    tickets: u32,
    /// Lists may have more room than they need.
    roomy: bool,
    /// The version of the daemon's protocol, if it is not ours.
    foreign: Option<String>,
}

impl<P: Platform> Machine<P> {
    /// Starts with nothing known. `generation` tells this start of the image from earlier
    /// ones in the same domain; `trace` gets what happens.
    pub fn start(generation: u8, trace: Rc<Ring>, platform: &mut P) -> Self {
        let mut machine = Self {
            store: Client::new(generation),
            alink: Alink::new(),
            bus: Bus::new(),
            windows: Windows::new(),
            tasks: Tasks::default(),
            pool: VecMap::new(),
            quarantined: VecSet::new(),
            loans: VecMap::new(),
            guests: VecMap::new(),
            access_answers: VecDeque::new(),
            lease_answers: VecDeque::new(),
            newly_ready: Vec::new(),
            monitor: Monitor::default(),
            trace,
            started: false,
            ready: false,
            halt: None,
            stop: Stop::default(),
            tickets: 0,
            roomy: true,
            foreign: None,
        };
        machine.store.run(jobs::start);
        machine.pump(platform);
        machine
    }

    /// Takes in an event.
    pub fn handle(&mut self, event: Event, platform: &mut P) {
        match event {
            Event::Store => {}
            Event::Port(port) if self.alink.port() == Some(port) => {
                self.alink_port(platform);
            }
            Event::Port(port) => {
                if let Some(guest) = self.guest_of(port) {
                    self.guest_port(guest, platform);
                } else {
                    self.trace.keep(platform.now(), Trace::Port(None, port));
                }
            }
            Event::Console(console) => self.console_event(console, platform),
        }
        self.pump(platform);
    }

    /// Does what is due now.
    pub fn tick(&mut self, platform: &mut P) {
        let now = platform.now();
        let steps = self.tasks.tick(now);
        self.task_steps(steps, platform);
        self.tick_loans(now, platform);
        self.tick_alink(now, platform);
        self.tick_guests(now, platform);
        self.stop_if_possible(now);
        self.pump(platform);
    }

    /// When [`Machine::tick`] has something to do; `None` means that only an event helps.
    pub fn next_deadline(&self) -> Option<Instant> {
        let [scan, leaving, again] = self.alink_deadlines();
        let deadlines = [
            scan,
            leaving,
            again,
            self.bus.deadline(),
            self.tasks.deadline(),
            self.loans_deadline(),
            self.guests_deadline(),
            self.stop_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Whether dom0 is carrying out an access, so that its answer comes soon.
    pub const fn awaits_dom0(&self) -> bool {
        self.bus.is_in_flight()
    }

    /// How the domain is to end, once that was asked for.
    pub const fn halt(&self) -> Option<Halt> {
        self.halt
    }

    /// Pool devices that have become ready since the last call: scanned, and in quarantine.
    pub fn take_ready(&mut self) -> Vec<Function> {
        core::mem::take(&mut self.newly_ready)
    }

    /// Goes on until nothing moves without an event from outside.
    fn pump(&mut self, platform: &mut P) {
        loop {
            let mut moved = false;
            while let Some(message) = platform.store_receive() {
                self.store.receive(&message);
                moved = true;
            }
            while let Some(token) = self.store.next_fired() {
                self.fired(&token);
                moved = true;
            }
            while let Some(done) = self.store.next_done() {
                self.done(done, platform);
                moved = true;
            }
            while let Some((guest, answer)) = self.lease_answers.pop_front() {
                self.lease_told(guest, answer, platform);
                moved = true;
            }
            while let Some((customer, answer)) = self.access_answers.pop_front() {
                self.accessed(customer, answer, platform);
                moved = true;
            }
            moved |= self.pump_bus(platform);
            while let Some((id, message)) = self.store.next_message() {
                if !platform.store_send(&message) {
                    self.store.unsend(id, &message);
                    break;
                }
                moved = true;
            }
            if !moved {
                return self.give_back_room();
            }
        }
    }

    fn fired(&mut self, fired: &str) {
        let guest_of =
            |prefix| fired.strip_prefix(prefix).and_then(|id: &str| id.parse().ok());
        match fired {
            token::SHUTDOWN => self.store.run(jobs::shutdown),
            token::FRONT => self.store.run(jobs::find_back),
            token::FRONT_STATE => self.read_front_state(),
            token::BACK => self.read_back_state(),
            token::POOL => self.store.run(jobs::pool),
            token::ECAM => self.store.run(jobs::ecam),
            token::ORDERS => self.store.run(jobs::orders),
            token::ANSWERS => self.read_answers(),
            token::QUERY => self.store.run(jobs::query),
            _ => {
                if let Some(guest) = guest_of(token::GUEST_FRONT) {
                    self.read_guest_front(guest);
                } else if let Some(guest) = guest_of(token::GUEST_BACK) {
                    self.read_guest_back(guest);
                }
            }
        }
    }

    fn done(&mut self, done: Done, platform: &mut P) {
        match done {
            Done::Nothing => {}
            Done::Started(Ok(domid)) => {
                log::info!("domain {domid}");
                self.started = true;
                self.check_ready();
            }
            Done::Started(Err(error)) => {
                log::error!("XenStore does not serve us: {error}");
            }
            Done::Written(_, Ok(())) => {}
            Done::Written(path, Err(error)) => {
                log::error!("cannot write {path}: {error}");
            }
            Done::Unwatched(guest, error) => log::error!(
                "domain {guest} can't be served, its link can't be watched: {error} (E2BIG: \
                 for more guests start xenstored with a larger quota, or a second pcidom)"
            ),
            Done::Shutdown(request) => {
                self.shutdown(request.as_deref(), platform.now());
            }
            Done::BackFound(back) => self.back_found(back, platform),
            Done::Pool(devices) => self.quarantine(devices),
            Done::ConfigFrames(frames) => {
                self.windows.offer(frames);
                self.fit_windows(platform);
            }
            Done::Orders(orders, foreign) => {
                self.foreign = foreign;
                self.new_orders(&orders, platform);
                self.stop_if_possible(platform.now());
            }
            Done::Answer(loan, answer) => {
                self.lease_answered(loan, &answer, platform.now());
            }
            Done::Query(number) => self.write_report(number, platform.heap()),
            Done::Link(LinkId::Dom0, done) => self.alink_job_done(done, platform),
            Done::Link(LinkId::Guest(guest), done) => {
                self.guest_job_done(guest, done, platform);
            }
        }
    }

    /// Carries out a guest's read at once where there is a window, and lets any other
    /// access wait for its turn on the A-link. What is being reset is out of its reach.
    fn guest_access(&mut self, guest: DomId, device: Sbdf, access: Access, now: Instant) {
        let customer = Customer::Guest(guest);
        if self.tasks.is_resetting(device) {
            let busy = Err(AccessError::LinkDown);
            self.access_answers.push_back((customer, busy));
        } else if let Access::Read(register) = access
            && let Some(value) = self.windows.read(device, register)
        {
            self.access_answers.push_back((customer, Ok(value)));
        } else {
            let writer = if let Access::Write(..) = access {
                self.guests.get_mut(&guest)
            } else {
                None
            };
            let at = writer.map(|known| known.writes.book(now));
            let not_before = at.filter(|at| *at > now);
            self.access(customer, device, access, now, not_before);
        }
    }

    fn access(
        &mut self,
        customer: Customer,
        device: Sbdf,
        access: Access,
        now: Instant,
        not_before: Option<Instant>,
    ) {
        match self.pool.get(&device).and_then(|known| known.at) {
            Some(at) => self.bus.push(customer, at, access, now, not_before),
            None => self.access_answers.push_back((customer, Err(AccessError::NoDevice))),
        }
    }

    /// An access has ended: tell who asked.
    fn accessed(&mut self, customer: Customer, answer: Answer, platform: &mut P) {
        match customer {
            Customer::Guest(guest) => {
                self.serve(guest, platform, |server, page, now, out| {
                    server.on_config(page, answer, now, out);
                });
            }
            Customer::Task(device) => {
                let steps = self.tasks.answer(device, answer, platform.now());
                self.task_steps(steps, platform);
            }
        }
    }

    fn task_steps(&mut self, steps: Vec<TaskStep>, platform: &mut P) {
        for step in steps {
            match step {
                TaskStep::Access(task, device, access) => {
                    self.access(
                        Customer::Task(task),
                        device,
                        access,
                        platform.now(),
                        None,
                    );
                }
                TaskStep::Look(task, device, register) => {
                    let customer = Customer::Task(task);
                    if let Some(value) = self.windows.read(device, register) {
                        self.access_answers.push_back((customer, Ok(value)));
                    } else {
                        let access = Access::Read(register);
                        self.access(customer, device, access, platform.now(), None);
                    }
                }
                TaskStep::Turn(device, ticket) => {
                    self.reset_turn(device, ticket, platform);
                }
                TaskStep::Ended(Ended::Scanned(device, result)) => {
                    self.scanned(device, result.map(|function| *function), platform);
                }
                TaskStep::Ended(Ended::Reset(reset)) => {
                    self.reset_ended(*reset, platform);
                }
                TaskStep::Ended(Ended::Read(device, words)) => {
                    self.dump_read(device, words, platform);
                }
            }
        }
    }

    /// Says so once everything that was there at the start is served.
    fn check_ready(&mut self) {
        if self.ready || !self.started || !self.pool_is_settled() {
            return;
        }
        self.ready = true;
        log::info!("ready, {} device(s) in the pool", self.pool.len());
        self.store.run(jobs::serve);
    }
}

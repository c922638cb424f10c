//! The scheduler: everybody does what can be done now, then the clock moves on.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use pcidom_script::Instant;
use pcidom_xenbus::DomId;

use crate::agenda::{Agenda, Happening};
use crate::store::XenStore;
use crate::trace;
use crate::xen::{Delays, Xen};

/// Code that runs in a domain.
pub trait Actor {
    /// Where it runs. When the domain dies it runs no more.
    fn domain(&self) -> DomId;
    /// Looks at ports, mail and the clock, and does what there is to do.
    fn step(&mut self);
    /// When it wants to run although nothing has happened.
    fn deadline(&self) -> Option<Instant>;
}

/// An actor that the test keeps a handle of.
pub type Shared<T> = Rc<RefCell<T>>;

/// Steps at one moment, or of one deadline that does not go away, before a run counts as
/// stuck: far more than any exchange needs, since each of its messages takes time.
const MAX_STEPS_AT_ONCE: u32 = 10_000;

/// The whole simulation.
pub struct World {
    agenda: Agenda,
    xen: Xen,
    store: XenStore,
    actors: Vec<Rc<RefCell<dyn Actor>>>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("actors", &self.actors.len())
            .finish_non_exhaustive()
    }
}

impl World {
    /// An empty host; `seed` decides every delay.
    pub fn new(seed: u64) -> Self {
        let agenda = Agenda::new(seed);
        trace::start(&agenda);
        let xen = Xen::new(&agenda, Delays::default());
        let store = XenStore::new(&xen);
        Self { agenda, xen, store, actors: Vec::new() }
    }

    /// The hypervisor.
    pub const fn xen(&self) -> &Xen {
        &self.xen
    }

    /// XenStore.
    pub const fn store(&self) -> &XenStore {
        &self.store
    }

    /// Time now.
    pub fn now(&self) -> Instant {
        self.agenda.now()
    }

    /// Lets an actor run from now on.
    pub fn add<T: Actor + 'static>(&mut self, actor: T) -> Shared<T> {
        let actor = Rc::new(RefCell::new(actor));
        self.actors.push(Rc::clone(&actor) as Rc<RefCell<dyn Actor>>);
        let domain = actor.borrow().domain();
        self.xen.wake(domain);
        actor
    }

    /// Ends an actor, as when a process dies.
    pub fn remove<T: Actor + 'static>(&mut self, actor: &Shared<T>) {
        let gone = Rc::as_ptr(actor).cast::<()>();
        self.actors.retain(|other| Rc::as_ptr(other).cast::<()>() != gone);
    }

    /// Runs until `done`, but no longer than `limit`. Returns whether it was done.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> bool {
        let end = self.now().after(limit);
        let mut at_once = (self.now(), 0);
        while !done(self) {
            let Some(next) = self.next_moment().filter(|next| *next <= end) else {
                self.agenda.advance(end);
                return done(self);
            };
            self.agenda.advance(next);
            at_once = if at_once.0 == self.now() {
                (at_once.0, at_once.1 + 1)
            } else {
                (self.now(), 0)
            };
            self.check_not_stuck(at_once.1);
            self.step();
        }
        true
    }

    /// Runs for `time`.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until nothing is due any more, but no longer than `limit`.
    ///
    /// # Panics
    /// If it is still busy then.
    #[expect(clippy::panic, reason = "a run that does not end is a failed test")]
    pub fn run_until_quiet(&mut self, limit: Duration) {
        if !self.run_until(limit, |world| world.next_moment().is_none()) {
            panic!("still busy after {limit:?}");
        }
    }

    fn next_moment(&self) -> Option<Instant> {
        let deadlines = self.living().filter_map(|actor| actor.borrow().deadline());
        deadlines.chain(self.agenda.next_due()).min()
    }

    fn living(&self) -> impl Iterator<Item = &Rc<RefCell<dyn Actor>>> {
        let xen = self.xen.clone();
        self.actors.iter().filter(move |actor| xen.is_running(actor.borrow().domain()))
    }

    /// Does the next thing that is due now.
    fn step(&mut self) {
        let Some(happening) = self.agenda.take_due() else {
            let now = self.now();
            let due = |actor: &&Rc<RefCell<dyn Actor>>| {
                actor.borrow().deadline().is_some_and(|deadline| deadline <= now)
            };
            let actor = self.living().find(due).cloned();
            if let Some(actor) = actor {
                actor.borrow_mut().step();
            }
            return;
        };
        match happening {
            Happening::Wake(domain) => {
                let here = |a: &&Rc<RefCell<dyn Actor>>| a.borrow().domain() == domain;
                let awake: Vec<_> = self.living().filter(here).cloned().collect();
                for actor in awake {
                    actor.borrow_mut().step();
                }
            }
            Happening::StoreServes(domain) => self.store.serve(domain),
            Happening::Relinquish(domain) => {
                self.xen.relinquish(domain);
                self.store.release_domain(domain);
            }
            Happening::Complete(domain) => {
                if self.xen.complete(domain) {
                    self.store.release_domain(domain);
                }
            }
        }
    }

    #[expect(clippy::panic, reason = "a run that does not end is a failed test")]
    fn check_not_stuck(&self, steps: u32) {
        if steps > MAX_STEPS_AT_ONCE {
            let actors = self.living().map(|actor| {
                let actor = actor.borrow();
                (actor.domain(), actor.deadline())
            });
            panic!(
                "time stands still; actors and deadlines: {:?}",
                actors.collect::<Vec<_>>()
            );
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        trace::show_if_failing();
    }
}

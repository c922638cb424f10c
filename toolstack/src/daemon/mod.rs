//! The daemon's core: events in, calls to three traits, replies out. It never waits: what
//! pcidom or a guest has to do first is a stage of a loan with a deadline.
//!
//! ```text
//!   attach
//!     |  order prepare                 (attach.rs)
//!  preparing ----- failed, too late, guest gone ------------------+
//!     |  ready                                                    |
//!  lending          rights given, then the link   (rights, link)  |
//!     |  order lent                                               |
//!   lent  <---------- too late --+                                |
//!     |  detach                  |                                |
//!     |---------> detaching -----+                   (detach.rs)  |
//!     |               | link back in Connected                    |
//!     +---------------+-------------------------------------------+
//!     |  guest or pcidom gone, device leaves the pool, detach -f (lock.rs, stop.rs)
//!   ending    leases and rights taken; order ending  (ending.rs)
//!     |  returned, failed, or too late
//!   over      off the link, order and record removed
//! ```
//!
//! A reset on demand is no loan, only an order of its own (`reset.rs`, `resets.rs`), which a
//! verb or a node of XenStore (`requests.rs`) asks for.
//!
//! Everything is level-triggered: an event only says where to look.

mod attach;
mod bus;
mod detach;
mod ears;
mod ecam;
mod ending;
mod exceptions;
mod exports;
mod guest_config;
mod lease;
mod leases;
mod line;
mod link;
mod loan;
mod lock;
mod named;
mod owner;
mod pace;
mod paths;
mod pool;
mod protection;
mod record;
mod requests;
mod reset;
mod resets;
mod rights;
mod status;
mod stop;
mod terms;
#[cfg(test)]
mod tests;
mod unfit;
mod unrecorded;
mod version;
mod watch;

use std::collections::{BTreeMap, VecDeque};

use pcidom_loan::LoanId;
use pcidom_script::Instant;
use pcidom_xenbus::DomId;

use crate::host::{Host, HostError};
use crate::hypervisor::{Hypervisor, XenError};
use crate::store::{Fired, Store, StoreError};
use crate::verb::{Reply, Verb};
use attach::Exceptions;
use bus::Place;
use ears::Ears;
pub use leases::Noted;
use loan::Loan;
use pool::Pcidom;
pub use protection::{Found, Protection, remapping_in_log};
pub use record::{Owner, Record, Stage};
use reset::Wanted;
use resets::{Asker, Reset};
use status::Query;

/// What the daemon works on, lent to it for one event.
pub struct Env<'a> {
    /// Xen.
    pub xen: &'a mut dyn Hypervisor,
    /// dom0.
    pub host: &'a mut dyn Host,
    /// XenStore.
    pub store: &'a mut dyn Store,
    /// When this event happens.
    pub now: Instant,
}

impl std::fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("now", &self.now).finish_non_exhaustive()
    }
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// XenStore did not do it.
    #[error("XenStore: {0}")]
    Store(#[from] StoreError),
    /// Xen refused it.
    #[error(transparent)]
    Xen(#[from] XenError),
    /// dom0 does not have it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The device answers nothing, and did when it was looked at before.
    #[error(transparent)]
    Silent(HostError),
    /// It would be wrong.
    #[error("{0}")]
    Refused(String),
}

/// Whoever asked; replies carry it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client(pub u64);

/// The daemon.
#[derive(Debug)]
pub struct Daemon {
    names: Vec<String>,
    pcidoms: BTreeMap<DomId, Pcidom>,
    ears: Ears,
    loans: BTreeMap<LoanId, Loan>,
    /// Resets on demand: their numbers are no loan's.
    resets: BTreeMap<LoanId, Reset>,
    /// The last loan's; the same number is in XenStore before the loan is.
    generation: u64,
    /// Until when no new link is made between a pcidom and a guest whose last one has ended.
    pauses: BTreeMap<(DomId, DomId), Instant>,
    queries: Vec<Query>,
    query_number: u64,
    replies: VecDeque<(Client, Reply)>,
    protection: Protection,
}

impl Daemon {
    /// A daemon for the domains with these names.
    pub fn new(names: Vec<String>) -> Self {
        Self {
            names,
            pcidoms: BTreeMap::new(),
            ears: Ears::default(),
            loans: BTreeMap::new(),
            resets: BTreeMap::new(),
            generation: 0,
            pauses: BTreeMap::new(),
            queries: Vec::new(),
            query_number: 0,
            replies: VecDeque::new(),
            protection: Protection::default(),
        }
    }

    /// Says what protects this host; otherwise all there is does.
    #[must_use]
    pub fn protected_by(mut self, protection: Protection) -> Self {
        self.protection = protection;
        self
    }

    /// Takes up what the record says, and looks at everything once.
    pub fn start(&mut self, env: &mut Env<'_>) -> Result<(), Failure> {
        let (generation, records) = record::load(env)?;
        self.generation = generation;
        self.protection.remember(env)?;
        if let Some(trouble) = self.protection.trouble() {
            log::warn!("{trouble}");
        }
        for (id, record) in records {
            log::info!("found loan {id}: {} of {}", record.device.0, record.guest_name);
            let mut loan = Loan::new(id, record);
            loan.read_facts(env);
            self.loans.insert(id, loan);
        }
        self.watch_domains(env)?;
        self.scan_domains(env)?;
        for id in self.loan_ids() {
            self.recover(env, id);
        }
        self.take_up_requests(env)?;
        self.watch_requests(env)
    }

    /// A watch has fired.
    pub fn fired(&mut self, env: &mut Env<'_>, fired: &Fired) {
        if self.ears.hear(fired, env.now) {
            self.look_at(env, fired);
        }
    }

    fn look_at(&mut self, env: &mut Env<'_>, fired: &Fired) {
        if let Err(error) = self.look(env, fired) {
            log::error!("{}: {error}", fired.path);
        }
        self.look_at_resets(env, |id, reset| {
            watch::may_be_about(fired, id, reset.pcidom)
        });
    }

    /// A verb was asked for. Its reply comes out of [`Daemon::next_reply`], now or later.
    pub fn ask(&mut self, env: &mut Env<'_>, client: Client, verb: &Verb) {
        log::debug!("asked: {verb:?}");
        let result = match verb {
            Verb::Attach {
                guest,
                owner,
                device,
                slot,
                bus,
                share_line,
                lax,
                wait,
                wish,
                pcidom,
            } => self
                .attach(
                    env,
                    client,
                    (guest, owner.as_deref(), device.0, pcidom.as_deref()),
                    Place { slot: *slot, bus: bus.map(|bus| bus.0) },
                    Exceptions { share_line: *share_line, lax: *lax, wait: *wait, wish },
                )
                .map(|()| None),
            Verb::Detach { guest, device, force, pcidom } => self
                .detach(env, client, (guest, device.0, *force, pcidom.as_deref()))
                .map(|()| None),
            Verb::Reset { device, method, force, pcidom } => {
                let (device, pcidom) = (device.0, pcidom.as_deref());
                let method = method.map(|method| method.0);
                let wanted = Wanted { device, method, force: *force, pcidom };
                self.reset(env, Asker::Verb(client), wanted).map(|()| None)
            }
            Verb::List { guest, pcidom } => {
                self.list(env, guest.as_deref(), pcidom.as_deref()).map(Some)
            }
            Verb::Status { pcidom } => {
                self.status(env, client, pcidom.as_deref()).map(|()| None)
            }
        };
        match result {
            Ok(None) => {}
            Ok(Some(reply)) => self.reply(client, reply),
            Err(error) => {
                let text = error.to_string();
                log::info!("refused: {text}");
                self.reply(client, Reply::Failed { text });
            }
        }
    }

    /// When [`Daemon::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let loans = self.loans.values().filter_map(Loan::next_look);
        let requests = self.loans.values().filter_map(|loan| loan.serve_at);
        let resets = self.resets.values().map(Reset::next_look);
        let queries = self.queries.iter().map(|query| query.deadline);
        loans
            .chain(requests)
            .chain(self.ears.next())
            .chain(resets)
            .chain(queries)
            .chain(self.next_unfit())
            .min()
    }

    /// A deadline has come.
    pub fn tick(&mut self, env: &mut Env<'_>) {
        for id in self.loan_ids() {
            let look = self.loans.get(&id).and_then(Loan::next_look);
            if look.is_some_and(|look| look <= env.now) {
                self.advance(env, id);
            }
        }
        for fired in self.ears.due(env.now) {
            self.look_at(env, &fired);
        }
        self.serve_put_off(env);
        let now = env.now;
        self.look_at_resets(env, |_, reset| reset.next_look() <= now);
        self.look_at_unfit(env);
        self.answer_queries(env);
    }

    /// A reply that is ready.
    pub fn next_reply(&mut self) -> Option<(Client, Reply)> {
        self.replies.pop_front()
    }

    fn reply(&mut self, client: Client, reply: Reply) {
        self.replies.push_back((client, reply));
    }

    fn loan_ids(&self) -> Vec<LoanId> {
        self.loans.keys().copied().collect()
    }
}

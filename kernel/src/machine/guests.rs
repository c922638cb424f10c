//! Guests: the B-link of each, driven on the platform.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pciback::link::{self, BackEntries, FrontKeys};
use pciback::serve::Action;
use pciback::vbus::Placing;
use pciback::{LeaseError, Server, Trouble, VirtualFunction};
use pcidom_pci::Sbdf;
use pcidom_script::{Instant, Pace};
use pcidom_xenbus::store::StoreError;
use pcidom_xenbus::{DomId, Port};
use vecmap::map::Entry;

use super::Machine;
use super::bus::Customer;
use super::chain::{Chain, LinkDone, LinkId, LinkJob};
use super::jobs;
use super::pace;
use super::storm::Storm;
use super::trace::{Op, Trace};
use super::waits::Waits;
use crate::platform::Platform;

/// One guest: link, server, and what they hold of the platform.
#[derive(Debug)]
pub(super) struct Guest<P: Platform> {
    pub(super) link: link::Link,
    pub(super) server: Server,
    page: Option<P::MappedPage>,
    port: Option<Port>,
    chain: Chain,
    storm: Storm,
    /// What it may write that reaches hardware.
    pub(super) writes: Pace,
    /// How long its lease requests took.
    pub(super) waits: Waits,
    /// Why the last enable of an interrupt failed, for `status`.
    pub(super) trouble: Option<(Sbdf, Trouble)>,
    /// What it may cause to be logged.
    lines: Pace,
}

impl<P: Platform> Guest<P> {
    /// Gives back the room of work that waited.
    pub(super) fn give_back_room(&mut self) {
        self.chain.give_back_room();
    }
}

impl<P: Platform> Machine<P> {
    /// A device is lent to `guest`: its link is made if this is the first.
    pub(super) fn lend(&mut self, guest: DomId, placing: Placing, platform: &mut P) {
        if let Entry::Vacant(vacant) = self.guests.entry(guest) {
            vacant.insert(Guest {
                link: link::Link::new(),
                server: Server::new(),
                page: None,
                port: None,
                chain: Chain::new(LinkId::Guest(guest)),
                storm: Storm::default(),
                writes: pace::of_writes(),
                waits: Waits::default(),
                trouble: None,
                lines: pace::of_lines(),
            });
            self.store.run(move |store| jobs::watch_guest(store, guest));
        }
        self.guest_event(guest, link::Event::Lent(placing), platform);
    }

    /// A loan's end, by the daemon's word: the guest has lost the device already.
    pub(super) fn take_back(&mut self, guest: DomId, device: Sbdf, platform: &mut P) {
        self.serve(guest, platform, |server, _, _, _| server.remove(device));
        self.guest_event(guest, link::Event::Ended(device), platform);
    }

    /// The last loan of `guest` is over and its device has been reset: a dead guest's page
    /// is let go, a living guest's link stays.
    pub(super) fn release_dead(&mut self, guest: DomId, platform: &mut P) {
        if self.guests.get(&guest).is_some_and(|known| known.link.is_gone()) {
            self.guest_event(guest, link::Event::Release, platform);
        }
    }

    /// No loan is left, and the daemon has removed the link's directories.
    pub(super) fn drop_guest(&mut self, guest: DomId, platform: &mut P) {
        let Some(mut gone) = self.guests.remove(&guest) else { return };
        self.bus.forget(Customer::Guest(guest));
        close(&mut gone, platform);
        self.store.run(move |store| jobs::unwatch_guest(store, guest));
        log::info!("domain {guest}: link ended");
    }

    /// The guest's port has fired.
    pub(super) fn guest_port(&mut self, guest: DomId, platform: &mut P) {
        self.serve(guest, platform, |server, page, now, out| {
            if let Some(page) = page {
                server.on_event(page, now, out);
            }
        });
    }

    /// Which guest a port belongs to.
    pub(super) fn guest_of(&self, port: Port) -> Option<DomId> {
        self.guests.iter().find(|(_, guest)| guest.port == Some(port)).map(|(id, _)| *id)
    }

    /// A watch on the guest's front directory has fired.
    pub(super) fn read_guest_front(&mut self, guest: DomId) {
        let dir = jobs::guest_front(guest);
        self.guest_job(guest, LinkJob::ReadKeys { dir, keys: &FrontKeys::KEYS });
    }

    /// A watch on the guest's back directory has fired.
    pub(super) fn read_guest_back(&mut self, guest: DomId) {
        let dir = jobs::guest_back(guest);
        self.guest_job(guest, LinkJob::ReadDir { dir, limit: jobs::MAX_BACK_NODES });
    }

    /// XenStore work of the guest's link has ended.
    pub(super) fn guest_job_done(
        &mut self,
        guest: DomId,
        done: LinkDone,
        platform: &mut P,
    ) {
        let Some(known) = self.guests.get_mut(&guest) else { return };
        known.chain.ended(&mut self.store);
        let event = match done {
            LinkDone::Keys(_, keys) => link::Event::Front(FrontKeys::parse(|key| {
                keys.get(key).map(String::as_str)
            })),
            LinkDone::Dir(Some(nodes)) => link::Event::Back(BackEntries::parse(|key| {
                nodes.get(key).map(String::as_str)
            })),
            LinkDone::Wrote(Err(StoreError::Gone)) => link::Event::Moved,
            LinkDone::Wrote(Err(error)) => {
                log::error!("domain {guest}: cannot write our side of the link: {error}");
                link::Event::Unwritten
            }
            // Its last loan is over, and the link was not kept for another one.
            LinkDone::Dir(None) if !self.has_link(guest) => {
                return self.drop_guest(guest, platform);
            }
            LinkDone::Dir(None) | LinkDone::Wrote(Ok(())) | LinkDone::Opened(_) => return,
        };
        self.guest_event(guest, event, platform);
    }

    /// Lets the guest's server do something, and does what it wants.
    pub(super) fn serve(
        &mut self,
        guest: DomId,
        platform: &mut P,
        call: impl FnOnce(&mut Server, Option<&P::MappedPage>, Instant, &mut Vec<Action>),
    ) {
        let now = platform.now();
        let Some(known) = self.guests.get_mut(&guest) else { return };
        let mut actions = Vec::new();
        call(&mut known.server, known.page.as_ref(), now, &mut actions);
        self.served(guest, actions, now, platform);
    }

    /// What follows a call of the guest's server, apart from the generic part.
    fn served(
        &mut self,
        guest: DomId,
        actions: Vec<Action>,
        now: Instant,
        platform: &mut P,
    ) {
        let Some(known) = self.guests.get_mut(&guest) else { return };
        for finished in known.server.finished() {
            self.trace.keep(now, Trace::Op(guest, Op::new(&finished, now)));
        }
        for action in actions {
            self.server_action(guest, action, now, platform);
        }
    }

    fn server_action(
        &mut self,
        id: DomId,
        action: Action,
        now: Instant,
        platform: &mut P,
    ) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        match action {
            Action::Config(device, access) => {
                self.guest_access(id, device, access, now);
            }
            Action::Lease(device, ask) => self.ask_lease(id, device, ask, now),
            Action::Notify => {
                guest.storm.useful();
                if let Some(port) = guest.port {
                    platform.notify(port);
                }
            }
            Action::Spurious => {
                if let Some(port) = guest.port {
                    self.trace.keep(now, Trace::Port(Some(id), port));
                }
                if guest.storm.spurious(now)
                    && let Some(port) = guest.port
                {
                    platform.set_masked(port, true);
                }
            }
            Action::Trouble(device, trouble) => {
                let told = Some((device, trouble));
                // The same reason again is no news.
                if guest.trouble != told {
                    if guest.lines.may(now) {
                        log::warn!("domain {id}: {device}: {trouble}");
                    }
                    guest.trouble = told;
                }
            }
            Action::Withdrawn(device) => {
                log::info!("domain {id}: {device} taken off the link");
            }
        }
    }

    fn may_log(&mut self, guest: DomId, now: Instant) -> bool {
        self.guests.get_mut(&guest).is_none_or(|known| known.lines.may(now))
    }

    fn guest_event(&mut self, guest: DomId, event: link::Event, platform: &mut P) {
        let Some(known) = self.guests.get_mut(&guest) else { return };
        for action in known.link.handle(event) {
            self.link_action(guest, action, platform);
        }
    }

    fn link_action(&mut self, id: DomId, action: link::Action, platform: &mut P) {
        let back = || jobs::guest_back(id);
        match action {
            link::Action::ReadFront => self.read_guest_front(id),
            link::Action::ReadBack => self.read_guest_back(id),
            link::Action::SetState(state) => {
                let now = platform.now();
                self.trace.keep(now, Trace::Link(Some(id), state));
                if self.may_log(id, now) {
                    log::info!("domain {id}: link goes to state {state}");
                }
                self.guest_job(id, LinkJob::SetState { dir: back(), state });
            }
            link::Action::Write { beside, keys } => {
                let node =
                    |(key, value): (String, String)| (format!("{}/{key}", back()), value);
                let beside = beside.map(node);
                let nodes = keys.into_iter().map(node).collect();
                self.guest_job(id, LinkJob::WriteAll { beside, nodes });
            }
            link::Action::Error(text) => {
                if self.may_log(id, platform.now()) {
                    log::error!("domain {id}: {text}");
                }
                let node = format!("error/backend/pci/{id}/0/error");
                self.guest_job(
                    id,
                    LinkJob::WriteAll { beside: None, nodes: [(node, text)].into() },
                );
            }
            link::Action::Connect { reference, port } => {
                let result = self.connect(id, reference, port, platform);
                self.guest_event(id, link::Event::Connected(result), platform);
                self.guest_port(id, platform);
            }
            link::Action::Disconnect => {
                self.serve(id, platform, |server, _, _, out| server.shut(out));
                if let Some(guest) = self.guests.get_mut(&id) {
                    close(guest, platform);
                }
            }
            link::Action::Export { device, at } => {
                let function =
                    self.pool.get(&device).and_then(|known| known.function.as_ref());
                let Some(function) = function else {
                    log::error!("domain {id}: {device} was exported but is not known");
                    return;
                };
                let mut loans = self.loans.values();
                let order = loans
                    .find(|loan| loan.is_with(id) && loan.order.device == device)
                    .map(|loan| loan.order);
                let function = match order.is_some_and(|order| order.line) {
                    true => VirtualFunction::new(function),
                    false => VirtualFunction::without_line(function),
                };
                let exceptions = order.map(|order| order.exceptions);
                let function = function.with(&exceptions.unwrap_or_default());
                log::info!("domain {id}: {device} appears as {at}");
                self.serve(id, platform, |server, _, _, _| {
                    server.add(at, function);
                });
            }
            link::Action::Withdraw(device) => {
                self.serve(id, platform, |server, _, _, out| {
                    server.withdraw(device, out);
                });
            }
        }
    }

    fn connect(
        &mut self,
        id: DomId,
        reference: pcidom_xenbus::GrantRef,
        port: Port,
        platform: &mut P,
    ) -> Result<(), String> {
        let Some(guest) = self.guests.get_mut(&id) else {
            return Err("no such guest".into());
        };
        close(guest, platform);
        let page =
            platform.map_grant(id, reference).map_err(|error| error.to_string())?;
        match platform.bind_interdomain(id, port) {
            Ok(port) => {
                (guest.page, guest.port) = (Some(page), Some(port));
                Ok(())
            }
            Err(error) => {
                if let Err(error) = platform.unmap_grant(page) {
                    log::error!("domain {id}: {error}");
                }
                Err(error.to_string())
            }
        }
    }

    /// Writes a node when everything that the guest's link has to write is written.
    pub(super) fn write_with_link(&mut self, guest: DomId, path: String, value: String) {
        let nodes = [(path, value)].into();
        self.guest_job(guest, LinkJob::WriteAll { beside: None, nodes });
    }

    fn guest_job(&mut self, guest: DomId, job: LinkJob) {
        if let Some(guest) = self.guests.get_mut(&guest) {
            guest.chain.push(job, &mut self.store);
        }
    }

    /// The daemon's word on what the guest's server asked for.
    pub(super) fn lease_told(
        &mut self,
        guest: DomId,
        answer: Result<Vec<pcidom_xenbus::Pirq>, LeaseError>,
        platform: &mut P,
    ) {
        let count =
            answer.as_ref().map(|pirqs| u16::try_from(pirqs.len()).unwrap_or(u16::MAX));
        self.trace
            .keep(platform.now(), Trace::Leased(guest, count.map_err(|error| *error)));
        self.serve(guest, platform, |server, page, now, out| {
            server.on_lease(page, answer, now, out);
        });
    }

    /// Deadlines of guests that have passed.
    pub(super) fn tick_guests(&mut self, now: Instant, platform: &mut P) {
        let ids: Vec<DomId> = self.guests.keys().copied().collect();
        for id in ids {
            let Some(guest) = self.guests.get_mut(&id) else { continue };
            if guest.storm.tick(now)
                && let Some(port) = guest.port
            {
                platform.set_masked(port, false);
            }
            if guest.server.deadline().is_some_and(|until| until <= now) {
                self.serve(id, platform, |server, page, now, out| {
                    server.on_time(page, now, out);
                });
            }
        }
    }

    /// The next deadline of any guest.
    pub(super) fn guests_deadline(&self) -> Option<Instant> {
        let of = |guest: &Guest<P>| [guest.storm.deadline(), guest.server.deadline()];
        self.guests.values().flat_map(of).flatten().min()
    }
}

/// Lets go of the guest's page and port.
fn close<P: Platform>(guest: &mut Guest<P>, platform: &mut P) {
    if let Some(port) = guest.port.take() {
        platform.close(port);
    }
    if let Some(page) = guest.page.take()
        && let Err(error) = platform.unmap_grant(page)
    {
        log::error!("a guest's page stays mapped: {error}");
    }
}

//! pcidom: the state machine, and what the image does around it.

use std::collections::VecDeque;

use pciback::link::{Action, BackEntries, Event, FrontKeys, Link};
use pciback::vbus::Placing;
use pcidom_xenbus::pciif::MAGIC;
use pcidom_xenbus::{GrantRef, Port, XenbusState};

use super::daemon::Order;
use super::{Blink, State};
use crate::search::{Broken, Will};
use crate::store::{DEVICES, Device, Page, Slot, address, device_at, slot_of};

/// A device is shown to its owner only.
pub(super) const OWNER: &str = "a device is shown to a guest only while it is lent to it";
/// What is taken off is what was to go.
pub(super) const WRONG: &str = "a device is taken off only if it is to go";
/// An address means one thing at a time.
pub(super) const STALE: &str =
    "an address is given again only when the guest has let it go";
/// The page of a dead guest goes last.
pub(super) const PAGE_LAST: &str =
    "a dead guest's page is let go when its devices are reset";

/// Which watches have fired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Fired {
    pub(super) front: bool,
    pub(super) back: bool,
    pub(super) orders: bool,
}

/// Work for XenStore, as in `chain.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Job {
    SetState(XenbusState),
    Write(Option<(String, String)>, Vec<(String, String)>),
    ReadFront,
    ReadBack,
    /// Report that the loan of this device is over.
    Report(Device),
}

impl Job {
    const fn is_read(&self) -> bool {
        matches!(self, Self::ReadFront | Self::ReadBack)
    }
}

/// pcidom.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Ours {
    pub(super) link: Option<Link>,
    pub(super) fired: Fired,
    queue: VecDeque<Job>,
    /// The guest's page that is mapped.
    pub(super) page: Option<Page>,
    /// Where the server shows each device.
    pub(super) served: [Option<Slot>; DEVICES],
    /// Orders that were obeyed.
    known: [Option<Order>; DEVICES],
    /// Loans that are over, with the device reset.
    over: [bool; DEVICES],
}

/// What pcidom does.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Sees that the guest's state has changed.
    SeesFront,
    /// Sees that the state of its own directory has changed.
    SeesBack,
    /// Reads the daemon's orders and obeys.
    Obeys,
    /// XenStore does what it was asked for, and the answer is taken.
    Served,
    /// The reset at the end of a loan is done.
    HasReset(Device),
}

pub(super) fn steps(state: &State, to: &mut Vec<(Will, super::Step)>) {
    let ours = &state.ours;
    let mut must = |step| to.push((Will::Must, super::Step::Ours(step)));
    if ours.fired.front {
        must(Step::SeesFront);
    }
    if ours.fired.back {
        must(Step::SeesBack);
    }
    if ours.fired.orders {
        must(Step::Obeys);
    }
    if !ours.queue.is_empty() {
        must(Step::Served);
    }
    for device in 0..2 {
        let place = usize::from(device);
        if ours.known[place] == Some(Order::Ending) && !ours.over[place] {
            must(Step::HasReset(device));
        }
    }
}

impl Ours {
    /// Nothing has happened that we have not read and answered yet.
    pub(super) fn has_seen_all(&self) -> bool {
        !self.fired.front && !self.fired.back && self.queue.is_empty()
    }

    /// The first in the queue is with XenStore already.
    fn push(&mut self, job: Job) {
        let mut waits = self.queue.iter().skip(1);
        if !job.is_read() {
            // Before the reads that wait: they are to see it.
            let reads = self.queue.iter().skip(1).position(Job::is_read);
            let place = reads.map_or(self.queue.len(), |reads| reads + 1);
            self.queue.insert(place, job);
        } else if !waits.any(|waiting| *waiting == job) {
            self.queue.push_back(job);
        }
    }

    /// XenStore has something to do for it.
    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty() || self.fired != Fired::default()
    }

    /// It has made the device ready for a loan.
    pub(super) fn has_prepared(&self, device: Device) -> bool {
        self.known[usize::from(device)] == Some(Order::Prepare)
    }
}

impl Blink {
    pub(super) fn our_step(&self, state: &mut State, step: Step) -> Result<(), Broken> {
        let ours = &mut state.ours;
        match step {
            Step::SeesFront => {
                ours.fired.front = false;
                ours.push(Job::ReadFront);
            }
            Step::SeesBack => {
                ours.fired.back = false;
                ours.push(Job::ReadBack);
            }
            Step::Obeys => {
                ours.fired.orders = false;
                // What is over comes first.
                for gone in [true, false] {
                    for device in 0..2 {
                        let order = state.daemon.orders[usize::from(device)];
                        let over = matches!(order, None | Some(Order::Prepare));
                        if over == gone {
                            self.obey(state, device)?;
                        }
                    }
                }
            }
            Step::Served => return self.serve(state),
            Step::HasReset(device) => {
                ours.over[usize::from(device)] = true;
                // After what the link has to write.
                ours.push(Job::Report(device));
                let all = (0..DEVICES).all(|n| !has_link(&ours.known[n]) || ours.over[n]);
                let gone = ours.link.as_ref().is_some_and(Link::is_gone);
                if all && gone {
                    // `release_dead`
                    return self.event(state, Event::Release);
                }
            }
        }
        Ok(())
    }

    /// `new_orders`
    fn obey(&self, state: &mut State, device: Device) -> Result<(), Broken> {
        let place = usize::from(device);
        let order = state.daemon.orders[place];
        let ours = &mut state.ours;
        let before = core::mem::replace(&mut ours.known[place], order);
        match (before, order) {
            (before, order) if before == order => Ok(()),
            (_, Some(Order::Lent)) => {
                if ours.link.is_none() {
                    ours.link = Some(Link::new());
                    // New watches fire once.
                    (ours.fired.front, ours.fired.back) = (true, true);
                }
                let placing = Placing {
                    device: address(device),
                    slot: None,
                    policy: pciback::vbus::BusPolicy::Vpci,
                    virtual_function: false,
                    bridge: false,
                };
                self.event(state, Event::Lent(placing))
            }
            (Some(Order::Lent), Some(Order::Ending)) => {
                ours.served[place] = None;
                self.event(state, Event::Ended(address(device)))
            }
            (_, Some(Order::Ending)) => Ok(()),
            // Another loan has the number of this one, or none has.
            (_, Some(Order::Prepare) | None) => {
                ours.over[place] = false;
                if before == Some(Order::Lent) {
                    ours.served[place] = None;
                    self.event(state, Event::Ended(address(device)))?;
                }
                if state.daemon.orders.iter().all(Option::is_none) {
                    return drop_guest(state);
                }
                if before.is_some() && !state.ours.known.iter().any(has_link) {
                    // The link may have been kept.
                    state.ours.push(Job::ReadBack);
                }
                Ok(())
            }
        }
    }

    fn serve(&self, state: &mut State) -> Result<(), Broken> {
        let Some(job) = state.ours.queue.pop_front() else { return Ok(()) };
        let event = match job {
            Job::SetState(to) => match state.dirs.back {
                Some(_) => {
                    state.set_back(to);
                    return Ok(());
                }
                None => Event::Moved,
            },
            Job::Write(beside, keys) => match &mut state.dirs.back {
                Some(back)
                    if beside
                        .is_none_or(|(key, value)| back.get(&key) == Some(&value)) =>
                {
                    for (key, value) in &keys {
                        back.set(key, value);
                    }
                    return Ok(());
                }
                _ => Event::Moved,
            },
            Job::Report(device) => {
                let ending = state.daemon.orders[usize::from(device)];
                state.daemon.returned[usize::from(device)] =
                    ending == Some(Order::Ending);
                return Ok(());
            }
            Job::ReadFront => Event::Front(front_keys(state)),
            Job::ReadBack => match &state.dirs.back {
                Some(back) => Event::Back(BackEntries::parse(|key| back.get(key))),
                None if !state.ours.known.iter().any(has_link) => {
                    return drop_guest(state);
                }
                None => return Ok(()),
            },
        };
        self.event(state, event)
    }

    fn event(&self, state: &mut State, event: Event) -> Result<(), Broken> {
        let Some(link) = &mut state.ours.link else { return Ok(()) };
        let actions = match self.mutation {
            None => link.handle(event),
            Some(mutation) => mutation.handle(link, event),
        };
        actions.into_iter().try_for_each(|action| self.act(state, action))
    }

    fn act(&self, state: &mut State, action: Action) -> Result<(), Broken> {
        let ours = &mut state.ours;
        match action {
            Action::ReadFront => ours.push(Job::ReadFront),
            Action::ReadBack => ours.push(Job::ReadBack),
            Action::SetState(to) => ours.push(Job::SetState(to)),
            Action::Write { beside, keys } => ours.push(Job::Write(beside, keys)),
            Action::Error(_) => {}
            Action::Connect { reference, .. } => {
                close(state)?;
                let page = Page::try_from(reference.0).ok();
                let there = page.is_some() && state.guest.open == page;
                let result = match there {
                    true => {
                        state.ours.page = page;
                        Ok(())
                    }
                    false => Err(String::new()),
                };
                return self.event(state, Event::Connected(result));
            }
            Action::Disconnect => return close(state),
            Action::Export { device, at } => {
                let Some(device) = device_at(device) else { return Ok(()) };
                if ours.known[usize::from(device)] != Some(Order::Lent) {
                    let text = format!("device {device} is exported");
                    return Err(Broken::new(OWNER, text));
                }
                let slot = slot_of(at);
                ours.served[usize::from(device)] = Some(slot);
                let found = state.guest.found[usize::from(slot)];
                if found.is_some_and(|found| found != device) {
                    let text = format!("device {device} at {slot}, there is {found:?}");
                    return Err(Broken::new(STALE, text));
                }
            }
            Action::Withdraw(device) => {
                let Some(device) = device_at(device) else { return Ok(()) };
                let entry = state.dirs.entry(device);
                let stays = entry.is_some_and(|entry| {
                    matches!(
                        entry.state,
                        XenbusState::Initialising | XenbusState::Initialised
                    )
                });
                // The daemon may have lost patience with the guest meanwhile.
                let used = state.guest.found.contains(&Some(device));
                if (stays || used) && state.faults == 0 {
                    let text = format!("device {device} is withdrawn, {entry:?}");
                    return Err(Broken::new(WRONG, text));
                }
                ours.served[usize::from(device)] = None;
            }
        }
        Ok(())
    }
}

/// A loan that is being prepared has no part in the link.
const fn has_link(order: &Option<Order>) -> bool {
    matches!(order, Some(Order::Lent | Order::Ending))
}

/// `drop_guest`
fn drop_guest(state: &mut State) -> Result<(), Broken> {
    close(state)?;
    let ours = &mut state.ours;
    ours.link = None;
    ours.queue.clear();
    (ours.fired.front, ours.fired.back) = (false, false);
    Ok(())
}

fn close(state: &mut State) -> Result<(), Broken> {
    let Ours { page, known, over, .. } = &mut state.ours;
    let in_use = (0..DEVICES).any(|n| has_link(&known[n]) && !over[n]);
    if page.take().is_some() && !state.guest.alive && in_use {
        return Err(Broken::new(PAGE_LAST, super::ends(state)));
    }
    Ok(())
}

fn front_keys(state: &State) -> FrontKeys {
    let Some(front) = &state.dirs.front else { return FrontKeys::default() };
    FrontKeys {
        state: front.state,
        pci_op_ref: front.page.map(|page| GrantRef(page.into())),
        event_channel: front.page.map(|page| Port(page.into())),
        magic: front.page.map(|_| MAGIC.into()),
    }
}

//! pcidom: the state machine, and what the image does around it.

use std::collections::VecDeque;

use pcidom_xenbus::XenbusState;
use pcifront::exports::{Export, parse_exports};
use pcifront::link::{Action, Event, Link};

use super::{Alink, Fired, State};
use crate::search::{Broken, Will};
use crate::store::{DEVICES, Device, Page, Slot, device_at, slot_of};

/// The device is not lent when dom0 gets it back.
pub(super) const IN_USE: &str = "a device that is given back is not in use";
/// One page at a time.
pub(super) const ONE_PAGE: &str =
    "the link has one page at a time, and a state only with it";

/// How pcidom has a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Use {
    /// It is not in the pool.
    #[default]
    Absent,
    /// It is, and nobody uses it.
    Free,
    /// It is lent.
    Lent,
    /// It is lent and has to go.
    Leaving,
    /// The same, and it has come back already.
    Returning,
}

impl Use {
    /// Somebody uses it.
    pub(super) const fn is_in_use(self) -> bool {
        matches!(self, Self::Lent | Self::Leaving | Self::Returning)
    }

    /// It is in the pool, as far as dom0 is concerned.
    pub(super) const fn is_there(self) -> bool {
        matches!(self, Self::Free | Self::Lent | Self::Returning)
    }
}

/// Work for XenStore, as in `chain.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Job {
    /// Write our state beside this page.
    Write(XenbusState, Option<Page>),
    Open(Page),
    ReadFront,
    ReadBack,
    ReadDir,
}

impl Job {
    const fn is_read(self) -> bool {
        matches!(self, Self::ReadFront | Self::ReadBack | Self::ReadDir)
    }
}

/// How far the first job is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Running {
    Asked(Job),
    /// The details are written, the state is not.
    Half(Page),
    /// XenStore has answered, and nobody has looked.
    Told(Told),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Told {
    Wrote,
    Opened(bool),
    Front(XenbusState),
    Back(XenbusState),
    Dir(Option<Vec<Export>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Search {
    Asked,
    Found(bool),
}

/// pcidom.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Ours {
    pub(super) link: Link,
    pub(super) fired: Fired,
    pub(super) watches_back: bool,
    back_known: bool,
    search: Option<Search>,
    /// Answers come in the order of the requests: that of the search is next.
    search_first: bool,
    running: Option<Running>,
    queue: VecDeque<Job>,
    /// To be tried again after a while.
    pub(super) again: bool,
    pub(super) open: Option<Page>,
    last_page: Page,
    pub(super) pool: [Use; DEVICES],
    /// Where each of them is on the link.
    pub(super) at: [Option<Slot>; DEVICES],
}

/// What pcidom does.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Sees that the backend's directory came or went.
    SeesBus,
    /// Sees that its own state has changed.
    SeesOwn,
    /// Sees that the backend's state has changed.
    SeesBack,
    /// XenStore does what it was asked for.
    Served,
    /// The answer is taken.
    Takes,
    /// XenStore looks where the backend is.
    SearchServed,
    /// The answer is taken.
    SearchTaken,
    /// What failed is tried again.
    Again,
    /// A device is lent.
    Lends(Device),
    /// The loan of a device that has to go ends.
    LoanEnds(Device),
}

impl Ours {
    /// Nothing is on its way, and no loan has to end.
    pub(super) fn is_idle(&self) -> bool {
        let leaving = |has: &Use| matches!(has, Use::Leaving | Use::Returning);
        self.fired == Fired::default()
            && self.running.is_none()
            && self.search.is_none()
            && !self.pool.iter().any(leaving)
    }

    fn push(&mut self, job: Job) {
        if !job.is_read() {
            // Before the reads that wait: they are to see it.
            let reads = self.queue.iter().position(|waiting| waiting.is_read());
            self.queue.insert(reads.unwrap_or(self.queue.len()), job);
        } else if !self.queue.contains(&job) {
            self.queue.push_back(job);
        }
        self.start();
    }

    fn start(&mut self) {
        if self.running.is_none() {
            self.running = self.queue.pop_front().map(Running::Asked);
        }
    }

    fn read_back(&mut self) {
        if self.back_known {
            self.push(Job::ReadBack);
        }
    }
}

impl Alink {
    pub(super) fn our_steps(&self, state: &State, to: &mut Vec<(Will, super::Step)>) {
        let ours = &state.ours;
        let mut must = |step| to.push((Will::Must, super::Step::Ours(step)));
        if ours.fired.bus && ours.search.is_none() {
            must(Step::SeesBus);
        }
        if ours.fired.own {
            must(Step::SeesOwn);
        }
        if ours.fired.other {
            must(Step::SeesBack);
        }
        match ours.running {
            Some(Running::Asked(_) | Running::Half(_)) => must(Step::Served),
            Some(Running::Told(_)) if !ours.search_first => must(Step::Takes),
            Some(Running::Told(_)) => {}
            None => {}
        }
        match ours.search {
            Some(Search::Asked) => must(Step::SearchServed),
            Some(Search::Found(_)) if ours.search_first => must(Step::SearchTaken),
            Some(Search::Found(_)) => {}
            None => {}
        }
        for (device, has) in (0_u8..).zip(ours.pool) {
            match has {
                Use::Leaving | Use::Returning => must(Step::LoanEnds(device)),
                Use::Absent | Use::Free | Use::Lent => {}
            }
        }
        for (device, has) in (0_u8..).zip(ours.pool) {
            if has == Use::Free && state.loans < self.loans {
                to.push((Will::May, super::Step::Ours(Step::Lends(device))));
            }
        }
    }

    pub(super) fn our_step(&self, state: &mut State, step: Step) -> Result<(), Broken> {
        let ours = &mut state.ours;
        match step {
            Step::SeesBus => {
                ours.fired.bus = false;
                ours.search = Some(Search::Asked);
                if self.prompt {
                    search(state);
                    return self.searched(state);
                }
            }
            Step::SeesOwn => {
                ours.fired.own = false;
                ours.push(Job::ReadFront);
            }
            Step::SeesBack => {
                ours.fired.other = false;
                ours.read_back();
            }
            Step::Served => {
                serve(state);
                if self.prompt && matches!(state.ours.running, Some(Running::Told(_))) {
                    return self.taken(state);
                }
            }
            Step::Takes => return self.taken(state),
            Step::SearchServed => search(state),
            Step::SearchTaken => return self.searched(state),
            Step::Again => {
                ours.again = false;
                ours.read_back();
            }
            Step::Lends(device) => {
                ours.pool[usize::from(device)] = Use::Lent;
                state.loans += 1;
            }
            Step::LoanEnds(device) => return self.device_left(state, device),
        }
        Ok(())
    }

    /// `back_found`
    fn searched(&self, state: &mut State) -> Result<(), Broken> {
        let ours = &mut state.ours;
        let found = ours.search.take() == Some(Search::Found(true));
        ours.search_first = false;
        let gone = ours.back_known && !found;
        ours.back_known = found;
        if gone {
            self.event(state, Event::Backend(XenbusState::Unknown))?;
        }
        state.ours.read_back();
        Ok(())
    }

    /// `alink_job_done`
    fn taken(&self, state: &mut State) -> Result<(), Broken> {
        let ours = &mut state.ours;
        let Some(Running::Told(told)) = ours.running.take() else { return Ok(()) };
        ours.search_first = matches!(ours.search, Some(Search::Found(_)));
        ours.start();
        let event = match told {
            Told::Wrote => return Ok(()),
            Told::Opened(true) => Event::Opened,
            Told::Opened(false) => {
                ours.open = None;
                ours.at = [None; DEVICES];
                Event::OpenFailed
            }
            Told::Front(state) => Event::Front(state),
            Told::Back(state) if ours.back_known => Event::Backend(state),
            Told::Back(_) => return Ok(()),
            Told::Dir(Some(exports)) => Event::Devices(exports),
            Told::Dir(None) => Event::ReadFailed,
        };
        match event {
            Event::OpenFailed | Event::ReadFailed => ours.again = true,
            Event::Opened | Event::Devices(_) => ours.again = false,
            _ => {}
        }
        self.event(state, event)
    }

    fn event(&self, state: &mut State, event: Event) -> Result<(), Broken> {
        let link = &mut state.ours.link;
        let actions = match self.mutation {
            None => link.handle(event),
            Some(mutation) => mutation.handle(link, event),
        };
        actions.into_iter().try_for_each(|action| self.act(state, action))
    }

    fn act(&self, state: &mut State, action: Action) -> Result<(), Broken> {
        let ours = &mut state.ours;
        match action {
            Action::Open => {
                if ours.open.is_some() {
                    return Err(Broken::new(ONE_PAGE, "opened twice"));
                }
                ours.last_page = 1 - ours.last_page;
                ours.open = Some(ours.last_page);
                ours.push(Job::Open(ours.last_page));
            }
            Action::SetState(to) => {
                if ours.open.is_none() {
                    return Err(Broken::new(ONE_PAGE, format!("{to} without a page")));
                }
                let kept = |has: &Use| match to {
                    XenbusState::Reconfiguring => {
                        matches!(has, Use::Leaving | Use::Returning)
                    }
                    XenbusState::Closed => has.is_in_use(),
                    _ => false,
                };
                if ours.pool.iter().any(kept) {
                    return Err(Broken::new(IN_USE, format!("we say {to}")));
                }
                ours.push(Job::Write(to, ours.open));
            }
            Action::ReadDevices => {
                if ours.back_known {
                    ours.push(Job::ReadDir);
                }
            }
            Action::Added(export) => self.device_added(state, export),
            Action::Removed(device) => {
                let Some(device) = device_at(device) else { return Ok(()) };
                let has = &mut ours.pool[usize::from(device)];
                match *has {
                    Use::Returning => *has = Use::Leaving,
                    Use::Lent => *has = Use::Leaving,
                    Use::Leaving => {}
                    Use::Free | Use::Absent => return self.device_left(state, device),
                }
            }
            Action::Close => {
                if ours.open.is_none() {
                    return Err(Broken::new(ONE_PAGE, "closed without a page"));
                }
                ours.open = None;
                ours.at = [None; DEVICES];
            }
        }
        Ok(())
    }

    fn device_added(&self, state: &mut State, export: Export) {
        let ours = &mut state.ours;
        let Some(device) = device_at(export.device).map(usize::from) else { return };
        ours.at[device] = export.at.map(slot_of);
        ours.pool[device] = match ours.pool[device] {
            Use::Leaving | Use::Returning => Use::Returning,
            Use::Absent | Use::Free | Use::Lent => Use::Free,
        };
    }

    fn device_left(&self, state: &mut State, device: Device) -> Result<(), Broken> {
        let place = usize::from(device);
        let (had, at) = (state.ours.pool[place], state.ours.at[place]);
        (state.ours.pool[place], state.ours.at[place]) = (Use::Absent, None);
        self.event(state, Event::Released(crate::store::address(device)))?;
        if had == Use::Returning {
            // Unless that was the end of the page, which forgets where they were.
            (state.ours.pool[place], state.ours.at[place]) = (Use::Free, at);
        }
        Ok(())
    }
}

/// XenStore looks where the backend is.
fn search(state: &mut State) {
    let found = state.dirs.front.is_some();
    let ours = &mut state.ours;
    ours.search = Some(Search::Found(found));
    ours.search_first = !matches!(ours.running, Some(Running::Told(_)));
    if found && !ours.watches_back {
        // A new watch fires once.
        (ours.watches_back, ours.fired.other) = (true, true);
    }
}

/// XenStore does the job, or half of it.
fn serve(state: &mut State) {
    let Some(running) = state.ours.running.take() else { return };
    let told = match running {
        Running::Asked(Job::Open(page)) => match &mut state.dirs.front {
            Some(front) => {
                front.page = Some(page);
                state.ours.running = Some(Running::Half(page));
                return;
            }
            None => Told::Opened(false),
        },
        Running::Half(page) => {
            Told::Opened(write(state, XenbusState::Initialised, Some(page)))
        }
        Running::Asked(Job::Write(to, page)) => {
            write(state, to, page);
            Told::Wrote
        }
        Running::Asked(Job::ReadFront) => Told::Front(state.dirs.front_state()),
        Running::Asked(Job::ReadBack) => Told::Back(state.dirs.back_state()),
        Running::Asked(Job::ReadDir) => {
            let back = state.dirs.back.as_ref();
            Told::Dir(back.map(|back| parse_exports(|key| back.get(key))))
        }
        Running::Told(told) => told,
    };
    state.ours.running = Some(Running::Told(told));
}

/// `set_alink_state`: not into a directory made in the place of ours.
fn write(state: &mut State, to: XenbusState, page: Option<Page>) -> bool {
    match &mut state.dirs.front {
        Some(front) if front.page == page => front.state = to,
        _ => return false,
    }
    state.wrote_front();
    true
}

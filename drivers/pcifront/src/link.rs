//! The XenBus state machine of the A-link's frontend.
//!
//! ```text
//!          (1) backend 1, 2, 3       (2) Opened               (3) backend 4
//!    Down ---------------> Opening ------------> Initialised ------------> Connected --.
//!     ^ ^                     |                       |                     ^  |  ^    | (4)
//!     | '---------------------'                       | (5) backend 7       |  |  '----' 4 or 8
//!     |    (11) OpenFailed                            v                     |  |
//!     |                                           Releasing <---------------|--' (5)
//!     |                                               | (6) all Released    | backend 7
//!     |                                               v                     |
//!     |                                         Reconfiguring --------------'
//!     |                                                        (7) backend 8 or 4
//!     |        (9) all Released
//!     '---------------- Closing <--- (8) backend 5 or 6 --- any of the linked states
//!     '--- (10) backend gone, own directory gone or made afresh --- any state
//! ```
//!
//! *Linked* are Initialised, Connected, Releasing and Reconfiguring. What happens on the way:
//!
//! 1. `Open`: page, port, three keys, own state 3.
//! 2. What the backend has said meanwhile is looked at now. If the directories have gone
//!    meanwhile, ours is one that has been made since, or we are about to be told that it
//!    is gone as well: the page is published, and dom0 may have mapped it already.
//! 3. `ReadDevices`, then `Added` for each, own state 4.
//! 4. A rescan: `ReadDevices`, then what differs. No state is written. Toolstacks tell a
//!    connected frontend "Connected" again, without Closing in between.
//! 5. `ReadDevices`, then `Removed` for what leaves. From Initialised "Connected" was
//!    missed, and the change is taken up all the same.
//! 6. Own state 7: only now may the toolstack think that the devices are out of use.
//! 7. `ReadDevices`, then `Added` for what is new, own state 4.
//! 8. `Removed` for all.
//! 9. Own state 6, `Close`. Linux's backend never comes back from there by itself; a new
//!    one starts at (1).
//! 10. `Removed` for all, `Close`, and no state: nobody is left to read it, and it could
//!     hit a directory that the toolstack has just made for the next life of the link. If
//!     a new backend is there already, (1) follows at once.
//! 11. The next thing the backend says starts over, and has done so if it has come already.
//!
//! Backend states 1, 2 and 3 mean nothing to a linked frontend. Every state may come again
//! or be missed; what counts is where both ends are now. While a directory is being read
//! the backend may move on, so a result that was asked for before its last word is thrown
//! away and read again.

use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use vecmap::VecSet;
use vecmap::map::{Entry, VecMap};

use pcidom_pci::Sbdf;
use pcidom_xenbus::XenbusState;

use crate::exports::Export;

/// What the link is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The backend's state node as it was just read, after any event of its watch, changed
    /// or not. [`XenbusState::Unknown`] if it is gone.
    Backend(XenbusState),
    /// Our own state node as it was just read, after any event of its watch. `Unknown` if
    /// the directory is gone; `Initialising` if the toolstack has made it afresh. All else
    /// is an echo of what we wrote.
    Front(XenbusState),
    /// [`Action::Open`] is done, and XenStore has confirmed the state. What was read of our
    /// directory before that is told before, and what comes later, later.
    Opened,
    /// [`Action::Open`] failed, and nothing is left of it.
    OpenFailed,
    /// The answer to [`Action::ReadDevices`]: the whole directory, from one transaction.
    Devices(Vec<Export>),
    /// [`Action::ReadDevices`] failed. A directory that is gone says so by
    /// [`Event::Backend`].
    ReadFailed,
    /// The answer to [`Action::Removed`]: nothing uses the device any more. It must come
    /// for each, at once if the device was not lent, and at the latest when whoever ends
    /// the loan gives up.
    Released(Sbdf),
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Grant a zeroed page, make a port, write `pci-op-ref`, `event-channel` and `magic` in
    /// one transaction, then state 3. Answered by [`Event::Opened`] or
    /// [`Event::OpenFailed`].
    Open,
    /// Write our state node. A write that fails is no news.
    SetState(XenbusState),
    /// Read the backend's directory in one transaction. Answered by [`Event::Devices`] or
    /// [`Event::ReadFailed`]; never asked for again before that.
    ReadDevices,
    /// The pool has one more device. It may be one whose removal is still under way.
    Added(Export),
    /// The pool has one less. Its loan ends now, then [`Event::Released`] follows. Unless
    /// [`Action::Close`] comes with it, it can be accessed until then.
    Removed(Sbdf),
    /// Take the grant back and close the port; what is in flight fails.
    Close,
}

/// Where the link is; see the drawing above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing is open.
    Down,
    /// [`Action::Open`] is under way; `abandoned` if it was begun for directories that are
    /// gone.
    Opening {
        /// The link was lost meanwhile.
        abandoned: bool,
    },
    /// Own state 3: the backend is to connect.
    Initialised,
    /// Own state 4.
    Connected,
    /// The backend is in 7, and devices that leave are still in use.
    Releasing,
    /// Own state 7: the backend is to take the change up.
    Reconfiguring,
    /// The backend is in 5 or 6, and devices are still in use.
    Closing,
}

impl State {
    /// The page is open and the backend may be using it.
    pub const fn is_linked(self) -> bool {
        match self {
            Self::Initialised
            | Self::Connected
            | Self::Releasing
            | Self::Reconfiguring => true,
            Self::Down | Self::Opening { .. } | Self::Closing => false,
        }
    }
}

/// Whether [`Action::ReadDevices`] is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reading {
    No,
    Asked,
    /// Something has happened since.
    Stale,
}

/// One A-link.
#[derive(Clone, Debug)]
pub struct Link {
    state: State,
    /// What we wrote last.
    own: XenbusState,
    /// What the backend said last.
    backend: XenbusState,
    /// Our directory is there, as far as we know.
    front: bool,
    /// What was `Added` and not `Removed`.
    devices: VecMap<Sbdf, Export>,
    /// What was `Removed` and not `Released`.
    leaving: VecSet<Sbdf>,
    reading: Reading,
}

/// Two links that differ in what they do next differ in this.
impl Hash for Link {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Self { state, own, backend, front, devices, leaving, reading } = self;
        (state, own, backend, front, reading).hash(hasher);
        (devices.as_slice(), leaving.as_slice()).hash(hasher);
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

impl Link {
    /// A link of which nothing is known yet.
    pub const fn new() -> Self {
        Self {
            state: State::Down,
            own: XenbusState::Unknown,
            backend: XenbusState::Unknown,
            front: true,
            devices: VecMap::new(),
            leaving: VecSet::new(),
            reading: Reading::No,
        }
    }

    /// The link as an earlier life of ours has left it: `own` is our state node, and
    /// `devices` what had been added. The page and the port are still those of then.
    pub fn resume(own: XenbusState, devices: impl IntoIterator<Item = Export>) -> Self {
        let state = match own {
            XenbusState::Initialised => State::Initialised,
            XenbusState::Connected => State::Connected,
            XenbusState::Reconfiguring => State::Reconfiguring,
            XenbusState::Unknown
            | XenbusState::Initialising
            | XenbusState::InitWait
            | XenbusState::Closing
            | XenbusState::Closed
            | XenbusState::Reconfigured => return Self::new(),
        };
        let devices = devices.into_iter().map(|export| (export.device, export)).collect();
        Self { state, own, devices, ..Self::new() }
    }

    /// Where it is.
    pub const fn state(&self) -> State {
        self.state
    }

    /// What the backend said last.
    pub const fn backend(&self) -> XenbusState {
        self.backend
    }

    /// The devices that were added and not removed.
    pub fn devices(&self) -> impl Iterator<Item = &Export> {
        self.devices.values()
    }

    /// One of them.
    pub fn device(&self, device: Sbdf) -> Option<&Export> {
        self.devices.get(&device)
    }

    /// Takes an event; what it returns is to be done in order.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let todo = &mut actions;
        match event {
            Event::Backend(state) => {
                self.backend = state;
                self.follow_backend(todo);
            }
            Event::Front(XenbusState::Unknown) => {
                self.front = false;
                self.lose(todo);
            }
            Event::Front(XenbusState::Initialising) => {
                self.front = true;
                // An open under way is what will change this state.
                if !matches!(self.state, State::Opening { .. }) {
                    self.lose(todo);
                    self.open_if_possible(todo);
                }
            }
            Event::Front(_) => self.front = true,
            Event::Opened => self.opened(todo),
            Event::OpenFailed => {
                if let State::Opening { abandoned } = self.state {
                    self.state = State::Down;
                    if abandoned {
                        self.open_if_possible(todo);
                    }
                }
            }
            Event::Devices(exports) => self.take_devices(&exports, todo),
            Event::ReadFailed => {
                if core::mem::replace(&mut self.reading, Reading::No) == Reading::Stale {
                    self.follow_backend(todo);
                }
            }
            Event::Released(device) => {
                self.leaving.remove(&device);
                self.finish_releasing(todo);
                self.finish_closing(todo);
            }
        }
        actions
    }

    /// Does what the backend's state asks for, here and now.
    fn follow_backend(&mut self, todo: &mut Vec<Action>) {
        match self.backend {
            XenbusState::Unknown => self.lose(todo),
            XenbusState::Initialising
            | XenbusState::InitWait
            | XenbusState::Initialised => {
                self.open_if_possible(todo);
            }
            XenbusState::Connected
            | XenbusState::Reconfiguring
            | XenbusState::Reconfigured => {
                if self.state.is_linked() {
                    self.read_devices(todo);
                }
            }
            XenbusState::Closing | XenbusState::Closed => {
                if self.state.is_linked() {
                    self.remove_all(todo);
                    self.state = State::Closing;
                    self.finish_closing(todo);
                }
            }
        }
    }

    /// (1), if there is somebody to open it to.
    fn open_if_possible(&mut self, todo: &mut Vec<Action>) {
        let waits = matches!(
            self.backend,
            XenbusState::Initialising | XenbusState::InitWait | XenbusState::Initialised
        );
        if waits && self.front && self.state == State::Down {
            self.state = State::Opening { abandoned: false };
            todo.push(Action::Open);
        }
    }

    /// (2)
    fn opened(&mut self, todo: &mut Vec<Action>) {
        match self.state {
            State::Opening { .. } => {
                self.state = State::Initialised;
                self.own = XenbusState::Initialised;
                self.front = true;
                // Not if there was none any more when we were told last.
                if self.backend != XenbusState::Unknown {
                    self.follow_backend(todo);
                }
            }
            // Nobody asked.
            State::Down
            | State::Initialised
            | State::Connected
            | State::Releasing
            | State::Reconfiguring
            | State::Closing => {}
        }
    }

    /// (10), without what may follow.
    fn lose(&mut self, todo: &mut Vec<Action>) {
        match self.state {
            State::Down => {}
            State::Opening { .. } => self.state = State::Opening { abandoned: true },
            State::Initialised
            | State::Connected
            | State::Releasing
            | State::Reconfiguring
            | State::Closing => {
                self.remove_all(todo);
                todo.push(Action::Close);
                self.down(XenbusState::Unknown);
            }
        }
    }

    fn down(&mut self, own: XenbusState) {
        self.state = State::Down;
        self.own = own;
        // What is still being read goes stale as soon as the next life wants to read.
    }

    fn read_devices(&mut self, todo: &mut Vec<Action>) {
        if self.reading == Reading::No {
            self.reading = Reading::Asked;
            todo.push(Action::ReadDevices);
        } else {
            self.reading = Reading::Stale;
        }
    }

    /// The second half of (3), (4), (5) and (7).
    fn take_devices(&mut self, exports: &[Export], todo: &mut Vec<Action>) {
        match core::mem::replace(&mut self.reading, Reading::No) {
            Reading::No => return,
            Reading::Stale => return self.follow_backend(todo),
            Reading::Asked => {}
        }
        if !self.state.is_linked() {
            return;
        }
        match self.backend {
            XenbusState::Connected | XenbusState::Reconfigured => {
                self.remove_departed(exports, todo);
                self.add_new(exports, todo);
                self.state = State::Connected;
                if self.own != XenbusState::Connected {
                    self.set_state(XenbusState::Connected, todo);
                }
            }
            XenbusState::Reconfiguring => {
                let departed = self.remove_departed(exports, todo);
                // Told again of a change that we have taken up already.
                if self.state != State::Reconfiguring || departed {
                    self.state = State::Releasing;
                    self.finish_releasing(todo);
                }
            }
            // It moved on to where no devices are looked at.
            XenbusState::Unknown
            | XenbusState::Initialising
            | XenbusState::InitWait
            | XenbusState::Initialised
            | XenbusState::Closing
            | XenbusState::Closed => {}
        }
    }

    /// Removes what is no longer there as it was; says whether anything was.
    fn remove_departed(&mut self, exports: &[Export], todo: &mut Vec<Action>) -> bool {
        let stays = |known: &Export| {
            exports.iter().any(|export| {
                export.device == known.device
                    && export.is_usable()
                    && export.at == known.at
            })
        };
        let gone: Vec<Sbdf> = self
            .devices
            .values()
            .filter(|known| !stays(known))
            .map(|known| known.device)
            .collect();
        for device in &gone {
            self.remove(*device, todo);
        }
        !gone.is_empty()
    }

    fn add_new(&mut self, exports: &[Export], todo: &mut Vec<Action>) {
        for export in exports.iter().filter(|export| export.is_usable()) {
            if let Entry::Vacant(place) = self.devices.entry(export.device) {
                place.insert(*export);
                todo.push(Action::Added(*export));
            }
        }
    }

    fn remove_all(&mut self, todo: &mut Vec<Action>) {
        while let Some(device) = self.devices.keys().next().copied() {
            self.remove(device, todo);
        }
    }

    fn remove(&mut self, device: Sbdf, todo: &mut Vec<Action>) {
        self.devices.remove(&device);
        self.leaving.insert(device);
        todo.push(Action::Removed(device));
    }

    /// (6)
    fn finish_releasing(&mut self, todo: &mut Vec<Action>) {
        if self.state == State::Releasing && self.leaving.is_empty() {
            self.state = State::Reconfiguring;
            self.set_state(XenbusState::Reconfiguring, todo);
        }
    }

    /// (9)
    fn finish_closing(&mut self, todo: &mut Vec<Action>) {
        if self.state == State::Closing && self.leaving.is_empty() {
            self.set_state(XenbusState::Closed, todo);
            todo.push(Action::Close);
            self.down(XenbusState::Closed);
            self.open_if_possible(todo);
        }
    }

    fn set_state(&mut self, state: XenbusState, todo: &mut Vec<Action>) {
        self.own = state;
        todo.push(Action::SetState(state));
    }
}

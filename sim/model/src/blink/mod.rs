//! The B-link: our backend, a Linux guest's frontend, and the daemon.
//!
//! [`pciback::link::Link`] is the very state machine of the image. What the image does around
//! it (`kernel/src/machine/guests.rs`, `loans.rs` and `chain.rs`) is [`ours`]; [`guest`] is
//! Linux's xen-pcifront (`sim/src/linux_guest` has it with all details), and [`daemon`] is
//! what the daemon does with a link and a loan (`toolstack/src/daemon`).
//!
//! Two devices, one guest. Who owns a device in Xen is the daemon's part; here it is watched
//! that pcidom shows the guest exactly what is lent to it, and lets go before the daemon
//! says that the device is free.

mod check;
mod daemon;
mod guest;
mod ours;

use std::fmt;

use pcidom_xenbus::XenbusState;

use crate::mutation::BackMutation;
use crate::search::{Broken, Model, Will};
use crate::store::Dirs;

use daemon::Daemon;
use guest::Guest;
use ours::Ours;

/// How far the model goes.
#[derive(Clone, Copy, Debug)]
pub struct Blink {
    /// Operations that the daemon is asked for.
    pub operations: u8,
    /// Guests that die, close or start anew, and a daemon that loses patience.
    pub faults: u8,
    /// What is wrong with our state machine.
    pub mutation: Option<BackMutation>,
}

impl fmt::Display for Blink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, faults, .. } = self;
        write!(f, "B-link, {operations} operations, {faults} faults")
    }
}

/// Everything.
#[derive(Clone, Debug, Hash)]
pub struct State {
    dirs: Dirs,
    ours: Ours,
    guest: Guest,
    daemon: Daemon,
    faults: u8,
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// pcidom does something.
    Ours(ours::Step),
    /// The guest's kernel does.
    Guest(guest::Step),
    /// The daemon does.
    Daemon(daemon::Step),
}

impl State {
    /// Both directories were made or removed.
    fn made_or_removed(&mut self) {
        self.guest.fired.bus = true;
        self.wrote_front();
        self.wrote_back();
    }

    /// The guest's state was written.
    fn wrote_front(&mut self) {
        self.ours.fired.front |= self.ours.link.is_some();
    }

    /// The back directory's `state` was written.
    fn wrote_back(&mut self) {
        self.ours.fired.back |= self.ours.link.is_some();
        self.guest.fired.other |= self.guest.open.is_some();
    }

    /// The toolstack's end writes the back directory's `state`.
    fn set_back(&mut self, to: XenbusState) {
        if let Some(back) = &mut self.dirs.back {
            back.state = to;
            self.wrote_back();
        }
    }
}

impl Model for Blink {
    type State = State;
    type Step = Step;

    fn starts(&self) -> Vec<State> {
        vec![State {
            dirs: Dirs::default(),
            ours: Ours::default(),
            guest: Guest::default(),
            daemon: Daemon::default(),
            faults: 0,
        }]
    }

    fn steps(&self, state: &State, to: &mut Vec<(Will, Step)>) {
        ours::steps(state, to);
        self.guest_steps(state, to);
        self.daemon_steps(state, to);
        if to.iter().all(|(will, _)| *will == Will::May) {
            // Time passes when everybody has done what can be done at once.
            guest::late_steps(state, to);
            daemon::late_steps(state, to);
        }
    }

    fn take(&self, state: &mut State, step: Step) -> Result<(), Broken> {
        match step {
            Step::Ours(step) => self.our_step(state, step),
            Step::Guest(step) => guest::step(state, step),
            Step::Daemon(step) => daemon::step(state, step),
        }
    }

    fn at_rest(&self, state: &State) -> Result<(), Broken> {
        check::at_rest(state)
    }
}

/// For messages.
fn ends(state: &State) -> String {
    let (front, back) = (state.dirs.front_state(), state.dirs.back_state());
    let phase = state.ours.link.as_ref().map(pciback::link::Link::phase);
    format!("front {front}, back {back}, we are {phase:?}")
}

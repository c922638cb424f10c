//! The A-link: our frontend, dom0's Linux backend, and a toolstack.
//!
//! [`pcifront::Link`] is the very state machine of the image. What the image does around it
//! (`kernel/src/machine/alink.rs` and `chain.rs`) is [`ours`]; [`dom0`] and [`toolstack`] are
//! what Linux and the toolstacks do (`sim/src/pciback` and `sim/src/xl.rs` have the same,
//! with all details).
//!
//! Two devices. Watches tell that something has changed, in any order, and not how often.
//! Between any two requests of one party everybody else may do something.

mod check;
mod dom0;
mod ours;
mod toolstack;

use std::fmt;

use pcidom_xenbus::XenbusState;

use crate::mutation::FrontMutation;
use crate::search::{Broken, Model, Will};
use crate::store::{Device, Dirs};

use dom0::Dom0;
use ours::Ours;
use toolstack::Tool;
pub use toolstack::Toolstack;

/// How far the model goes.
#[derive(Clone, Copy, Debug)]
pub struct Alink {
    /// Which toolstack.
    pub toolstack: Toolstack,
    /// Operations of the toolstack after the link was made.
    pub operations: u8,
    /// Of these: a toolstack that loses patience or is killed, dom0's backend unloaded and
    /// loaded again.
    pub faults: u8,
    /// Devices that pcidom lends while they are in its pool.
    pub loans: u8,
    /// pcidom takes an answer of XenStore before anybody else does anything. That leaves
    /// out delays between answer and reaction that another order of the same requests has
    /// as well, and half of the states.
    pub prompt: bool,
    /// What is wrong with our state machine.
    pub mutation: Option<FrontMutation>,
}

impl fmt::Display for Alink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { toolstack, operations, faults, loans, prompt, .. } = self;
        write!(f, "A-link, {toolstack:?}, {operations} operations")?;
        write!(f, ", {faults} faults, {loans} loans")?;
        if *prompt { Ok(()) } else { f.write_str(", late answers") }
    }
}

/// Which watches of somebody have fired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Fired {
    /// The toolstack has made or removed a directory on this end.
    bus: bool,
    /// The other end's state, or what else is watched there.
    other: bool,
    /// The own end.
    own: bool,
}

/// Everything.
#[derive(Clone, Debug, Hash)]
pub struct State {
    dirs: Dirs,
    ours: Ours,
    dom0: Dom0,
    tool: Tool,
    faults: u8,
    loans: u8,
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// pcidom does something.
    Ours(ours::Step),
    /// dom0's Linux does.
    Dom0(dom0::Step),
    /// The toolstack does.
    Tool(toolstack::Step),
}

impl State {
    /// A toolstack has made or removed both directories, or one of them.
    fn made_or_removed(&mut self, front: bool, back: bool) {
        if front {
            self.ours.fired.bus = true;
            self.wrote_front();
        }
        if back {
            self.dom0.fired.bus = true;
            self.wrote_back();
        }
    }

    /// Our `state` was written.
    fn wrote_front(&mut self) {
        self.ours.fired.own = true;
        if self.dom0.driver.is_some() {
            self.dom0.fired.other = true;
        }
    }

    /// The back directory's `state` was written.
    fn wrote_back(&mut self) {
        if self.ours.watches_back {
            self.ours.fired.other = true;
        }
        self.wrote_in_back();
    }

    /// Something in the back directory was written.
    fn wrote_in_back(&mut self) {
        if self.dom0.driver.is_some() {
            self.dom0.fired.own = true;
        }
    }
}

impl Model for Alink {
    type State = State;
    type Step = Step;

    fn starts(&self) -> Vec<State> {
        let starts: [&[Device]; 2] = [&[0], &[0, 1]];
        let state = |devices: &&[Device]| {
            let mut state = State {
                dirs: Dirs::default(),
                ours: Ours::default(),
                dom0: Dom0::default(),
                tool: Tool::default(),
                faults: 0,
                loans: 0,
            };
            state.dirs.make(devices);
            state.made_or_removed(true, true);
            state
        };
        starts.iter().map(state).collect()
    }

    fn steps(&self, state: &State, to: &mut Vec<(Will, Step)>) {
        self.our_steps(state, to);
        self.dom0_steps(state, to);
        self.tool_steps(state, to);
        // Time passes when everybody has done what can be done at once.
        if state.ours.again && to.iter().all(|(will, _)| *will == Will::May) {
            to.push((Will::Must, Step::Ours(ours::Step::Again)));
        }
    }

    fn take(&self, state: &mut State, step: Step) -> Result<(), Broken> {
        match step {
            Step::Ours(step) => self.our_step(state, step),
            Step::Dom0(step) => Self::dom0_step(state, step),
            Step::Tool(step) => self.tool_step(state, step),
        }
    }

    fn at_rest(&self, state: &State) -> Result<(), Broken> {
        check::at_rest(state)
    }
}

/// For messages.
struct Ends<'a>(&'a State);

impl fmt::Display for Ends<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { dirs, ours, .. } = self.0;
        let (front, back): (XenbusState, XenbusState) =
            (dirs.front_state(), dirs.back_state());
        write!(f, "front {front}, back {back}, we are {:?}", ours.link.state())
    }
}

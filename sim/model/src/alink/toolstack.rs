//! `xl` and an old xend, as far as a link sees them.

use pcidom_xenbus::XenbusState;

use super::ours::Use;
use super::{Alink, State};
use crate::search::{Broken, Will};
use crate::store::{DEVICES, Device, Entry};

/// What is attached can be used when the toolstack says so.
pub(super) const ATTACHED: &str = "a device that is attached is in the pool";
/// What is detached can be given to somebody else.
pub(super) const DETACHED: &str = "a device that is detached has left the pool";

/// Whose habits (protocol.md 3.3, 3.4; the first document of the mission).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolstack {
    /// Forgets everything between two commands, waits for no attach, and removes the
    /// directories of a link whose last device has gone.
    Xl,
    /// Waits for what it has begun, and closes the link of the last device.
    Xend,
}

/// What it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `pci-attach`
    Attach(Device),
    /// `pci-detach`
    Detach(Device),
    /// The directories go without a word: `destroy`, or a toolstack without patience.
    Drop,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// For Connected, to begin.
    WaitsToBegin,
    /// For Connected, after the change.
    WaitsForChange,
    /// For the end of the link.
    WaitsForClosed,
    /// It removes the front directory.
    RemovesFront,
    /// It removes the back directory.
    RemovesBack,
}

/// The toolstack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Tool {
    busy: Option<(Operation, Stage)>,
    done: u8,
    /// The backend was unloaded meanwhile: it may not have done what it was asked for.
    pub(super) disturbed: bool,
}

impl Tool {
    /// It waits for the link.
    pub(super) const fn is_waiting(&self) -> bool {
        self.busy.is_some()
    }
}

/// What it does.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Somebody wants something.
    Begins(Operation),
    /// What it waits for is there.
    GoesOn,
    /// It is killed, or has waited for too long.
    GivesUp,
    /// `xl pci-attach` does not wait.
    Leaves,
}

impl Alink {
    pub(super) fn tool_steps(&self, state: &State, to: &mut Vec<(Will, super::Step)>) {
        let mut add = |will, step| to.push((will, super::Step::Tool(step)));
        let Some((operation, stage)) = state.tool.busy else {
            if state.tool.done < self.operations {
                let begins = |o| may_begin(state, o);
                for operation in operations().into_iter().filter(|o| begins(*o)) {
                    add(Will::May, Step::Begins(operation));
                }
            }
            return;
        };
        let back = state.dirs.back_state();
        let goes_on = match stage {
            Stage::WaitsToBegin | Stage::WaitsForChange => back == XenbusState::Connected,
            Stage::WaitsForClosed => {
                matches!(back, XenbusState::Closed | XenbusState::Unknown)
            }
            Stage::RemovesFront | Stage::RemovesBack => true,
        };
        if goes_on {
            add(Will::Must, Step::GoesOn);
        }
        if state.faults < self.faults {
            add(Will::May, Step::GivesUp);
        }
        let attaching = matches!(operation, Operation::Attach(_));
        if attaching && stage == Stage::WaitsForChange && self.toolstack == Toolstack::Xl
        {
            add(Will::May, Step::Leaves);
        }
    }

    pub(super) fn tool_step(&self, state: &mut State, step: Step) -> Result<(), Broken> {
        match step {
            Step::Begins(operation) => {
                state.tool.done += 1;
                state.tool.disturbed = false;
                let stage = match operation {
                    Operation::Drop => Stage::RemovesFront,
                    Operation::Attach(device) if state.dirs.back.is_none() => {
                        state.dirs.make(&[device]);
                        state.made_or_removed(true, true);
                        return Ok(());
                    }
                    Operation::Attach(_) | Operation::Detach(_) => Stage::WaitsToBegin,
                };
                state.tool.busy = Some((operation, stage));
            }
            Step::GoesOn => return self.go_on(state),
            Step::GivesUp => {
                state.faults += 1;
                state.tool.busy = None;
            }
            Step::Leaves => state.tool.busy = None,
        }
        Ok(())
    }

    fn go_on(&self, state: &mut State) -> Result<(), Broken> {
        let Some((operation, stage)) = state.tool.busy else { return Ok(()) };
        let next = match (stage, operation) {
            (Stage::WaitsToBegin, _) => {
                let Some(back) = &mut state.dirs.back else { return Ok(()) };
                match operation {
                    Operation::Attach(device) => back.entries.push(Entry::new(device)),
                    Operation::Detach(device) => {
                        state.dirs.set_entry(device, XenbusState::Closing);
                    }
                    Operation::Drop => {}
                }
                if let Some(back) = &mut state.dirs.back {
                    back.state = XenbusState::Reconfiguring;
                }
                state.wrote_back();
                Some(Stage::WaitsForChange)
            }
            (Stage::WaitsForChange, Operation::Attach(device)) => {
                let there = state.ours.pool[usize::from(device)].is_there();
                if !there && !state.tool.disturbed {
                    let text = format!("device {device}, {}", super::Ends(state));
                    return Err(Broken::new(ATTACHED, text));
                }
                None
            }
            (Stage::WaitsForChange, Operation::Detach(device)) => {
                let has = state.ours.pool[usize::from(device)];
                if (has.is_there() || has.is_in_use()) && !state.tool.disturbed {
                    let text = format!("device {device}, {}", super::Ends(state));
                    return Err(Broken::new(DETACHED, text));
                }
                self.remove_entry(state, device)
            }
            (Stage::WaitsForClosed, _) => Some(Stage::RemovesFront),
            (Stage::RemovesFront, _) => {
                state.dirs.front = None;
                state.made_or_removed(true, false);
                Some(Stage::RemovesBack)
            }
            (Stage::RemovesBack, _) => {
                state.dirs.back = None;
                state.made_or_removed(false, true);
                None
            }
            (Stage::WaitsForChange, Operation::Drop) => None,
        };
        state.tool.busy = next.map(|stage| (operation, stage));
        Ok(())
    }

    /// The entries behind it move up; with the last one the link goes.
    fn remove_entry(&self, state: &mut State, device: Device) -> Option<Stage> {
        let back = state.dirs.back.as_mut()?;
        if back.entries.len() > 1 {
            back.entries.retain(|entry| entry.device != device);
            state.wrote_in_back();
            return None;
        }
        if self.toolstack == Toolstack::Xl {
            return Some(Stage::RemovesFront);
        }
        back.online = false;
        back.state = XenbusState::Closing;
        state.wrote_back();
        Some(Stage::WaitsForClosed)
    }
}

fn operations() -> [Operation; 2 * DEVICES + 1] {
    use Operation::{Attach, Detach, Drop};
    [Attach(0), Attach(1), Detach(0), Detach(1), Drop]
}

/// Whether this makes sense now. A new link is made when dom0's Linux has seen the end of
/// the one before: it would take the new directory for the old one, and never connect.
fn may_begin(state: &State, operation: Operation) -> bool {
    match (operation, &state.dirs.back) {
        (Operation::Attach(device), None) => {
            // While nobody knows either device, they are the same.
            let alike = state.ours.pool == [Use::Absent; DEVICES];
            let first = device == 0 || !alike;
            first && state.dom0.driver.is_none() && state.dirs.front.is_none()
        }
        (Operation::Attach(device), Some(back)) => back.entry_of(device).is_none(),
        (Operation::Detach(device), back) => {
            back.as_ref().is_some_and(|back| back.entry_of(device).is_some())
        }
        (Operation::Drop, back) => back.is_some() || state.dirs.front.is_some(),
    }
}

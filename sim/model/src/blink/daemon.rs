//! The daemon: loans of two devices to one guest, and the directories of the link.

use pcidom_xenbus::XenbusState;

use super::{Blink, State};
use crate::search::{Broken, Will};
use crate::store::{DEVICES, Device, Entry};

/// What is free is nobody's.
pub(super) const FREE: &str = "a device that is free is on nobody's link";
/// What is lent can be used.
pub(super) const LENT: &str = "an attach that has ended well has the device on the link";

/// The last word of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Order {
    Prepare,
    Lent,
    Ending,
}

/// How far a loan is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Stage {
    #[default]
    Free,
    /// Prepared; the link may be busy.
    Ready,
    /// Lent; somebody may wait for the guest to see it.
    Lent { waits: bool },
    /// The guest is asked to let go.
    Detaching,
    /// pcidom has to take it back; the guest may still have to be told, or was told that the
    /// link closes, or before pcidom had let go.
    Ending { tells: bool, closes: bool, early: bool },
    /// The last one of a link that is closed: its directories go next.
    Closed,
}

/// The daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Daemon {
    loans: [Stage; DEVICES],
    pub(super) orders: [Option<Order>; DEVICES],
    /// What pcidom has said of a loan that ends.
    pub(super) returned: [bool; DEVICES],
    done: u8,
}

/// What it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `pcidomctl attach`
    Attach(Device),
    /// `pcidomctl detach`
    Detach(Device),
    /// `pcidomctl detach -f`, or what has the same effect.
    Force(Device),
}

/// What it does.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Somebody wants something.
    Begins(Operation),
    /// The loan goes on.
    GoesOn(Device),
    /// The guest does not let go in time: the device stays lent.
    GivesUp(Device),
    /// The guest is told of a loss before pcidom has said anything.
    TellsEarly(Device),
    /// A deadline of the loan has passed.
    IsLate(Device),
}

/// What may be done with the link now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Quiet,
    Connected,
    Busy,
}

impl Stage {
    /// The device has an entry.
    const fn is_on_link(self) -> bool {
        !matches!(self, Self::Free | Self::Ready)
    }
}

impl Daemon {
    /// Nothing is under way.
    pub(super) fn is_settled(&self) -> bool {
        let settled =
            |stage: &Stage| matches!(stage, Stage::Free | Stage::Lent { waits: false });
        self.loans.iter().all(settled)
    }

    /// The device is lent.
    pub(super) fn lends(&self, device: Device) -> bool {
        matches!(self.loans[usize::from(device)], Stage::Lent { .. })
    }

    fn entries(&self) -> usize {
        self.loans.iter().filter(|stage| stage.is_on_link()).count()
    }
}

fn standing(state: &State, device: Device) -> Standing {
    let other = state.daemon.loans[1 - usize::from(device)];
    let back = state.dirs.back_state();
    let started = matches!(
        back,
        XenbusState::Connected | XenbusState::Reconfiguring | XenbusState::Reconfigured
    );
    match other {
        Stage::Detaching | Stage::Ending { .. } | Stage::Closed => return Standing::Busy,
        Stage::Lent { waits: true } if started => return Standing::Busy,
        _ => {}
    }
    match back {
        _ if state.daemon.entries() == 0 => Standing::Quiet,
        XenbusState::Connected => Standing::Connected,
        XenbusState::Reconfiguring | XenbusState::Reconfigured => Standing::Busy,
        _ => Standing::Quiet,
    }
}

/// Both ends say so.
fn is_connected(state: &State) -> bool {
    [state.dirs.back_state(), state.dirs.front_state()] == [XenbusState::Connected; 2]
}

/// The other device is on its way to this one's link.
fn is_awaited(state: &State, device: Device) -> bool {
    let loans = &state.daemon.loans;
    let own = loans[usize::from(device)];
    !matches!(own, Stage::Ending { closes: true, .. } | Stage::Closed)
        && loans[1 - usize::from(device)] == Stage::Ready
}

/// The link is there for others when this loan ends.
fn stays(state: &State, device: Device) -> bool {
    state.daemon.entries() > 1 || is_awaited(state, device)
}

/// The guest has closed the link, with a device on it.
fn is_closed(state: &State) -> bool {
    state.daemon.entries() > 0
        && matches!(state.dirs.back_state(), XenbusState::Closing | XenbusState::Closed)
}

/// A link that was kept has lost an end since.
fn is_unconnected(state: &State) -> bool {
    state.daemon.entries() == 0 && state.dirs.back.is_some() && !is_connected(state)
}

/// A link is made anew only a while after its end: Linux would take it for the old one.
fn has_just_ended(state: &State) -> bool {
    state.dirs.back.is_none() && (state.guest.known || state.ours.has_work())
}

/// The guest died, or its end of the link is gone.
fn is_lost(state: &State, device: Device) -> bool {
    let on_link = state.daemon.loans[usize::from(device)].is_on_link();
    !state.guest.alive || (on_link && state.dirs.front.is_none())
}

/// What the loan does next, if there is anything to do.
fn can_go_on(state: &State, device: Device) -> bool {
    let Daemon { loans, returned, .. } = &state.daemon;
    let (back, front) = (state.dirs.back_state(), state.dirs.front_state());
    let place = usize::from(device);
    match loans[place] {
        Stage::Free => false,
        Stage::Ready => {
            let ready = state.ours.has_prepared(device) && !has_just_ended(state);
            let may = standing(state, device) != Standing::Busy && !is_closed(state);
            let goes = state.ours.has_prepared(device) && is_unconnected(state);
            is_lost(state, device) || goes || (ready && may)
        }
        Stage::Lent { waits } => {
            is_lost(state, device) || (waits && told(state, device).is_some())
        }
        Stage::Detaching => {
            is_lost(state, device)
                || !matches!(back, XenbusState::Reconfiguring | XenbusState::Reconfigured)
        }
        Stage::Ending { early: true, .. } => returned[place],
        Stage::Ending { tells, .. } => {
            returned[place]
                && match tells {
                    true => may_tell(state, device, back),
                    false => !is_closing(state, device, back, front),
                }
        }
        Stage::Closed => true,
    }
}

/// `step_lent`: whether whoever waits has an answer, and whether it is a good one.
fn told(state: &State, device: Device) -> Option<bool> {
    let substate = state.dirs.entry(device).map(|entry| entry.state);
    match (state.dirs.back_state(), substate, state.dirs.front_state()) {
        (XenbusState::Connected, Some(XenbusState::Initialised), _) => Some(true),
        (_, Some(XenbusState::Closing | XenbusState::Closed), _) => Some(false),
        (_, _, XenbusState::Closing | XenbusState::Closed) => Some(true),
        _ => None,
    }
}

/// A frontend that is on its way through another change would not see this one.
fn may_tell(state: &State, device: Device, back: XenbusState) -> bool {
    let changing = matches!(back, XenbusState::Reconfiguring | XenbusState::Reconfigured);
    !state.guest.alive || !stays(state, device) || !changing
}

/// `is_guest_closing`
fn is_closing(
    state: &State,
    device: Device,
    back: XenbusState,
    front: XenbusState,
) -> bool {
    let nobody = matches!(
        front,
        XenbusState::Unknown
            | XenbusState::Closed
            | XenbusState::Initialising
            | XenbusState::InitWait
    );
    if !state.guest.alive {
        return false;
    }
    if stays(state, device) {
        // Its entry goes when the guest has let go, or nobody asks it to.
        let asks =
            state.dirs.entry(device).is_some_and(|e| e.state == XenbusState::Closing);
        return match back {
            XenbusState::Connected => asks,
            // A link that is kept is Connected.
            XenbusState::Reconfiguring | XenbusState::Reconfigured => {
                asks || state.daemon.entries() <= 1
            }
            _ => false,
        };
    }
    back == XenbusState::Closing && !nobody
}

impl Blink {
    pub(super) fn daemon_steps(&self, state: &State, to: &mut Vec<(Will, super::Step)>) {
        let mut add = |will, step| to.push((will, super::Step::Daemon(step)));
        for device in 0..2 {
            if can_go_on(state, device) {
                add(Will::Must, Step::GoesOn(device));
            }
            if state.faults < self.faults {
                match state.daemon.loans[usize::from(device)] {
                    Stage::Detaching if !can_go_on(state, device) => {
                        add(Will::May, Step::GivesUp(device));
                    }
                    Stage::Ending { tells: true, .. }
                        if may_tell(state, device, state.dirs.back_state()) =>
                    {
                        add(Will::May, Step::TellsEarly(device));
                    }
                    _ => {}
                }
            }
        }
        if state.daemon.done < self.operations {
            for operation in operations() {
                if may_begin(state, operation) {
                    add(Will::May, Step::Begins(operation));
                }
            }
        }
    }
}

/// Deadlines help with guests that do not answer, and with nobody else.
pub(super) fn late_steps(state: &State, to: &mut Vec<(Will, super::Step)>) {
    if state.faults == 0 {
        return;
    }
    for device in 0..2 {
        let waits = match state.daemon.loans[usize::from(device)] {
            Stage::Free | Stage::Lent { waits: false } | Stage::Closed => false,
            Stage::Ready | Stage::Detaching | Stage::Lent { waits: true } => true,
            Stage::Ending { .. } => state.daemon.returned[usize::from(device)],
        };
        if waits {
            to.push((Will::Must, super::Step::Daemon(Step::IsLate(device))));
        }
    }
}

fn operations() -> [Operation; 3 * DEVICES] {
    use Operation::{Attach, Detach, Force};
    [Attach(0), Attach(1), Detach(0), Detach(1), Force(0), Force(1)]
}

fn may_begin(state: &State, operation: Operation) -> bool {
    let loans = &state.daemon.loans;
    match operation {
        Operation::Attach(device) => {
            // While none is lent they are the same.
            let first = device == 0 || loans[0] != Stage::Free;
            let free = loans[usize::from(device)] == Stage::Free;
            free && first && state.guest.alive
        }
        Operation::Detach(device) => {
            loans[usize::from(device)] == Stage::Lent { waits: false }
                && standing(state, device) != Standing::Busy
        }
        Operation::Force(device) => {
            matches!(loans[usize::from(device)], Stage::Lent { .. } | Stage::Detaching)
        }
    }
}

pub(super) fn step(state: &mut State, step: Step) -> Result<(), Broken> {
    match step {
        Step::Begins(operation) => {
            state.daemon.done += 1;
            match operation {
                Operation::Attach(device) => {
                    set(state, device, Stage::Ready);
                    order(state, device, Some(Order::Prepare));
                }
                Operation::Force(device) => end(state, device, true),
                Operation::Detach(device) => match standing(state, device) {
                    Standing::Connected => {
                        ask_to_remove(state, device);
                        set(state, device, Stage::Detaching);
                    }
                    Standing::Quiet | Standing::Busy => end(state, device, true),
                },
            }
        }
        Step::GoesOn(device) => return go_on(state, device),
        Step::GivesUp(device) => {
            state.faults += 1;
            give_up_waiting(state, device);
        }
        Step::TellsEarly(device) => {
            state.faults += 1;
            tell_of_loss(state, device);
        }
        Step::IsLate(device) => match state.daemon.loans[usize::from(device)] {
            Stage::Ready => give_up(state, device),
            Stage::Detaching => give_up_waiting(state, device),
            Stage::Ending { .. } => return finish(state, device),
            _ => end(state, device, true),
        },
    }
    Ok(())
}

fn set(state: &mut State, device: Device, stage: Stage) {
    state.daemon.loans[usize::from(device)] = stage;
}

fn go_on(state: &mut State, device: Device) -> Result<(), Broken> {
    match state.daemon.loans[usize::from(device)] {
        Stage::Free => {}
        Stage::Ready if is_lost(state, device) => give_up(state, device),
        Stage::Ready if is_unconnected(state) => remove_link(state),
        Stage::Ready => lend(state, device),
        Stage::Lent { .. } if is_lost(state, device) => end(state, device, true),
        Stage::Lent { .. } => match told(state, device) {
            Some(true) => {
                let on_link = state.ours.served[usize::from(device)].is_some();
                let entry = state.dirs.entry(device);
                let shown = entry.is_some_and(|e| e.state == XenbusState::Initialised);
                let connected = state.dirs.back_state() == XenbusState::Connected;
                if connected && shown && !on_link {
                    let text = format!("device {device}, {}", super::ends(state));
                    return Err(Broken::new(LENT, text));
                }
                set(state, device, Stage::Lent { waits: false });
            }
            Some(false) => end(state, device, true),
            None => {}
        },
        Stage::Detaching => end(state, device, is_lost(state, device)),
        // Once more, now that pcidom writes nothing any more.
        Stage::Ending { early: true, closes, .. } => {
            set(state, device, Stage::Ending { tells: true, closes, early: false });
        }
        Stage::Ending { tells: true, .. } => tell_of_loss(state, device),
        Stage::Ending { tells: false, .. } => return finish(state, device),
        Stage::Closed => return remove(state, device),
    }
    Ok(())
}

/// `link::add`, and the order, in one transaction.
fn lend(state: &mut State, device: Device) {
    let connected = is_connected(state);
    if state.daemon.entries() == 0 && !connected {
        state.dirs.make(&[device]);
        state.made_or_removed();
    } else if let Some(back) = &mut state.dirs.back {
        back.entries.push(Entry::new(device));
        if connected {
            state.set_back(XenbusState::Reconfiguring);
        }
    }
    set(state, device, Stage::Lent { waits: true });
    order(state, device, Some(Order::Lent));
}

fn order(state: &mut State, device: Device, order: Option<Order>) {
    state.daemon.orders[usize::from(device)] = order;
    state.daemon.returned[usize::from(device)] = false;
    state.ours.fired.orders = true;
}

fn end(state: &mut State, device: Device, tells: bool) {
    set(state, device, Stage::Ending { tells, closes: false, early: false });
    order(state, device, Some(Order::Ending));
}

/// Nothing was given yet. A link that was kept for it goes.
fn give_up(state: &mut State, device: Device) {
    if state.daemon.entries() == 0 && !is_awaited(state, device) {
        remove_link(state);
    }
    set(state, device, Stage::Free);
    order(state, device, None);
}

fn ask_to_remove(state: &mut State, device: Device) {
    state.dirs.set_entry(device, XenbusState::Closing);
    state.set_back(XenbusState::Reconfiguring);
}

/// Its patience is over. A guest that has answered has let go: it is not asked to keep what
/// is being taken off.
fn give_up_waiting(state: &mut State, device: Device) {
    let let_go = matches!(
        state.dirs.front_state(),
        XenbusState::Reconfiguring | XenbusState::Closing | XenbusState::Closed
    );
    let answered = let_go || state.dirs.back_state() == XenbusState::Reconfigured;
    if answered {
        return end(state, device, false);
    }
    // `ask_no_more`
    state.dirs.set_entry(device, XenbusState::Initialised);
    set(state, device, Stage::Lent { waits: false });
}

/// `link::tell_of_loss`
fn tell_of_loss(state: &mut State, device: Device) {
    let keeps = is_awaited(state, device) && is_connected(state);
    let closes = state.daemon.entries() <= 1 && !keeps;
    if state.guest.alive {
        match state.dirs.back_state() {
            XenbusState::Unknown => {}
            _ if closes => state.set_back(XenbusState::Closing),
            _ if is_unexported(state, device) => {}
            XenbusState::Connected => ask_to_remove(state, device),
            _ => state.dirs.set_entry(device, XenbusState::Closing),
        }
    }
    let early = !closes && !state.daemon.returned[usize::from(device)];
    set(state, device, Stage::Ending { tells: false, closes, early });
}

/// pcidom could not export it, or has taken it off.
fn is_unexported(state: &State, device: Device) -> bool {
    state.dirs.entry(device).is_some_and(|entry| entry.state == XenbusState::Closed)
}

/// Both directories, if they are there.
fn remove_link(state: &mut State) {
    if state.dirs.back.is_some() || state.dirs.front.is_some() {
        (state.dirs.front, state.dirs.back) = (None, None);
        state.made_or_removed();
    }
}

fn finish(state: &mut State, device: Device) -> Result<(), Broken> {
    let last = state.daemon.entries() <= 1;
    if last && state.dirs.back_state() == XenbusState::Closing {
        state.set_back(XenbusState::Closed);
        set(state, device, Stage::Closed);
        return Ok(());
    }
    remove(state, device)
}

/// Entry, order and record go; with the last entry, the link, unless it is kept.
fn remove(state: &mut State, device: Device) -> Result<(), Broken> {
    let place = usize::from(device);
    let shown = state.ours.served[place].is_some();
    if shown && state.daemon.returned[place] {
        let text = format!("device {device}, {}", super::ends(state));
        return Err(Broken::new(FREE, text));
    }
    let keep = is_awaited(state, device) && is_connected(state);
    if state.daemon.entries() <= 1 && !keep {
        remove_link(state);
    } else if let Some(back) = &mut state.dirs.back {
        back.entries.retain(|entry| entry.device != device);
    }
    set(state, device, Stage::Free);
    order(state, device, None);
    Ok(())
}

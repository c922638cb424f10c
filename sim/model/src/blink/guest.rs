//! A Linux guest with xen-pcifront, one that closes and opens its end, and one that starts
//! anew in the same domain (kexec).

use pcidom_xenbus::XenbusState;

use super::{Blink, State};
use crate::search::{Broken, Will};
use crate::store::{DEVICES, Device, Page};

/// `vdev-N` is right when the guest uses it.
pub(super) const VDEV: &str = "vdev-N never names another device than dev-N";

/// Slots that a device can be in.
const SLOTS: usize = DEVICES + 1;

/// Which watches have fired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Fired {
    pub(super) bus: bool,
    pub(super) other: bool,
}

/// The way back of a frontend that has closed (`xenbus_reset_frontend`, or MiniOS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reset {
    /// Waits for the backend to close.
    Closing,
    /// Waits for the backend to have closed.
    Closed,
    /// Waits for the backend to wait.
    Initialising,
}

/// The guest.
#[derive(Clone, Debug, Hash)]
pub(super) struct Guest {
    pub(super) alive: bool,
    /// Its bus has the device. One that is removed and made again behind its back is not
    /// told from the old one.
    pub(super) known: bool,
    pub(super) open: Option<Page>,
    last_page: Page,
    /// Devices that its PCI core has found, by slot.
    pub(super) found: [Option<Device>; SLOTS],
    pub(super) fired: Fired,
    /// The state that it writes next.
    pending: Option<XenbusState>,
    reset: Option<Reset>,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            alive: true,
            known: false,
            open: None,
            last_page: 0,
            found: [None; SLOTS],
            fired: Fired::default(),
            pending: None,
            reset: None,
        }
    }
}

impl Guest {
    /// It has closed its end, and need not come back.
    pub(super) fn has_closed(&self) -> bool {
        self.reset == Some(Reset::Closed)
    }
}

/// What it does.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Sees that its directory came or went.
    SeesBus,
    /// `pcifront_backend_changed`
    SeesBack,
    /// Writes the state that it was about to write.
    Writes,
    /// Goes on coming back.
    Resets,
    /// Loads its driver again, once we have seen that it was gone and offer the link again.
    /// Linux's does not tell a link that is offered from one that is left over.
    Loads,
    /// Is destroyed.
    Dies,
    /// Closes its end, as `rmmod` or MiniOS do.
    Closes,
    /// Starts another kernel.
    StartsAnew,
}

impl Blink {
    pub(super) fn guest_steps(&self, state: &State, to: &mut Vec<(Will, super::Step)>) {
        let guest = &state.guest;
        if !guest.alive {
            return;
        }
        let mut add = |will, step| to.push((will, super::Step::Guest(step)));
        let own = state.dirs.front_state();
        if guest.pending.is_some() {
            add(Will::Must, Step::Writes);
        } else if let Some(reset) = guest.reset {
            let back = state.dirs.back_state();
            let ready = match reset {
                Reset::Closing => {
                    matches!(back, XenbusState::Closing | XenbusState::Closed)
                }
                Reset::Closed => back == XenbusState::Closed,
                Reset::Initialising => back == XenbusState::InitWait,
            };
            // A guest that closed may stay so.
            let will = if reset == Reset::Closed { Will::May } else { Will::Must };
            if ready || own == XenbusState::Unknown {
                add(will, Step::Resets);
            }
            let offered = back == XenbusState::Initialised && state.ours.has_seen_all();
            if reset == Reset::Closed && offered {
                add(Will::May, Step::Loads);
            }
        } else {
            if guest.fired.bus {
                add(Will::Must, Step::SeesBus);
            }
            if guest.fired.other {
                add(Will::Must, Step::SeesBack);
            }
        }
        if state.faults < self.faults {
            add(Will::May, Step::Dies);
            let linked = matches!(
                own,
                XenbusState::Initialised
                    | XenbusState::Connected
                    | XenbusState::Reconfiguring
            );
            if guest.reset.is_none() && linked {
                add(Will::May, Step::StartsAnew);
                if guest.pending.is_none() {
                    add(Will::May, Step::Closes);
                }
            }
        }
    }
}

/// A guest waits for its backend for 5 s.
pub(super) fn late_steps(state: &State, to: &mut Vec<(Will, super::Step)>) {
    let reset = state.guest.reset;
    if state.guest.alive && reset.is_some() && reset != Some(Reset::Closed) {
        to.push((Will::Must, super::Step::Guest(Step::Resets)));
    }
}

pub(super) fn step(state: &mut State, step: Step) -> Result<(), Broken> {
    let guest = &mut state.guest;
    match step {
        Step::SeesBus => {
            guest.fired.bus = false;
            match (state.dirs.front_state(), guest.known) {
                (XenbusState::Initialising, false) => probe(state),
                (XenbusState::Unknown, true) => {
                    guest.known = false;
                    forget(state);
                }
                _ => {}
            }
        }
        Step::SeesBack => {
            guest.fired.other = false;
            if guest.open.is_some() {
                return back_changed(state);
            }
        }
        Step::Writes => {
            if let Some(to) = guest.pending.take() {
                switch(state, to);
            }
        }
        Step::Resets => {
            let next = match guest.reset {
                _ if state.dirs.front.is_none() => None,
                Some(Reset::Closing) => Some((Reset::Closed, XenbusState::Closed)),
                Some(Reset::Closed) => {
                    Some((Reset::Initialising, XenbusState::Initialising))
                }
                Some(Reset::Initialising) | None => None,
            };
            guest.reset = next.map(|(reset, _)| reset);
            match next {
                Some((_, to)) => switch(state, to),
                None => guest.fired.bus = true,
            }
        }
        Step::Loads => {
            guest.reset = None;
            probe(state);
        }
        Step::Dies => {
            state.faults += 1;
            forget(state);
            state.guest.alive = false;
            state.dirs.front = None;
            state.wrote_front();
        }
        Step::Closes => {
            state.faults += 1;
            forget(state);
            state.guest.known = false;
            state.guest.reset = Some(Reset::Closed);
            switch(state, XenbusState::Closed);
        }
        Step::StartsAnew => {
            state.faults += 1;
            forget(state);
            (state.guest.known, state.guest.pending) = (false, None);
            state.guest.reset = Some(Reset::Closing);
            switch(state, XenbusState::Closing);
        }
    }
    Ok(())
}

fn forget(state: &mut State) {
    let guest = &mut state.guest;
    (guest.open, guest.found) = (None, [None; SLOTS]);
    guest.fired.other = false;
}

/// `pcifront_xenbus_probe`
fn probe(state: &mut State) {
    let Some(front) = &mut state.dirs.front else { return };
    let guest = &mut state.guest;
    guest.known = true;
    guest.last_page = 1 - guest.last_page;
    guest.open = Some(guest.last_page);
    front.page = guest.open;
    guest.pending = Some(XenbusState::Initialised);
    // A new watch fires once.
    guest.fired.other = true;
}

fn switch(state: &mut State, to: XenbusState) {
    if let Some(front) = &mut state.dirs.front
        && front.state != to
    {
        front.state = to;
        state.wrote_front();
    }
}

/// `pcifront_backend_changed`
fn back_changed(state: &mut State) -> Result<(), Broken> {
    let own = state.dirs.front_state();
    match (state.dirs.back_state(), own) {
        (XenbusState::Connected, XenbusState::Initialised)
        | (XenbusState::Reconfigured, XenbusState::Reconfiguring) => {
            scan(state);
            state.guest.pending = Some(XenbusState::Connected);
        }
        (XenbusState::Closed, XenbusState::Closed) => {}
        (XenbusState::Closed | XenbusState::Closing, _) => {
            forget(state);
            state.guest.pending = Some(XenbusState::Closed);
        }
        (
            XenbusState::Reconfiguring,
            XenbusState::Connected | XenbusState::Initialised,
        ) => {
            state.guest.pending = Some(XenbusState::Reconfiguring);
            return detach(state);
        }
        _ => {}
    }
    Ok(())
}

/// All functions of the bus are looked at; those that are known are left as they are.
fn scan(state: &mut State) {
    if state.ours.page != state.guest.open {
        return;
    }
    for (device, slot) in (0_u8..).zip(state.ours.served) {
        if let Some(slot) = slot {
            state.guest.found[usize::from(slot)].get_or_insert(device);
        }
    }
}

/// `pcifront_detach_devices`
fn detach(state: &mut State) -> Result<(), Broken> {
    let entries = state.dirs.back.iter().flat_map(|back| &back.entries);
    for entry in entries.filter(|entry| entry.state == XenbusState::Closing) {
        let Some(slot) = entry.at else { continue };
        let found = state.guest.found[usize::from(slot)].take();
        if found.is_some_and(|found| found != entry.device) {
            let text = format!("{entry:?} and the guest has device {found:?} there");
            return Err(Broken::new(VDEV, text));
        }
    }
    Ok(())
}

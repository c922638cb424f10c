//! Linux's xen-pciback in dom0, oddities included: no reconnect, and a removal that finds
//! nothing leaves the link in Reconfiguring.

use pcidom_xenbus::XenbusState;

use super::ours::IN_USE;
use super::{Alink, Fired, State};
use crate::search::{Broken, Will};
use crate::store::{DEVICES, Device, Page, Slot};

/// One device of the xenbus, bound to the driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Driver {
    /// What it wrote last.
    state: XenbusState,
    /// The slot of each exported device.
    pub(super) at: [Option<Slot>; DEVICES],
    /// The page that it has mapped.
    pub(super) attached: Option<Page>,
    /// The second half of what it is doing.
    pending: Option<Pending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pending {
    Initialised,
    Reconfigured,
}

/// The backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Dom0 {
    pub(super) driver: Option<Driver>,
    pub(super) fired: Fired,
    /// The module is there.
    pub(super) loaded: bool,
    /// A removal has failed: Linux stays in Reconfiguring for good.
    pub(super) stuck: bool,
}

impl Default for Dom0 {
    fn default() -> Self {
        Self { driver: None, fired: Fired::default(), loaded: true, stuck: false }
    }
}

/// What it does.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// `xenbus_dev_changed`
    SeesBus,
    /// `xen_pcibk_be_watch`
    SeesOwn,
    /// `xen_pcibk_frontend_changed`
    SeesFront,
    /// Ends what it has begun.
    Finishes,
    /// `rmmod`
    Unloads,
    /// `modprobe`, once everybody has seen that.
    Loads,
}

impl Alink {
    pub(super) fn dom0_steps(&self, state: &State, to: &mut Vec<(Will, super::Step)>) {
        let Dom0 { driver, fired, loaded, .. } = &state.dom0;
        let mut must = |step| to.push((Will::Must, super::Step::Dom0(step)));
        if driver.as_ref().is_some_and(|driver| driver.pending.is_some()) {
            return must(Step::Finishes);
        }
        if fired.bus && *loaded {
            must(Step::SeesBus);
        }
        if fired.own && *loaded {
            must(Step::SeesOwn);
        }
        if fired.other && *loaded {
            must(Step::SeesFront);
        }
        // A person types the next command when our end has taken notice.
        let linked = matches!(
            state.dirs.front_state(),
            XenbusState::Connected | XenbusState::Reconfiguring
        );
        if !loaded && !linked && state.ours.is_idle() {
            must(Step::Loads);
        }
        if *loaded && driver.is_some() && state.faults < self.faults {
            to.push((Will::May, super::Step::Dom0(Step::Unloads)));
        }
    }

    pub(super) fn dom0_step(state: &mut State, step: Step) -> Result<(), Broken> {
        match step {
            Step::SeesBus => {
                state.dom0.fired.bus = false;
                bus_changed(state);
            }
            Step::SeesOwn => {
                state.dom0.fired.own = false;
                match state.dirs.back_state() {
                    XenbusState::InitWait => set_up(state),
                    XenbusState::Initialised => {
                        return reconfigure(state, XenbusState::Initialised);
                    }
                    _ => {}
                }
            }
            Step::SeesFront => {
                state.dom0.fired.other = false;
                return front_changed(state);
            }
            Step::Finishes => finish(state),
            Step::Unloads => {
                state.faults += 1;
                state.tool.disturbed = true;
                switch(state, XenbusState::Closed);
                let Dom0 { driver, fired, loaded, stuck } = &mut state.dom0;
                (*driver, *loaded, *stuck) = (None, false, false);
                (fired.own, fired.other) = (false, false);
            }
            Step::Loads => {
                state.dom0.loaded = true;
                match state.dirs.back {
                    // The bus knows it already.
                    Some(_) => probe(state),
                    None => state.dom0.fired.bus = true,
                }
            }
        }
        Ok(())
    }
}

fn bus_changed(state: &mut State) {
    let known = state.dom0.driver.is_some();
    if known && state.dirs.back.is_none() {
        unregister(state);
    } else if !known && state.dirs.back_state() == XenbusState::Initialising {
        probe(state);
    }
}

/// `xen_pcibk_xenbus_probe`
fn probe(state: &mut State) {
    state.dom0.driver = Some(Driver {
        state: XenbusState::Initialising,
        at: [None; DEVICES],
        attached: None,
        pending: None,
    });
    state.dom0.stuck = false;
    // New watches fire once.
    (state.dom0.fired.own, state.dom0.fired.other) = (true, true);
    switch(state, XenbusState::InitWait);
}

/// `xen_pcibk_xenbus_remove`
fn unregister(state: &mut State) {
    let Dom0 { driver, fired, stuck, .. } = &mut state.dom0;
    (*driver, *stuck) = (None, false);
    (fired.own, fired.other) = (false, false);
}

/// `xenbus_switch_state`
fn switch(state: &mut State, to: XenbusState) {
    let Some(driver) = &mut state.dom0.driver else { return };
    let Some(back) = &mut state.dirs.back else { return };
    if driver.state != to {
        (driver.state, back.state) = (to, to);
        state.wrote_back();
    }
}

/// `xen_pcibk_setup_backend`
fn set_up(state: &mut State) {
    let (Some(driver), Some(back)) = (&mut state.dom0.driver, &mut state.dirs.back)
    else {
        return;
    };
    for entry in &mut back.entries {
        entry.at = driver.export(entry.device);
        entry.state = XenbusState::Initialised;
    }
    back.root = true;
    driver.pending = Some(Pending::Initialised);
    state.wrote_in_back();
}

/// `xen_pcibk_attach`
fn attach(state: &mut State) {
    let both = (state.dirs.back_state(), state.dirs.front_state());
    if both != (XenbusState::Initialised, XenbusState::Initialised) {
        return;
    }
    let page = state.dirs.front.as_ref().and_then(|front| front.page);
    if let (Some(driver), Some(page)) = (&mut state.dom0.driver, page)
        && driver.attached.is_none()
        // A grant that was taken back can't be mapped.
        && state.ours.open == Some(page)
    {
        driver.attached = Some(page);
        switch(state, XenbusState::Connected);
    }
}

/// `xen_pcibk_reconfigure`, without its last write.
fn reconfigure(state: &mut State, expected: XenbusState) -> Result<(), Broken> {
    if state.dirs.back_state() != expected {
        return Ok(());
    }
    let mut given_back = Vec::new();
    let (Some(driver), Some(back)) = (&mut state.dom0.driver, &mut state.dirs.back)
    else {
        return Ok(());
    };
    let mut wrote = false;
    for entry in &mut back.entries {
        match entry.state {
            XenbusState::Initialising => {
                entry.at = driver.export(entry.device);
                entry.state = XenbusState::Initialised;
                (back.root, wrote) = (true, true);
            }
            XenbusState::Closing => {
                let device =
                    driver.at.iter().position(|at| at.is_some() && *at == entry.at);
                let Some(device) = device else {
                    state.dom0.stuck = true;
                    break;
                };
                driver.at[device] = None;
                given_back.push(device);
            }
            _ => {}
        }
    }
    if expected == XenbusState::Reconfiguring && !state.dom0.stuck {
        driver.pending = Some(Pending::Reconfigured);
    }
    if wrote {
        state.wrote_in_back();
    }
    match given_back.iter().find(|device| state.ours.pool[**device].is_in_use()) {
        Some(device) => Err(Broken::new(IN_USE, format!("dom0 resets device {device}"))),
        None => Ok(()),
    }
}

fn finish(state: &mut State) {
    let pending = state.dom0.driver.as_mut().and_then(|driver| driver.pending.take());
    match pending {
        Some(Pending::Initialised) => {
            switch(state, XenbusState::Initialised);
            attach(state);
        }
        Some(Pending::Reconfigured) => switch(state, XenbusState::Reconfigured),
        None => {}
    }
}

/// `xen_pcibk_frontend_changed`
fn front_changed(state: &mut State) -> Result<(), Broken> {
    match state.dirs.front_state() {
        XenbusState::Initialised => attach(state),
        XenbusState::Reconfiguring => {
            return reconfigure(state, XenbusState::Reconfiguring);
        }
        XenbusState::Connected => switch(state, XenbusState::Connected),
        XenbusState::Closing => {
            disconnect(state);
            switch(state, XenbusState::Closing);
        }
        XenbusState::Closed => {
            disconnect(state);
            switch(state, XenbusState::Closed);
            if state.dirs.back.as_ref().is_none_or(|back| !back.online) {
                unregister(state);
            }
        }
        XenbusState::Unknown => unregister(state),
        XenbusState::Initialising | XenbusState::InitWait | XenbusState::Reconfigured => {
        }
    }
    Ok(())
}

fn disconnect(state: &mut State) {
    if let Some(driver) = &mut state.dom0.driver {
        driver.attached = None;
    }
}

impl Driver {
    /// `xen_pcibk_export_device`: in the first free slot.
    fn export(&mut self, device: Device) -> Option<Slot> {
        let place = usize::from(device);
        if self.at[place].is_none() {
            let free = |slot: &Slot| !self.at.contains(&Some(*slot));
            self.at[place] = (0..).find(free);
        }
        self.at[place]
    }
}

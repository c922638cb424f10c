//! What must be so when nothing must happen any more.

use pcidom_xenbus::XenbusState;
use pcifront::link;

use super::{Ends, State};
use crate::search::Broken;
use crate::store::DEVICES;

/// Both ends are where they should be.
pub(super) const STUCK: &str = "the link is never stuck";
/// No operation hangs.
pub(super) const WAITS: &str = "no toolstack waits in vain";
/// The pool is what dom0 exports.
pub(super) const POOL: &str = "the pool has what dom0 exports, where it exports it";
/// Substates.
pub(super) const SUBSTATE: &str = "a substate ends Initialised, Closing or removed";
/// Nothing is left open.
pub(super) const LEFT: &str = "a link that is over leaves no page";

pub(super) fn at_rest(state: &State) -> Result<(), Broken> {
    let State { dirs, ours, dom0, tool, .. } = state;
    let stuck = |text: &str| Err(Broken::new(STUCK, format!("{text}: {}", Ends(state))));
    let back = dirs.back_state();
    let (front, is) = (dirs.front_state(), ours.link.state());
    let expected = match back {
        _ if front == XenbusState::Unknown => link::State::Down,
        XenbusState::Unknown => link::State::Down,
        XenbusState::Connected => link::State::Connected,
        // Linux waits for nobody there.
        XenbusState::Reconfiguring if dom0.stuck => link::State::Reconfiguring,
        XenbusState::Closing | XenbusState::Closed => link::State::Down,
        _ => return stuck("nobody stays there"),
    };
    if is != expected {
        return stuck("our end is elsewhere");
    }
    let shows = match is {
        link::State::Connected => XenbusState::Connected,
        link::State::Reconfiguring => XenbusState::Reconfiguring,
        _ => XenbusState::Closed,
    };
    let unseen = matches!(front, XenbusState::Unknown | XenbusState::Initialising);
    if front != shows && !(shows == XenbusState::Closed && unseen) {
        return stuck("our state says otherwise");
    }
    if expected == link::State::Down && ours.open.is_some() {
        return Err(Broken::new(LEFT, Ends(state).to_string()));
    }
    let attached = dom0.driver.as_ref().and_then(|driver| driver.attached);
    if expected != link::State::Down && attached != ours.open {
        return stuck("dom0 has another page");
    }
    // A Linux backend that has closed never comes back, one without a frontend is none, and
    // toolstacks wait for them all the same. Without anybody's fault there are none.
    let gone = back == XenbusState::Closed || front == XenbusState::Unknown;
    let excused = tool.disturbed || dom0.stuck || (gone && state.faults > 0);
    if tool.is_waiting() && !excused {
        return Err(Broken::new(WAITS, Ends(state).to_string()));
    }
    // What has failed to go never goes: Linux does not say where it is.
    if dom0.stuck {
        return Ok(());
    }
    check_pool(state, expected == link::State::Down)
}

fn check_pool(state: &State, down: bool) -> Result<(), Broken> {
    let State { dirs, ours, dom0, .. } = state;
    let exports = dom0.driver.as_ref().map_or([None; DEVICES], |driver| driver.at);
    for (device, has) in (0_u8..).zip(ours.pool) {
        let entry = dirs.entry(device).filter(|_| !down);
        match entry.map(|entry| entry.state) {
            Some(XenbusState::Initialised | XenbusState::Closing) | None => {}
            Some(other) => {
                let text = format!("device {device} stays in {other}");
                return Err(Broken::new(SUBSTATE, text));
            }
        }
        let at = ours.at[usize::from(device)];
        let exported = exports[usize::from(device)].filter(|_| !down);
        let listed = entry.is_some_and(|entry| entry.state == XenbusState::Initialised);
        let right = match has.is_there() {
            true => at.is_some() && at == exported,
            false => !has.is_in_use() && !listed,
        };
        if !right {
            let text = format!("device {device} is {has:?} at {at:?}, dom0 {exported:?}");
            return Err(Broken::new(POOL, text));
        }
    }
    Ok(())
}

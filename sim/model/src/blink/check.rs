//! What must be so when nothing must happen any more.

use pciback::link::Phase;
use pcidom_xenbus::XenbusState;

use super::{State, ends};
use crate::search::Broken;

/// Both ends are where they should be.
pub(super) const STUCK: &str = "the link is never stuck";
/// No operation hangs.
pub(super) const WAITS: &str = "no toolstack waits in vain";
/// The guest has found what is lent.
pub(super) const FOUND: &str = "the guest has what is lent to it, and nothing else";
/// Substates.
pub(super) const SUBSTATE: &str = "a substate ends Initialised, Closing or removed";
/// `vdev-N` is right.
pub(super) const PLACE: &str = "vdev-N names the place where the device is";
/// Nothing is left of a link.
pub(super) const LEFT: &str = "a link that is over leaves nothing";

pub(super) fn at_rest(state: &State) -> Result<(), Broken> {
    let State { dirs, ours, guest, daemon, .. } = state;
    if !daemon.is_settled() {
        return Err(Broken::new(WAITS, ends(state)));
    }
    let lent: Vec<u8> = (0..2).filter(|device| daemon.lends(*device)).collect();
    let Some(link) = ours.link.as_ref().filter(|_| !lent.is_empty()) else {
        let nothing = dirs.back.is_none()
            && ours.link.is_none()
            && ours.page.is_none()
            && ours.served.iter().all(Option::is_none)
            && guest.open.is_none()
            && lent.is_empty();
        return match nothing {
            true => Ok(()),
            false => Err(Broken::new(LEFT, ends(state))),
        };
    };
    let closed = guest.has_closed();
    let expected = match (closed, dirs.back_state()) {
        // It can come back at any time, and finds what is lent.
        (true, XenbusState::Initialised) => {
            (XenbusState::Closed, XenbusState::Initialised, Phase::Ready)
        }
        (true, _) => (XenbusState::Closed, XenbusState::Closed, Phase::Closed),
        (false, _) => (XenbusState::Connected, XenbusState::Connected, Phase::Connected),
    };
    let page = if closed { None } else { guest.open };
    if (dirs.front_state(), dirs.back_state(), link.phase()) != expected
        || ours.page != page
        || link.is_connected() == closed
    {
        return Err(Broken::new(STUCK, ends(state)));
    }
    for device in lent {
        check_device(state, device, closed)?;
    }
    Ok(())
}

fn check_device(state: &State, device: u8, closed: bool) -> Result<(), Broken> {
    let entry = state.dirs.entry(device);
    let served = state.ours.served[usize::from(device)];
    let text = format!("device {device}: {entry:?}, served at {served:?}");
    match entry.map(|entry| (entry.state, entry.at)) {
        Some((XenbusState::Initialised, at)) if at != served || at.is_none() => {
            return Err(Broken::new(PLACE, text));
        }
        Some((XenbusState::Initialised, _)) => {}
        // It is shown when the guest comes back.
        Some((XenbusState::Initialising, None)) if closed => {}
        _ => return Err(Broken::new(SUBSTATE, text)),
    }
    let found = state.guest.found.iter().position(|found| *found == Some(device));
    let right = found == served.filter(|_| !closed).map(usize::from);
    let count = state.guest.found.iter().flatten().count();
    let all = state.ours.served.iter().flatten().count();
    if !right || (!closed && count != all) {
        return Err(Broken::new(FOUND, format!("{text}, found {:?}", state.guest.found)));
    }
    Ok(())
}

//! The two directories of a guest's link, and the entries in them (protocol: libxl's own
//! layout, with pcidom where libxl knows dom0 only).
//!
//! pcidom owns its directory and could write anything there. So nothing is decided by what it
//! says: which entry is whose is in the daemon's record, and changes with it in one
//! transaction. Only states are read, and a false one harms pcidom's own guest alone.

use pcidom_xenbus::XenbusState;

use super::loan::state;
use super::{Daemon, Env, Failure, Record, Stage, paths};
use crate::store::{Nodes, Permissions, StoreError};

/// What belongs to one entry, in libxl's names, and why pcidom could not export it.
const ENTRY_KEYS: [&str; 7] = ["dev", "key", "opts", "state", "vdev", "vdevfn", "error"];

/// What libxl writes for a device without options.
const OPTIONS: &str = "msitranslate=0,power_mgmt=0,permissive=0,rdm_policy=strict";

fn set(
    nodes: &mut dyn Nodes,
    directory: &str,
    key: &str,
    value: &str,
) -> Result<(), StoreError> {
    nodes.write(&format!("{directory}/{key}"), value)
}

fn set_state(
    nodes: &mut dyn Nodes,
    directory: &str,
    key: &str,
    state: XenbusState,
) -> Result<(), StoreError> {
    set(nodes, directory, key, &state.number().to_string())
}

/// Whether both ends say so. Only then does a guest answer a 7: one that has not seen our 4
/// yet would drop it, and older Linux would never answer.
pub(super) fn is_connected(
    nodes: &mut dyn Nodes,
    record: &Record,
) -> Result<bool, StoreError> {
    let (pcidom, guest) = (record.pcidom(), record.guest());
    for directory in [paths::back(pcidom, guest), paths::front(guest)] {
        let now = nodes.read(&format!("{directory}/state"))?;
        if XenbusState::parse(now.as_deref()) != XenbusState::Connected {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Puts the loan's device on the link as entry `entry`, which is the next one. The first
/// one makes the link, unless one was kept for it. A link that is Connected is told to look
/// (7); one that is still on its way finds the entry when it gets there.
pub(super) fn add(
    nodes: &mut dyn Nodes,
    record: &Record,
    entry: u16,
) -> Result<(), StoreError> {
    let (pcidom, guest) = (record.pcidom(), record.guest());
    let (back, front) = (paths::back(pcidom, guest), paths::front(guest));
    let connected = is_connected(nodes, record)?;
    let is_new = entry == 0 && !connected;
    if is_new {
        nodes.remove(&front)?;
        nodes.remove(&paths::backs(pcidom, guest))?;
        nodes.write(&back, "")?;
        nodes.set_permissions(&back, Permissions::shared(pcidom, guest))?;
        set(nodes, &back, "frontend", &front)?;
        set(nodes, &back, "frontend-id", &guest.to_string())?;
        set(nodes, &back, "online", "1")?;
        set(nodes, &back, "domain", &record.guest_name)?;
    }
    let device = record.device.0.to_string();
    set(nodes, &back, &format!("dev-{entry}"), &device)?;
    set(nodes, &back, &format!("key-{entry}"), &device)?;
    set(nodes, &back, &format!("opts-{entry}"), OPTIONS)?;
    if let Some(slot) = record.slot.filter(|slot| *slot != 0) {
        set(nodes, &back, &format!("vdevfn-{entry}"), &format!("{:x}", slot << 3))?;
    }
    set_state(nodes, &back, &format!("state-{entry}"), XenbusState::Initialising)?;
    set(nodes, &back, "num_devs", &(entry + 1).to_string())?;
    if is_new {
        set_state(nodes, &back, "state", XenbusState::Initialising)?;
        nodes.write(&front, "")?;
        nodes.set_permissions(&front, Permissions::shared(guest, pcidom))?;
        set(nodes, &front, "backend", &back)?;
        set(nodes, &front, "backend-id", &pcidom.to_string())?;
        set_state(nodes, &front, "state", XenbusState::Initialising)?;
    } else if connected {
        set_state(nodes, &back, "state", XenbusState::Reconfiguring)?;
    }
    Ok(())
}

/// Asks both ends to let the entry's device go.
pub(super) fn ask_to_remove(
    nodes: &mut dyn Nodes,
    record: &Record,
    entry: u16,
) -> Result<(), StoreError> {
    let back = paths::back(record.pcidom(), record.guest());
    set_state(nodes, &back, &format!("state-{entry}"), XenbusState::Closing)?;
    set_state(nodes, &back, "state", XenbusState::Reconfiguring)
}

/// Whether the guest has let go of what it is asked to let go of, or has closed its end: then
/// pcidom is taking it off the link, or has, and it would not come back.
pub(super) fn has_answered(
    nodes: &mut dyn Nodes,
    record: &Record,
) -> Result<bool, StoreError> {
    let ends =
        [paths::back(record.pcidom(), record.guest()), paths::front(record.guest())];
    let mut states = [XenbusState::Unknown; 2];
    for (state, end) in states.iter_mut().zip(ends) {
        *state = XenbusState::parse(nodes.read(&format!("{end}/state"))?.as_deref());
    }
    let [back, front] = states;
    let let_go = matches!(
        front,
        XenbusState::Reconfiguring | XenbusState::Closing | XenbusState::Closed
    );
    Ok(back == XenbusState::Reconfigured || let_go)
}

/// Takes that back.
pub(super) fn ask_no_more(
    nodes: &mut dyn Nodes,
    record: &Record,
    entry: u16,
) -> Result<(), StoreError> {
    let back = paths::back(record.pcidom(), record.guest());
    set_state(nodes, &back, &format!("state-{entry}"), XenbusState::Initialised)
}

/// Tells a living guest that a device is going without being asked. `last`: the link goes too.
pub(super) fn tell_of_loss(
    nodes: &mut dyn Nodes,
    record: &Record,
    entry: u16,
    last: bool,
) -> Result<(), StoreError> {
    let back = paths::back(record.pcidom(), record.guest());
    let now = XenbusState::parse(nodes.read(&format!("{back}/state"))?.as_deref());
    let exported = nodes.read(&format!("{back}/state-{entry}"))?;
    let exported = XenbusState::parse(exported.as_deref()) != XenbusState::Closed;
    match now {
        // No directory: nobody is there to see it, and it must not come back.
        XenbusState::Unknown => Ok(()),
        _ if last => set_state(nodes, &back, "state", XenbusState::Closing),
        // pcidom could not export it: the guest has never seen it.
        _ if !exported => Ok(()),
        XenbusState::Connected => ask_to_remove(nodes, record, entry),
        _ => set_state(nodes, &back, &format!("state-{entry}"), XenbusState::Closing),
    }
}

/// Takes the link away.
fn remove_link(nodes: &mut dyn Nodes, record: &Record) -> Result<(), StoreError> {
    if record.guest_is_home(nodes)? {
        nodes.remove(&paths::front(record.guest()))?;
    }
    nodes.remove(&paths::backs(record.pcidom(), record.guest()))
}

/// Takes the link away if there is one: it was kept for a device that has not come, or has
/// lost an end since. Whether there was one.
pub(super) fn remove_kept(
    nodes: &mut dyn Nodes,
    record: &Record,
) -> Result<bool, StoreError> {
    let (pcidom, guest) = (record.pcidom(), record.guest());
    let back = paths::back(pcidom, guest);
    let ours = nodes.read(&format!("{}/backend", paths::front(guest)))?;
    let kept = ours.as_ref() == Some(&back)
        || nodes.read(&format!("{back}/num_devs"))?.is_some();
    if kept {
        remove_link(nodes, record)?;
    }
    Ok(kept)
}

/// Takes entry `entry` of `count` out of the link. Those behind it move up, as libxl does
/// it; with the last one, the link goes, unless it is kept.
pub(super) fn remove(
    nodes: &mut dyn Nodes,
    record: &Record,
    entry: u16,
    (count, keep): (u16, bool),
) -> Result<(), StoreError> {
    let back = paths::back(record.pcidom(), record.guest());
    if count <= 1 && !keep {
        return remove_link(nodes, record);
    }
    if nodes.read(&format!("{back}/num_devs"))?.is_none() {
        return Ok(());
    }
    for to in entry..count - 1 {
        for key in ENTRY_KEYS {
            let target = format!("{back}/{key}-{to}");
            match nodes.read(&format!("{back}/{key}-{}", to + 1))? {
                Some(value) => nodes.write(&target, &value)?,
                None => nodes.remove(&target)?,
            }
        }
    }
    for key in ENTRY_KEYS {
        nodes.remove(&format!("{back}/{key}-{}", count - 1))?;
    }
    set(nodes, &back, "num_devs", &(count - 1).to_string())
}

/// What may be done with a link now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is none, or nobody would answer: change the directories, no handshake.
    Quiet,
    /// Both ends answer a 7.
    Connected,
    /// A change is under way.
    Busy,
}

impl Daemon {
    /// How many entries the loan's link has, by the record.
    pub(super) fn entries(&self, record: &Record) -> u16 {
        let on_link = |other: &&super::Loan| {
            (other.record.pcidom, other.record.guest) == (record.pcidom, record.guest)
                && other.record.entry.is_some()
        };
        // Bounded by MAX_LOANS.
        u16::try_from(self.loans.values().filter(on_link).count()).unwrap_or(u16::MAX)
    }

    /// Whether the link is there, and a guest that runs has closed it: nobody would see a
    /// device that joins. One that has not connected yet, or connects again, finds it.
    pub(super) fn is_closed(
        &self,
        env: &mut Env<'_>,
        record: &Record,
    ) -> Result<bool, Failure> {
        if self.entries(record) == 0 {
            return Ok(false);
        }
        let back = state(env.store, &paths::back(record.pcidom(), record.guest()))?;
        let paused = env.xen.domain(record.guest())?.is_some_and(|info| info.paused);
        // pcidom offers the link again at once if only the driver went.
        let front = state(env.store, &paths::front(record.guest()))?;
        let closed = front == XenbusState::Closed
            || matches!(back, XenbusState::Closing | XenbusState::Closed);
        Ok(!paused && closed)
    }

    /// Whether another device is on its way to this one's link. Then that is not taken away
    /// with its last device, to be made anew after a pause.
    pub(super) fn is_awaited(&self, record: &Record) -> bool {
        let mut own = self.loans.values().filter(|l| l.record.device == record.device);
        let awaits = |other: &super::Loan| {
            (other.record.pcidom, other.record.guest) == (record.pcidom, record.guest)
                && other.record.device != record.device
                && matches!(other.record.stage, Stage::Preparing | Stage::Lending)
        };
        own.all(|loan| !loan.link_goes) && self.loans.values().any(awaits)
    }

    /// The standing of a loan's link.
    pub(super) fn standing(
        &self,
        env: &mut Env<'_>,
        record: &Record,
    ) -> Result<Standing, Failure> {
        // A device that is half taken back still has its entry, which the next change would
        // make the guest look at again: one change at a time.
        let back = state(env.store, &paths::back(record.pcidom(), record.guest()))?;
        let started = matches!(
            back,
            XenbusState::Connected
                | XenbusState::Reconfiguring
                | XenbusState::Reconfigured
        );
        let busy = self.loans.values().any(|other| {
            (other.record.pcidom, other.record.guest) == (record.pcidom, record.guest)
                && other.record.device != record.device
                && other.record.entry.is_some()
                && match other.record.stage {
                    Stage::Detaching | Stage::Ending => true,
                    // A link that is on its way takes all it finds when it gets there.
                    Stage::Lent => other.waiter.is_some() && started,
                    Stage::Preparing | Stage::Lending => false,
                }
        });
        if busy {
            return Ok(Standing::Busy);
        }
        if self.entries(record) == 0 {
            return Ok(Standing::Quiet);
        }
        Ok(match back {
            XenbusState::Connected => Standing::Connected,
            XenbusState::Reconfiguring | XenbusState::Reconfigured => Standing::Busy,
            _ => Standing::Quiet,
        })
    }
}

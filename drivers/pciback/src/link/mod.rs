//! The XenBus state machine of a backend, for one guest.
//!
//! ```text
//!  Absent --1--> Waiting --2--> Ready --3--> Connecting --4--> Connected
//!                 (2)  ^         (3)             |              (4)  | ^
//!                      |                         |5                 6| |9
//!                      |                         v                   v |
//!                      +----------12--------- Closed <--11-- Reconfiguring (7)
//!                      |                       (6)              7|  ^
//!                      +------12-- Closing <-----10--- any       v  |8
//!                                   (5) ---11--> Closed      Reconfigured (8)
//! ```
//!
//! 1. The back directory is there. InitWait.
//! 2. At least one device is exported, or none is left to wait for. Initialised.
//! 3. The front is Initialised, its keys make sense: map its page, bind its port.
//! 4. That worked. Connected.
//! 5. It did not, or the keys are nonsense: error node, Closed. The same keys are not tried
//!    again; others are.
//! 6. The toolstack has set Reconfiguring; or there is a device to export or to take away
//!    and nobody told the front, then we set it ourselves.
//! 7. The front is Reconfiguring: devices are exported and taken away. What fails is marked
//!    in its entry (`state-N` 6, `error-N`), and the link goes on. Reconfigured.
//! 8. The toolstack has set Reconfiguring once more.
//! 9. The front is Connected. Connected.
//! 10. The front is Closing: disconnect, Closing. Or the toolstack wants it closed.
//! 11. The front is Closed: disconnect, Closed; but while devices are lent, and nobody has asked
//!     it to close, InitWait at once (12): its driver was unloaded, and Linux's, loaded again,
//!     would close for good if it found us Closed.
//! 12. The front is Initialising again, or Initialised with other keys; or the back
//!     directory has been made anew: disconnect, InitWait, and from there as before.
//!
//! Devices can be exported in Waiting and Ready without a change of state. A directory that
//! can't be read ([`Link::is_gone`]) changes nothing: if the guest is dying its page stays
//! mapped until [`Event::Release`], as that keeps the dying domain addressable, which its
//! leases and its device need (testbed.md, "Ends of life").

mod keys;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_xenbus::pciif::MAGIC;
use pcidom_xenbus::{GrantRef, Port, XenbusState};

use crate::vbus::{Placing, RootText, VdevText, VirtualBus};

pub use keys::{BackEntries, BackEntry, FrontKeys, MAX_ENTRIES};

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The front directory as it is now.
    Front(FrontKeys),
    /// The back directory as it is now. The reading must have begun after all earlier
    /// actions were done, or our own older state is taken for the toolstack's wish.
    Back(BackEntries),
    /// How [`Action::Connect`] ended; an error in words, for the error node.
    Connected(Result<(), String>),
    /// This device is lent to the guest: it may be exported once its entry is there.
    Lent(Placing),
    /// This device's loan is over.
    Ended(Sbdf),
    /// What [`Action::Write`] or [`Action::SetState`] asked for was not written (a quota, say).
    Unwritten,
    /// It was not written since the directory is gone, or its entries have moved.
    Moved,
    /// Everything of a dead guest is settled: let go of its page.
    Release,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read the front directory; answer with [`Event::Front`].
    ReadFront,
    /// Read the back directory; answer with [`Event::Back`].
    ReadBack,
    /// Write our `state`.
    SetState(XenbusState),
    /// Map this page of the guest and bind to this port; answer with [`Event::Connected`].
    Connect {
        /// The page.
        reference: GrantRef,
        /// The guest's port.
        port: Port,
    },
    /// Stop serving, unmap the page, close the port.
    Disconnect,
    /// Write these keys of the back directory in one transaction, if the one beside them is
    /// still as it says; else answer with [`Event::Moved`].
    Write {
        /// `dev-N` of the last entry that is written to: it is another one if an entry
        /// before it was taken away, and those behind have moved up.
        beside: Option<(String, String)>,
        /// Names and values.
        keys: Vec<(String, String)>,
    },
    /// Something is wrong with the guest's end: for the error node and, at a limited rate,
    /// the log.
    Error(String),
    /// Show this device to the guest.
    Export {
        /// Its physical address.
        device: Sbdf,
        /// Where the guest sees it.
        at: VirtualBdf,
    },
    /// Take this device off the link.
    Withdraw(Sbdf),
}

/// How far a link is. The numbers are the XenBus states it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// There is no back directory yet.
    Absent,
    /// 2: devices are awaited.
    Waiting,
    /// 3: the front's keys are awaited.
    Ready,
    /// 3: the page is being mapped.
    Connecting,
    /// 4
    Connected,
    /// 7: the front is to follow.
    Reconfiguring,
    /// 8: the front is to come back to 4.
    Reconfigured,
    /// 5
    Closing,
    /// 6
    Closed,
}

/// The link towards one guest.
#[derive(Clone, Debug, Hash)]
pub struct Link {
    phase: Phase,
    front: XenbusState,
    front_gone: bool,
    back_gone: bool,
    connected: Option<(GrantRef, Port)>,
    refused: Option<FrontKeys>,
    lent: Vec<Placing>,
    bus: VirtualBus,
    /// What `root-N` say: appended to as long as the directory is there, as a front keeps a
    /// bus that it has scanned. One for each bus that a device came from, at most.
    roots: Vec<RootText>,
    /// The last change could not be written down. The front is not asked to look at it again
    /// and again: only something new makes another try.
    unwritten: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

impl Link {
    /// A link of which nothing is known yet; both directories are to be read next.
    pub const fn new() -> Self {
        Self {
            phase: Phase::Absent,
            front: XenbusState::Unknown,
            front_gone: false,
            back_gone: false,
            connected: None,
            refused: None,
            lent: Vec::new(),
            bus: VirtualBus::new(),
            roots: Vec::new(),
            unwritten: false,
        }
    }

    /// How far it is.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// One of the directories was there and can't be read any more.
    pub const fn is_gone(&self) -> bool {
        self.front_gone || self.back_gone
    }

    /// The guest's page is mapped and its requests are to be served.
    pub const fn is_connected(&self) -> bool {
        self.connected.is_some() && !matches!(self.phase, Phase::Connecting)
    }

    /// Where the guest sees its devices.
    pub const fn bus(&self) -> &VirtualBus {
        &self.bus
    }

    /// Takes up an event.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Front(keys) => self.on_front(keys),
            Event::Back(entries) => self.on_back(&entries),
            Event::Connected(result) => self.on_connected(result),
            Event::Lent(placing) => self.on_lent(placing),
            Event::Unwritten => {
                self.unwritten = true;
                Vec::new()
            }
            Event::Moved => [Action::ReadBack].into(),
            Event::Ended(device) => {
                self.unwritten = false;
                // It keeps its place: the guest may not know yet, and would take the next
                // device there for this one.
                self.lent.retain(|placing| placing.device != device);
                Vec::new()
            }
            Event::Release => self.disconnect(),
        }
    }

    fn on_front(&mut self, keys: FrontKeys) -> Vec<Action> {
        use Phase::{
            Absent, Closed, Closing, Connected, Connecting, Ready, Reconfigured,
            Reconfiguring, Waiting,
        };
        use XenbusState as Front;

        let state = keys.state;
        self.front_gone = state == Front::Unknown && self.phase != Absent;
        if self.front_gone {
            return Vec::new();
        }
        let before = core::mem::replace(&mut self.front, state);
        if state != Front::Initialised {
            self.refused = None;
        }
        match (self.phase, state) {
            (Absent | Closed, Front::Closing | Front::Closed) => Vec::new(),
            (Closing, Front::Closing) => self.disconnect(),
            (_, Front::Closing) => self.close(Closing, XenbusState::Closing),
            (Waiting | Ready, Front::Closed) => Vec::new(),
            (Connecting | Connected | Reconfiguring | Reconfigured, Front::Closed)
                if !self.lent.is_empty() =>
            {
                self.restart()
            }
            (_, Front::Closed) => self.close(Closed, XenbusState::Closed),
            (Absent | Waiting | Connecting, _) => Vec::new(),
            (Ready, Front::Initialised) => self.connect(keys),
            (Ready, _) => Vec::new(),
            (_, Front::Initialising | Front::InitWait) => self.restart(),
            (_, Front::Initialised) if self.is_news(&keys) => self.restart(),
            (Reconfigured, Front::Connected) => {
                self.phase = Connected;
                [Action::SetState(XenbusState::Connected), Action::ReadBack].into()
            }
            (Connected, Front::Connected) if before != state => [Action::ReadBack].into(),
            (Reconfiguring, Front::Reconfiguring) => [Action::ReadBack].into(),
            _ => Vec::new(),
        }
    }

    /// Whether a front that is Initialised has begun anew: it may have closed and come back
    /// faster than its state was read.
    fn is_news(&self, keys: &FrontKeys) -> bool {
        let given = keys.pci_op_ref.zip(keys.event_channel);
        self.refused.as_ref() != Some(keys)
            && (self.connected.is_none() || given != self.connected)
    }

    fn connect(&mut self, keys: FrontKeys) -> Vec<Action> {
        if keys.magic.as_deref() != Some(MAGIC) {
            let found = keys.magic.as_deref().unwrap_or_default();
            let text = format!("magic is \"{found}\" and not {MAGIC}");
            return self.refuse(keys, text);
        }
        let Some((reference, port)) = keys.pci_op_ref.zip(keys.event_channel) else {
            let text = "pci-op-ref or event-channel is missing or no number";
            return self.refuse(keys, text.into());
        };
        self.phase = Phase::Connecting;
        self.connected = Some((reference, port));
        self.refused = Some(keys);
        [Action::Connect { reference, port }].into()
    }

    fn refuse(&mut self, keys: FrontKeys, text: String) -> Vec<Action> {
        self.phase = Phase::Closed;
        self.refused = Some(keys);
        [Action::Error(text), Action::SetState(XenbusState::Closed)].into()
    }

    fn on_connected(&mut self, result: Result<(), String>) -> Vec<Action> {
        match (self.phase, result) {
            (Phase::Connecting, Ok(())) => {
                self.phase = Phase::Connected;
                self.refused = None;
                // The front acts on this, and its own Connected makes us look for devices
                // that came meanwhile.
                [Action::SetState(XenbusState::Connected)].into()
            }
            (Phase::Connecting, Err(text)) => {
                self.connected = None;
                let keys = self.refused.take().unwrap_or_default();
                self.refuse(keys, text)
            }
            // The guest has closed while its page was being mapped.
            (_, Ok(())) => [Action::Disconnect].into(),
            (_, Err(_)) => Vec::new(),
        }
    }

    fn on_lent(&mut self, placing: Placing) -> Vec<Action> {
        self.unwritten = false;
        if self.placing(placing.device).is_none() {
            self.bus.remove(placing.device);
        }
        self.lent.retain(|known| known.device != placing.device);
        self.lent.push(placing);
        match self.phase {
            Phase::Absent => Vec::new(),
            _ => [Action::ReadBack].into(),
        }
    }

    fn on_back(&mut self, back: &BackEntries) -> Vec<Action> {
        use Phase::{
            Absent, Closed, Closing, Connected, Connecting, Ready, Reconfigured,
            Reconfiguring, Waiting,
        };
        use XenbusState as Back;

        self.back_gone = back.state == Back::Unknown && self.phase != Absent;
        self.free_places(back);
        match (self.phase, back.state) {
            (_, Back::Unknown) => Vec::new(),
            (Waiting, _) => self.leave_waiting(back),
            (Absent, _) | (_, Back::Initialising) => {
                self.roots.clear();
                self.restart()
            }
            (Closed, Back::Closed) | (Closing, Back::Closing) => Vec::new(),
            (_, Back::Closed) => {
                self.phase = Closed;
                self.disconnect()
            }
            (
                Ready | Connecting | Connected | Reconfiguring | Reconfigured,
                Back::Closing,
            ) => {
                self.phase = Closing;
                [Action::ReadFront].into()
            }
            (Connected | Reconfigured, Back::Reconfiguring) => {
                self.phase = Reconfiguring;
                [Action::ReadFront].into()
            }
            (Reconfiguring, Back::Reconfiguring) => {
                if self.front != XenbusState::Reconfiguring {
                    return Vec::new();
                }
                let mut actions = self.take_up(back);
                self.phase = Reconfigured;
                actions.push(Action::SetState(XenbusState::Reconfigured));
                actions
            }
            // Nobody to reconfigure with: done at once, so that no toolstack waits.
            (Ready | Connecting, Back::Reconfiguring) => {
                self.take_up_and_set(back, XenbusState::Initialised)
            }
            (Closing, Back::Reconfiguring) => {
                self.take_up_and_set(back, XenbusState::Closing)
            }
            (Closed, Back::Reconfiguring) => {
                self.take_up_and_set(back, XenbusState::Closed)
            }
            (Ready | Connecting, _) => self.take_up(back),
            (Connected, _) => self.tell_front(back),
            // The toolstack has put another state over Reconfiguring.
            (Reconfiguring, Back::Connected) => {
                self.phase = Connected;
                [Action::ReadFront].into()
            }
            (Reconfiguring, Back::Reconfigured) => {
                self.phase = Reconfigured;
                [Action::ReadFront].into()
            }
            (Closing | Closed | Reconfiguring | Reconfigured, _) => Vec::new(),
        }
    }

    /// A device whose loan has ended has its place until the guest has let it go, or the
    /// toolstack has taken its entry away.
    fn free_places(&mut self, back: &BackEntries) {
        let Self { bus, lent, .. } = self;
        bus.retain(|device| {
            lent.iter().any(|placing| placing.device == device)
                || back.entries.iter().any(|entry| {
                    entry.device == Some(device) && entry.state != XenbusState::Closed
                })
        });
    }

    fn leave_waiting(&mut self, back: &BackEntries) -> Vec<Action> {
        let mut actions = self.take_up(back);
        let awaited = back.entries.iter().any(|entry| {
            let device =
                entry.device.filter(|_| entry.state == XenbusState::Initialising);
            device.is_some_and(|device| self.placing(device).is_none())
        });
        if self.bus.is_empty() && (awaited || back.entries.is_empty()) {
            return actions;
        }
        self.phase = Phase::Ready;
        // The front may have been there before us.
        actions.extend([Action::SetState(XenbusState::Initialised), Action::ReadFront]);
        actions
    }

    /// In a connected link: whether there is a device to export or to take away. The
    /// toolstack need not have said so: xl doesn't, when `num_devs` had gone back to 0.
    fn tell_front(&mut self, back: &BackEntries) -> Vec<Action> {
        let work = back.entries.iter().any(|entry| match entry.state {
            XenbusState::Initialising => {
                entry.device.is_none_or(|device| self.placing(device).is_some())
            }
            XenbusState::Closing => true,
            _ => false,
        });
        if !work || self.unwritten || self.front != XenbusState::Connected {
            return Vec::new();
        }
        self.phase = Phase::Reconfiguring;
        [Action::SetState(XenbusState::Reconfiguring)].into()
    }

    fn placing(&self, device: Sbdf) -> Option<Placing> {
        self.lent.iter().find(|placing| placing.device == device).copied()
    }

    fn take_up_and_set(&mut self, back: &BackEntries, state: XenbusState) -> Vec<Action> {
        let mut actions = self.take_up(back);
        actions.push(Action::SetState(state));
        actions
    }

    /// Exports what is new and lent, takes away what is to go. A device that isn't lent yet
    /// is left as it is, until [`Event::Lent`].
    fn take_up(&mut self, back: &BackEntries) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut keys = Vec::new();
        let mut beside = None;
        for entry in &back.entries {
            let written = keys.len();
            match entry.state {
                XenbusState::Initialising => self.export(entry, &mut actions, &mut keys),
                XenbusState::Closing => {
                    // By dev-N: what was at vdev-N when it was read may be another one by
                    // now. By vdev-N, as Linux does it, if that is missing.
                    let at = || entry.at.and_then(|at| self.bus.at(at));
                    let device = entry.device.or_else(at);
                    if let Some(device) = device
                        && self.bus.address_of(device).is_some()
                    {
                        self.bus.remove(device);
                        if self.placing(device).is_some() {
                            actions.push(Action::Withdraw(device));
                        }
                    }
                    push_state(&mut keys, entry.index, XenbusState::Closed);
                }
                _ => {}
            }
            if keys.len() > written
                && let Some(device) = entry.device
            {
                beside = Some((format!("dev-{}", entry.index), device.to_string()));
            }
        }
        if !keys.is_empty() {
            // Before the state changes, as the front reads them then.
            for (index, root) in self.roots.iter().enumerate() {
                keys.push((format!("root-{index}"), root.to_string()));
            }
            keys.push(("root_num".to_string(), self.roots.len().to_string()));
            actions.push(Action::Write { beside, keys });
        }
        actions
    }

    fn export(
        &mut self,
        entry: &BackEntry,
        actions: &mut Vec<Action>,
        keys: &mut Vec<(String, String)>,
    ) {
        let index = entry.index;
        let placed = match entry.device {
            None => Err("its address is none".to_string()),
            Some(device) => {
                let Some(placing) = self.placing(device) else { return };
                let known = self.bus.address_of(device).is_some();
                let placed = self.bus.place(placing);
                placed.map(|at| (device, at, known)).map_err(|error| error.to_string())
            }
        };
        match placed {
            Ok((device, at, known)) => {
                if !known {
                    actions.push(Action::Export { device, at });
                }
                let root = RootText::of(at);
                if !self.roots.contains(&root) {
                    self.roots.push(root);
                }
                keys.push((format!("vdev-{index}"), VdevText(at).to_string()));
                push_state(keys, index, XenbusState::Initialised);
            }
            Err(text) => {
                keys.push((format!("error-{index}"), text));
                push_state(keys, index, XenbusState::Closed);
            }
        }
    }

    /// Begins anew, with the devices that are lent.
    fn restart(&mut self) -> Vec<Action> {
        let mut actions = self.disconnect();
        self.unwritten = false;
        self.phase = Phase::Waiting;
        actions.extend([Action::SetState(XenbusState::InitWait), Action::ReadBack]);
        actions
    }

    fn close(&mut self, phase: Phase, state: XenbusState) -> Vec<Action> {
        let mut actions = self.disconnect();
        self.phase = phase;
        actions.push(Action::SetState(state));
        actions
    }

    fn disconnect(&mut self) -> Vec<Action> {
        let mapped = self.connected.take().is_some() && self.phase != Phase::Connecting;
        if mapped { [Action::Disconnect].into() } else { Vec::new() }
    }
}

fn push_state(keys: &mut Vec<(String, String)>, index: u32, state: XenbusState) {
    keys.push((format!("state-{index}"), state.number().to_string()));
}

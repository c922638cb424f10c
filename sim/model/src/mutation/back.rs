use pciback::link::{Action, BackEntries, Event, FrontKeys, Link, Phase};
use pcidom_xenbus::XenbusState;

/// What is wrong with our end of the B-link. The numbers are those of the drawing in
/// `drivers/pciback/src/link/mod.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackMutation {
    /// 1: a directory that is there is not seen.
    NeverBegins,
    /// 2: devices that are exported are not shown.
    ExportsNothing,
    /// 2: what is lent is not exported.
    ForgetsLent,
    /// 3: the page is not mapped.
    NeverMaps,
    /// 4: Connected is not said.
    NeverConnected,
    /// 6: Reconfiguring of the toolstack is not seen.
    IgnoresReconfiguring,
    /// 6: the front is not told what the toolstack has not told it.
    NeverAnnounces,
    /// 7: devices are taken away before the front has answered.
    TakesTooEarly,
    /// 7: a device that is to go stays on the link.
    WithdrawsNothing,
    /// 7: nothing is written down.
    WritesNothing,
    /// 7: `vdev-N` is not written.
    WritesNoPlace,
    /// 7: `state-N` is not written.
    WritesNoSubstate,
    /// 7: Reconfigured is not said.
    NeverReconfigured,
    /// 7: another state is said.
    GoesToInitialised,
    /// 9: the front's Connected is not seen.
    StaysReconfigured,
    /// 10: the front's Closing and Closed are not seen.
    IgnoresClosing,
    /// 10, 11: the page is kept.
    KeepsPage,
    /// 11: Closed is not said.
    NeverClosed,
    /// 12: a front that comes back is not seen.
    NeverReturns,
    /// The end of a loan is forgotten.
    ForgetsEnded,
    /// A dead guest's page is let go at once.
    LetsGoTooEarly,
}

impl BackMutation {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::NeverBegins,
        Self::ExportsNothing,
        Self::ForgetsLent,
        Self::NeverMaps,
        Self::NeverConnected,
        Self::IgnoresReconfiguring,
        Self::NeverAnnounces,
        Self::TakesTooEarly,
        Self::WithdrawsNothing,
        Self::WritesNothing,
        Self::WritesNoPlace,
        Self::WritesNoSubstate,
        Self::NeverReconfigured,
        Self::GoesToInitialised,
        Self::StaysReconfigured,
        Self::IgnoresClosing,
        Self::KeepsPage,
        Self::NeverClosed,
        Self::NeverReturns,
        Self::ForgetsEnded,
        Self::LetsGoTooEarly,
    ];

    fn swallows(self, phase: Phase, event: &Event) -> bool {
        use XenbusState as Xs;
        let front = match event {
            Event::Front(FrontKeys { state, .. }) => Some(*state),
            _ => None,
        };
        let back = match event {
            Event::Back(BackEntries { state, .. }) => Some(*state),
            _ => None,
        };
        match self {
            Self::NeverBegins => phase == Phase::Absent && back.is_some(),
            Self::ForgetsLent => matches!(event, Event::Lent(_)),
            Self::IgnoresReconfiguring => {
                phase == Phase::Connected && back == Some(Xs::Reconfiguring)
            }
            Self::StaysReconfigured => {
                phase == Phase::Reconfigured && front == Some(Xs::Connected)
            }
            Self::IgnoresClosing => matches!(front, Some(Xs::Closing | Xs::Closed)),
            Self::NeverReturns => {
                matches!(phase, Phase::Closing | Phase::Closed)
                    && matches!(front, Some(Xs::Initialising | Xs::Initialised))
            }
            Self::ForgetsEnded => matches!(event, Event::Ended(_)),
            _ => false,
        }
    }

    /// The machine's answer to `event`, with this mistake in it.
    pub(crate) fn handle(self, link: &mut Link, event: Event) -> Vec<Action> {
        use XenbusState as Xs;
        let before = link.phase();
        if self.swallows(before, &event) {
            return Vec::new();
        }
        let told = event.clone();
        let mut actions = link.handle(event);
        let set = |state| Action::SetState(state);
        match self {
            Self::ExportsNothing => {
                actions.retain(|action| !matches!(action, Action::Export { .. }));
            }
            Self::NeverMaps => {
                actions.retain(|action| !matches!(action, Action::Connect { .. }));
            }
            Self::NeverConnected => {
                let first = matches!(told, Event::Connected(_));
                actions.retain(|action| !first || *action != set(Xs::Connected));
            }
            Self::NeverAnnounces => actions.retain(|a| *a != set(Xs::Reconfiguring)),
            Self::TakesTooEarly
                if before != link.phase() && link.phase() == Phase::Reconfiguring =>
            {
                let state = Xs::Reconfiguring;
                let keys = FrontKeys { state, ..FrontKeys::default() };
                actions.extend(link.handle(Event::Front(keys)));
            }
            Self::WithdrawsNothing => {
                actions.retain(|action| !matches!(action, Action::Withdraw(_)));
            }
            Self::WritesNothing => {
                actions.retain(|action| !matches!(action, Action::Write { .. }));
            }
            Self::WritesNoPlace => leave_out(&mut actions, "vdev-"),
            Self::WritesNoSubstate => leave_out(&mut actions, "state-"),
            Self::NeverReconfigured => actions.retain(|a| *a != set(Xs::Reconfigured)),
            Self::GoesToInitialised => {
                for action in actions.iter_mut().filter(|a| **a == set(Xs::Reconfigured))
                {
                    *action = set(Xs::Initialised);
                }
            }
            Self::KeepsPage => actions.retain(|a| *a != Action::Disconnect),
            Self::NeverClosed => actions.retain(|a| *a != set(Xs::Closed)),
            Self::LetsGoTooEarly => {
                let gone = matches!(&told, Event::Front(k) if k.state == Xs::Unknown);
                let dead = gone && before == Phase::Connected;
                actions.extend(dead.then_some(Action::Disconnect));
            }
            _ => {}
        }
        actions
    }
}

fn leave_out(actions: &mut [Action], prefix: &str) {
    for action in actions {
        if let Action::Write { keys, .. } = action {
            keys.retain(|(key, _)| !key.starts_with(prefix));
        }
    }
}

use pcidom_xenbus::XenbusState;
use pcifront::link::{Action, Event, Link, State};

/// What is wrong with our end of the A-link. The numbers are those of the drawing in
/// `drivers/pcifront/src/link.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontMutation {
    /// 1: a backend that waits is not opened to.
    NeverOpens,
    /// 2: what was opened is forgotten.
    ForgetsOpened,
    /// 2: an open that landed in a directory made anew is undone.
    UndoesOpened,
    /// 3, 7: Connected is said before the directory is read.
    ConnectedBeforeReading,
    /// 3: Connected is not said.
    NeverConnected,
    /// 3, 7: a device that is there is not taken in.
    AddsNothing,
    /// 5: Reconfiguring is not seen.
    IgnoresReconfiguring,
    /// 5: Reconfiguring is seen, and the directory not read.
    ReadsNothing,
    /// 5: a device that leaves stays in the pool.
    RemovesNothing,
    /// 6: Reconfiguring is said while a device is in use.
    AnswersTooEarly,
    /// 6: Reconfiguring is not said.
    NeverAnswers,
    /// 6: another state is said.
    AnswersReconfigured,
    /// 6, 9: the end of a loan is forgotten.
    ForgetsReleased,
    /// 7: Reconfigured is not seen.
    IgnoresReconfigured,
    /// 7: Connected is not said again.
    StaysReconfiguring,
    /// 7: another state is said.
    GoesToInitialised,
    /// 8: a backend that closes is not seen.
    IgnoresClosing,
    /// 9: Closed is said while a device is in use.
    ClosesTooEarly,
    /// 9: Closed is not said.
    NeverClosed,
    /// 9, 10: the page is kept.
    KeepsPage,
    /// 10: the end of the directories is not seen.
    IgnoresLoss,
    /// 10: a directory made anew is taken for the old one.
    IgnoresNewDirectory,
    /// 11: an open that failed is forgotten.
    ForgetsFailure,
    /// A directory that could not be read is forgotten.
    ForgetsReadFailure,
}

impl FrontMutation {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::NeverOpens,
        Self::ForgetsOpened,
        Self::UndoesOpened,
        Self::ConnectedBeforeReading,
        Self::NeverConnected,
        Self::AddsNothing,
        Self::IgnoresReconfiguring,
        Self::ReadsNothing,
        Self::RemovesNothing,
        Self::AnswersTooEarly,
        Self::NeverAnswers,
        Self::AnswersReconfigured,
        Self::ForgetsReleased,
        Self::IgnoresReconfigured,
        Self::StaysReconfiguring,
        Self::GoesToInitialised,
        Self::IgnoresClosing,
        Self::ClosesTooEarly,
        Self::NeverClosed,
        Self::KeepsPage,
        Self::IgnoresLoss,
        Self::IgnoresNewDirectory,
        Self::ForgetsFailure,
        Self::ForgetsReadFailure,
    ];

    /// The machine's answer to `event`, with this mistake in it.
    pub(crate) fn handle(self, link: &mut Link, event: Event) -> Vec<Action> {
        use XenbusState as Xs;
        let before = link.state();
        let swallowed = match (self, &event) {
            (Self::ForgetsOpened, Event::Opened)
            | (Self::ForgetsReleased, Event::Released(_))
            | (Self::ForgetsFailure, Event::OpenFailed)
            | (Self::ForgetsReadFailure, Event::ReadFailed)
            | (Self::IgnoresReconfiguring, Event::Backend(Xs::Reconfiguring))
            | (Self::IgnoresReconfigured, Event::Backend(Xs::Reconfigured))
            | (Self::IgnoresClosing, Event::Backend(Xs::Closing | Xs::Closed))
            | (
                Self::IgnoresLoss,
                Event::Front(Xs::Unknown) | Event::Backend(Xs::Unknown),
            ) => true,
            (Self::IgnoresNewDirectory, Event::Front(Xs::Initialising)) => {
                before != State::Down
            }
            _ => false,
        };
        if swallowed {
            return Vec::new();
        }
        if (self, &event, before)
            == (Self::UndoesOpened, &Event::Opened, State::Opening { abandoned: true })
        {
            let mut actions = vec![Action::Close];
            actions.extend(link.handle(Event::OpenFailed));
            return actions;
        }
        let told = event.clone();
        let mut actions = link.handle(event);
        let after = link.state();
        let set = |state| Action::SetState(state);
        match self {
            Self::NeverOpens => actions.retain(|action| *action != Action::Open),
            Self::ConnectedBeforeReading => {
                let at = actions.iter().position(|a| *a == Action::ReadDevices);
                let seen =
                    matches!(told, Event::Backend(Xs::Connected | Xs::Reconfigured));
                if let (Some(at), true, true) = (at, seen, before != State::Connected) {
                    actions.insert(at, set(Xs::Connected));
                }
            }
            Self::NeverConnected => {
                let first = before == State::Initialised;
                actions.retain(|action| !first || *action != set(Xs::Connected));
            }
            Self::AddsNothing => {
                actions.retain(|action| !matches!(action, Action::Added(_)));
            }
            Self::ReadsNothing => {
                let asks = told == Event::Backend(Xs::Reconfiguring);
                actions.retain(|action| !asks || *action != Action::ReadDevices);
            }
            Self::RemovesNothing => {
                actions.retain(|action| !matches!(action, Action::Removed(_)));
            }
            Self::AnswersTooEarly => {
                let waits = after == State::Releasing && before != after;
                actions.extend(waits.then(|| set(Xs::Reconfiguring)));
            }
            Self::NeverAnswers => actions.retain(|a| *a != set(Xs::Reconfiguring)),
            Self::AnswersReconfigured => {
                replace(&mut actions, set(Xs::Reconfiguring), set(Xs::Reconfigured));
            }
            Self::StaysReconfiguring => {
                let again = before == State::Reconfiguring;
                actions.retain(|action| !again || *action != set(Xs::Connected));
            }
            Self::GoesToInitialised if before == State::Reconfiguring => {
                replace(&mut actions, set(Xs::Connected), set(Xs::Initialised));
            }
            Self::ClosesTooEarly => {
                let waits = after == State::Closing && before != after;
                if waits {
                    actions.insert(0, set(Xs::Closed));
                }
            }
            Self::NeverClosed => actions.retain(|action| *action != set(Xs::Closed)),
            Self::KeepsPage => actions.retain(|action| *action != Action::Close),
            _ => {}
        }
        actions
    }
}

fn replace(actions: &mut [Action], old: Action, new: Action) {
    for action in actions.iter_mut().filter(|action| **action == old) {
        *action = new;
    }
}

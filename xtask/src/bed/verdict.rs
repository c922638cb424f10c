//! How a run ended.

/// The word that a scenario ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every check passed.
    Success,
    /// A check failed, in dom0, in a guest, or on the host.
    Failure,
    /// The scenario's time was over.
    Timeout,
    /// Xen or dom0 panicked, or QEMU ended by itself.
    Crash,
}

impl Verdict {
    /// As printed by scenarios and shown to people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Timeout => "TIMEOUT",
            Self::Crash => "CRASH",
        }
    }

    /// Reads the word. What is not a known word is no verdict.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Success, Self::Failure, Self::Timeout, Self::Crash]
            .into_iter()
            .find(|verdict| verdict.word() == word)
    }
}

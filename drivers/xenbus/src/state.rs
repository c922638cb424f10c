//! The states of a XenBus link (`enum xenbus_state`, io/xenbus.h).

use core::fmt;

/// What one end of a link says it is in, written as a decimal number to its `state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XenbusState {
    /// Not there, not readable, or not a number we know.
    #[default]
    Unknown = 0,
    /// Made by the toolstack, nobody has looked yet.
    Initialising = 1,
    /// The backend waits for the frontend's details.
    InitWait = 2,
    /// Details are published.
    Initialised = 3,
    /// The link works.
    Connected = 4,
    /// One end wants out.
    Closing = 5,
    /// One end is out.
    Closed = 6,
    /// The toolstack has changed the devices of a connected link.
    Reconfiguring = 7,
    /// The backend has taken up that change.
    Reconfigured = 8,
}

impl XenbusState {
    /// Reads the text of a `state` node. A missing node, which a dying domain's
    /// directories turn into, is [`XenbusState::Unknown`], and so is nonsense.
    pub fn parse(text: Option<&str>) -> Self {
        match text.map(str::trim) {
            Some("1") => Self::Initialising,
            Some("2") => Self::InitWait,
            Some("3") => Self::Initialised,
            Some("4") => Self::Connected,
            Some("5") => Self::Closing,
            Some("6") => Self::Closed,
            Some("7") => Self::Reconfiguring,
            Some("8") => Self::Reconfigured,
            _ => Self::Unknown,
        }
    }

    /// The number that goes on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for XenbusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.number(), self)
    }
}

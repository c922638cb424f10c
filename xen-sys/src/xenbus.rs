//! public/io/xenbus.h

/// No state, or no node.
pub const XenbusStateUnknown: u32 = 0;
/// Starting.
pub const XenbusStateInitialising: u32 = 1;
/// The backend waits for the frontend's details.
pub const XenbusStateInitWait: u32 = 2;
/// The frontend's details are there.
pub const XenbusStateInitialised: u32 = 3;
/// Working.
pub const XenbusStateConnected: u32 = 4;
/// Ending.
pub const XenbusStateClosing: u32 = 5;
/// Ended.
pub const XenbusStateClosed: u32 = 6;
/// PCI: devices come or go.
pub const XenbusStateReconfiguring: u32 = 7;
/// PCI: they have.
pub const XenbusStateReconfigured: u32 = 8;

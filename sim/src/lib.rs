//! A Xen in one process, on a virtual clock, for tests.
//!
//! The event loop of pcidom and the daemon's core run here unchanged, next to peers that
//! behave as Linux does: the same code, with everything around it repeatable.
//!
//! * [`agenda`]: the clock and the only source of chance.
//! * [`xen`]: domains, event channels, grants, pirqs, device ownership; [`page`]: memory
//!   that two domains share.
//! * XenStore: [`store`].
//! * [`platform`]: one domain as the event loop sees it, and [`pcidom`]: the event loop.
//! * [`daemon`]: `pcidomctl daemon`, its core on the simulated dom0.
//! * [`pciback`]: dom0's Linux xen-pciback, [`xl`]: dom0's libxl, [`xend`]: what was there
//!   before it.
//! * [`linux_guest`]: a Linux guest with xen-pcifront and an NVMe-like driver;
//!   [`own_front`]: a guest with our own.
//! * [`scene`]: a host with all of them, for tests to start from.
//! * [`world`]: the scheduler, and [`trace`]: what a failed run shows.
#![forbid(unsafe_code)]

pub mod agenda;
pub mod daemon;
pub mod linux_guest;
pub mod own_front;
pub mod page;
pub mod pciback;
pub mod pcidom;
pub mod platform;
pub mod scene;
pub mod store;
pub mod trace;
pub mod world;
pub mod xen;
pub mod xend;
pub mod xl;

pub use agenda::Agenda;
pub use page::SimPage;
pub use platform::SimPlatform;
pub use scene::Scene;
pub use store::XenStore;
pub use world::{Actor, Shared, World};
pub use xen::Xen;

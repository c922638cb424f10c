//! A Xen, a dom0 and a XenStore in memory, with the real ones' rules as far as loans meet
//! them, and with faults on demand.

mod host;
mod store;
mod xen;

pub use host::{FakeHost, nvme, port};
pub use store::FakeStore;
pub use xen::{FakeXen, Holdings, Owner};

/// What a killed daemon unwinds with: it does nothing more, and says nothing.
#[derive(Debug)]
pub struct Killed;

/// Counts down, and ends the daemon at 0 as SIGKILL would.
fn die_at(left: &mut Option<u32>) {
    match left {
        Some(0) => std::panic::resume_unwind(Box::new(Killed)),
        Some(left) => *left -= 1,
        None => {}
    }
}

//! Scans and resets against the fake function behind the fake dom0 backend.

mod reset;
mod scan;

use crate::address::Sbdf;
use crate::fake::{FakeBackend, FakeFunction};

fn sbdf() -> Sbdf {
    Sbdf::new(0, 1, 0, 0).unwrap()
}

/// The NVMe with everything armed that a pool arms.
fn nvme() -> FakeBackend {
    FakeBackend::new(sbdf(), FakeFunction::nvme_like()).armed(Some(0x80))
}

/// The NIC, which can't FLR.
fn e1000e() -> FakeBackend {
    FakeBackend::new(sbdf(), FakeFunction::e1000e_like()).armed(None)
}

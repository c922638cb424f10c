//! The mistake of old Linux guests, on purpose: a number that belonged to a device before is
//! given to it again, although its mapping is gone and it may be another device's by now.

use std::collections::BTreeMap;
use std::sync::Mutex;

use pcidom_pci::Sbdf;
use pcidom_xenbus::Pirq;

use super::Record;

static KEPT: Mutex<BTreeMap<Sbdf, Vec<Pirq>>> = Mutex::new(BTreeMap::new());

/// Remembers what the device had.
pub(super) fn keep(record: &Record) {
    if let Ok(mut kept) = KEPT.lock() {
        kept.insert(record.device.0, record.leases.pirqs().collect());
    }
}

/// What it had, as much as is wanted.
pub(super) fn take(device: Sbdf, wanted: usize) -> Vec<Pirq> {
    let kept = KEPT.lock().ok().and_then(|mut kept| kept.remove(&device));
    kept.unwrap_or_default().into_iter().take(wanted).collect()
}

//! What dom0's end of a pcidom's A-link says of its devices.

use std::collections::BTreeSet;

use pcidom_pci::Sbdf;
use pcidom_xenbus::{DomId, XenbusState};

use super::{Env, Failure, paths};

/// Devices of one link. xen-pciback's own limit is one bus of 32 slots with 8 functions.
const MAX_POOL: u32 = 256;

/// How many entries the link has.
const COUNT: &str = "num_devs";

/// With its number, the node of an entry's device.
const DEVICE: &str = "dev-";

/// With its number, the node of what becomes of an entry.
const STATE: &str = "state-";

/// What a changed node of the link can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// An entry's device was written, or removed.
    Device,
    /// What is on the link, in another way.
    Contents,
    /// Nothing that [`Exports::read`] reads, as most that libxl and dom0's pciback write when
    /// a device comes or goes.
    Nothing,
}

impl About {
    pub(super) fn of(domain: DomId, path: &str) -> Self {
        let link = paths::pool_link(domain);
        match path.strip_prefix(&link).and_then(|rest| rest.strip_prefix('/')) {
            Some(name) if name.starts_with(DEVICE) => Self::Device,
            Some(name) if name != COUNT && !name.starts_with(STATE) => Self::Nothing,
            // Or the link as a whole.
            _ => Self::Contents,
        }
    }
}

/// The devices of the link.
#[derive(Default)]
pub(super) struct Exports {
    /// It exports them, and does not take them back just now.
    pub(super) present: BTreeSet<Sbdf>,
    /// It takes them back.
    leaving: BTreeSet<Sbdf>,
    /// An entry is missing.
    torn: bool,
}

impl Exports {
    /// Reads the link, as it is at one moment.
    pub(super) fn read(env: &mut Env<'_>, domain: DomId) -> Result<Self, Failure> {
        let link = paths::pool_link(domain);
        let mut exports = Self::default();
        env.store.transaction(&mut |nodes| {
            exports = Self::default();
            let count = nodes.read(&format!("{link}/{COUNT}"))?;
            let count = count.and_then(|count| count.trim().parse().ok()).unwrap_or(0);
            for number in 0..MAX_POOL.min(count) {
                let [device, state] =
                    [DEVICE, STATE].map(|name| format!("{link}/{name}{number}"));
                let mut found = nodes.read_all(&[&device, &state])?.into_iter();
                let [device, state] = [(); 2].map(|()| found.next().flatten());
                let state = XenbusState::parse(state.as_deref());
                let leaving = matches!(state, XenbusState::Closing | XenbusState::Closed);
                exports.torn |= device.is_none();
                if let Some(device) = device.and_then(|d| d.trim().parse().ok()) {
                    match leaving {
                        true => exports.leaving.insert(device),
                        false => exports.present.insert(device),
                    };
                }
            }
            Ok(())
        })?;
        Ok(exports)
    }

    /// Whether a device that was there is gone. libxl moves entries in one transaction, but
    /// xend did it node by node, and counted them last: meanwhile a device that has no entry
    /// may just be between two of them.
    pub(super) fn lack(&self, device: Sbdf) -> bool {
        !self.present.contains(&device) && (!self.torn || self.leaving.contains(&device))
    }
}

#[cfg(test)]
mod tests {
    use super::{About, paths};
    use pcidom_xenbus::DomId;

    #[test]
    fn most_nodes_are_about_nothing() {
        let link = paths::pool_link(DomId(3));
        let about = |name: &str| About::of(DomId(3), &format!("{link}{name}"));
        assert_eq!(about("/dev-0"), About::Device);
        for name in ["", "/num_devs", "/state-12"] {
            assert_eq!(about(name), About::Contents, "{name}");
        }
        for name in ["/state", "/key-0", "/vdev-0", "/opts-0", "/root-0", "/online"] {
            assert_eq!(about(name), About::Nothing, "{name}");
        }
    }
}

//! The devices in the backend's directory.

use alloc::format;
use alloc::vec::Vec;

use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_xenbus::XenbusState;

/// Devices that are read of one link: as many as its virtual bus has places for (32 slots
/// of 8 functions), so no honest directory has more.
pub const MAX_EXPORTS: usize = 256;

/// One device of the link.
///
/// It is known by its physical address, never by its place in the directory: the toolstack
/// moves entries up when one is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Export {
    /// Its physical address, `dev-N`.
    pub device: Sbdf,
    /// Where the link shows it, `vdev-N`; `None` until the backend has exported it.
    pub at: Option<VirtualBdf>,
    /// Its own state, `state-N`.
    pub state: XenbusState,
}

impl Export {
    /// It can be accessed: it has a place, and nobody is taking it away.
    ///
    /// A backend that writes no `state-N` is old, and means it when it writes `vdev-N`.
    pub const fn is_usable(&self) -> bool {
        self.at.is_some() && !self.is_leaving()
    }

    /// The toolstack takes it away, or the backend could not export it.
    pub const fn is_leaving(&self) -> bool {
        matches!(self.state, XenbusState::Closing | XenbusState::Closed)
    }
}

/// How many entries there are, as far as that is said.
fn count<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<usize> {
    let count = get("num_devs")?.trim().parse::<usize>().ok()?;
    Some(count.min(MAX_EXPORTS))
}

/// Whether an entry that a backend directory counts names no device.
///
/// libxl moves entries up in one transaction. xend did it node by node and counted them last:
/// meanwhile entries are missing, and so may be those of devices that do not leave.
pub fn is_torn<'a>(get: impl Fn(&str) -> Option<&'a str>) -> bool {
    let mut entries = 0..count(&get).unwrap_or(0);
    entries.any(|n| get(&format!("dev-{n}")).is_none())
}

/// What a torn directory leaves out is taken to be as it was.
pub fn fill_gaps<'a>(exports: &mut Vec<Export>, known: impl Iterator<Item = &'a Export>) {
    for known in known {
        match exports.iter_mut().find(|export| export.device == known.device) {
            None => exports.push(*known),
            Some(export) if export.at.is_none() && !export.is_leaving() => {
                *export = *known;
            }
            Some(_) => {}
        }
    }
}

/// Whether the backend directory's node of this name is one that is asked for here; there are
/// twice as many, and each would be a trip to XenStore.
pub fn is_read(name: &str) -> bool {
    let of_entry = name.rsplit_once('-').map(|(kind, _)| kind);
    name == "num_devs" || matches!(of_entry, Some("dev" | "vdev" | "state"))
}

/// Reads a backend directory; `get` has the values of its nodes, all read in one
/// transaction.
///
/// Nodes may be missing at any time. Without `num_devs` whatever entries are there count;
/// an entry whose `dev-N` is missing or unreadable is left out, and so is one that names a
/// device again.
pub fn parse_exports<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Vec<Export> {
    let count = count(&get).unwrap_or(MAX_EXPORTS);
    let mut exports: Vec<Export> = Vec::new();
    for n in 0..count {
        let node = |name: &str| get(&format!("{name}-{n}")).map(str::trim);
        let Some(device) = node("dev").and_then(|text| text.parse().ok()) else {
            continue;
        };
        if exports.iter().any(|known| known.device == device) {
            continue;
        }
        let at = node("vdev").and_then(|text| text.parse().ok()).map(VirtualBdf);
        exports.push(Export { device, at, state: XenbusState::parse(node("state")) });
    }
    exports
}

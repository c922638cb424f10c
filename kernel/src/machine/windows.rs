//! Windows: config space of pool devices that guests' reads reach without dom0.
//!
//! The daemon offers the page where a function's config space is (ECAM); Xen maps it
//! read-only for a domain like ours. A read through it takes less than a microsecond instead
//! of a round trip to dom0. Only guests' reads go this way: every write, scans and resets
//! take the A-link, since what a task does must be seen by dom0's pciback.

use alloc::vec::Vec;

use pcidom_pci::{Register, Sbdf};
use pcidom_xenbus::Mfn;
use vecmap::VecMap;

use super::Machine;
use crate::platform::{ConfigPage, Platform};

/// A page that was offered and tried.
#[derive(Debug)]
struct Window<P: Platform> {
    frame: Mfn,
    /// `None` if it could not be mapped: dom0 is asked then.
    page: Option<P::ConfigPage>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Windows<P: Platform> {
    offered: VecMap<Sbdf, Mfn>,
    tried: VecMap<Sbdf, Window<P>>,
}

impl<P: Platform> Windows<P> {
    pub(super) const fn new() -> Self {
        Self { offered: VecMap::new(), tried: VecMap::new() }
    }

    /// Takes note of what the daemon offers now.
    pub(super) fn offer(&mut self, frames: VecMap<Sbdf, Mfn>) {
        self.offered = frames;
    }

    /// What the hardware says, if the device has a window.
    pub(super) fn read(&self, device: Sbdf, register: Register) -> Option<u32> {
        Some(self.tried.get(&device)?.page.as_ref()?.read(register))
    }

    /// Whether the device has a window.
    pub(super) fn is_open(&self, device: Sbdf) -> bool {
        self.tried.get(&device).is_some_and(|window| window.page.is_some())
    }
}

impl<P: Platform> Machine<P> {
    /// Opens and closes windows: a device has one while it is in the pool and the daemon
    /// offers it.
    pub(super) fn fit_windows(&mut self, platform: &mut P) {
        let wanted =
            self.windows.offered.iter().filter(|(d, _)| self.pool.contains_key(*d));
        let wanted: Vec<(Sbdf, Mfn)> = wanted.map(|(d, frame)| (*d, *frame)).collect();
        let is_wanted =
            |device: Sbdf, window: &Window<P>| wanted.contains(&(device, window.frame));
        let tried = self.windows.tried.iter();
        let over = tried.filter(|(device, window)| !is_wanted(**device, window));
        let over: Vec<Sbdf> = over.map(|(device, _)| *device).collect();
        for device in over {
            let page = self.windows.tried.remove(&device).and_then(|window| window.page);
            if let Some(page) = page
                && let Err(error) = platform.unmap_config(page)
            {
                log::error!("{device}: its config space stays mapped: {error}");
            }
        }
        for (device, frame) in wanted {
            if self.windows.tried.contains_key(&device) {
                continue;
            }
            let page = match platform.map_config(frame) {
                Ok(page) => {
                    log::info!("{device}: guests' config reads go to the hardware");
                    Some(page)
                }
                Err(error) => {
                    log::info!("{device}: guests' config reads go through dom0: {error}");
                    None
                }
            };
            self.windows.tried.insert(device, Window { frame, page });
        }
    }
}

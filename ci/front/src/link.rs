//! The handshake with the PCI backend (io/pciif.h, io/xenbus.h), and where its functions are.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pcidom_xenbus::pciif::{AER_HANDLER, MAGIC, word};
use pcidom_xenbus::{DomId, GrantRef, Port, SharedPage, XenbusState};

use crate::nodes;
use crate::say::say;
use crate::xen::{GrantedPage, Xen};

/// The folder of the link, in the domain's own part of XenStore.
const FRONT: &str = "device/pci/0";

/// Where a function is on the bus the backend shows, as the page has it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) domain: u32,
    pub(crate) bus: u32,
    pub(crate) devfn: u32,
}

/// A connected link.
#[derive(Debug)]
pub(crate) struct Link {
    /// Who serves it.
    pub(crate) peer: DomId,
    /// The backend's folder.
    pub(crate) back: String,
    /// What the page is granted by.
    pub(crate) reference: GrantRef,
    /// The page both ends write.
    pub(crate) page: GrantedPage,
    /// The event channel.
    pub(crate) port: Port,
    /// The functions, in the order of the backend's list.
    pub(crate) functions: Vec<Place>,
}

impl Link {
    /// Waits for a link, and connects it.
    pub(crate) fn connect(xen: &mut Xen) -> Result<Self, String> {
        nodes::wait_until(xen, &front("backend"), |path| path.is_some());
        let back = nodes::read(xen, &front("backend")).ok_or("no backend")?;
        let peer = nodes::read(xen, &front("backend-id"));
        let peer = peer.and_then(|text| text.parse().ok()).ok_or("no backend-id")?;
        let peer = DomId(peer);
        say!("connecting to {back}");

        let (reference, page) = xen.grants.grant(peer).map_err(|e| format!("{e}"))?;
        page.fetch_or(word::FLAGS, AER_HANDLER);
        let port = xen.events.alloc_unbound(peer).map_err(|e| format!("{e}"))?;
        for (key, value) in [
            ("pci-op-ref", format!("{}", reference.0)),
            ("event-channel", format!("{}", port.0)),
            ("magic", MAGIC.into()),
        ] {
            nodes::write(xen, &front(key), &value)?;
        }
        set_state(xen, XenbusState::Initialised)?;
        nodes::wait_until(xen, &format!("{back}/state"), |text| {
            XenbusState::parse(text) == XenbusState::Connected
        });
        set_state(xen, XenbusState::Connected)?;
        let functions = functions(xen, &back);
        for (number, place) in functions.iter().enumerate() {
            say!("function {number} is at {place:x?}");
        }
        Ok(Self { peer, back, reference, page, port, functions })
    }
}

/// A node of the frontend.
pub(crate) fn front(key: &str) -> String {
    format!("{FRONT}/{key}")
}

/// Tells the backend a state.
pub(crate) fn set_state(xen: &mut Xen, state: XenbusState) -> Result<(), String> {
    nodes::write(xen, &front("state"), &format!("{}", state.number()))
}

fn functions(xen: &mut Xen, back: &str) -> Vec<Place> {
    let mut found = Vec::new();
    while let Some(text) = nodes::read(xen, &format!("{back}/vdev-{}", found.len())) {
        let Some(place) = place(&text) else { break };
        found.push(place);
    }
    found
}

/// Reads `0000:00:00.00`.
fn place(text: &str) -> Option<Place> {
    let mut numbers =
        text.trim().split([':', '.']).map(|number| u32::from_str_radix(number, 16).ok());
    let (domain, bus) = (numbers.next()??, numbers.next()??);
    let (device, function) = (numbers.next()??, numbers.next()??);
    Some(Place { domain, bus, devfn: device << 3 | function })
}

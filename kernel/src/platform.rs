//! What the event loop needs of the domain it runs in.
//!
//! Two things implement it: the image, with hypercalls (`image/` of the binary), and the
//! simulator. All calls return at once; what takes time comes back as an event.

use alloc::vec::Vec;
use core::fmt::Debug;

use log::LevelFilter;
use pcidom_pci::Register;
use pcidom_script::Instant;
use pcidom_xenbus::{DomId, GrantRef, Mfn, Port, SharedPage};

/// A call that Xen refused: its name and the errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed with {errno}")]
pub struct XenError {
    /// The hypercall or sub-operation, as Xen's headers call it.
    pub call: &'static str,
    /// Its result, negative (public/errno.h).
    pub errno: i32,
}

/// The config space of one function (PCIe 7.2.2), mapped for reading.
pub trait ConfigPage {
    /// What the hardware says: all ones if nobody answers.
    fn read(&self, register: Register) -> u32;
}

/// A console that people type on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// The PV console, `xl console pcidom`.
    Pv,
    /// The serial port COM2, if the domain has it.
    Com2,
}

/// How full the heap is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapUse {
    /// In use now.
    pub used: usize,
    /// The most that was in use at one time.
    pub peak: usize,
    /// All there is.
    pub size: usize,
}

/// The domain: grants, event channels, XenStore ring, time.
pub trait Platform {
    /// A page of ours that another domain may map.
    type GrantedPage: SharedPage + Debug;
    /// A page of another domain that we have mapped.
    type MappedPage: SharedPage + Debug;

    /// A config space page that we have mapped.
    type ConfigPage: ConfigPage + Debug;

    /// Time now.
    fn now(&self) -> Instant;

    /// Grants a zeroed page to `peer`.
    fn grant(&mut self, peer: DomId) -> Result<(GrantRef, Self::GrantedPage), XenError>;

    /// Takes a grant back. While the peer still has it mapped the page is not reused: it is
    /// kept and tried again later (advisory 396).
    fn end_grant(&mut self, reference: GrantRef, page: Self::GrantedPage);

    /// Maps a page that `peer` granted to us.
    fn map_grant(
        &mut self,
        peer: DomId,
        reference: GrantRef,
    ) -> Result<Self::MappedPage, XenError>;

    /// Unmaps it. A dying `peer` goes away only when its last page is unmapped.
    fn unmap_grant(&mut self, page: Self::MappedPage) -> Result<(), XenError>;

    /// Maps the config space page of a function. Xen makes that mapping read-only.
    fn map_config(&mut self, frame: Mfn) -> Result<Self::ConfigPage, XenError>;

    /// Unmaps it.
    fn unmap_config(&mut self, page: Self::ConfigPage) -> Result<(), XenError>;

    /// Makes a port that `peer` may connect to.
    fn alloc_unbound(&mut self, peer: DomId) -> Result<Port, XenError>;

    /// Connects to a port that `peer` made for us. Reports an event at once, since one may
    /// have been missed.
    fn bind_interdomain(&mut self, peer: DomId, port: Port) -> Result<Port, XenError>;

    /// Sends an event. A port whose other end is gone is not an error.
    fn notify(&mut self, port: Port);

    /// Stops (or starts again) reporting events of `port`; one that comes meanwhile is
    /// reported when it is unmasked.
    fn set_masked(&mut self, port: Port, masked: bool);

    /// Closes a port.
    fn close(&mut self, port: Port);

    /// Publishes a whole XenStore message, or nothing and `false` if there is no room now.
    fn store_send(&mut self, message: &[u8]) -> bool;

    /// Takes one whole XenStore message off the ring, if one is there.
    fn store_receive(&mut self) -> Option<Vec<u8>>;

    /// How full the heap is.
    fn heap(&self) -> HeapUse;

    /// Takes what was typed on a console, as far as `into` has room; how many bytes.
    fn typed(&mut self, console: Console, into: &mut [u8]) -> usize;

    /// Shows `text` on a console and nowhere else: all, or nothing and `false` if there is no
    /// room now. `Event::Console` tells when there is.
    fn say(&mut self, console: Console, text: &str) -> bool;

    /// Sets the log's level, or that of one part of it. `false` if there are too many parts
    /// with a level of their own.
    fn set_log_level(&mut self, part: Option<&str>, level: LevelFilter) -> bool;
}

//! Raw ABI of Xen, as far as pcidom uses it.
//!
//! Names, types and values are those of Xen's public headers, one module for each header;
//! everything is also reachable from the crate root, as it is in C. Nothing here has
//! behaviour except [`hypercall`]. `tests/abi.rs` compares every structure, field and
//! constant with the headers of `libxen-dev`.
//!
//! Where C nests an unnamed `struct` or `union` the Rust type is named after the field
//! (`start_info_console`); handles (`XEN_GUEST_HANDLE`) are plain pointers.
#![no_std]
#![expect(
    non_camel_case_types,
    non_upper_case_globals,
    reason = "everything bears the name it has in Xen's headers"
)]
#![expect(unsafe_code, reason = "hypercalls are instructions")]

pub mod console;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod grant_table;
pub mod hypercall;
pub mod pciif;
pub mod physdev;
pub mod sched;
pub mod vcpu;
pub mod version;
pub mod xen;
pub mod xenbus;
pub mod xs_wire;

pub use console::*;
pub use elfnote::*;
pub use errno::*;
pub use event_channel::*;
pub use grant_table::*;
pub use pciif::*;
pub use physdev::*;
pub use sched::*;
pub use vcpu::*;
pub use version::*;
pub use xen::*;
pub use xenbus::*;
pub use xs_wire::*;

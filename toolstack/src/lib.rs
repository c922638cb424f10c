//! Lends the devices of a pcidom's pool to guests.
//!
//! [`daemon`] is the only privileged part of the project and the only writer of truth: it
//! holds the record of loans and does every assignment, permission and interrupt mapping.
//! It is a set of state machines over three small traits, so that the same code runs in
//! dom0 and in tests:
//!
//! * [`hypervisor`], the few calls to Xen; in dom0 they go through [`ffi`], the only place
//!   with `unsafe`.
//! * [`host`], what dom0's Linux knows of a device.
//! * [`store`], which is XenStore.
//!
//! `fake` implements all three for tests and the simulator. The other verbs ask the daemon:
//! [`verb`] is what they say over its socket, docs/loan-protocol.md what the daemon and
//! pcidom say to each other.

pub mod client;
pub mod daemon;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod ffi;
pub mod host;
pub mod hypervisor;
pub mod print;
pub mod serve;
pub mod socket;
pub mod spec;
pub mod store;
pub mod verb;

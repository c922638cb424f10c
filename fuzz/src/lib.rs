//! Targets of the fuzzer: each takes any bytes, lets a part of pcidom or of the daemon work
//! on them, and panics if something that must hold does not.
//!
//! `cargo xtask fuzz` lets libFuzzer look for such bytes; `cargo test` replays what is in
//! `corpus/`. docs/fuzzing.md tells how a find becomes a test.
#![forbid(unsafe_code)]
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a target says by a panic what does not hold; its numbers are its own"
)]

pub mod back_link;
pub mod config;
pub mod daemon;
mod device;
pub mod directories;
pub mod dom0_ring;
pub mod front_link;
mod guest;
pub mod guest_ring;
mod host;
mod input;
mod page;
mod rights;
pub mod texts;

/// A target: its name, which is that of its folder and its program, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("guest-ring", guest_ring::run),
    ("config", config::run),
    ("dom0-ring", dom0_ring::run),
    ("texts", texts::run),
    ("directories", directories::run),
    ("daemon", daemon::run),
    ("front-link", front_link::run),
    ("back-link", back_link::run),
];

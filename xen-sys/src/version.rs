//! public/version.h

/// Ask for major version (upper half of the result) and minor version.
pub const XENVER_version: u64 = 0;
/// Ask for what follows them.
pub const XENVER_extraversion: u64 = 1;
/// Room for [`XENVER_extraversion`], with its zero.
pub const XEN_EXTRAVERSION_LEN: usize = 16;

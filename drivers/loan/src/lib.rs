//! See the crate description; filled in below.
#![no_std]

//! The bed's own QEMU, the same on every machine.
//!
//! Newer than those of Debian 12 (7.2) and 13 (10.0), where a CPU that reads a device's registers
//! while another one switches the device's decoding off, as every reset does, takes the whole of
//! QEMU down, often in 7.2 and about once in an hour in 10.0 (`iotlb_to_section`).

use super::debian::Source;
use super::{cache, debian};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What Debian 13 has as a backport: 11.1.
const SOURCE: Source<'_> = Source::Backports("trixie");

const PACKAGES: &[&str] = &["qemu-system-x86", "seabios", "ipxe-qemu"];

/// This file and its neighbours decide what the cache holds, so they are in its key.
const SOURCES: &[&str] = &[include_str!("emulator.rs"), include_str!("debian.rs")];

/// QEMU with its libraries and firmware, unpacked.
#[derive(Debug, Clone)]
pub(crate) struct Emulator {
    root: PathBuf,
}

impl Emulator {
    /// Takes it from the cache, or downloads it.
    pub(crate) fn get(cache: &Path) -> Result<Self> {
        let key = cache::key(SOURCES.iter().copied());
        let root = cache::get(cache, "emulator", key, |unfinished| {
            let packages: Vec<String> =
                PACKAGES.iter().map(|name| (*name).to_owned()).collect();
            debian::unpack(SOURCE, &packages, unfinished)
        })?;
        Ok(Self { root })
    }

    /// A command line that starts it.
    pub(crate) fn command(&self) -> Command {
        let mut command = debian::loader(&self.root);
        // Not those of the machine's own QEMU.
        command.env("QEMU_MODULE_DIR", self.root.join("usr/lib/x86_64-linux-gnu/qemu"));
        command.arg(self.root.join("usr/bin/qemu-system-x86_64"));
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.root.join(firmware));
        }
        command
    }
}

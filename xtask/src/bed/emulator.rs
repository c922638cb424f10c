//! The bed's own QEMU, the same on every machine.
//!
//! Not the one of Debian 12 (7.2): there a CPU that reads a device's registers while another
//! one switches the device's decoding off, as every reset does, takes the whole of QEMU down
//! with a segmentation fault (repaired in 8.2: `tcg_commit` runs on the CPU itself).

use super::{cache, debian};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Debian release it is from: 10.0.
const RELEASE: &str = "trixie";

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
            debian::unpack(RELEASE, &packages, unfinished)
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

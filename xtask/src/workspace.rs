//! Where things are in the source tree and in `target/`.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The source tree and the places below its `target/`.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace this program was built from.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().context("xtask/ has no parent folder")?;
        Ok(Self { root: root.to_owned() })
    }

    /// The source tree.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A folder of the bed's own sources.
    pub(crate) fn ci(&self, name: &str) -> PathBuf {
        self.root.join("ci").join(name)
    }

    /// `target/`, always in the tree, even if cargo builds somewhere else.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// What a Xen host needs, ready to copy.
    pub(crate) fn dist(&self) -> PathBuf {
        self.target().join("dist")
    }

    /// Caches and runs of one suite.
    pub(crate) fn bed(&self, suite: &str) -> PathBuf {
        self.target().join("bed").join(suite)
    }

    /// The bed's QEMU.
    pub(crate) fn emulator(&self) -> PathBuf {
        self.target().join("bed").join("qemu")
    }

    /// Where cargo puts release binaries.
    pub(crate) fn release(&self) -> PathBuf {
        env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| self.target(), PathBuf::from)
            .join("release")
    }

    /// A cargo command run at the root.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command =
            Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// Removes all caches and kept runs.
    pub(crate) fn remove_bed(&self) -> Result<()> {
        let bed = self.target().join("bed");
        if bed.exists() {
            fs::remove_dir_all(&bed)
                .with_context(|| format!("cannot remove {}", bed.display()))?;
        }
        Ok(())
    }
}

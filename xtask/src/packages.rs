//! What the bed needs from the machine it runs on: programs, headers, disk space.

use crate::workspace::Workspace;
use crate::{process, progress};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Free space that caches, builds and one run need.
const NEEDED_MIB: u64 = 3 * 1024;

/// Something that must be there, and the Debian package it comes in.
struct Need {
    what: What,
    package: &'static str,
}

enum What {
    Program(&'static str),
    File(&'static str),
}

const NEEDS: &[Need] = &[
    Need { what: What::Program("mmdebstrap"), package: "mmdebstrap" },
    Need { what: What::Program("depmod"), package: "kmod" },
    Need { what: What::Program("xz"), package: "xz-utils" },
    Need { what: What::Program("zstd"), package: "zstd" },
    Need { what: What::Program("gzip"), package: "gzip" },
    Need { what: What::Program("tar"), package: "tar" },
    Need { what: What::Program("chrt"), package: "util-linux" },
    Need { what: What::Program("cc"), package: "gcc" },
    // libFuzzer's runtime is built from source.
    Need { what: What::Program("c++"), package: "g++" },
    Need { what: What::Program("strip"), package: "binutils" },
    // The ABI test compares xen-sys with Xen's own headers.
    Need { what: What::File("/usr/include/xen/xen.h"), package: "libxen-dev" },
    Need { what: What::File("/usr/include/assert.h"), package: "libc6-dev" },
];

/// Checks everything, and installs what is missing where that is possible.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    check_disk(workspace)?;
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let can_install = is_root()? && Path::new("/etc/debian_version").exists();
    if !can_install {
        bail!(
            "these Debian packages are missing: {list}\n\
             install them, as root: apt-get update && \
             apt-get install --no-install-recommends {list}"
        );
    }
    progress::say(format_args!("installing {list}"));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    if let Err(error) = process::run(apt().args(["-q", "update"])) {
        // One broken third-party source does not matter if the packages are there.
        progress::say(format_args!("warning: {error:#}"));
    }
    process::run(
        apt().args(["-q", "-y", "install", "--no-install-recommends"]).args(&missing),
    )
    .with_context(|| {
        format!("cannot install {list} (is there a network?); nothing else was changed")
    })?;
    let missing = self::missing();
    ensure!(missing.is_empty(), "still missing after the install: {}", missing.join(" "));
    Ok(())
}

fn missing() -> Vec<&'static str> {
    NEEDS.iter().filter(|need| !need.is_met()).map(|need| need.package).collect()
}

impl Need {
    fn is_met(&self) -> bool {
        match self.what {
            What::File(path) => Path::new(path).exists(),
            What::Program(name) => {
                let path = env::var_os("PATH").unwrap_or_default();
                // A plain user's PATH often lacks the sbin folders, depmod's home.
                env::split_paths(&path)
                    .chain(["/sbin".into(), "/usr/sbin".into()])
                    .any(|folder| folder.join(name).exists())
            }
        }
    }
}

/// Whether this runs as root.
pub(crate) fn is_root() -> Result<bool> {
    Ok(process::text(Command::new("id").arg("-u"))?.trim() == "0")
}

fn check_disk(workspace: &Workspace) -> Result<()> {
    let target = workspace.target();
    fs::create_dir_all(&target)
        .with_context(|| format!("cannot create {}", target.display()))?;
    let text = process::text(
        Command::new("df").args(["--output=avail", "--block-size=1M"]).arg(&target),
    )?;
    let free = parse_df(&text).context("cannot read what df printed")?;
    ensure!(
        free >= NEEDED_MIB,
        "{} has {free} MiB free, the bed needs {NEEDED_MIB} MiB",
        target.display()
    );
    Ok(())
}

/// The number below the heading that `df --output=avail` prints.
fn parse_df(text: &str) -> Option<u64> {
    text.lines().nth(1)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_df() {
        assert_eq!(parse_df("  Avail\n  81234\n"), Some(81234));
        assert_eq!(parse_df("Avail\n"), None);
        assert_eq!(parse_df("Avail\nmany\n"), None);
    }
}

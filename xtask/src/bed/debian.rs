//! Debian packages, unpacked into a folder without being installed.

use crate::{packages, process, progress};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is never needed and most of the bulk.
const EXCLUDED: &[&str] = &[
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/locale",
    "./usr/share/perl",
    "./usr/share/zoneinfo",
    "./usr/lib/python3*",
    "./usr/lib/x86_64-linux-gnu/perl*",
    "./usr/lib/x86_64-linux-gnu/gconv",
    "./dev",
];

/// Folders that newer releases have only as links into usr/.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];

/// The suite's own loader, which finds the suite's own libraries for its programs.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// Where packages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source<'a> {
    /// A release as it is.
    Release(&'a str),
    /// A release with the newer versions that Debian makes for it.
    Backports(&'a str),
}

/// Downloads packages and all that they need, and unpacks them into `folder/root`.
pub(super) fn unpack(
    source: Source<'_>,
    packages: &[String],
    folder: &Path,
) -> Result<PathBuf> {
    let (Source::Release(release) | Source::Backports(release)) = source;
    let archive = folder.join("root.tar");
    progress::say(format_args!("downloading Debian {release} with mmdebstrap"));
    // Packages are only unpacked and none of their programs run, so a plain user needs
    // no namespaces for it. (As root mmdebstrap refuses that mode.)
    let mode = if packages::is_root()? { "root" } else { "chrootless" };
    let mut mmdebstrap = Command::new("mmdebstrap");
    // A tar instead of a folder: in some modes the folder would belong to others.
    mmdebstrap
        .args(["--quiet", "--variant=extract", "--format=tar", "--mode", mode])
        .arg(format!("--include={}", packages.join(",")));
    if let Source::Backports(_) = source {
        // From the mirror that the release itself comes from.
        mmdebstrap.arg(format!(
            "--setup-hook=sed -i 's/^\\(deb .*\\) {release} main$/&\\n\\1 {release}-backports \
             main/' \"$1\"/etc/apt/sources.list"
        ));
        mmdebstrap.arg(format!("--aptopt=APT::Default-Release \"{release}-backports\""));
    }
    process::run(mmdebstrap.arg(release).arg(&archive)).context(
        "cannot download the Debian packages (is there a network?); \
         nothing is left behind, run it again later",
    )?;
    let root = folder.join("root");
    fs::create_dir_all(&root)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--file"]).arg(&archive);
    tar.arg("--directory").arg(&root);
    for pattern in EXCLUDED {
        tar.arg(format!("--exclude={pattern}"));
    }
    process::run(&mut tar)?;
    fs::remove_file(&archive)?;
    for name in MERGED {
        let link = root.join(name);
        if link.symlink_metadata().is_err() {
            symlink(format!("usr/{name}"), link)?;
        }
    }
    Ok(root)
}

/// A command that runs a program of the unpacked release `root` on this machine, or lists
/// its libraries with `--list` between the two: with that release's loader and libraries.
pub(super) fn loader(root: &Path) -> Command {
    let search = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .map(|folder| root.join(folder).display().to_string())
        .join(":");
    let mut command = Command::new(root.join(LOADER));
    command.args(["--library-path", &search]);
    command
}

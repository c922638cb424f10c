//! The Debian files that dom0 and the guests are made of, unpacked and searchable.

use super::suite::Suite;
use crate::{packages, process, progress};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
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

/// An unpacked root file system.
#[derive(Debug)]
pub(crate) struct Rootfs {
    root: PathBuf,
    kernel: String,
}

impl Rootfs {
    /// Downloads and unpacks the suite's packages below `folder`.
    pub(crate) fn download(suite: &Suite, folder: &Path) -> Result<Self> {
        let archive = folder.join("root.tar");
        progress::say(format_args!("downloading Debian {} with mmdebstrap", suite.name));
        // Packages are only unpacked and none of their programs run, so a plain user needs
        // no namespaces for it. (As root mmdebstrap refuses that mode.)
        let mode = if packages::is_root()? { "root" } else { "chrootless" };
        // A tar instead of a folder: in some modes the folder would belong to others.
        process::run(
            Command::new("mmdebstrap")
                .args(["--quiet", "--variant=extract", "--format=tar", "--mode", mode])
                .arg(format!("--include={}", suite.packages().join(",")))
                .arg(suite.name)
                .arg(&archive),
        )
        .context(
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
        let kernel = kernel_version(&root)?;
        Ok(Self { root, kernel })
    }

    /// A path inside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside)
    }

    /// The kernel's version, as its module folder is called.
    pub(crate) fn kernel(&self) -> &str {
        &self.kernel
    }

    /// The names in a folder that start with `prefix`, as paths inside.
    pub(crate) fn list(&self, folder: &str, prefix: &str) -> Result<Vec<String>> {
        let path = self.path(folder);
        let entries = fs::read_dir(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix) {
                found.push(format!("{folder}/{name}"));
            }
        }
        found.sort();
        Ok(found)
    }

    /// The shared libraries that these programs load, as paths inside.
    ///
    /// The suite's own loader is asked, so the answer does not depend on this machine.
    pub(crate) fn libraries(&self, programs: &[String]) -> Result<BTreeSet<String>> {
        let loader = self.path("lib64/ld-linux-x86-64.so.2");
        let search = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|folder| self.path(folder).display().to_string())
            .join(":");
        let mut found = BTreeSet::new();
        for program in programs {
            let text = process::text(
                Command::new(&loader)
                    .args(["--library-path", &search, "--list"])
                    .arg(self.path(program)),
            )?;
            ensure!(
                !text.contains("not found"),
                "{program} lacks a shared library:\n{text}"
            );
            for path in parse_loader_list(&text) {
                if let Ok(inside) = Path::new(path).strip_prefix(&self.root) {
                    found.insert(inside.to_string_lossy().into_owned());
                }
            }
        }
        Ok(found)
    }
}

/// The one kernel version whose modules are there.
fn kernel_version(root: &Path) -> Result<String> {
    let folder = root.join("lib/modules");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).context("the packages contain no kernel")? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    ensure!(names.len() == 1, "expected one kernel, found {names:?}");
    names.pop().context("the packages contain no kernel")
}

/// Paths from lines like `libc.so.6 => /lib/libc.so.6 (0x0123)`.
fn parse_loader_list(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (_, path) = line.split_once(" => ")?;
        path.split_once(" (").map(|(path, _)| path.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_loader_lists() {
        let text = "\tlinux-vdso.so.1 (0x00007fc8)\n\
                    \tlibc.so.6 => /r/lib/libc.so.6 (0x00007fc8)\n\
                    \t/lib64/ld-linux-x86-64.so.2 => /r/lib64/ld.so (0x0000)\n";
        let paths: Vec<_> = parse_loader_list(text).collect();
        assert_eq!(paths, ["/r/lib/libc.so.6", "/r/lib64/ld.so"]);
    }
}

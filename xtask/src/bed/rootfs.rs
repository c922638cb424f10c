//! The Debian files that dom0 and the guests are made of, unpacked and searchable.

use super::debian::{self, Source};
use super::suite::Suite;
use crate::process;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// An unpacked root file system.
#[derive(Debug)]
pub(crate) struct Rootfs {
    root: PathBuf,
    kernel: String,
}

impl Rootfs {
    /// Downloads and unpacks the suite's packages below `folder`.
    pub(crate) fn download(suite: &Suite, folder: &Path) -> Result<Self> {
        let root =
            debian::unpack(Source::Release(suite.name), &suite.packages(), folder)?;
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
        let mut found = BTreeSet::new();
        for program in programs {
            let text = process::text(
                debian::loader(&self.root).arg("--list").arg(self.path(program)),
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

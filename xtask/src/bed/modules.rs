//! Kernel modules: the few that are wanted and those they depend on.

use super::cpio::Tree;
use super::rootfs::Rootfs;
use crate::process;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Dependencies of every module, by file path below the module folder.
#[derive(Debug)]
pub(crate) struct ModuleTable {
    dependencies: BTreeMap<String, Vec<String>>,
}

impl ModuleTable {
    /// Lets depmod look at the unpacked kernel.
    pub(crate) fn read(rootfs: &Rootfs) -> Result<Self> {
        depmod(&rootfs.path(""), rootfs.kernel())?;
        let path = rootfs.path(&format!("lib/modules/{}/modules.dep", rootfs.kernel()));
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { dependencies: parse_dependencies(&text) })
    }

    /// The files needed for these modules, dependencies included.
    fn closure(&self, names: &[&str]) -> Result<BTreeSet<&str>> {
        let mut found = BTreeSet::new();
        for name in names {
            let (path, needs) = self
                .dependencies
                .iter()
                .find(|(path, _)| module_name(path) == *name)
                .with_context(|| format!("the kernel has no module {name}"))?;
            found.insert(path.as_str());
            found.extend(needs.iter().map(String::as_str));
        }
        Ok(found)
    }

    /// Adds the modules to a tree, uncompressed and with fresh dependency files.
    pub(crate) fn add(
        &self,
        rootfs: &Rootfs,
        names: &[&str],
        scratch: &Path,
        tree: &mut Tree,
    ) -> Result<()> {
        let inside = format!("lib/modules/{}", rootfs.kernel());
        let copy = scratch.join(&inside);
        for path in self.closure(names)? {
            let from = rootfs.path(&inside).join(path);
            let plain = path.strip_suffix(".xz").unwrap_or(path);
            let to = copy.join(plain);
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut module = if plain == path {
                fs::read(&from)
                    .with_context(|| format!("cannot read {}", from.display()))?
            } else {
                // busybox, which loads them, reads no compressed modules.
                process::output(Command::new("xz").args(["-dc"]).arg(&from))?
            };
            // A kernel without certificates looks at it in vain, in every boot.
            module.truncate(length_without_signature(&module));
            fs::write(&to, module)?;
        }
        for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
            fs::copy(rootfs.path(&inside).join(name), copy.join(name))?;
        }
        depmod(scratch, rootfs.kernel())?;
        tree.folder(&inside, &copy)
    }
}

/// How much of a module comes before its signature: after that are twelve bytes, the last four of which
/// say how long it is, and a line (`struct module_signature`, Linux).
fn length_without_signature(module: &[u8]) -> usize {
    let all = module.len();
    let Some(rest) = module.strip_suffix(b"~Module signature appended~\n") else {
        return all;
    };
    let Some((rest, length)) = rest.split_last_chunk() else { return all };
    let signature = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(all);
    rest.len().checked_sub(8).and_then(|n| n.checked_sub(signature)).unwrap_or(all)
}

fn depmod(base: &Path, kernel: &str) -> Result<()> {
    // A plain user's PATH often lacks the sbin folders.
    let path = std::env::var("PATH").unwrap_or_default();
    process::output(
        Command::new("depmod")
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .arg("-b")
            .arg(base)
            .arg(kernel),
    )?;
    Ok(())
}

/// `kernel/x/xen-pciback.ko.xz` is called `xen-pciback`; `_` and `-` are the same.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('_', "-")
}

/// Lines of modules.dep: `path: dependency dependency`.
fn parse_dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| {
            (path.to_owned(), needs.split_whitespace().map(str::to_owned).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_cut_off_and_nothing_else() {
        let line = b"~Module signature appended~\n";
        let signed =
            [b"module".as_slice(), b"sig", &[0; 8], &[0, 0, 0, 3], line].concat();
        assert_eq!(length_without_signature(&signed), 6);
        assert_eq!(length_without_signature(b"module"), 6);
        let lies = [b"sig".as_slice(), &[0; 8], &[0, 0, 0, 4], line].concat();
        assert_eq!(length_without_signature(&lies), lies.len());
    }

    #[test]
    fn finds_dependencies() {
        let text = "k/nvme.ko.xz: k/nvme-core.ko.xz k/t10_pi.ko.xz\n\
                    k/nvme-core.ko.xz: k/t10_pi.ko.xz\nk/t10_pi.ko.xz:\n";
        let table = ModuleTable { dependencies: parse_dependencies(text) };
        let files = table.closure(&["nvme"]).unwrap();
        assert_eq!(files.len(), 3);
        assert_eq!(table.closure(&["t10-pi"]).unwrap().len(), 1);
        assert!(table.closure(&["absent"]).is_err());
    }
}

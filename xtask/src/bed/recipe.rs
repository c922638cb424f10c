//! The cached part of the bed: hypervisor, kernel, and the base initramfs.

use super::bzimage;
use super::cache;
use super::cpio::Tree;
use super::disk;
use super::modules::ModuleTable;
use super::rootfs::Rootfs;
use super::suite::Suite;
use crate::{process, progress};
use anyhow::Result;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// This file and its neighbours decide what the cache holds, so they are in its key.
const SOURCES: &[&str] = &[
    include_str!("recipe.rs"),
    include_str!("rootfs.rs"),
    include_str!("debian.rs"),
    include_str!("modules.rs"),
    include_str!("bzimage.rs"),
    include_str!("elf.rs"),
    include_str!("cpio.rs"),
    include_str!("suite.rs"),
];

const DOM0_MODULES: &[&str] = &[
    "xenfs",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-privcmd",
    "xen-pciback",
    "nvme",
    "e1000e",
    // The disk through which results leave dom0.
    "ahci",
    "sd-mod",
];

const GUEST_MODULES: &[&str] =
    &["xen-pcifront", "nvme", "ahci", "sd-mod", "e1000e", "8139cp", "xen-evtchn"];

/// Libraries that are opened by name at run time, which no loader lists.
const XEN_LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const RUST_LIBRARIES: &[&str] = &["libgcc_s.so", "libm.so", "libdl.so", "libpthread.so"];

/// What the cache holds, ready to boot.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    folder: PathBuf,
}

impl Base {
    /// Takes it from the cache, or builds it there.
    pub(crate) fn get(suite: &Suite, cache: &Path) -> Result<Self> {
        let packages = suite.packages().join(" ");
        let key = cache::key(SOURCES.iter().copied().chain([suite.name, &packages]));
        let folder =
            cache::get(cache, "base", key, |unfinished| build(suite, unfinished))?;
        Ok(Self { folder })
    }

    /// Xen, uncompressed.
    pub(crate) fn hypervisor(&self) -> PathBuf {
        self.folder.join("xen")
    }

    /// Linux, for dom0 and for guests.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// dom0's files without the project's own.
    pub(crate) fn dom0(&self) -> PathBuf {
        self.folder.join("dom0.cpio")
    }

    /// A guest's files without the project's own.
    pub(crate) fn guest(&self) -> PathBuf {
        self.folder.join("guest.cpio")
    }

    /// What a person at a shell wants besides.
    pub(crate) fn by_hand(&self) -> PathBuf {
        self.folder.join("by-hand.cpio")
    }
}

fn build(suite: &Suite, unfinished: &Path) -> Result<PathBuf> {
    let rootfs = Rootfs::download(suite, unfinished)?;
    progress::say("building the base initramfs of dom0 and guests");
    let ready = unfinished.join("ready");
    fs::create_dir_all(&ready)?;
    let xen = process::output(
        Command::new("gzip").arg("-dc").arg(rootfs.path(&suite.hypervisor())),
    )?;
    fs::write(ready.join("xen"), xen)?;
    let kernel = rootfs.path(&format!("boot/vmlinuz-{}", rootfs.kernel()));
    let mut vmlinux = bzimage::unpack(&fs::read(kernel)?)?;
    // It is a disk, too.
    vmlinux.resize(vmlinux.len().next_multiple_of(disk::SECTOR), 0);
    fs::write(ready.join("vmlinux"), vmlinux)?;
    let modules = ModuleTable::read(&rootfs)?;
    let mut dom0 = dom0_tree(suite, &rootfs)?;
    modules.add(&rootfs, DOM0_MODULES, &unfinished.join("dom0"), &mut dom0)?;
    write(&dom0, &ready.join("dom0.cpio"))?;
    let mut guest = guest_tree(&rootfs)?;
    modules.add(&rootfs, GUEST_MODULES, &unfinished.join("guest"), &mut guest)?;
    write(&guest, &ready.join("guest.cpio"))?;
    write(&by_hand_tree(&rootfs)?, &ready.join("by-hand.cpio"))?;
    Ok(ready)
}

fn dom0_tree(suite: &Suite, rootfs: &Rootfs) -> Result<Tree> {
    let mut tree = Tree::default();
    let bin = suite.xen_bin();
    let mut programs: Vec<String> = [
        "xl",
        "xenstored",
        "xenconsoled",
        "xenconsole",
        "xen-init-dom0",
        "xenpm",
        "xentrace",
        "xenctx",
        // `xl save` runs it.
        "libxl-save-helper",
    ]
    .map(|name| format!("{bin}/{name}"))
    .to_vec();
    programs.push(format!("{bin}/lsevtchn"));
    programs.extend(rootfs.list("usr/bin", "xenstore")?.into_iter().filter(|path| {
        // This one is a wrapper script around a program that xl does not need.
        !path.ends_with("xenstore-control")
    }));
    programs.push("usr/bin/setpci".to_owned());
    add_programs(rootfs, &programs, &mut tree)?;
    for library in rootfs.list(XEN_LIBRARIES, "libxen")? {
        tree.file(&library, &rootfs.path(&library))?;
    }
    for prefix in RUST_LIBRARIES {
        for library in rootfs.list("lib/x86_64-linux-gnu", prefix)? {
            tree.file(&library, &rootfs.path(&library))?;
        }
    }
    add_busybox(rootfs, &mut tree)?;
    // Fixed name for scripts, whatever the version.
    tree.link("usr/lib/xen", &format!("xen-{}", suite.xen));
    for folder in ["etc/xen", "var/lock", "var/lib/xen", "var/log/xen/console", "mnt"] {
        tree.directory(folder);
    }
    Ok(tree)
}

fn guest_tree(rootfs: &Rootfs) -> Result<Tree> {
    let mut tree = Tree::default();
    add_folders(&mut tree);
    add_busybox(rootfs, &mut tree)?;
    Ok(tree)
}

/// These are several times as large as a guest's other files, which each start of a guest copies.
fn by_hand_tree(rootfs: &Rootfs) -> Result<Tree> {
    let mut tree = Tree::default();
    let programs = ["lspci", "setpci", "strace"].map(|name| format!("usr/bin/{name}"));
    add_programs(rootfs, &programs, &mut tree)?;
    tree.file("usr/share/misc/pci.ids", &rootfs.path("usr/share/misc/pci.ids"))?;
    Ok(tree)
}

/// Programs with their libraries and the loader.
fn add_programs(rootfs: &Rootfs, programs: &[String], tree: &mut Tree) -> Result<()> {
    add_folders(tree);
    for path in rootfs.libraries(programs)?.iter().chain(programs) {
        tree.file(path, &rootfs.path(path))?;
    }
    let loader = "lib64/ld-linux-x86-64.so.2";
    tree.file(loader, &rootfs.path(loader))
}

fn add_folders(tree: &mut Tree) {
    for folder in ["proc", "sys", "dev", "run", "tmp", "root"] {
        tree.directory(folder);
    }
}

/// busybox with a link for each of its commands that nothing better provides.
fn add_busybox(rootfs: &Rootfs, tree: &mut Tree) -> Result<()> {
    let folder = if rootfs.path("usr/bin/busybox").exists() { "usr/bin" } else { "bin" };
    let busybox = rootfs.path(folder).join("busybox");
    let commands = process::text(Command::new(&busybox).arg("--list"))?;
    tree.file("bin/busybox", &busybox)?;
    for command in commands.lines().filter(|name| *name != "busybox") {
        let path = format!("bin/{command}");
        let elsewhere = format!("usr/bin/{command}");
        if !tree.contains(&path) && !tree.contains(&elsewhere) {
            tree.link(&path, "busybox");
        }
    }
    Ok(())
}

fn write(tree: &Tree, to: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(to)?);
    tree.write(&mut file)?;
    file.flush()?;
    Ok(())
}

//! The parts of dom0's and the guests' initramfs that differ from run to run: scripts, programs.

use super::cpio::Tree;
use super::device;
use super::disk;
use super::recipe::Base;
use super::scenario::Scenario;
use crate::dist;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

/// What to put into dom0 besides the scenario.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    /// The source tree.
    pub(crate) workspace: &'a Workspace,
    /// The scenario to run.
    pub(crate) scenario: &'a Scenario,
    /// A pcidom image to take instead of the one in `target/dist/`.
    pub(crate) image: Option<&'a Path>,
    /// Shell variables for the scenario.
    pub(crate) variables: &'a [(&'static str, u64)],
    /// Whether dom0 gives a shell instead of running the scenario.
    pub(crate) shell: bool,
}

/// Writes dom0's whole initramfs: the cached base and the overlay after it.
pub(crate) fn write(base: &Base, contents: &Contents<'_>, to: &Path) -> Result<()> {
    let mut tree = Tree::default();
    let ci = |name: &str| contents.workspace.ci(name);
    tree.file("init", &ci("dom0/init"))?;
    tree.folder("bed/lib", &ci("lib"))?;
    tree.folder("bed/scenario", &contents.scenario.folder)?;
    tree.directory("bed/disks");
    tree.text("bed/env", 0o644, environment(contents));
    if contents.scenario.needs_pcidom || contents.image.is_some() {
        add_dist(contents, &mut tree)?;
    }
    tree.file("usr/sbin/bed-probe", &dist::probe(contents.workspace))?;
    if contents.scenario.needs_front {
        tree.file("bed/images/bed-front", &dist::front(contents.workspace))?;
    }
    if let Some(soak) = &contents.scenario.soak {
        tree.text("bed/plan", 0o644, soak.plan(&contents.scenario.devices));
    }
    join(&base.dom0(), contents.shell.then(|| base.by_hand()), &tree, to)
}

/// The kernel takes archives one after the other, later files over earlier ones.
///
/// Nothing is compressed: unpacking in emulation takes longer than copying.
fn join(first: &Path, more: Option<PathBuf>, last: &Tree, to: &Path) -> Result<()> {
    let mut file =
        File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
    io::copy(&mut File::open(first)?, &mut file)?;
    if let Some(more) = more {
        io::copy(&mut File::open(more)?, &mut file)?;
    }
    let mut archive = Vec::new();
    last.write(&mut archive)?;
    file.write_all(&archive)?;
    // That of the guests is a disk. The kernel skips zeros.
    let length = file.stream_position()?.next_multiple_of(disk::SECTOR as u64);
    file.set_len(length)?;
    Ok(())
}

/// `target/dist/` as it would be installed on a host.
fn add_dist(contents: &Contents<'_>, tree: &mut Tree) -> Result<()> {
    let dist = contents.workspace.dist();
    for entry in fs::read_dir(&dist)
        .with_context(|| format!("{} is missing: cargo xtask dist", dist.display()))?
    {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let to = match name.as_str() {
            "pcidom" => "boot/pcidom".to_owned(),
            "pcidomctl" => "usr/sbin/pcidomctl".to_owned(),
            "test" => continue,
            _ => format!("etc/xen/{name}"),
        };
        tree.file(&to, &entry.path())?;
    }
    if let Some(variant) = &contents.scenario.image {
        let name = format!("pcidom-{variant}");
        tree.file(&format!("bed/images/{name}"), &dist.join("test").join(&name))?;
    }
    if let Some(variant) = &contents.scenario.tool {
        let name = format!("pcidomctl-{variant}");
        tree.file(&format!("bed/tools/{name}"), &dist.join("test").join(&name))?;
    }
    if let Some(image) = contents.image {
        tree.file("bed/images/pcidom", image)?;
    }
    Ok(())
}

/// Shell variables that scripts in dom0 read.
fn environment(contents: &Contents<'_>) -> String {
    let scenario = contents.scenario;
    let mut text = format!(
        "SCENARIO={}\nTIMEOUT={}\nSHELL_ONLY={}\n",
        scenario.name,
        scenario.timeout.as_secs(),
        u8::from(contents.shell)
    );
    for (name, value) in contents.variables {
        text.push_str(&format!("{name}={value}\n"));
    }
    for (device, spot) in scenario.devices.iter().zip(device::spots(&scenario.devices)) {
        let name = &device.name;
        text.push_str(&format!("{name}={}\n{name}_port={}\n", spot.address(), spot.port));
    }
    text
}

/// The guests' initramfs.
pub(crate) fn write_guest(base: &Base, contents: &Contents<'_>, to: &Path) -> Result<()> {
    let mut tree = Tree::default();
    tree.file("init", &contents.workspace.ci("guest/init"))?;
    tree.file("lib/guest.sh", &contents.workspace.ci("lib/guest.sh"))?;
    for entry in fs::read_dir(&contents.scenario.folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("guest") {
            tree.file(&format!("scenario/{name}"), &entry.path())?;
        }
    }
    tree.file("sbin/bed-probe", &dist::probe(contents.workspace))?;
    let by_hand = contents.scenario.lspci.then(|| base.by_hand());
    join(&base.guest(), by_hand, &tree, to)
}

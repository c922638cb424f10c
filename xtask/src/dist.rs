//! `target/dist/`: what a Xen host needs, as a packager would take it.

use crate::bed::scenario::Scenario;
use crate::workspace::Workspace;
use crate::{process, progress};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The stripped image may not be larger: it is read by people who audit it.
const IMAGE_LIMIT: u64 = 256 * 1024;

/// Makes `pcidom-kernel` and `bed-front` PV images; without it a host can build them.
pub(crate) const IMAGE_FEATURE: &str = "image";

/// Builds the image and `pcidomctl` and copies them, with the config files.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let dist = workspace.dist();
    fs::create_dir_all(&dist)
        .with_context(|| format!("cannot create {}", dist.display()))?;
    let image = dist.join("pcidom");
    build_image(workspace, None, &image)?;
    build_tool(workspace, None, &dist.join("pcidomctl"))?;
    for file in fs::read_dir(workspace.root().join("xen-cfg"))? {
        let file = file?;
        if file.file_type()?.is_file() {
            fs::copy(file.path(), dist.join(file.file_name()))?;
        }
    }
    // Last, so that an image that grew too large can still be looked at.
    let size = fs::metadata(&image)?.len();
    ensure!(
        size <= IMAGE_LIMIT,
        "{} is {size} bytes, the limit is {IMAGE_LIMIT}",
        image.display()
    );
    Ok(())
}

/// Builds what a scenario needs besides: variants with a test feature, and test programs.
pub(crate) fn build_for(workspace: &Workspace, scenario: &Scenario) -> Result<()> {
    let folder = workspace.dist().join("test");
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    if let Some(feature) = &scenario.image {
        let to = folder.join(format!("pcidom-{feature}"));
        build_image(workspace, Some(feature), &to)?;
    }
    if let Some(feature) = &scenario.tool {
        let to = folder.join(format!("pcidomctl-{feature}"));
        build_tool(workspace, Some(feature), &to)?;
    }
    if scenario.needs_front {
        build_front(workspace)?;
    }
    Ok(())
}

/// The frontend that asks what Linux never asks, once it is built.
pub(crate) fn front(workspace: &Workspace) -> PathBuf {
    workspace.dist().join("test").join("bed-front")
}

fn build_front(workspace: &Workspace) -> Result<()> {
    progress::say("building bed-front");
    let mut cargo = workspace.cargo(&["build", "--release", "-p", "bed-front"]);
    cargo.args(["--bin", "bed-front", "--features", IMAGE_FEATURE]);
    process::run(&mut cargo)?;
    strip(&workspace.release().join("bed-front"), &front(workspace))
}

fn build_tool(workspace: &Workspace, feature: Option<&str>, to: &Path) -> Result<()> {
    progress::say(format_args!("building pcidomctl {}", feature.unwrap_or_default()));
    let mut cargo = workspace.cargo(&["build", "--release", "-p", "pcidomctl"]);
    if let Some(feature) = feature {
        cargo.args(["--features", feature]);
    }
    process::run(&mut cargo)?;
    strip(&workspace.release().join("pcidomctl"), to)?;
    report(to)
}

/// The stopwatch and reader of consoles, once it is built.
pub(crate) fn probe(workspace: &Workspace) -> PathBuf {
    workspace.dist().join("test").join("bed-probe")
}

/// Builds it, static since a guest has no libraries.
pub(crate) fn build_probe(workspace: &Workspace) -> Result<()> {
    progress::say("building bed-probe");
    let to = probe(workspace);
    fs::create_dir_all(workspace.dist().join("test"))?;
    let mut cargo = workspace.cargo(&["rustc", "--release", "-p", "bed-probe"]);
    cargo.args(["--bin", "bed-probe", "--", "-C", "target-feature=+crt-static"]);
    process::run(&mut cargo)?;
    strip(&workspace.release().join("bed-probe"), &to)
}

fn build_image(workspace: &Workspace, feature: Option<&str>, to: &Path) -> Result<()> {
    progress::say(format_args!("building pcidom {}", feature.unwrap_or_default()));
    let mut cargo = workspace.cargo(&["build", "--release", "-p", "pcidom-kernel"]);
    cargo.args(["--bin", "pcidom", "--features", IMAGE_FEATURE]);
    if let Some(feature) = feature {
        cargo.args(["--features", feature]);
    }
    process::run(&mut cargo)?;
    strip(&workspace.release().join("pcidom"), to)?;
    report(to)
}

fn strip(from: &Path, to: &Path) -> Result<()> {
    process::run(Command::new("strip").arg("-o").arg(to).arg(from))
}

fn report(file: &Path) -> Result<()> {
    let size = fs::metadata(file)?.len();
    progress::say(format_args!("{}: {} KiB", file.display(), size.div_ceil(1024)));
    Ok(())
}

//! `target/dist/`: what a Xen host needs, as a packager would take it.

use crate::workspace::Workspace;
use crate::{process, progress};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The stripped image may not be larger: it is read by people who audit it.
const IMAGE_LIMIT: u64 = 256 * 1024;

/// Makes `pcidom-kernel` a PV image; without it it is a library for hosts.
pub(crate) const IMAGE_FEATURE: &str = "image";

/// Builds the image and `pcidomctl` and copies them, with the config files.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let dist = workspace.dist();
    fs::create_dir_all(&dist)
        .with_context(|| format!("cannot create {}", dist.display()))?;
    let image = dist.join("pcidom");
    build_image(workspace, None, &image)?;
    progress::say("building pcidomctl");
    process::run(&mut workspace.cargo(&["build", "--release", "-p", "pcidomctl"]))?;
    let tool = dist.join("pcidomctl");
    strip(&workspace.release().join("pcidomctl"), &tool)?;
    report(&tool)?;
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

/// Builds the image with one test feature, beside the real one.
pub(crate) fn build_variant(workspace: &Workspace, feature: &str) -> Result<()> {
    let folder = workspace.dist().join("test");
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    build_image(workspace, Some(feature), &folder.join(format!("pcidom-{feature}")))
}

/// The stopwatch, once it is built.
pub(crate) fn probe(workspace: &Workspace) -> PathBuf {
    workspace.dist().join("test").join("bed-probe")
}

/// Builds the stopwatch, static since a guest has no libraries.
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

//! Folders that are expensive to make: made once, and again when their recipe changes.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// FNV-1a over everything that decides the content.
pub(super) fn key<'a>(inputs: impl IntoIterator<Item = &'a str>) -> u64 {
    inputs.into_iter().flat_map(str::bytes).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Takes `cache/NAME-KEY`, or has it built: `build` gets an empty folder and returns the
/// part of it to keep.
pub(super) fn get(
    cache: &Path,
    name: &str,
    key: u64,
    build: impl FnOnce(&Path) -> Result<PathBuf>,
) -> Result<PathBuf> {
    let folder = cache.join(format!("{name}-{key:016x}"));
    if !folder.exists() {
        fs::create_dir_all(cache)?;
        // Built aside and renamed, so that a half-built one is never used.
        let unfinished = cache.join(format!("unfinished-{}", std::process::id()));
        fs::create_dir_all(&unfinished)?;
        let built = build(&unfinished).and_then(|ready| {
            fs::rename(ready, &folder).context("cannot move the new cache into place")
        });
        fs::remove_dir_all(&unfinished).ok();
        built?;
        remove_older(cache, name, &folder)?;
    }
    Ok(folder)
}

/// Removes what an older recipe made.
fn remove_older(cache: &Path, name: &str, current: &Path) -> Result<()> {
    let prefix = format!("{name}-");
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let is_one = entry.file_name().to_string_lossy().starts_with(&prefix);
        if is_one && entry.path() != current {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

//! What XenStore has, and waiting for something to be gone from it.

use crate::Failure;
use crate::xenstore::XenStore;
use pcidom_xenbus::wire::Kind;
use std::io::Write;
use std::time::{Duration, Instant};

/// Prints the nodes that the paths name and all below them, like `xenstore-ls -fp`.
pub(crate) fn print(paths: &[&str]) -> Result<(), Failure> {
    let mut store = XenStore::open()?;
    let mut lines = Vec::new();
    let mut level = Vec::new();
    for path in paths {
        level.extend(named(&mut store, path)?);
    }
    while !level.is_empty() {
        let questions: Vec<_> = level
            .iter()
            .flat_map(|path| {
                [Kind::Directory, Kind::Read, Kind::GetPerms]
                    .map(|kind| (kind, path.as_str()))
            })
            .collect();
        let mut answers = store.ask(&questions)?.into_iter();
        let mut below = Vec::new();
        for path in &level {
            let (names, value, permissions) = (
                answers.next().flatten(),
                answers.next().flatten(),
                answers.next().flatten(),
            );
            // Gone since its parent was asked.
            let (Some(names), Some(value), Some(permissions)) =
                (names, value, permissions)
            else {
                continue;
            };
            below.extend(names.strings().iter().map(|name| child(path, name)));
            let value = String::from_utf8_lossy(&value.payload).into_owned();
            lines.push(format!(
                "{path} = \"{}\"   ({})\n",
                value.escape_debug(),
                permissions.strings().join(",")
            ));
        }
        level = below;
    }
    lines.sort_unstable();
    Ok(std::io::stdout().write_all(lines.concat().as_bytes())?)
}

/// The paths of which this is the pattern: a `*` is any name.
fn named(store: &mut XenStore, pattern: &str) -> Result<Vec<String>, Failure> {
    let mut paths = vec![String::new()];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        if part != "*" {
            paths = paths.iter().map(|path| child(path, part)).collect();
            continue;
        }
        let questions: Vec<_> =
            paths.iter().map(|path| (Kind::Directory, path.as_str())).collect();
        let answers = store.ask(&questions)?;
        let mut found = Vec::new();
        for (path, names) in paths.iter().zip(answers) {
            let names = names.map(|names| names.strings()).unwrap_or_default();
            found.extend(names.iter().map(|name| child(path, name)));
        }
        paths = found;
    }
    if paths == [""] {
        paths = vec!["/".into()];
    }
    Ok(paths)
}

fn child(path: &str, name: &str) -> String {
    format!("{}/{name}", path.trim_end_matches('/'))
}

/// Waits until there is no such node.
pub(crate) fn gone(path: &str, seconds: u64) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut store = XenStore::open()?;
    // Before the first look, so that nothing comes in between.
    store.watch(path)?;
    while store.event(deadline)? {
        if let [None] = store.ask(&[(Kind::Read, path)])?.as_slice() {
            return Ok(());
        }
    }
    Err(format!("{path} is there after {seconds} s").into())
}

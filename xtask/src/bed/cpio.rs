//! File trees written as `newc` cpio archives, the form the kernel unpacks.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// A tree of files that all belong to root, whoever runs the build.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<String, Node>,
}

#[derive(Debug)]
enum Node {
    Directory,
    File { permissions: u32, content: Content },
    Link(String),
}

#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    Disk(PathBuf),
}

impl Tree {
    /// Adds an empty folder.
    pub(crate) fn directory(&mut self, path: &str) {
        self.insert(path, Node::Directory);
    }

    /// Adds a file with the given text.
    pub(crate) fn text(
        &mut self,
        path: &str,
        permissions: u32,
        text: impl Into<Vec<u8>>,
    ) {
        self.insert(
            path,
            Node::File { permissions, content: Content::Bytes(text.into()) },
        );
    }

    /// Adds a file from disk, with its permissions; links are followed.
    pub(crate) fn file(&mut self, path: &str, from: &Path) -> Result<()> {
        let metadata = fs::metadata(from)
            .with_context(|| format!("cannot read {}", from.display()))?;
        let permissions = metadata.permissions().mode() & 0o777;
        let content = Content::Disk(from.to_owned());
        self.insert(path, Node::File { permissions, content });
        Ok(())
    }

    /// Adds a folder from disk, with all that is in it.
    pub(crate) fn folder(&mut self, path: &str, from: &Path) -> Result<()> {
        let entries = fs::read_dir(from)
            .with_context(|| format!("cannot read {}", from.display()))?;
        for entry in entries {
            let entry = entry?;
            let below = format!("{path}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.folder(&below, &entry.path())?;
            } else {
                self.file(&below, &entry.path())?;
            }
        }
        Ok(())
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.insert(path, Node::Link(target.to_owned()));
    }

    /// Whether something is at this path already.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.nodes.contains_key(path.trim_matches('/'))
    }

    /// Parents come along, so a caller never names them.
    fn insert(&mut self, path: &str, node: Node) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            if let Some(parent) = path.get(..end) {
                self.nodes.entry(parent.to_owned()).or_insert(Node::Directory);
            }
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Writes the archive.
    pub(crate) fn write(&self, to: &mut impl Write) -> Result<()> {
        // The map's order puts a folder before what is in it, as the kernel needs.
        for (inode, (path, node)) in (1_u32..).zip(&self.nodes) {
            match node {
                Node::Directory => entry(to, inode, DIRECTORY | 0o755, path, &[])?,
                Node::Link(target) => {
                    entry(to, inode, LINK | 0o777, path, target.as_bytes())?;
                }
                Node::File { permissions, content } => {
                    let mode = REGULAR | permissions;
                    match content {
                        Content::Bytes(bytes) => entry(to, inode, mode, path, bytes)?,
                        Content::Disk(from) => {
                            let bytes = fs::read(from).with_context(|| {
                                format!("cannot read {}", from.display())
                            })?;
                            entry(to, inode, mode, path, &bytes)?;
                        }
                    }
                }
            }
        }
        entry(to, 0, 0, "TRAILER!!!", &[])
    }
}

fn entry(
    to: &mut impl Write,
    inode: u32,
    mode: u32,
    path: &str,
    content: &[u8],
) -> Result<()> {
    let size = u32::try_from(content.len()).context("a file is too large for cpio")?;
    let name_size = path.len().saturating_add(1);
    // magic, ino, mode, uid, gid, nlink, mtime, size, dev (2), rdev (2), name, check
    write!(
        to,
        "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}\
         {0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
        0, 1
    )?;
    const HEADER: usize = 110;
    to.write_all(path.as_bytes())?;
    to.write_all(&[0])?;
    pad(to, HEADER.saturating_add(name_size))?;
    to.write_all(content)?;
    pad(to, content.len())
}

/// Names and contents end on a multiple of four.
fn pad(to: &mut impl Write, written: usize) -> Result<()> {
    for _ in written..written.next_multiple_of(4) {
        to.write_all(&[0])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_parents_first_and_aligned() {
        let mut tree = Tree::default();
        tree.text("/a/b/file", 0o644, "12345");
        tree.link("a/link", "b/file");
        let mut archive = Vec::new();
        tree.write(&mut archive).unwrap();
        assert_eq!(archive.len() % 4, 0);
        let text = String::from_utf8_lossy(&archive);
        let at = |name: &str| text.find(&format!("{name}\0")).unwrap();
        assert!(at("a") < at("a/b"));
        assert!(at("a/b") < at("a/b/file"));
        assert!(at("a/link") < at("TRAILER!!!"));
        assert!(tree.contains("/a/b"));
        assert!(!tree.contains("/a/c"));
    }

    #[test]
    fn a_header_is_110_bytes() {
        let mut archive = Vec::new();
        entry(&mut archive, 1, REGULAR | 0o644, "n", b"xy").unwrap();
        assert_eq!(archive.len(), 112 + 4);
        assert!(archive.starts_with(b"070701"));
        assert_eq!(archive.get(112..114), Some(b"xy".as_slice()));
    }
}

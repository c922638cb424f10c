//! `cargo xtask policy`: what pcidom's register table makes of a device's config space.

use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use clap::Args;
use pciback::VirtualFunction;
use pciback::policy::expect::Line;
use pciback::policy::{doc, expect};
use pcidom_loan::{Allowed, Exceptions};
use pcidom_pci::dump::scan_dump;
use std::fs;
use std::path::{Path, PathBuf};

/// The address that a dump is given: it says nothing of that.
const SOMEWHERE: &str = "0000:00:00.0";

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Wish {
    /// Raw config space of a device, 64, 256 or 4096 bytes: print for each double word its
    /// offset, what a guest reads, and masks of bits that may differ, that a guest's writes
    /// may change in hardware, and that they may clear; all hexadecimal.
    #[arg(long)]
    dump: Option<PathBuf>,
    /// With --dump: as with this exception, NAME[:MASK].
    #[arg(long, requires = "dump")]
    allow: Vec<String>,
    /// With --dump: as with permissive=1.
    #[arg(long, requires = "dump")]
    permissive: bool,
    /// Write the tables of docs/config-space.md anew.
    #[arg(long)]
    doc: bool,
}

/// Does what is wished.
pub(crate) fn run(workspace: &Workspace, wish: &Wish) -> Result<()> {
    if wish.doc {
        write_doc(&workspace.root().join("docs/config-space.md"))?;
    }
    if let Some(file) = &wish.dump {
        let raw =
            fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        print!("{}", expected(&raw, &wish.allow, wish.permissive)?);
    }
    Ok(())
}

/// The lines for a dump.
fn expected(raw: &[u8], allow: &[String], permissive: bool) -> Result<String> {
    Ok(expect::text(&function(raw, allow, permissive)?, raw))
}

/// The table for a dump, a line for each double word.
pub(crate) fn lines(raw: &[u8], allow: &[String], permissive: bool) -> Result<Vec<Line>> {
    Ok(function(raw, allow, permissive)?.lines().collect())
}

fn function(raw: &[u8], allow: &[String], permissive: bool) -> Result<VirtualFunction> {
    let function = scan_dump(SOMEWHERE.parse()?, raw)?;
    let plain = VirtualFunction::new(&function);
    let mut exceptions = Exceptions::default();
    exceptions.permissive = permissive;
    for item in allow {
        let (name, mask) = item.split_once(':').unwrap_or((item, ""));
        let field = plain.field(name).with_context(|| format!("there is no {name}"))?;
        let digits = mask.trim_start_matches("0x");
        let mask = match digits {
            "" => field.grantable,
            digits => u32::from_str_radix(digits, 16)?,
        };
        let allowed = Allowed::new(field.register, mask & field.grantable);
        let allowed =
            allowed.with_context(|| format!("nothing of {item} can be allowed"))?;
        ensure!(exceptions.allow(allowed), "too many exceptions");
    }
    Ok(plain.with(&exceptions))
}

/// Puts the tables into the document.
fn write_doc(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let parts = text.split_once(doc::BEGIN).and_then(|(head, rest)| {
        let (_, tail) = rest.split_once(doc::END)?;
        Some((head, tail))
    });
    let (head, tail) = parts.context("the document has no place for the tables")?;
    let tables = doc::tables();
    fs::write(path, format!("{head}{}{tables}{}{tail}", doc::BEGIN, doc::END))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::expected;

    /// PM at 0x40, MSI at 0x50 with something in its address.
    fn dump() -> Vec<u8> {
        let mut raw = vec![0; 256];
        raw[..8].copy_from_slice(&[0xec, 0x10, 0x39, 0x81, 3, 0, 0x10, 0]);
        raw[0x0e] = 0;
        raw[0x10..0x14].copy_from_slice(&0xc101_u32.to_le_bytes());
        raw[0x34] = 0x40;
        raw[0x40..0x46].copy_from_slice(&[1, 0x50, 3, 0xc8, 8, 0]);
        raw[0x50..0x58].copy_from_slice(&[5, 0, 0x80, 0, 0, 0, 0xe0, 0xfe]);
        raw
    }

    #[test]
    fn a_dump_becomes_what_a_guest_sees_and_may_change() {
        let text = expected(&dump(), &[], false).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 64);
        assert_eq!(lines[0], "000 813910ec 00000000 00000000 00000000");
        // COMMAND is a shadow but for two bits; Status has error bits to clear.
        assert_eq!(lines[1], "004 00100000 000007eb 00000414 f9000000");
        assert_eq!(lines[4], "010 0000c101 00000000 00000000 00000000");
        assert_eq!(lines[0x40 / 4], "040 00035001 00000000 00000000 00000000");
        assert_eq!(lines[0x54 / 4], "054 00000000 00000000 00000000 00000000");
    }

    #[test]
    fn exceptions_add_to_what_may_be_changed() {
        let line = |allow: &[String], permissive, at: usize| {
            let text = expected(&dump(), allow, permissive).unwrap();
            text.lines().nth(at / 4).unwrap().to_owned()
        };
        let timer = ["LATENCY_TIMER:0xf0".to_owned()];
        assert_eq!(line(&timer, false, 0x0c), "00c 00000000 00800000 0000f0ff 00000000");
        assert_eq!(line(&[], true, 0x80), "080 00000000 00000000 ffffffff 00000000");
        assert_eq!(line(&[], true, 0x54), "054 00000000 00000000 00000000 00000000");
        assert!(expected(&dump(), &["BAR0".into()], false).is_err());
        assert!(expected(&dump(), &["DEVCTL".into()], false).is_err());
    }
}

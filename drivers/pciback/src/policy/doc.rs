//! docs/config-space.md's tables, out of the policy itself.

use alloc::format;
use alloc::string::String;

use super::field::{ReadRule, WriteRule};
use super::lists::{HIDDEN, Kind, SHOWN, SOME_HIDDEN};
use super::registers::{Entry, TABLES};

/// What stands between these lines of the document is written by [`tables`].
pub const BEGIN: &str = "<!-- tables: cargo xtask policy --doc -->\n";
/// The end of it.
pub const END: &str = "<!-- end of tables -->\n";

/// All tables, a row for each register.
pub fn tables() -> String {
    let mut out = String::new();
    for (title, id, entries) in TABLES {
        out += &match id {
            Some(id) => format!("\n### {title} (capability {id:#04x})\n\n"),
            None => format!("\n### {title}\n\n"),
        };
        out += "| offset | bytes | name | a guest reads | a guest's write | a person may allow \
                | why not, or what it risks | source |\n|---|---|---|---|---|---|---|---|\n";
        for Entry { row, source, why } in entries {
            let (offset, bytes, name) = (row.offset, row.width.bytes(), row.name);
            let (read, write) = (read(row.read), write(row.write));
            let allow = match row.grantable {
                0 => String::from("nothing"),
                bits => format!("{bits:#x}"),
            };
            out += &format!(
                "| {offset:#04x} | {bytes} | {name} | {read} | {write} | {allow} | {why} \
                 | {source} |\n"
            );
        }
    }
    let mut list = |title: &str, kinds: &mut dyn Iterator<Item = Kind>| {
        out += &format!("\n### {title}\n\n| id | name |\n|---|---|\n");
        for Kind { id, name } in kinds {
            out += &format!("| {id:#04x} | {name} |\n");
        }
    };
    let mut hidden = HIDDEN.iter().map(|(kind, _)| *kind);
    list("Capabilities that are hidden", &mut hidden);
    list("Extended capabilities that are shown", &mut SHOWN.iter().copied());
    let mut hidden = SOME_HIDDEN.iter().copied();
    list("Some extended capabilities that are hidden, as all others are", &mut hidden);
    out
}

fn read(rule: ReadRule) -> String {
    match rule {
        ReadRule::Hardware => "the hardware".into(),
        ReadRule::Masked(u32::MAX) => "what the scan found".into(),
        ReadRule::Masked(mask) => format!("what the scan found, without {:#x}", !mask),
        ReadRule::Constant(value) => format!("{value:#x}"),
        ReadRule::Command => "what it wrote; master and MWI from the hardware".into(),
        ReadRule::Address(_) => "what the scan found, or its size".into(),
        ReadRule::MsiControl(_) => "enable as it is; one vector".into(),
        ReadRule::MsixControl(_) => "enable as it is; nothing masked".into(),
        ReadRule::HeaderType(_) => "multifunction as on its own bus".into(),
        ReadRule::DeviceControl => "the hardware; error reporting as it wrote it".into(),
    }
}

fn write(rule: WriteRule) -> String {
    match rule {
        WriteRule::Drop => "dropped".into(),
        WriteRule::Forward => "done".into(),
        WriteRule::Clear(bits) => format!("clears {bits:#x} by ones"),
        WriteRule::Command => "master, MWI and INTx disable are done".into(),
        WriteRule::Address(_) => "all ones ask for the size; never the hardware".into(),
        WriteRule::SelfTest => "refused if it starts a test, else dropped".into(),
        WriteRule::PowerState => "D0 is what it is in; the rest is dropped".into(),
        WriteRule::DeviceControl => {
            "relaxed ordering, no snoop, read size up to what the scan found".into()
        }
        WriteRule::ProductAddress => {
            "an address to read is done, whole words only".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BEGIN, END, tables};
    use crate::policy::registers::TABLES;

    #[test]
    fn the_document_has_the_tables_of_the_policy() {
        let text = include_str!("../../../../docs/config-space.md");
        let (_, rest) = text.split_once(BEGIN).unwrap();
        let (shown, _) = rest.split_once(END).unwrap();
        assert_eq!(shown, tables(), "write it anew: cargo xtask policy --doc");
    }

    #[test]
    fn every_register_has_a_source_a_reason_and_a_name_of_its_own() {
        let all: Vec<_> = TABLES.iter().flat_map(|(.., entries)| *entries).collect();
        for (n, entry) in all.iter().enumerate() {
            let (name, width) = (entry.row.name, entry.row.width);
            let word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            assert!(
                name.chars().all(word) && !name.starts_with(char::is_numeric),
                "{name}"
            );
            assert!(entry.source.starts_with("PCI") || entry.source.starts_with("PM"));
            assert!(!entry.why.is_empty(), "{name}");
            assert_eq!(entry.row.grantable & !width.mask(), 0, "{name}");
            let same = all.iter().filter(|other| other.row.name == name);
            assert_eq!(same.count(), 1, "{name}");
            assert_eq!(all.iter().position(|other| other.row.name == name), Some(n));
        }
    }
}

//! What the two XenStore directories of a link say, parsed.

use alloc::string::String;
use alloc::vec::Vec;

use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_xenbus::{GrantRef, Port, XenbusState};

/// Entries of a back directory that are looked at: every function of every slot. A larger
/// `num_devs` is a mistake of the toolstack.
pub const MAX_ENTRIES: u32 = 256;

/// The front directory, which the guest writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FrontKeys {
    /// `state`; unknown if it is gone, unreadable or nonsense.
    pub state: XenbusState,
    /// `pci-op-ref`: the grant of the shared page.
    pub pci_op_ref: Option<GrantRef>,
    /// `event-channel`: a port the guest made for us.
    pub event_channel: Option<Port>,
    /// `magic`, if it is a word that can be shown.
    pub magic: Option<String>,
}

impl FrontKeys {
    /// From the values of the keys; a missing or unreadable one is `None`.
    pub fn parse<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Self {
        let number = |key| get(key).and_then(|text| text.parse().ok());
        Self {
            state: XenbusState::parse(get("state")),
            pci_op_ref: number("pci-op-ref").map(GrantRef),
            event_channel: number("event-channel").map(Port),
            // It gets into the log: nothing longer, and nothing that isn't a word.
            magic: get("magic")
                .filter(|text| text.len() < 16)
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_alphanumeric()))
                .map(Into::into),
        }
    }

    /// The keys to read.
    pub const KEYS: [&'static str; 4] = ["state", "pci-op-ref", "event-channel", "magic"];
}

/// One device in the back directory. Its index means nothing beyond one reading, as
/// toolstacks renumber entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackEntry {
    /// N of its keys.
    pub index: u32,
    /// `dev-N`: the physical address, if it is one.
    pub device: Option<Sbdf>,
    /// `state-N`
    pub state: XenbusState,
    /// `vdev-N`: where we have put it.
    pub at: Option<VirtualBdf>,
}

/// The back directory, which the toolstack and we write, read in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BackEntries {
    /// `state`: ours, or what the toolstack has changed it to.
    pub state: XenbusState,
    /// The devices.
    pub entries: Vec<BackEntry>,
}

impl BackEntries {
    /// From the values of the keys.
    pub fn parse<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Self {
        let count =
            get("num_devs").and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let entry = |index: u32| BackEntry {
            index,
            device: get(&alloc::format!("dev-{index}"))
                .and_then(|t| t.trim().parse().ok()),
            state: XenbusState::parse(get(&alloc::format!("state-{index}"))),
            at: get(&alloc::format!("vdev-{index}"))
                .and_then(|text| text.trim().parse().ok())
                .map(VirtualBdf),
        };
        Self {
            state: XenbusState::parse(get("state")),
            entries: (0..count.min(MAX_ENTRIES)).map(entry).collect(),
        }
    }

    /// Whether the directory's node of this name is one that [`BackEntries::parse`] asks for;
    /// there are three times as many, and each would be a trip to XenStore.
    pub fn is_read(name: &str) -> bool {
        let of_entry = name.rsplit_once('-').map(|(kind, _)| kind);
        matches!(name, "state" | "num_devs")
            || matches!(of_entry, Some("dev" | "state" | "vdev"))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::{BackEntries, MAX_ENTRIES};

    #[test]
    fn a_directory_that_claims_more_entries_than_there_can_be_is_read_to_the_bound() {
        let most = usize::try_from(MAX_ENTRIES).unwrap();
        for (count, read) in
            [("3", 3), ("256", most), ("257", most), ("4294967295", most)]
        {
            let get = |key: &str| (key == "num_devs").then_some(count);
            assert_eq!(BackEntries::parse(get).entries.len(), read);
        }
        let get = |key: &str| (key == "num_devs").then_some("-1");
        assert_eq!(BackEntries::parse(get).entries, []);
    }

    #[test]
    fn what_is_asked_for_is_read_and_nothing_else() {
        let mut asked = BTreeSet::new();
        {
            let asked = RefCell::new(&mut asked);
            BackEntries::parse(|key| {
                asked.borrow_mut().insert(key.to_owned());
                (key == "num_devs").then_some("12")
            });
        }
        assert_eq!(asked.len(), 2 + 3 * 12);
        assert!(asked.iter().all(|key| BackEntries::is_read(key)));
        for other in ["domain", "frontend-id", "key-0", "opts-0", "root-0", "root_num"] {
            assert!(!asked.contains(other) && !BackEntries::is_read(other), "{other}");
        }
    }
}

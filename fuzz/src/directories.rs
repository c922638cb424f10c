//! Directories of XenStore, whole: those of a guest's frontend, of our backend, of dom0's.
//! The input has a node in each line, as `name=value`.

use pciback::link::{BackEntries, FrontKeys, MAX_ENTRIES};
use pcidom_pci::{Sbdf, VirtualBdf};
use pcidom_xenbus::XenbusState;
use pcifront::exports::{fill_gaps, is_torn};
use pcifront::{Export, MAX_EXPORTS, parse_exports};

/// Most nodes that are looked at: reading is a search for each key.
const MAX_NODES: usize = 24;

/// Runs one input.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines = text.split('\n').filter_map(|line| line.split_once('='));
    let nodes: Vec<(&str, &str)> = lines.take(MAX_NODES).collect();
    let get =
        |key: &str| nodes.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);

    let front = FrontKeys::parse(get);
    if let Some(magic) = &front.magic {
        assert!(
            magic.len() < 16 && magic.bytes().all(|byte| byte.is_ascii_alphanumeric())
        );
    }
    let back = BackEntries::parse(get);
    assert!(back.entries.len() <= MAX_ENTRIES as usize);
    for (index, entry) in (0..).zip(&back.entries) {
        assert_eq!(entry.index, index);
    }
    let exports = parse_exports(get);
    check(&exports);
    let torn = is_torn(get);
    let listed = back.entries.iter().filter(|entry| entry.device.is_some()).count();
    let few = get("num_devs").is_some_and(|count| count.trim().parse::<u32>().is_ok());
    assert!(!torn || !few || listed < back.entries.len());
    let mut filled = exports.clone();
    let known = before();
    fill_gaps(&mut filled, known.iter());
    check(&filled);
    // Nothing that was there is lost, and what is leaving leaves.
    for export in &known {
        assert!(filled.iter().any(|filled| filled.device == export.device));
    }
    for export in exports.iter().filter(|export| export.is_leaving()) {
        assert!(filled.contains(export));
    }
}

fn check(exports: &[Export]) {
    assert!(exports.len() <= MAX_EXPORTS + before().len());
    for (n, export) in exports.iter().enumerate() {
        let again = exports.iter().skip(n + 1).any(|other| other.device == export.device);
        assert!(!again, "{} twice", export.device);
        assert!(!export.is_usable() || export.at.is_some() && !export.is_leaving());
    }
}

/// What was known before the directory was read.
fn before() -> [Export; 2] {
    [(1, 0), (2, 1)].map(|(bus, slot)| Export {
        device: Sbdf::new(0, bus, 0, 0).unwrap(),
        at: Sbdf::new(0, 0, slot, 0).map(VirtualBdf),
        state: XenbusState::Initialised,
    })
}

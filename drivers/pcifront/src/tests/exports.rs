use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use pcidom_pci::VirtualBdf;
use pcidom_xenbus::XenbusState;

use crate::exports::{Export, MAX_EXPORTS, fill_gaps, is_read, is_torn, parse_exports};

fn parse_map(entries: &BTreeMap<String, String>) -> Vec<Export> {
    parse_exports(|key| entries.get(key).map(String::as_str))
}

fn parse(nodes: &[(&str, &str)]) -> Vec<Export> {
    let owned = nodes.iter().map(|(name, text)| (name.to_string(), text.to_string()));
    parse_map(&owned.collect())
}

fn devices(exports: &[Export]) -> Vec<String> {
    exports.iter().map(|export| export.device.to_string()).collect()
}

#[test]
fn a_directory_of_libxl_and_pciback_is_understood() {
    let exports = parse(&[
        ("frontend", "/local/domain/3/device/pci/0"),
        ("state", "4"),
        ("num_devs", "2"),
        ("dev-0", "0000:01:00.0"),
        ("vdev-0", "0000:00:00.00"),
        ("state-0", "3"),
        ("opts-0", "msitranslate=0,power_mgmt=0,permissive=0"),
        ("dev-1", "0000:03:00.0"),
        ("state-1", "1"),
    ]);
    let at = Some(VirtualBdf("00:00.0".parse().unwrap()));
    let first = Export {
        device: "01:00.0".parse().unwrap(),
        at,
        state: XenbusState::Initialised,
    };
    let second = Export {
        device: "03:00.0".parse().unwrap(),
        at: None,
        state: XenbusState::Initialising,
    };
    assert_eq!(exports, [first, second]);
    assert!(first.is_usable() && !second.is_usable());
}

#[test]
fn what_is_asked_for_is_read_and_nothing_else() {
    let asked = RefCell::new(BTreeSet::new());
    let get = |key: &str| {
        asked.borrow_mut().insert(key.to_owned());
        match key {
            "num_devs" => Some("12"),
            _ => key.starts_with("dev-").then_some("01:00.0"),
        }
    };
    parse_exports(get);
    is_torn(get);
    let asked = asked.into_inner();
    assert!(asked.contains("vdev-0") && asked.contains("dev-11"), "{asked:?}");
    assert!(asked.iter().all(|key| is_read(key)));
    for other in ["domain", "frontend-id", "key-0", "opts-0", "root-0", "root_num"] {
        assert!(!asked.contains(other) && !is_read(other), "{other}");
    }
}

#[test]
fn a_device_that_leaves_is_not_usable() {
    for (state, usable) in
        [("3", true), ("4", true), ("5", false), ("6", false), ("", true)]
    {
        let exports =
            parse(&[("dev-0", "01:00.0"), ("vdev-0", "00:00.0"), ("state-0", state)]);
        assert_eq!(exports[0].is_usable(), usable, "{state}");
    }
}

#[test]
fn what_is_missing_or_garbage_is_left_out() {
    assert_eq!(parse(&[]), []);
    assert_eq!(parse(&[("num_devs", "0"), ("dev-0", "01:00.0")]), []);
    for count in ["7", "-1", "x", "99999999999999999999999"] {
        let exports = parse(&[
            ("num_devs", count),
            ("dev-1", "hello"),
            ("dev-2", "01:00.0"),
            ("dev-4", "0000:01:00.00"),
            ("dev-6", " 0000:02:00.0\n"),
            ("dev-x", "03:00.0"),
            ("vdev-2", "zz"),
        ]);
        assert_eq!(devices(&exports), ["0000:01:00.0", "0000:02:00.0"], "{count}");
    }
}

#[test]
fn a_directory_without_end_is_read_to_the_bound() {
    let entries = (0..2000_u32).map(|n| {
        let bdf = format!("{:02x}:{:02x}.{}", n >> 8, n >> 3 & 31, n & 7);
        (format!("dev-{n}"), bdf)
    });
    let mut entries: BTreeMap<_, _> = entries.collect();
    entries.insert("num_devs".into(), "2000".into());
    assert_eq!(parse_map(&entries).len(), MAX_EXPORTS);
}

#[test]
fn a_directory_whose_entries_are_being_moved_is_torn() {
    let torn = |entries: &[(&str, &str)]| {
        is_torn(|key| {
            entries.iter().find(|(name, _)| *name == key).map(|(_, text)| *text)
        })
    };
    let (first, second) = (("dev-0", "01:00.0"), ("dev-1", "02:00.0"));
    assert!(!torn(&[("num_devs", "2"), first, second]));
    assert!(!torn(&[("num_devs", "1"), first, second]));
    assert!(!torn(&[("num_devs", "1"), ("dev-0", "hello")]));
    assert!(!torn(&[("num_devs", "0")]) && !torn(&[]) && !torn(&[second]));
    assert!(torn(&[("num_devs", "2"), first]));
    assert!(torn(&[("num_devs", "2"), second]));
    assert!(torn(&[("num_devs", "4000000000"), first]));
}

#[test]
fn what_a_torn_directory_leaves_out_is_as_it_was() {
    let whole = |n| {
        let device = format!("0{n}:00.0");
        let at = format!("0000:00:0{n}.00");
        parse(&[("dev-0", &device), ("vdev-0", &at), ("state-0", "3")])[0]
    };
    let known = [1, 2, 3, 4].map(whole);
    let mut exports = parse(&[
        ("num_devs", "4"),
        // On its way: it has no place yet.
        ("dev-0", "02:00.0"),
        // It leaves.
        ("dev-1", "03:00.0"),
        ("state-1", "5"),
        // Another place is another export.
        ("dev-2", "04:00.0"),
        ("vdev-2", "0000:00:09.00"),
    ]);
    let [_, leaves, elsewhere] = exports[..] else { panic!("{exports:?}") };
    fill_gaps(&mut exports, known.iter());
    assert_eq!(exports, [known[1], leaves, elsewhere, known[0]]);
}

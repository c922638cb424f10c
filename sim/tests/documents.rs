//! The documents about attacks name tests, scenarios and constants: all of them exist, and the
//! constants have the values that are written there.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what goes wrong here fails the test"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENTS: [&str; 3] =
    ["docs/advisories.md", "docs/bounds.md", "docs/threat-model.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files of the workspace's own sources.
fn sources(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, files);
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
}

/// The functions right after `#[test]`.
fn tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        let mut marked = false;
        for line in text.lines().map(str::trim) {
            if let (true, Some(rest)) = (marked, line.strip_prefix("fn ")) {
                names.insert(rest.split('(').next().unwrap_or_default().to_owned());
            }
            marked = line == "#[test]" || marked && line.starts_with("#[");
        }
    }
    names
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The cells of the rows of all tables that have a column "shown by", heads left out.
fn claims(text: &str) -> Vec<Vec<&str>> {
    let mut rows = Vec::new();
    let mut head = None;
    for line in text.lines() {
        let Some(row) = line.strip_prefix('|') else {
            head = None;
            continue;
        };
        let cells: Vec<_> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        match head {
            None => head = Some(cells.last() == Some(&"shown by")),
            Some(true) if !row.starts_with("---") => rows.push(cells),
            Some(_) => {}
        }
    }
    rows
}

/// A test has a sentence for a name.
fn is_sentence(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.chars().all(plain) && text.matches('_').count() >= 3
}

#[test]
fn every_test_and_scenario_that_is_named_exists() {
    let tests = tests();
    assert!(tests.contains("every_test_and_scenario_that_is_named_exists"));
    for document in DOCUMENTS {
        let text = read(document);
        let mut named = 0;
        for name in quoted(&text) {
            if let Some(scenario) = name.strip_prefix("bed:") {
                let path = root().join("ci/scenarios").join(scenario);
                assert!(path.is_dir(), "{document}: no scenario {scenario}");
            } else if is_sentence(name) {
                assert!(tests.contains(name), "{document}: no test {name}");
                named += 1;
            }
        }
        assert!(named > 20, "{document} names {named} tests");
    }
}

#[test]
fn every_claim_names_a_test_or_says_that_there_is_none() {
    for document in DOCUMENTS {
        let text = read(document);
        let claims = claims(&text);
        assert!(claims.len() > 20, "{document} has {} claims", claims.len());
        for row in claims {
            let last = row.last().unwrap();
            let shown =
                quoted(last).any(|name| is_sentence(name) || name.starts_with("bed:"));
            assert!(shown || last.starts_with("none: "), "{document}: {row:?}");
        }
    }
}

#[test]
fn every_advisory_test_is_in_the_table() {
    let text = read("docs/advisories.md");
    let named: BTreeSet<&str> = quoted(&text).collect();
    for test in tests().iter().filter(|test| test.starts_with("xsa_")) {
        assert!(named.contains(test.as_str()), "{test} is not in docs/advisories.md");
    }
}

#[test]
fn every_bound_has_the_value_that_is_written() {
    let text = read("docs/bounds.md");
    let mut bounds = 0;
    for row in claims(&text) {
        let cell = |n: usize| row.get(n).and_then(|cell| quoted(cell).next());
        let (Some(name), Some(file), Some(value)) = (cell(0), cell(1), cell(2)) else {
            panic!("a row without constant, file and value: {row:?}")
        };
        let source = read(file);
        let declared = source.lines().find_map(|line| {
            let rest =
                line.split_once("const ")?.1.strip_prefix(name)?.strip_prefix(':')?;
            rest.split_once('=').map(|(_, value)| value.trim().trim_end_matches(';'))
        });
        assert_eq!(declared, Some(value), "{name} in {file}");
        assert!(row.get(3).is_some_and(|reason| reason.len() > 10), "{name}: no reason");
        bounds += 1;
    }
    assert!(bounds > 30, "{bounds} bounds");
}

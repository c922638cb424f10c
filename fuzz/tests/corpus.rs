//! Every input in `corpus/` once, without a fuzzer: seeds, and what the fuzzer has found.

use std::path::Path;
use std::{fs, panic};

use pcidom_fuzz::TARGETS;

#[test]
fn nothing_is_wrong_with_any_input_of_the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, run) in TARGETS {
        let folder = corpus.join(target);
        let mut count = 0;
        for entry in fs::read_dir(&folder).expect("each target has a folder of seeds") {
            let file = entry.unwrap().path();
            let input = fs::read(&file).unwrap();
            // Its name is what the panic of an input can't say.
            if let Err(panic) = panic::catch_unwind(|| run(&input)) {
                eprintln!("{target}: {}", file.display());
                panic::resume_unwind(panic);
            }
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }
}

#[test]
fn every_folder_and_every_program_belongs_to_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, extension) in [("corpus", ""), ("targets", ".rs")] {
        let mut found: Vec<String> = fs::read_dir(root.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.trim_end_matches(extension).to_owned())
            .collect();
        found.sort_unstable();
        let mut known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        known.sort_unstable();
        assert_eq!(found, known, "{folder}/");
    }
}

/// An empty input and one of each byte: the ends of what a fuzzer begins with.
#[test]
fn the_smallest_inputs_are_taken_by_all_targets() {
    for (_, run) in TARGETS {
        run(&[]);
        (0..=u8::MAX).for_each(|byte| run(&[byte]));
    }
}

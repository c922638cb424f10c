//! Tests that take two domains, one folder or file for each subject. One program, since each would
//! have the whole simulator linked into it.

mod advisories;
mod attach_waits;
mod bus;
mod chaos;
mod deadlines;
mod documents;
mod ends;
mod exceptions;
mod flood;
mod flow;
mod garbage;
mod handshake;
mod hostile;
mod hostile_pcidom;
mod lease_times;
mod limits;
mod monitor;
mod on_demand;
mod own_link;
mod pcidom_ends;
mod pirq_rules;
mod pool;
mod pool_hotplug;
mod pool_link;
mod random_hotplug;
mod raw;
mod resets;
mod restart;
mod stubdom;
mod two_guests;
mod walk;
mod windows;

/// Cargo looks for no tests in this folder, so one that is not named above would never run.
#[test]
fn every_file_of_the_folder_is_part_of_the_program() {
    let named = include_str!("main.rs");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        let name = path.file_stem().expect("it has a name").to_string_lossy();
        let line = format!("\nmod {name};\n");
        assert!(name == "main" || named.contains(&line), "{}", path.display());
    }
}

//! The B-link in all its states, and what is found if one transition is wrong.
#![expect(clippy::panic, reason = "a property that does not hold fails the test")]

use std::io::Write;
use std::time::Instant;

use pcidom_model::blink::Blink;
use pcidom_model::mutation::BackMutation;
use pcidom_model::search::visit;

fn holds(model: &Blink) {
    let begun = Instant::now();
    match visit(model) {
        Ok(visited) => tell(&format!("{model}: {visited}, {:.1?}", begun.elapsed())),
        Err(mistake) => panic!("{model}: {mistake}"),
    }
}

/// Past the test harness, which shows only what failed.
fn tell(text: &str) {
    let _: Result<(), _> = writeln!(std::io::stderr(), "{text}");
}

#[test]
fn three_operations_leave_the_link_well() {
    holds(&Blink { operations: 3, faults: 0, mutation: None });
}

#[test]
fn guests_that_die_close_or_start_anew_leave_the_link_well() {
    holds(&Blink { operations: 2, faults: 1, mutation: None });
}

/// From small to large.
const LADDER: [(u8, u8); 5] = [(1, 0), (2, 0), (1, 1), (3, 0), (2, 1)];

#[test]
fn every_mutation_is_caught() {
    let mut missed = Vec::new();
    for mutation in BackMutation::ALL {
        let caught = LADDER.into_iter().find_map(|(operations, faults)| {
            visit(&Blink { operations, faults, mutation: Some(mutation) }).err()
        });
        match caught {
            Some(mistake) => println!(
                "{mutation:?}: {} ({} steps)",
                mistake.broken.property,
                mistake.way.len()
            ),
            None => missed.push(mutation),
        }
    }
    assert_eq!(missed, []);
    tell(&format!("B-link: {} mutations, each caught", BackMutation::ALL.len()));
}

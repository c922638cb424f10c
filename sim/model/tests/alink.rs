//! The A-link in all its states, and what is found if one transition is wrong.
#![expect(clippy::panic, reason = "a property that does not hold fails the test")]

use std::io::Write;
use std::time::Instant;

use pcidom_model::alink::{Alink, Toolstack};
use pcidom_model::mutation::FrontMutation;
use pcidom_model::search::visit;

const fn model(toolstack: Toolstack, (operations, faults, loans): (u8, u8, u8)) -> Alink {
    Alink { toolstack, operations, faults, loans, prompt: true, mutation: None }
}

fn holds(model: &Alink) {
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
fn two_operations_of_either_toolstack_leave_the_link_well() {
    for toolstack in [Toolstack::Xl, Toolstack::Xend] {
        holds(&model(toolstack, (2, 0, 1)));
    }
}

#[test]
fn peers_that_stop_in_the_middle_or_come_back_leave_the_link_well() {
    for toolstack in [Toolstack::Xl, Toolstack::Xend] {
        holds(&model(toolstack, (1, 1, 1)));
    }
}

#[test]
fn answers_of_xenstore_may_be_taken_late() {
    let late = Alink { prompt: false, ..model(Toolstack::Xl, (1, 0, 0)) };
    holds(&late);
}

/// From small to large.
const LADDER: [(Toolstack, (u8, u8, u8)); 6] = [
    (Toolstack::Xl, (1, 0, 0)),
    (Toolstack::Xend, (1, 0, 0)),
    (Toolstack::Xl, (1, 0, 1)),
    (Toolstack::Xend, (1, 0, 1)),
    (Toolstack::Xl, (2, 0, 0)),
    (Toolstack::Xl, (1, 1, 1)),
];

#[test]
fn every_mutation_is_caught() {
    let mut missed = Vec::new();
    for mutation in FrontMutation::ALL {
        let caught = LADDER.into_iter().find_map(|(toolstack, bounds)| {
            let mutant = Alink { mutation: Some(mutation), ..model(toolstack, bounds) };
            visit(&mutant).err()
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
    tell(&format!("A-link: {} mutations, each caught", FrontMutation::ALL.len()));
}

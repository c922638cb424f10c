//! Changes in nodes that pcidoms and guests write, at a pace: a domain that writes without end
//! has the daemon look at all of its nodes now and then, and at no other domain's later.

use std::collections::BTreeMap;

use pcidom_script::{Instant, Pace};

use super::pace;
use super::paths;
use super::watch::Token;
use crate::store::Fired;

#[derive(Debug)]
struct Ear {
    pace: Pace,
    /// When everything is looked at, since something came too soon.
    at: Option<Instant>,
}

/// One for each domain that has said something lately.
#[derive(Debug, Default)]
pub(super) struct Ears(BTreeMap<Token, Ear>);

impl Ears {
    /// Whether this change is to be looked at now. If not, [`Ears::due`] has it later.
    pub(super) fn hear(&mut self, fired: &Fired, now: Instant) -> bool {
        // All others are dom0's own.
        let token = Token::parse(&fired.token);
        let Some(token @ (Token::Said(_) | Token::Link(_))) = token else { return true };
        let ear = self.0.entry(token);
        let ear = ear.or_insert_with(|| Ear { pace: pace::of_looks(), at: None });
        if ear.at.is_none() {
            ear.at = ear.pace.take(now).err();
        }
        ear.at.is_none()
    }

    /// When something that was put off is to be looked at.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|ear| ear.at).min()
    }

    /// What is to be looked at now, as if its watch were new.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Fired> {
        self.0.retain(|_, ear| ear.at.is_some() || !ear.pace.is_full(now));
        let due = self.0.iter_mut().filter(|(_, ear)| ear.at.is_some_and(|at| at <= now));
        let fired = due.map(|(token, ear)| {
            ear.at = None;
            // It was put off until there is one.
            let _: bool = ear.pace.may(now);
            let path = match *token {
                Token::Said(pcidom) => paths::said(pcidom),
                Token::Link(guest) => paths::front(guest),
                Token::Owner(_)
                | Token::Domains
                | Token::Locks
                | Token::Requests
                | Token::Pool(_) => String::new(),
            };
            Fired { path, token: token.text() }
        });
        fired.collect()
    }
}

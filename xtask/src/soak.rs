//! `cargo xtask soak`: random work on loans, planned here from a seed.
//!
//! The plan knows what every operation leaves behind, so each line of it can succeed, and
//! in dom0 a shell only has to obey. The same seed gives the same plan.

use crate::bed::device::Device;
use crate::bed::{Bed, Options, scenario::Scenario, verdict::Verdict};
use crate::workspace::Workspace;
use crate::{dist, packages, progress};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::time::Duration;

/// So many guests at a time fit into the emulated machine.
const MAX_GUESTS: usize = 3;

const OPERATIONS_PER_ROUND: u32 = 20;

/// Rounds that a run of some minutes can't reach.
const ROUNDS_PER_MINUTE: u32 = 6;

/// One round takes about 30 s in emulation, on a slow day three times that.
const ROUND_LIMIT: Duration = Duration::from_secs(120);

/// Boot, baseline, and the counts at the end.
const AROUND: Duration = Duration::from_secs(400);

/// How much random work, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Soak {
    /// Each a sequence of operations, and a look at who has what.
    pub(crate) rounds: u32,
    /// What decides them.
    pub(crate) seed: u64,
}

/// What a person asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// Stop after so many minutes.
    pub(crate) minutes: Option<u32>,
    /// Or after so many rounds.
    pub(crate) rounds: Option<u32>,
    /// Otherwise the clock decides.
    pub(crate) seed: Option<u64>,
    /// Use what is in `target/dist/`.
    pub(crate) no_build: bool,
}

/// Runs the scenario with a plan of this length.
pub(crate) fn run(workspace: &Workspace, suite: &str, wish: Wish) -> Result<bool> {
    let mut scenario = Scenario::load(workspace, "soak")?;
    let seed = wish.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let rounds = match (wish.rounds, wish.minutes) {
        (Some(rounds), _) => rounds,
        (None, Some(minutes)) => minutes.saturating_mul(ROUNDS_PER_MINUTE),
        (None, None) => scenario.soak.context("the scenario has no plan")?.rounds,
    };
    scenario.soak = Some(Soak { rounds, seed });
    let mut options = Options::default();
    scenario.timeout = AROUND.saturating_add(match wish.minutes {
        Some(minutes) => {
            let seconds = minutes.saturating_mul(60);
            options.variables.push(("SOAK_SECONDS", seconds.into()));
            Duration::from_secs(seconds.into()).saturating_add(ROUND_LIMIT)
        }
        None => ROUND_LIMIT.saturating_mul(rounds),
    });
    progress::say(format_args!("soak: seed {seed}, at most {rounds} rounds"));
    packages::ensure(workspace)?;
    if !wish.no_build {
        dist::build(workspace)?;
    }
    let bed = Bed::build(workspace, suite)?;
    let verdict = bed.run(&scenario, &options)?.verdict;
    progress::say(format_args!("soak: seed {seed}: {}", verdict.word()));
    Ok(verdict == Verdict::Success)
}

impl Soak {
    /// Reads `ROUNDS SEED`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (rounds, seed) = text.split_once(' ').context("expected `ROUNDS SEED`")?;
        Ok(Self { rounds: rounds.parse()?, seed: seed.trim().parse()? })
    }

    /// The plan for these devices, one operation per line: `round N`, `create GUEST`,
    /// `cold GUEST DEVICE` (lent before the guest starts), `attach GUEST DEVICE`, `detach
    /// GUEST DEVICE`, `rebind GUEST DEVICE`, `destroy GUEST`, `shutdown GUEST`. At the end of
    /// each round `agree GUEST DEVICE...` for each guest, and `agree - DEVICE...` for what is
    /// free: who has which device then.
    pub(crate) fn plan(&self, devices: &[Device]) -> String {
        let mut model = Model {
            chance: Chance::new(self.seed),
            free: devices.iter().map(|device| device.name.as_str()).collect(),
            guests: Vec::new(),
            created: 0,
        };
        let mut plan = String::new();
        let _ = writeln!(plan, "seed {}", self.seed);
        for round in 1..=self.rounds {
            let _ = writeln!(plan, "round {round}");
            for _ in 0..OPERATIONS_PER_ROUND {
                let _ = writeln!(plan, "{}", model.next_operation());
            }
            model.write_who_has_what(&mut plan);
        }
        plan
    }
}

/// What is lent to whom while the plan is carried out.
struct Model<'a> {
    chance: Chance,
    free: Vec<&'a str>,
    guests: Vec<Guest<'a>>,
    created: u32,
}

struct Guest<'a> {
    name: String,
    has: Vec<&'a str>,
}

impl Model<'_> {
    fn next_operation(&mut self) -> String {
        let lent = self.guests.iter().any(|guest| !guest.has.is_empty());
        // Guests take longest to come and go, so they do it less often.
        loop {
            match self.chance.below(24) {
                0 if self.guests.len() < MAX_GUESTS => return self.create(),
                1 if self.guests.is_empty() => return self.create(),
                2..=7 if !self.guests.is_empty() && !self.free.is_empty() => {
                    return self.attach();
                }
                8..=13 if lent => return self.detach(),
                14..=17 if lent => return self.rebind(),
                18 if !self.guests.is_empty() => {
                    let how =
                        if self.chance.below(2) == 0 { "destroy" } else { "shutdown" };
                    return self.end(how);
                }
                _ => {}
            }
        }
    }

    fn write_who_has_what(&self, plan: &mut String) {
        for guest in &self.guests {
            let _ = writeln!(plan, "agree {} {}", guest.name, guest.has.join(" "));
        }
        let _ = writeln!(plan, "agree - {}", self.free.join(" "));
    }

    fn create(&mut self) -> String {
        self.created = self.created.saturating_add(1);
        let name = format!("s{}", self.created);
        let cold = self.chance.below(2) == 1;
        let device = if cold { self.chance.take(&mut self.free) } else { None };
        self.guests.push(Guest { name: name.clone(), has: device.into_iter().collect() });
        match device {
            Some(device) => format!("cold {name} {device}"),
            None => format!("create {name}"),
        }
    }

    fn attach(&mut self) -> String {
        let number = self.chance.below(self.guests.len());
        let device = self.chance.take(&mut self.free);
        let (Some(guest), Some(device)) = (self.guests.get_mut(number), device) else {
            return String::new();
        };
        guest.has.push(device);
        format!("attach {} {device}", guest.name)
    }

    fn detach(&mut self) -> String {
        let number = self.some_borrower();
        let Some(guest) = self.guests.get_mut(number) else { return String::new() };
        let Some(device) = self.chance.take(&mut guest.has) else { return String::new() };
        self.free.push(device);
        format!("detach {} {device}", guest.name)
    }

    fn rebind(&mut self) -> String {
        let number = self.some_borrower();
        let Some(guest) = self.guests.get(number) else { return String::new() };
        let device = guest.has.get(self.chance.below(guest.has.len()));
        format!("rebind {} {}", guest.name, device.copied().unwrap_or_default())
    }

    fn end(&mut self, how: &str) -> String {
        let number = self.chance.below(self.guests.len());
        let guest = self.guests.swap_remove(number);
        self.free.extend(guest.has);
        format!("{how} {}", guest.name)
    }

    /// The number of a guest that has a device.
    fn some_borrower(&mut self) -> usize {
        let borrowers: Vec<usize> = (0..self.guests.len())
            .filter(|n| self.guests.get(*n).is_some_and(|guest| !guest.has.is_empty()))
            .collect();
        borrowers.get(self.chance.below(borrowers.len())).copied().unwrap_or_default()
    }
}

/// Marsaglia's xorshift64: enough for a plan, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        // Small seeds would start alike, and zero would stay zero.
        let mut chance =
            Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| {
            chance.next();
        });
        chance
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which is small; 0 if there is none.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from((self.next() >> 16) % end).unwrap_or_default()
    }

    /// Takes one out of the list.
    fn take<T>(&mut self, from: &mut Vec<T>) -> Option<T> {
        if from.is_empty() {
            return None;
        }
        let number = self.below(from.len());
        Some(from.swap_remove(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bed::device::{DeviceKind, Place};
    use std::collections::BTreeMap;

    fn devices() -> Vec<Device> {
        let names = ["disk0", "disk1", "disk2", "net0"];
        let kind = || DeviceKind::Nvme { mebibytes: 1 };
        names
            .map(|name| Device {
                name: name.to_owned(),
                kind: kind(),
                place: Place::RootPort,
                properties: vec![],
                port_properties: vec![],
            })
            .into()
    }

    fn plan(rounds: u32, seed: u64) -> String {
        Soak { rounds, seed }.plan(&devices())
    }

    #[test]
    fn a_seed_is_a_plan() {
        assert_eq!(plan(50, 7), plan(50, 7));
        assert_ne!(plan(50, 7), plan(50, 8));
        assert!(plan(50, 7).starts_with(plan(20, 7).as_str()));
    }

    /// Carries the plan out on paper.
    #[test]
    fn every_operation_is_possible_when_it_comes() {
        let mut seen = BTreeMap::new();
        for seed in 0..50 {
            let mut guests: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for line in plan(40, seed).lines() {
                let words: Vec<&str> = line.split(' ').collect();
                let lent = |d: &str, g: &BTreeMap<_, Vec<String>>| {
                    g.values().flatten().any(|x| x == d)
                };
                *seen.entry(words[0].to_owned()).or_insert(0) += 1;
                match words.as_slice() {
                    ["seed" | "round", _] => {}
                    ["agree", "-", free @ ..] => {
                        let known = ["disk0", "disk1", "disk2", "net0"];
                        for device in known {
                            let is_free = free.contains(&device);
                            assert_ne!(is_free, lent(device, &guests), "{line}");
                        }
                    }
                    ["agree", guest, devices @ ..] => {
                        let mut has = guests[*guest].clone();
                        let mut said = devices.to_vec();
                        said.retain(|device| !device.is_empty());
                        has.sort();
                        said.sort_unstable();
                        assert_eq!(has, said, "{line}");
                    }
                    ["create", guest] => {
                        assert!(guests.insert((*guest).into(), vec![]).is_none());
                    }
                    ["cold", guest, device] => {
                        assert!(!lent(device, &guests), "{line}");
                        let has = vec![(*device).to_owned()];
                        assert!(guests.insert((*guest).into(), has).is_none());
                    }
                    ["attach", guest, device] => {
                        assert!(!lent(device, &guests), "{line}");
                        guests.get_mut(*guest).unwrap().push((*device).into());
                    }
                    ["rebind", guest, device] => {
                        assert!(guests[*guest].iter().any(|d| d == device), "{line}");
                    }
                    ["detach", guest, device] => {
                        let has = guests.get_mut(*guest).unwrap();
                        let number = has.iter().position(|d| d == device).unwrap();
                        has.remove(number);
                    }
                    ["destroy" | "shutdown", guest] => {
                        assert!(guests.remove(*guest).is_some(), "{line}");
                    }
                    _ => panic!("{line}"),
                }
                assert!(guests.len() <= MAX_GUESTS);
            }
        }
        assert_eq!(seen.len(), 10, "{seen:?}");
    }

    #[test]
    fn reads_its_line() {
        assert_eq!(Soak::parse("8 1").unwrap(), Soak { rounds: 8, seed: 1 });
        assert!(Soak::parse("8").is_err());
        assert!(Soak::parse("8 x").is_err());
    }
}

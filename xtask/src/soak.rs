//! `cargo xtask soak`: random work on loans, planned here from a seed.
//!
//! The plan knows what every operation leaves behind, so each line of it can succeed, and
//! in dom0 a shell only has to obey. The same seed gives the same plan.

use crate::bed::device::Device;
use crate::bed::{Alone, Bed, Options, scenario::Scenario, verdict::Verdict};
use crate::workspace::Workspace;
use crate::{dist, packages, progress};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;
use std::mem;
use std::path::Path;
use std::time::{Duration, Instant};

/// So many things happen at a time, each with a guest of its own: as many as fit into the
/// emulated machine.
const LANES: usize = 3;

const OPERATIONS_PER_ROUND: u32 = 20;

/// A boot that QEMU does not survive begins anew, and is not to lose hours; and what is left
/// behind is seen soon.
const ROUNDS_PER_BOOT: u32 = 25;

/// Rounds that a run of some minutes can't reach.
const ROUNDS_PER_MINUTE: u32 = 6;

/// One round takes 30 to 45 s in emulation, on a slow day three times that.
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

/// Runs the scenario with plans of this length in all, a boot for each part of it.
pub(crate) fn run(workspace: &Workspace, suite: &str, wish: Wish) -> Result<bool> {
    let mut scenario = Scenario::load(workspace, "soak")?;
    let seed = wish.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let rounds = match (wish.rounds, wish.minutes) {
        (Some(rounds), _) => rounds,
        (None, Some(minutes)) => minutes.saturating_mul(ROUNDS_PER_MINUTE),
        (None, None) => scenario.soak.context("the scenario has no plan")?.rounds,
    };
    progress::say(format_args!("soak: seed {seed}, at most {rounds} rounds"));
    packages::ensure(workspace)?;
    if !wish.no_build {
        dist::build(workspace)?;
    }
    let bed = Bed::build(workspace, suite)?;
    let alone = Alone::wait()?;
    let (start, mut done) = (Instant::now(), 0);
    // Each boot has the next seed, and can be repeated alone by it.
    for seed in seed.. {
        let part = Soak { rounds: ROUNDS_PER_BOOT.min(rounds - done), seed };
        scenario.soak = Some(part);
        scenario.timeout = AROUND.saturating_add(ROUND_LIMIT.saturating_mul(part.rounds));
        let mut options = Options::default();
        if let Some(minutes) = wish.minutes {
            let length = Duration::from_secs(u64::from(minutes).saturating_mul(60));
            let left = length.saturating_sub(start.elapsed()).as_secs();
            options.variables.push(("SOAK_SECONDS", left));
        }
        let run = bed.run(&alone, &scenario, &options)?;
        let word = run.verdict.word();
        if run.verdict != Verdict::Success {
            progress::say(format_args!(
                "soak: seed {seed}: {word}; {done} rounds before"
            ));
            return Ok(false);
        }
        let count = rounds_done(&run.folder)?;
        done += count;
        progress::say(format_args!("soak: seed {seed}: {word}; {done} rounds by now"));
        if done >= rounds || count < part.rounds {
            break;
        }
    }
    Ok(true)
}

/// As the scenario says, which stops when the time is over.
fn rounds_done(folder: &Path) -> Result<u32> {
    let path = folder.join("files/soak-rounds");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("no number of rounds: {}", path.display()))?;
    Ok(text.trim().parse()?)
}

impl Soak {
    /// Reads `ROUNDS SEED`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (rounds, seed) = text.split_once(' ').context("expected `ROUNDS SEED`")?;
        Ok(Self { rounds: rounds.parse()?, seed: seed.trim().parse()? })
    }

    /// The plan for these devices, one operation per line: `round N`, `lane`, `create GUEST`,
    /// `cold GUEST DEVICE` (lent before the guest starts), `attach GUEST DEVICE`, `detach
    /// GUEST DEVICE`, `rebind GUEST DEVICE`, `destroy GUEST`, `shutdown GUEST`. `together`
    /// ends a round's lanes, which are carried out at the same time, each in its order. Then
    /// `agree GUEST DEVICE...` for each guest, and `agree - DEVICE...` for what is free: who
    /// has which device then.
    pub(crate) fn plan(&self, devices: &[Device]) -> String {
        let mut chance = Chance::new(self.seed);
        let mut lanes: [Lane<'_>; LANES] = Default::default();
        let mut created = 0_u32;
        let mut plan = String::new();
        let _ = writeln!(plan, "seed {}", self.seed);
        lanes[0].free = devices.iter().map(|device| device.name.as_str()).collect();
        for round in 1..=self.rounds {
            let _ = writeln!(plan, "round {round}");
            deal_free_devices(&mut lanes, &mut chance);
            let mut count = 0;
            while count < OPERATIONS_PER_ROUND {
                let lane = lanes.get_mut(chance.below(LANES));
                if lane.is_some_and(|lane| lane.draw(&mut chance, &mut created)) {
                    count += 1;
                }
            }
            for text in lanes.iter_mut().map(|lane| mem::take(&mut lane.operations)) {
                let head = if text.is_empty() { "" } else { "lane\n" };
                let _ = write!(plan, "{head}{text}");
            }
            let _ = writeln!(plan, "together");
            write_who_has_what(&lanes, &mut plan);
        }
        plan
    }
}

/// One guest at a time, and devices that nobody else has.
#[derive(Default)]
struct Lane<'a> {
    guest: Option<Guest<'a>>,
    free: Vec<&'a str>,
    /// Of this round, a line each.
    operations: String,
}

struct Guest<'a> {
    name: String,
    has: Vec<&'a str>,
}

/// Before each round, so that devices move between guests of all lanes.
fn deal_free_devices(lanes: &mut [Lane<'_>; LANES], chance: &mut Chance) {
    let mut free: Vec<_> =
        lanes.iter_mut().flat_map(|lane| lane.free.drain(..)).collect();
    while let Some(device) = chance.take(&mut free) {
        if let Some(lane) = lanes.get_mut(chance.below(LANES)) {
            lane.free.push(device);
        }
    }
}

fn write_who_has_what(lanes: &[Lane<'_>], plan: &mut String) {
    for guest in lanes.iter().filter_map(|lane| lane.guest.as_ref()) {
        let _ = writeln!(plan, "agree {} {}", guest.name, guest.has.join(" "));
    }
    let free: Vec<_> = lanes.iter().flat_map(|lane| lane.free.iter().copied()).collect();
    let _ = writeln!(plan, "agree - {}", free.join(" "));
}

impl<'a> Lane<'a> {
    /// Adds an operation to the round, if the one that was drawn is possible.
    fn draw(&mut self, chance: &mut Chance, created: &mut u32) -> bool {
        let operation = self.next_operation(chance, created);
        operation.map(|text| writeln!(self.operations, "{text}")).is_some()
    }

    /// Draws one; nothing if what was drawn is not possible now.
    fn next_operation(
        &mut self,
        chance: &mut Chance,
        created: &mut u32,
    ) -> Option<String> {
        let Some(guest) = &mut self.guest else {
            *created = created.saturating_add(1);
            return Some(self.create(format!("s{created}"), chance));
        };
        let name = &guest.name;
        // Guests take longest to come and go, so they do it less often.
        match chance.below(66) {
            0..=24 => {
                let device = chance.take(&mut self.free)?;
                guest.has.push(device);
                Some(format!("attach {name} {device}"))
            }
            25..=49 => {
                let device = chance.take(&mut guest.has)?;
                self.free.push(device);
                Some(format!("detach {name} {device}"))
            }
            50..=64 => {
                let device = guest.has.get(chance.below(guest.has.len()))?;
                Some(format!("rebind {name} {device}"))
            }
            _ => {
                let how = if chance.below(2) == 0 { "destroy" } else { "shutdown" };
                let operation = format!("{how} {name}");
                self.free.append(&mut guest.has);
                self.guest = None;
                Some(operation)
            }
        }
    }

    fn create(&mut self, name: String, chance: &mut Chance) -> String {
        let cold = chance.below(2) == 1;
        let device: Option<&'a str> =
            if cold { chance.take(&mut self.free) } else { None };
        let operation = match device {
            Some(device) => format!("cold {name} {device}"),
            None => format!("create {name}"),
        };
        self.guest = Some(Guest { name, has: device.into_iter().collect() });
        operation
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
    use std::collections::{BTreeMap, BTreeSet};

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
                drive_properties: vec![],
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
            let (mut in_lane, mut in_other_lanes) = (BTreeSet::new(), BTreeSet::new());
            for line in plan(40, seed).lines() {
                let words: Vec<&str> = line.split(' ').collect();
                let lent = |d: &str, g: &BTreeMap<_, Vec<String>>| {
                    g.values().flatten().any(|x| x == d)
                };
                *seen.entry(words[0].to_owned()).or_insert(0) += 1;
                if !["seed", "round", "agree"].contains(&words[0]) {
                    for name in &words[1..] {
                        assert!(!in_other_lanes.contains(*name), "{line}");
                        in_lane.insert((*name).to_owned());
                    }
                }
                match words.as_slice() {
                    ["seed" | "round", _] => {}
                    ["lane"] => in_other_lanes.append(&mut in_lane),
                    ["together"] => {
                        in_other_lanes.clear();
                        in_lane.clear();
                    }
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
                assert!(guests.len() <= LANES);
            }
        }
        assert_eq!(seen.len(), 12, "{seen:?}");
    }

    #[test]
    fn reads_its_line() {
        assert_eq!(Soak::parse("8 1").unwrap(), Soak { rounds: 8, seed: 1 });
        assert!(Soak::parse("8").is_err());
        assert!(Soak::parse("8 x").is_err());
    }
}

//! Every sequence of a guest's interrupt operations, through a real page, pcidom and
//! daemon: what Xen has mapped, what the daemon's record says, what the hardware does and
//! what the guest was told stay one and the same.
//!
//! Sequences that lead to the same state are merged: a state is all that decides what an
//! operation does (Xen's mappings, the daemon's record, pcidom's own view, the control
//! words in hardware and as the guest reads them). That this is all is checked by walking
//! short sequences without merging.
//!
//! A number tells nothing, since Xen may hand out the same one again: a mapping is fresh if
//! its map event came after the request (protocol.md 6.7).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what goes wrong here fails the test"
)]

use std::collections::BTreeMap;

use pcidom_loan::LeaseAnswer;
use pcidom_pci::regs::{command as bits, header, msi, msix};
use pcidom_sim::daemon::Sabotage;
use pcidom_sim::trace;
use pcidom_sim::xen::devices::Hand;
use pcidom_sim::xen::record::Deed;
use pcidom_toolstack::verb::{Reply, Verb};
use pcidom_xenbus::Pirq;
use pcidom_xenbus::pciif::{OpError, RawOp, command, load_msix};

use crate::raw::Raw;

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    EnableMsi,
    DisableMsi,
    EnableMsix(&'static [u16]),
    DisableMsix,
    /// Writes COMMAND.
    Command(u16),
}

/// The NIC's table has five entries, its guest may have [`VECTORS`].
const ALPHABET: [Op; 9] = [
    Op::EnableMsi,
    Op::DisableMsi,
    Op::EnableMsix(&[0]),
    Op::EnableMsix(&[3, 0, 1, 4]),
    TOO_MANY,
    TWICE,
    Op::DisableMsix,
    Op::Command(0),
    Op::Command(bits::MEMORY | bits::BUS_MASTER),
];

/// The fifth map fails: four are undone.
const TOO_MANY: Op = Op::EnableMsix(&[0, 1, 2, 3, 4]);
const TWICE: Op = Op::EnableMsix(&[1, 1]);

/// Message vectors that the guest may have (`extra_guest_irqs`).
const VECTORS: u16 = 4;

/// Length of all sequences.
const LENGTH: usize = 6;

/// Length of those that are walked one by one.
const UNMERGED: usize = 3;

/// A map event: the entry, `None` for MSI, and its number.
type Mapping = (Option<u16>, Pirq);

/// All that decides what the next operation does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    mapped: Vec<Mapping>,
    record: Vec<u16>,
    pcidom: String,
    hardware: [u16; 3],
    guest: [u32; 3],
}

struct Bed {
    raw: Raw,
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, a: T, b: T) -> Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("{what}: {a:x?}, should be {b:x?}")) }
}

impl Bed {
    fn new(sabotage: Option<Sabotage>) -> Self {
        let raw = Raw::lent(VECTORS);
        if let Some(how) = sabotage {
            raw.scene.daemon.as_ref().unwrap().borrow_mut().sabotage(how);
        }
        Self { raw }
    }

    fn raw(&mut self, op: RawOp, entries: &[u16]) -> Result<RawOp, String> {
        self.raw.ask(&op, entries).ok_or_else(|| format!("no answer to {op:?}"))
    }

    fn config(&mut self, cmd: u32, offset: u16, value: u32) -> Result<u32, String> {
        let offset = offset.into();
        let op = RawOp { cmd, offset, size: 2, value, ..RawOp::default() };
        let answer = self.raw(op, &[])?;
        same("config access", answer.err, 0)?;
        Ok(answer.value)
    }

    fn controls(&self) -> [u16; 3] {
        let msi = self.raw.function.msi.as_ref().unwrap().control();
        [header::COMMAND, msi, self.raw.function.msix.as_ref().unwrap().control()]
    }

    /// Mappings of the guest's message interrupts by events number `from` and later: all
    /// that were made, and those that are left.
    fn events(&self, from: usize) -> Result<(Vec<Mapping>, Vec<Mapping>), String> {
        let (mut made, mut live) = (Vec::new(), Vec::<Mapping>::new());
        for record in self.raw.scene.world.xen().records().iter().skip(from) {
            match record.deed {
                Deed::Map { domain, device, entry, pirq } => {
                    same(
                        "mapped for",
                        (domain, device),
                        (self.raw.guest, self.raw.function.sbdf),
                    )?;
                    made.push((entry, pirq));
                    if live.iter().any(|(_, other)| *other == pirq) {
                        return Err(format!("pirq {pirq} mapped twice"));
                    }
                    live.push((entry, pirq));
                }
                // Those of the line and of earlier requests are not in the list.
                Deed::Unmap { domain, pirq } if domain == self.raw.guest => {
                    live.retain(|(_, other)| *other != pirq);
                }
                _ => {}
            }
        }
        Ok((made, live))
    }

    /// Looks at everything, and checks that it fits together.
    fn look(&mut self) -> Result<State, String> {
        let xen = self.raw.scene.world.xen().clone();
        let at = self.raw.function.sbdf;
        let (_, live) = self.events(0)?;
        let mut known: Vec<Pirq> = xen.vectors_of(at).iter().map(|(_, p)| *p).collect();
        let mut mapped: Vec<Pirq> = live.iter().map(|(_, pirq)| *pirq).collect();
        known.sort_unstable();
        mapped.sort_unstable();
        same("Xen's own book and its events", &known, &mapped)?;

        let asked =
            self.raw.scene.ask(|daemon| daemon.ask(Verb::Status { pcidom: None }));
        let Reply::Status { status } = self.raw.scene.wait_for(asked) else {
            return Err("no status".into());
        };
        let loan = status.pcidoms[0].loans.first().ok_or("the loan is over")?;
        let record = loan.pirqs.clone();
        same(
            "the daemon's record and Xen",
            record.clone(),
            live.iter().map(|(_, p)| p.0).collect(),
        )?;
        same("the daemon's own check", loan.difference.clone(), None)?;
        let report = status.pcidoms[0].report.as_ref().ok_or("no report")?;
        let held = report.get("leases/0").ok_or("nothing to check against")?;
        let held: LeaseAnswer =
            held.parse().map_err(|error| format!("{held}: {error}"))?;
        same("pcidom's leases and the record", held.result, Ok(record.clone()))?;
        let shown =
            report.get(&format!("guests/{}/0", self.raw.guest)).ok_or("not served")?;
        let pcidom = shown.split(" denied").next().unwrap_or_default().to_owned();

        let controls = self.controls();
        let word = |offset: u16| {
            let found =
                xen.with_hardware(at, Hand::Dom0, |b| b.hardware().word(offset & !3));
            u16::try_from(found.unwrap() >> (8 * (offset & 3)) & 0xffff).unwrap()
        };
        let hardware = controls.map(word);
        let mut guest = [0; 3];
        for (seen, offset) in guest.iter_mut().zip(controls) {
            *seen = self.config(command::CONF_READ, offset, 0)?;
        }
        let kinds =
            (live.iter().any(|m| m.0.is_none()), live.iter().any(|m| m.0.is_some()));
        let on = |word: u32, bit: u16| word & u32::from(bit) != 0;
        for (words, who) in [(hardware.map(u32::from), "hardware"), (guest, "guest")] {
            let found = (on(words[1], msi::ENABLE), on(words[2], msix::ENABLE));
            same(
                &format!("ENABLE of MSI and MSI-X, {who}, and what is mapped"),
                found,
                kinds,
            )?;
        }
        same("MASKALL", hardware[2] & msix::MASKALL, 0)?;
        let off = hardware[0] & bits::INTX_DISABLE != 0;
        same("INTx disabled in hardware", off, kinds.0 || kinds.1)?;
        same(
            "INTx disabled as the guest sees it",
            on(guest[0], bits::INTX_DISABLE),
            false,
        )?;
        same("memory decode in hardware", hardware[0] & bits::MEMORY, bits::MEMORY)?;
        let told = if kinds.0 {
            "MSI".to_owned()
        } else if kinds.1 {
            format!("MSI-X({})", live.len())
        } else {
            "INTx".to_owned()
        };
        same("pcidom's view", pcidom.split(' ').next_back(), Some(told.as_str()))?;
        Ok(State { mapped: live, record, pcidom, hardware, guest })
    }

    /// Does one operation and checks its answer against what happened in Xen meanwhile.
    fn act(&mut self, op: Op) -> Result<(), String> {
        let from = self.raw.scene.world.xen().records().len();
        let failed = OpError::OpFailed as i32;
        let plain = |cmd| RawOp { cmd, ..RawOp::default() };
        let (mut wanted, mut got) = (Vec::new(), Vec::new());
        match op {
            Op::Command(value) => {
                self.config(command::CONF_WRITE, header::COMMAND, value.into())?;
            }
            Op::DisableMsi | Op::DisableMsix => {
                let msi = op == Op::DisableMsi;
                let cmd = if msi { command::DISABLE_MSI } else { command::DISABLE_MSIX };
                same("disable", self.raw(plain(cmd), &[])?.err, 0)?;
                same(
                    "left mapped",
                    self.raw.scene.world.xen().vectors_of(self.raw.function.sbdf),
                    vec![],
                )?;
            }
            Op::EnableMsi => {
                let answer = self.raw(plain(command::ENABLE_MSI), &[])?;
                same("enable MSI", answer.err, 0)?;
                wanted.push(None);
                got.push(Pirq(u16::try_from(answer.value).unwrap_or_default()));
            }
            Op::EnableMsix(entries) => {
                let value = u32::try_from(entries.len()).unwrap_or_default();
                let op_raw = RawOp { value, ..plain(command::ENABLE_MSIX) };
                let answer = self.raw(op_raw, entries)?;
                if op == TOO_MANY || op == TWICE {
                    same("an enable that can't be", answer.err, failed)?;
                } else {
                    same("enable MSI-X", (answer.err, answer.value), (0, 0))?;
                    wanted.extend(entries.iter().copied().map(Some));
                    let told = load_msix(&self.raw.page, entries.len());
                    got.extend(told.iter().map(|entry| Pirq(entry.vector)));
                }
            }
        }
        let (made, live) = self.events(from)?;
        // Fresh: mapped by this very request, in the order it asked for, and still there.
        let told: Vec<Mapping> = wanted.into_iter().zip(got).collect();
        same("what the guest was told and what was mapped for it", &told, &live)?;
        if op == TWICE || matches!(op, Op::Command(_)) {
            same("nothing is mapped and unmapped", made, vec![])?;
        }
        Ok(())
    }

    /// The loan ends by force, whatever state it is in: as many unmaps as maps.
    fn end(mut self) -> Result<(), String> {
        let (guest, at) = (self.raw.guest, self.raw.function.sbdf);
        let reply = self.raw.scene.detach(guest, at, true);
        same("detach", matches!(reply, Reply::Done { .. }), true)?;
        let (made, live) = self.events(0)?;
        same("left by the loan", live, vec![])?;
        same("left in Xen", self.raw.scene.world.xen().vectors_of(at), vec![])?;
        let unmaps = self.raw.scene.world.xen().records();
        let line = Pirq(10);
        let unmaps = unmaps.iter().filter(
            |r| matches!(r.deed, Deed::Unmap { domain, pirq } if domain == guest && pirq != line),
        );
        same("unmaps", unmaps.count(), made.len())
    }
}

/// Does these, then looks, then ends the loan.
fn walk(sequence: &[Op], sabotage: Option<Sabotage>) -> Result<State, String> {
    let told = |error: String| format!("{sequence:?}: {error}");
    let mut bed = Bed::new(sabotage);
    for op in sequence {
        bed.act(*op).map_err(told)?;
    }
    let state = bed.look().map_err(told)?;
    bed.end().map_err(told)?;
    Ok(state)
}

/// States, and the walks that were needed to go from each with each operation.
#[derive(Debug)]
struct Walked {
    states: usize,
    walks: usize,
    sequences: usize,
}

fn walk_all(sabotage: Option<Sabotage>) -> Result<Walked, String> {
    let mut walks = 1;
    let start = walk(&[], sabotage)?;
    // What each state leads to, and one shortest way to it.
    let mut next: BTreeMap<State, Vec<State>> = BTreeMap::new();
    let mut frontier = vec![(start.clone(), Vec::new())];
    let mut sequences = 1;
    for length in 0..LENGTH {
        sequences += ALPHABET.len().pow(u32::try_from(length).unwrap() + 1);
        for (state, way) in std::mem::take(&mut frontier) {
            if next.contains_key(&state) {
                continue;
            }
            let mut reached = Vec::new();
            for op in ALPHABET {
                let way: Vec<Op> = way.iter().copied().chain([op]).collect();
                let state = walk(&way, sabotage)?;
                walks += 1;
                reached.push(state.clone());
                frontier.push((state, way));
            }
            next.insert(state, reached);
        }
    }
    // A state tells all: two ways into one lead on alike.
    let mut all = vec![(start, Vec::new())];
    for _ in 0..UNMERGED {
        let mut longer = Vec::new();
        for (state, way) in &all {
            for (n, op) in ALPHABET.into_iter().enumerate() {
                let way: Vec<Op> = way.iter().copied().chain([op]).collect();
                let found = walk(&way, sabotage)?;
                walks += 1;
                same(&format!("{way:?} without merging"), &found, &next[state][n])?;
                longer.push((found, way));
            }
        }
        all = longer;
    }
    let states = next.len();
    Ok(Walked { states, walks, sequences })
}

#[test]
fn every_sequence_of_up_to_six_operations_keeps_every_invariant() {
    let begun = std::time::Instant::now();
    let Walked { states, walks, sequences } = walk_all(None).unwrap();
    println!(
        "{sequences} sequences, {states} states, {walks} walks, {:?}",
        begun.elapsed()
    );
    assert_eq!(sequences, (0..=6).map(|length| 9_usize.pow(length)).sum::<usize>());
}

#[test]
fn a_guest_that_makes_up_counts_does_not_fill_the_log_and_status_has_the_last() {
    let mut bed = Bed::new(None);
    let begun = bed.raw.scene.world.now();
    for value in 1000..1300 {
        let op = RawOp { cmd: command::ENABLE_MSIX, value, ..RawOp::default() };
        assert_eq!(bed.raw(op, &[]).unwrap().err, OpError::OpFailed as i32);
    }
    let seconds =
        usize::try_from(bed.raw.scene.world.now().since(begun).as_secs()).unwrap();
    let lines = trace::lines();
    let told = lines.iter().filter(|line| line.contains("vectors were asked for"));
    // 64 in a row, and then one a second.
    assert!((1..=seconds + 64).contains(&told.count()), "in {seconds} s");
    let asked = bed.raw.scene.ask(|daemon| daemon.ask(Verb::Status { pcidom: None }));
    let Reply::Status { status } = bed.raw.scene.wait_for(asked) else { unreachable!() };
    let report = status.pcidoms[0].report.as_ref().unwrap();
    let shown = &report[&format!("guests/{}", bed.raw.guest)];
    assert!(shown.contains("1299 vectors were asked for"), "{shown}");
}

/// The check of the check: a daemon that remembers pirqs is found out, though Xen gives the
/// very same numbers again.
#[test]
fn the_walk_notices_a_daemon_that_uses_cached_pirqs() {
    let found = walk_all(Some(Sabotage::CachedPirqs)).unwrap_err();
    assert!(found.contains("what was mapped for it"), "{found}");
}

#[test]
fn the_walk_notices_a_daemon_that_leaves_pirqs_mapped() {
    let found = walk_all(Some(Sabotage::KeepsMapped)).unwrap_err();
    assert!(found.contains("left mapped") || found.contains("left by"), "{found}");
}

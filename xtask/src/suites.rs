//! `cargo xtask test`: the scenarios on each suite, and beside them host checks and a short run of
//! the fuzzer.

use crate::bed::scenario::Scenario;
use crate::bed::suite::Suite;
use crate::bed::verdict::Verdict;
use crate::bed::{Alone, Bed, Options};
use crate::progress::{self, Tally};
use crate::workspace::Workspace;
use crate::{dist, fuzz, host_tests, packages};
use anyhow::Result;
use std::thread;
use std::time::Instant;

/// What the scenarios need, or why it isn't there.
struct Ready<'a> {
    /// Images and programs, by name.
    built: Vec<(String, Result<()>)>,
    beds: Vec<(&'a str, Result<Bed>)>,
}

/// What a person asked for.
#[derive(Debug)]
pub(crate) struct Wish {
    /// Only this one.
    pub(crate) suite: Option<String>,
    /// The suites' scenarios don't run at the same time.
    pub(crate) in_turn: bool,
    /// Only these, and nothing else; all of everything if there are none.
    pub(crate) scenarios: Vec<String>,
}

/// Runs the host's tests only.
pub(crate) fn quick(workspace: &Workspace) -> Result<bool> {
    let mut tally = Tally::default();
    packages::ensure(workspace)?;
    host_tests::run(workspace, &mut tally);
    tally.print();
    Ok(tally.all_passed())
}

/// Runs the tests and prints the line that CI reads, last and alone.
pub(crate) fn test(workspace: &Workspace, wish: &Wish) -> Result<bool> {
    let suites =
        wish.suite.as_deref().map_or_else(|| Suite::names().collect(), |name| vec![name]);
    let mut tally = Tally::default();
    packages::ensure(workspace)?;
    let all = wish.scenarios.is_empty();
    let scenarios: Vec<_> = if all {
        let all = Scenario::load_all(workspace)?;
        all.into_iter().filter(|scenario| !scenario.on_demand).collect()
    } else {
        let names = wish.scenarios.iter();
        names.map(|name| Scenario::load(workspace, name)).collect::<Result<_>>()?
    };
    thread::scope(|scope| {
        let host = all.then(|| scope.spawn(|| without_xen(workspace)));
        let ready = make_ready(workspace, &suites, &scenarios);
        run_scenarios(ready, &scenarios, wish.in_turn, &mut tally);
        match host.map(thread::ScopedJoinHandle::join) {
            Some(Ok(of_host)) => tally.add(of_host),
            Some(Err(_)) => tally.failed("host tests", "running them has panicked"),
            None => {}
        }
    });
    tally.print();
    Ok(tally.all_passed())
}

/// What needs no Xen, in the time that the scenarios leave: in those one thing waits for another,
/// so they keep not much more than one CPU of the host busy.
fn without_xen(workspace: &Workspace) -> Tally {
    let mut tally = Tally::default();
    progress::lane("host");
    host_tests::run_beside(workspace, &mut tally);
    tally.step("fuzz", || fuzz::short(workspace));
    tally
}

fn make_ready<'a>(
    workspace: &Workspace,
    suites: &[&'a str],
    scenarios: &[Scenario],
) -> Ready<'a> {
    let mut built = Vec::new();
    if scenarios.iter().any(|s| s.needs_pcidom) {
        built.push(("dist".to_owned(), dist::build(workspace)));
    }
    for scenario in scenarios.iter().filter(|s| s.needs_more_built()) {
        let name = format!("dist for {}", scenario.name);
        built.push((name, dist::build_for(workspace, scenario)));
    }
    let beds =
        suites.iter().map(|suite| (*suite, Bed::build(workspace, suite))).collect();
    Ready { built, beds }
}

/// A suite's bed, if there is one.
type Bench<'a> = (&'a str, Option<Bed>);

/// A scenario keeps one of the host's CPUs busy, mostly, since in it one thing waits for another.
/// So two suites together take much less time than one after the other. But who wakes up then waits
/// for a CPU of the host, and a chain of such waits may miss a deadline of the product: what is
/// about those runs alone.
fn run_scenarios(
    ready: Ready<'_>,
    scenarios: &[Scenario],
    in_turn: bool,
    tally: &mut Tally,
) {
    for (name, result) in ready.built {
        tally.step(&name, || result);
    }
    let mut beds = Vec::new();
    for (suite, bed) in ready.beds {
        let bed = tally.step(&format!("bed, {suite}"), || bed);
        if bed.is_none() {
            // Without a bed nothing ran, and what did not run has not passed.
            for scenario in scenarios {
                tally.failed(&format!("{}, {suite}", scenario.name), "there is no bed");
            }
        }
        beds.push((suite, bed));
    }
    let lock = match Alone::wait() {
        Ok(lock) => lock,
        Err(error) => return tally.failed("scenarios", &format!("{error:#}")),
    };
    let in_turn = in_turn || beds.len() < 2;
    // These first: the tests on the host take what they leave.
    for (suite, bed) in &beds {
        let by_themselves = scenarios.iter().filter(|scenario| in_turn || scenario.alone);
        tally.add(run_suite(&lock, suite, bed.as_ref(), by_themselves));
    }
    let beside: Vec<&Scenario> =
        scenarios.iter().filter(|scenario| !in_turn && !scenario.alone).collect();
    if !beside.is_empty() {
        run_lanes(&lock, &beds, &beside, tally);
    }
}

fn run_lanes(
    lock: &Alone,
    beds: &[Bench<'_>],
    scenarios: &[&Scenario],
    tally: &mut Tally,
) {
    thread::scope(|scope| {
        let mut lanes = Vec::new();
        for (number, (suite, bed)) in beds.iter().enumerate() {
            let lane = move || {
                progress::lane(suite);
                let all = scenarios.iter().copied();
                // The same scenario twice at a time would be busy at the same moments.
                if number.is_multiple_of(2) {
                    run_suite(lock, suite, bed.as_ref(), all)
                } else {
                    run_suite(lock, suite, bed.as_ref(), all.rev())
                }
            };
            lanes.push((suite, scope.spawn(lane)));
        }
        for (suite, lane) in lanes {
            match lane.join() {
                Ok(of_suite) => tally.add(of_suite),
                Err(_) => tally.failed(suite, "running its scenarios has panicked"),
            }
        }
    });
}

fn run_suite<'a>(
    lock: &Alone,
    suite: &str,
    bed: Option<&Bed>,
    scenarios: impl Iterator<Item = &'a Scenario>,
) -> Tally {
    let mut tally = Tally::default();
    let Some(bed) = bed else { return tally };
    for scenario in scenarios {
        let name = format!("{}, {suite}", scenario.name);
        let start = Instant::now();
        match bed.run(lock, scenario, &Options::default()) {
            Ok(run) if run.verdict == Verdict::Success => {
                tally.passed(&format!("{name} ({:.0?})", start.elapsed()));
            }
            Ok(run) => {
                tally.failed(&name, &format!("{}: {}", run.verdict.word(), run.why));
            }
            Err(error) => tally.failed(&name, &format!("{error:#}")),
        }
    }
    tally
}

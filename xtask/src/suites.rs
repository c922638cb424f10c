//! `cargo xtask test`: host checks beside making the beds ready, then the scenarios on each
//! suite beside a short run of the fuzzer.

use crate::bed::scenario::Scenario;
use crate::bed::suite::Suite;
use crate::bed::verdict::Verdict;
use crate::bed::{Alone, Bed, Options};
use crate::progress::{self, Tally};
use crate::workspace::Workspace;
use crate::{dist, fuzz, host_tests, packages};
use anyhow::{Result, anyhow};
use std::thread;

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
    /// The suites' scenarios run at the same time.
    pub(crate) together: bool,
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
    // One waits for packages to come and to be unpacked, and neither compiles on all CPUs all
    // the time.
    let ready = thread::scope(|scope| {
        let building = scope.spawn(|| make_ready(workspace, &suites, &scenarios));
        if all {
            host_tests::run(workspace, &mut tally);
        }
        building.join().map_err(|_| anyhow!("making ready has panicked"))
    })?;
    // Fuzzing takes what the scenarios leave of the CPUs.
    let fuzzed = thread::scope(|scope| {
        let fuzzing = all.then(|| scope.spawn(|| fuzz::short(workspace)));
        run_scenarios(ready, &scenarios, wish.together, &mut tally);
        fuzzing.map(thread::ScopedJoinHandle::join)
    });
    if let Some(result) = fuzzed {
        let result = result.map_err(|_| anyhow!("it has panicked"));
        tally.step("fuzz", || result.flatten());
    }
    tally.print();
    Ok(tally.all_passed())
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

/// A scenario keeps one of the host's CPUs busy, mostly, since in it one thing waits for another.
/// So two suites together take much less time than one after the other. But who wakes up then waits
/// for a CPU of the host, and a chain of such waits may miss a deadline of the product.
fn run_scenarios(
    ready: Ready<'_>,
    scenarios: &[Scenario],
    together: bool,
    tally: &mut Tally,
) {
    for (name, result) in ready.built {
        tally.step(&name, || result);
    }
    let alone = match Alone::wait() {
        Ok(alone) => alone,
        Err(error) => return tally.failed("scenarios", &format!("{error:#}")),
    };
    if !together {
        for (suite, bed) in ready.beds {
            tally.add(run_suite(&alone, suite, bed, scenarios.iter()));
        }
        return;
    }
    thread::scope(|scope| {
        let alone = &alone;
        let run = |(number, (suite, bed)): (usize, (_, Result<Bed>))| {
            let lane = move || {
                progress::lane(suite);
                // The same scenario twice at a time would be busy at the same moments.
                if number.is_multiple_of(2) {
                    run_suite(alone, suite, bed, scenarios.iter())
                } else {
                    run_suite(alone, suite, bed, scenarios.iter().rev())
                }
            };
            (suite, scope.spawn(lane))
        };
        let lanes: Vec<_> = ready.beds.into_iter().enumerate().map(run).collect();
        for (suite, lane) in lanes {
            match lane.join() {
                Ok(of_suite) => tally.add(of_suite),
                Err(_) => tally.failed(suite, "running its scenarios has panicked"),
            }
        }
    });
}

fn run_suite<'a>(
    alone: &Alone,
    suite: &str,
    bed: Result<Bed>,
    scenarios: impl Iterator<Item = &'a Scenario>,
) -> Tally {
    let mut tally = Tally::default();
    let Some(bed) = tally.step(&format!("bed, {suite}"), || bed) else {
        // Without a bed nothing ran, and what did not run has not passed.
        for scenario in scenarios {
            tally.failed(&format!("{}, {suite}", scenario.name), "there is no bed");
        }
        return tally;
    };
    for scenario in scenarios {
        let name = format!("{}, {suite}", scenario.name);
        match bed.run(alone, scenario, &Options::default()) {
            Ok(run) if run.verdict == Verdict::Success => tally.passed(&name),
            Ok(run) => {
                tally.failed(&name, &format!("{}: {}", run.verdict.word(), run.why));
            }
            Err(error) => tally.failed(&name, &format!("{error:#}")),
        }
    }
    tally
}

//! `cargo xtask fuzz`: libFuzzer on the targets in `fuzz/`, with the stable toolchain.
//!
//! rustc has the coverage pass of LLVM built in, and libfuzzer-sys brings the runtime, so
//! neither a nightly toolchain nor cargo-fuzz is needed. docs/fuzzing.md tells the rest.

use crate::workspace::Workspace;
use crate::{process, progress};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs};

/// What a run in `cargo xtask test` takes, without building. It has what the scenarios leave
/// of the host's CPUs, which is less than one.
const SHORT: Duration = Duration::from_secs(60);

/// Given by name, so that build scripts are not instrumented: what is built for the host
/// without a target is built with the same flags.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Counts edges, and reports comparisons: a number that is compared with is found at once.
const INSTRUMENT: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Longest text. The longest message between pcidom and the daemon has 900 bytes.
const MAX_TEXT: u32 = 1024;
/// Longest sequence of steps: the targets stop after so many, and shorter is faster.
const MAX_STEPS: u32 = 512;
/// No target takes more than 50 MiB, most of it libFuzzer's corpus.
const MEMORY_MIB: u32 = 512;
/// An input that takes so long has found a loop: the others take microseconds, but a patient
/// run may not get a CPU for seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a person asked for.
#[derive(Debug)]
pub(crate) struct Wish {
    /// For all targets together.
    pub(crate) time: Duration,
    /// Only these; all if there are none.
    pub(crate) targets: Vec<String>,
    /// Begin with what earlier runs have learnt, and add to it. Reading that takes longer with
    /// each run, and does not count as time.
    pub(crate) learns: bool,
    /// Run only when no other program wants to.
    pub(crate) patient: bool,
}

impl Wish {
    fn pace(&self, command: Command) -> Command {
        if self.patient { process::patient(&command) } else { command }
    }
}

/// What the fuzzer says at the end of its log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    executions: u64,
    edges: u64,
    inputs: u64,
    found: Option<Find>,
}

/// An input that a target does not stand.
#[derive(Debug, PartialEq, Eq)]
struct Find {
    why: String,
    file: String,
    base64: String,
}

/// Runs the targets one after the other; false if something was found.
pub(crate) fn run(workspace: &Workspace, wish: &Wish) -> Result<bool> {
    let fuzz = workspace.root().join("fuzz");
    let known = names(&fuzz.join("corpus"))?;
    for target in &wish.targets {
        ensure!(known.contains(target), "no target {target}; there are {known:?}");
    }
    let targets = if wish.targets.is_empty() { &known } else { &wish.targets };
    let programs = build(workspace, wish)?;
    let mut left = wish.time.as_secs();
    let (mut total, mut good) = (0_u64, true);
    for (waiting, target) in (1..=targets.len()).rev().zip(targets) {
        let seconds = (left / u64::try_from(waiting)?).max(1);
        left = left.saturating_sub(seconds);
        let program = programs.join(target);
        let outcome = fuzz_one(workspace, &program, target, seconds, wish)?;
        let Outcome { executions, edges, inputs, found } = outcome;
        progress::say(format_args!(
            "{target}: {executions} executions in {seconds} s, {edges} edges, \
             {inputs} new inputs"
        ));
        total = total.saturating_add(executions);
        if let Some(find) = found {
            good = false;
            tell(target, &find);
        }
    }
    progress::say(format_args!("{total} executions over all targets"));
    Ok(good)
}

/// The same as a step of the tests, beside others.
pub(crate) fn short(workspace: &Workspace) -> Result<()> {
    let wish = Wish { time: SHORT, targets: Vec::new(), learns: false, patient: true };
    ensure!(run(workspace, &wish)?, "the fuzzer has found something, see above");
    Ok(())
}

/// The folders of the corpus, which are the targets.
fn names(corpus: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(corpus).context("fuzz/corpus/ can't be read")? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Builds all programs; where they are.
fn build(workspace: &Workspace, wish: &Wish) -> Result<PathBuf> {
    progress::say("building the fuzz targets");
    // Its own folder: with other flags everything else would be built anew as well.
    let built = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.target(), PathBuf::from)
        .join("fuzz");
    let mut cargo = workspace.cargo(&[
        "build",
        "--quiet",
        "-p",
        "pcidom-fuzz",
        "--features",
        "libfuzzer",
        "--bins",
        "--profile",
        "fuzz",
        "--target",
        TRIPLE,
    ]);
    cargo.env("CARGO_TARGET_DIR", &built).env("RUSTFLAGS", INSTRUMENT);
    process::run(&mut wish.pace(cargo))?;
    Ok(built.join(TRIPLE).join("fuzz"))
}

fn fuzz_one(
    workspace: &Workspace,
    program: &Path,
    target: &str,
    seconds: u64,
    wish: &Wish,
) -> Result<Outcome> {
    let learns = wish.learns;
    let kept = workspace.target().join("fuzz");
    let inputs = kept.join(if learns { "corpus" } else { "short" }).join(target);
    let finds = kept.join("found").join(target);
    if !learns && inputs.exists() {
        fs::remove_dir_all(&inputs)?;
    }
    for folder in [&inputs, &finds] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let before = fs::read_dir(&inputs)?.count();
    let log = kept.join(format!("{target}.log"));
    let output = fs::File::create(&log)?;
    let is_text = ["texts", "directories"].contains(&target);
    let longest = if is_text { MAX_TEXT } else { MAX_STEPS };
    let mut command = Command::new(program);
    command
        .arg(format!("-max_total_time={seconds}"))
        // The short run is the same search each time; a long one goes its own way.
        .arg(format!("-seed={}", if learns { 0 } else { 1 }))
        .arg(format!("-max_len={longest}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-timeout={}", TIMEOUT.as_secs()))
        .arg(format!("-artifact_prefix={}/", finds.display()))
        .arg("-print_final_stats=1")
        // The first folder takes what is new, the second is only read.
        .arg(&inputs)
        .arg(workspace.root().join("fuzz").join("corpus").join(target))
        .env("RUST_BACKTRACE", "0");
    let status = wish
        .pace(command)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let mut outcome = read(&text);
    let now = fs::read_dir(&inputs)?.count();
    outcome.inputs = u64::try_from(now.saturating_sub(before))?;
    if !status.success() && outcome.found.is_none() {
        bail!("the fuzzer of {target} failed ({status}), see {}", log.display());
    }
    Ok(outcome)
}

/// Reads a log of libFuzzer.
fn read(log: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut why, mut base64) = (String::new(), String::new());
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            outcome.executions = count.trim().parse().unwrap_or(0);
        } else if let Some((_, rest)) = line.split_once(" cov: ") {
            let edges = rest.split(' ').next().and_then(|n| n.parse().ok());
            outcome.edges = edges.unwrap_or(outcome.edges);
        } else if line.contains(" panicked at ") {
            let text = lines.peek().copied().unwrap_or_default();
            why = format!("{line} {text}");
        } else if line.contains("ERROR: libFuzzer: ") && why.is_empty() {
            why = line.into();
        } else if let Some((_, file)) = line.split_once("Test unit written to ") {
            let (why, base64) = (why.clone(), String::new());
            outcome.found = Some(Find { why, file: file.into(), base64 });
        } else if let Some(text) = line.strip_prefix("Base64: ") {
            base64 = text.into();
        }
    }
    if let Some(find) = &mut outcome.found {
        find.base64 = base64;
    }
    outcome
}

fn tell(target: &str, find: &Find) {
    let Find { why, file, base64 } = find;
    println!(
        "
{target} does not stand this input: {why}
    {file}
    (base64: {base64})
To see what happens:
    RUST_LOG=trace cargo run -p pcidom-fuzz --example replay -- {target} {file}
To make it a test, which fails until this is fixed (cargo test -p pcidom-fuzz):
    cp {file} fuzz/corpus/{target}/WHAT-IT-IS
"
    );
}

#[cfg(test)]
mod tests {
    use super::{Find, Outcome, read};

    #[test]
    fn a_log_tells_how_much_was_done() {
        let log = "INFO: Seed: 1\n#2\tINITED cov: 12 ft: 13 corp: 1/1b\n\
            #999\tDONE   cov: 310 ft: 1780 corp: 634/53Kb\n\
            stat::number_of_executed_units: 1746555\nstat::peak_rss_mb: 28\n";
        let told = Outcome { executions: 1_746_555, edges: 310, ..Outcome::default() };
        assert_eq!(read(log), told);
    }

    #[test]
    fn a_log_tells_what_was_found() {
        let log = "#7\tNEW    cov: 5 ft: 5\n\
            thread '<unnamed>' (1) panicked at fuzz/src/a.rs:1:2:\nleases are left\n\
            ==1== ERROR: libFuzzer: deadly signal\n\
            artifact_prefix='/t/'; Test unit written to /t/crash-1d\nBase64: Bw==\n\
            stat::number_of_executed_units: 7\n";
        let found = read(log).found;
        let why = "thread '<unnamed>' (1) panicked at fuzz/src/a.rs:1:2: leases are left";
        let (file, base64) = ("/t/crash-1d".into(), "Bw==".into());
        assert_eq!(found, Some(Find { why: why.into(), file, base64 }));
        let log = "==2== ERROR: libFuzzer: timeout after 10 seconds\n\
            artifact_prefix='/t/'; Test unit written to /t/timeout-1d\n";
        assert!(read(log).found.is_some_and(|find| find.why.contains("timeout")));
    }
}

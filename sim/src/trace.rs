//! What was logged in a run, with virtual times, shown when a test fails.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Once;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::agenda::Agenda;

/// Lines kept: the last ones before a failure tell most.
const MAX_LINES: usize = 3000;

#[derive(Default)]
struct Trace {
    clock: Option<Agenda>,
    lines: VecDeque<String>,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

struct ToTrace;

impl Log for ToTrace {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Debug
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            line(format_args!("{:5} {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

/// Adds a line to the trace.
pub(crate) fn line(text: std::fmt::Arguments<'_>) {
    TRACE.with_borrow_mut(|trace| {
        let nanos = trace.clock.as_ref().map_or(0, |clock| clock.now().as_nanos());
        let (seconds, micros) = (nanos / 1_000_000_000, nanos / 1000 % 1_000_000);
        if trace.lines.len() == MAX_LINES {
            trace.lines.pop_front();
        }
        trace.lines.push_back(format!("{seconds:4}.{micros:06} {text}"));
    });
}

/// Starts a trace for this thread's run, on `clock`.
pub(crate) fn start(clock: &Agenda) {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| {
        // Somebody else's logger is as good; then failures come without a trace.
        if log::set_logger(&ToTrace).is_ok() {
            log::set_max_level(LevelFilter::Debug);
        }
    });
    TRACE.with_borrow_mut(|trace| {
        *trace = Trace { clock: Some(clock.clone()), lines: VecDeque::new() };
    });
}

/// The trace so far, one line each.
pub fn lines() -> Vec<String> {
    TRACE.with_borrow(|trace| trace.lines.iter().cloned().collect())
}

/// Shows the trace if the thread is failing. Called when a run ends.
pub(crate) fn show_if_failing() {
    if std::thread::panicking() {
        for line in lines() {
            eprintln!("{line}");
        }
    }
}

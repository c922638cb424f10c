//! The log: lines for people, on the PV console and on COM2.
//!
//! A line is formatted once and put into a backlog for each way out; [`pump`] moves what
//! there is room for and never waits. A line that finds the backlog full is dropped, and the
//! next one with room says how many were. Only a panic waits, and not for ever.
//!
//! What the monitor says goes the same way, but to one console only.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use pcidom_kernel::Console;
use pcidom_script::Instant;
use spin::Mutex;

use super::backlog::Backlog;
use super::console::{Com2, PvConsole, write_to_xen};
use super::shared;

/// Longest line; what is longer is cut.
const LINE: usize = 512;
/// A start prints some 3 KiB, and the ring holds 2 KiB.
const BACKLOG: usize = 8 * 1024;
/// How long a panic waits for its text to go out. COM2 at 115200 baud takes 0.7 s for a
/// whole backlog.
const PANIC_WAIT: Duration = Duration::from_secs(2);

/// The ways out and what waits for them.
struct Output {
    start: Instant,
    pv: Option<PvConsole>,
    com2: Option<Com2>,
    xen: bool,
    pv_backlog: Backlog,
    com2_backlog: Backlog,
    /// [`say`] has refused something for want of room.
    com2_is_awaited: bool,
}

static OUTPUT: Mutex<Output> = Mutex::new(Output {
    start: Instant::from_nanos(0),
    pv: None,
    com2: None,
    xen: false,
    pv_backlog: Backlog::new(),
    com2_backlog: Backlog::new(),
    com2_is_awaited: false,
});

struct Logger;

static LOGGER: Logger = Logger;

/// What text goes to.
pub(crate) struct Ways {
    /// The PV console.
    pub(crate) pv: Option<PvConsole>,
    /// COM2.
    pub(crate) com2: Option<Com2>,
    /// Xen's console: this is the first domain.
    pub(crate) xen: bool,
}

/// Opens the log. Times in it count from now.
pub(crate) fn start(ways: Ways, level: LevelFilter) {
    {
        let mut output = OUTPUT.lock();
        output.start = shared::now();
        if ways.pv.is_some() {
            output.pv_backlog = Backlog::with_room(BACKLOG);
        }
        if ways.com2.is_some() {
            output.com2_backlog = Backlog::with_room(BACKLOG);
        }
        output.pv = ways.pv;
        output.com2 = ways.com2;
        output.xen = ways.xen;
    }
    set_level(None, level);
    // It fails only if there is a logger already: then that one stays.
    let _ = log::set_logger(&LOGGER);
}

/// Moves text that waits, as far as it goes at once. True if some is left that nobody will
/// tell us about: COM2 has no event, so call again soon.
pub(crate) fn pump() -> bool {
    let mut output = OUTPUT.lock();
    output.pump();
    !output.com2_backlog.is_empty()
}

/// Takes what was typed on a console; how many bytes.
pub(crate) fn typed(console: Console, into: &mut [u8]) -> usize {
    let mut output = OUTPUT.lock();
    match console {
        Console::Pv => output.pv.as_mut().map_or(0, |pv| pv.read(into)),
        Console::Com2 => output.com2.as_mut().map_or(0, |com2| com2.read(into)),
    }
}

/// Shows `text` on one console, behind the log there and without its half of the room: all,
/// or nothing and `false`.
pub(crate) fn say(console: Console, text: &str) -> bool {
    let mut output = OUTPUT.lock();
    let said = match console {
        Console::Pv => {
            output.pv.is_none() || output.pv_backlog.push_text(text.as_bytes())
        }
        Console::Com2 => {
            let said =
                output.com2.is_none() || output.com2_backlog.push_text(text.as_bytes());
            output.com2_is_awaited |= !said;
            said
        }
    };
    output.pump();
    said
}

/// Whether COM2 has room again for text that was refused; tells once.
pub(crate) fn com2_has_room() -> bool {
    let mut output = OUTPUT.lock();
    let tell = output.com2_is_awaited && output.com2_backlog.is_below(4);
    output.com2_is_awaited &= !tell;
    tell
}

/// Does something with COM2, if it is ours.
pub(crate) fn with_com2<T>(what: impl FnOnce(&mut Com2) -> T) -> Option<T> {
    OUTPUT.lock().com2.as_mut().map(what)
}

/// When the times in the log began.
pub(crate) fn start_time() -> Instant {
    OUTPUT.lock().start
}

/// Most parts that have a level of their own.
const MAX_PARTS: usize = 8;

/// What is logged.
struct Levels {
    all: LevelFilter,
    parts: Vec<(String, LevelFilter)>,
}

static LEVELS: Mutex<Levels> =
    Mutex::new(Levels { all: LevelFilter::Info, parts: Vec::new() });

/// Sets the level of everything, or of one part: a crate or a module, as in the log or in
/// the source. `false` if too many parts have one.
pub(crate) fn set_level(part: Option<&str>, level: LevelFilter) -> bool {
    let mut levels = LEVELS.lock();
    match part {
        None => {
            levels.all = level;
            levels.parts.clear();
        }
        Some(part) => {
            levels.parts.retain(|(known, _)| known != part);
            if levels.parts.len() >= MAX_PARTS {
                return false;
            }
            levels.parts.push((part.into(), level));
        }
    }
    let most = levels.parts.iter().map(|(_, level)| *level).max();
    log::set_max_level(most.unwrap_or(levels.all).max(levels.all));
    true
}

impl Levels {
    fn of(&self, target: &str) -> LevelFilter {
        let names = |part: &str| {
            part == source(target) || target.split(':').any(|name| name == part)
        };
        let own = self.parts.iter().rev().find(|(part, _)| names(part));
        own.map_or(self.all, |(_, level)| *level)
    }
}

/// When [`last_words`] stops waiting, in nanoseconds; 0 before its first call.
static PATIENCE: AtomicU64 = AtomicU64::new(0);

/// Says `text` although anything may be broken, and waits until it is out. All calls
/// together wait 2 s at most.
pub(crate) fn last_words(text: fmt::Arguments<'_>) {
    let mut output = match OUTPUT.try_lock() {
        Some(output) => output,
        None => {
            // SAFETY: there is one thread of execution, and it is here: whoever holds the
            // lock never goes on. A half-added line is the worst that can be left.
            unsafe { OUTPUT.force_unlock() };
            OUTPUT.lock()
        }
    };
    let now = shared::now();
    let patience = now.after(PANIC_WAIT).as_nanos();
    let end = match PATIENCE.compare_exchange(
        0,
        patience,
        Ordering::Relaxed,
        Ordering::Relaxed,
    ) {
        Ok(_) => Instant::from_nanos(patience),
        Err(earlier) => Instant::from_nanos(earlier),
    };
    // What is there already may leave no room for the line.
    output.drain(end);
    let mut line = Line::new();
    line.stamp(now.since(output.start));
    let _ = line.write_fmt(text);
    output.push(line.end());
    output.drain(end);
}

impl Output {
    fn push(&mut self, line: &[u8]) {
        if self.xen {
            write_to_xen(line);
        }
        if self.pv.is_some() {
            self.pv_backlog.push(line);
        }
        if self.com2.is_some() {
            self.com2_backlog.push(line);
        }
    }

    fn pump(&mut self) {
        if let Some(pv) = &mut self.pv {
            // Two pieces at most: the backlog wraps once.
            for _ in 0..2 {
                let done = pv.write(self.pv_backlog.front());
                self.pv_backlog.advance(done);
            }
            if let Some(lost) = self.pv_backlog.take_lost() {
                self.pv_backlog.push(Line::lost(lost).end());
            }
        }
        if let Some(com2) = &mut self.com2 {
            let done = com2.write(self.com2_backlog.front());
            self.com2_backlog.advance(done);
            if let Some(lost) = self.com2_backlog.take_lost() {
                self.com2_backlog.push(Line::lost(lost).end());
            }
        }
    }

    /// Pumps until nothing waits, or until `end`.
    fn drain(&mut self, end: Instant) {
        // Ends without a clock, too: the clock may be what is broken.
        for _ in 0..1_000_000 {
            self.pump();
            if self.is_drained() || shared::now() > end {
                break;
            }
        }
    }

    fn is_drained(&self) -> bool {
        self.pv_backlog.is_empty() && self.com2_backlog.is_empty()
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Somebody logs while the levels are changed: `max_level` has let it through.
        LEVELS
            .try_lock()
            .is_none_or(|levels| metadata.level() <= levels.of(metadata.target()))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // A `Display` that logs: its line is not worth a deadlock.
        let Some(mut output) = OUTPUT.try_lock() else { return };
        let mut line = Line::new();
        line.stamp(shared::now().since(output.start));
        let level = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info | Level::Debug | Level::Trace => "",
        };
        let source = source(record.target());
        // A line that is too long is cut, nothing else can fail.
        let _ = write!(line, "{source}: {level}{}", record.args());
        output.push(line.end());
        output.pump();
    }

    fn flush(&self) {
        pump();
    }
}

/// What people call the part that speaks: `pcifront::link` is "pcifront", everything of the
/// kernel is "pcidom".
fn source(target: &str) -> &str {
    let part = target.split(':').next().unwrap_or(target);
    match part.strip_prefix("pcidom_") {
        Some("kernel") => "pcidom",
        Some(part) => part,
        None => part,
    }
}

/// One line while it is formatted.
struct Line {
    bytes: [u8; LINE],
    len: usize,
}

/// What stands where a line was cut.
const CUT: &[u8] = b"...";
/// Ends a line: both consoles are raw terminals.
const END: &[u8] = b"\r\n";

impl Line {
    const fn new() -> Self {
        Self { bytes: [0; LINE], len: 0 }
    }

    fn stamp(&mut self, since_start: Duration) {
        let (seconds, micros) = (since_start.as_secs(), since_start.subsec_micros());
        // Nothing is in the line yet, so it fits.
        let _ = write!(self, "[{seconds:4}.{micros:06}] ");
    }

    fn lost(count: u32) -> Self {
        let mut line = Self::new();
        let _ = write!(line, "... {count} line(s) lost here");
        line
    }

    fn end(&mut self) -> &[u8] {
        for byte in END {
            self.add(*byte, 0);
        }
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Adds a byte if `spare` bytes stay free behind it.
    fn add(&mut self, byte: u8, spare: usize) -> bool {
        if self.len + spare >= LINE {
            return false;
        }
        let Some(place) = self.bytes.get_mut(self.len) else { return false };
        *place = byte;
        self.len += 1;
        true
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // Guests have a say in some texts: no control character reaches a terminal.
            let byte = if byte.is_ascii_control() { b'?' } else { byte };
            if !self.add(byte, CUT.len() + END.len()) {
                for byte in CUT {
                    self.add(*byte, END.len());
                }
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

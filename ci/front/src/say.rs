//! Lines on the console. Each is written whole, however long that takes.

use core::fmt::{Arguments, Write};

use spin::Mutex;

use crate::xen::{Console, give_way};

static CONSOLE: Mutex<Option<Console>> = Mutex::new(None);

/// Prints a line, like `println!`.
macro_rules! say {
    ($($argument:tt)*) => { $crate::say::line(format_args!($($argument)*)) };
}
pub(crate) use say;

/// From here on there is a console.
pub(crate) fn start(console: Console) {
    *CONSOLE.lock() = Some(console);
    // The floor's own warnings come the same way. There was no logger before.
    if log::set_logger(&Log).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

/// Prints a line. Nothing is printed while a line is being printed, say by a panic in it.
pub(crate) fn line(text: Arguments<'_>) {
    if let Some(mut console) = CONSOLE.try_lock()
        && let Some(console) = console.as_mut()
    {
        // The writer never fails.
        let _ = Whole(console).write_fmt(format_args!("{text}\n"));
    }
}

struct Whole<'console>(&'console mut Console);

impl Write for Whole<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let written = self.0.write(rest);
            rest = rest.get(written..).unwrap_or_default();
            if !rest.is_empty() {
                // dom0 takes the text out of the ring.
                give_way();
            }
        }
        Ok(())
    }
}

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        say!("{} {}", record.level(), record.args());
    }
    fn flush(&self) {}
}

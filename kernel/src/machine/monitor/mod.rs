//! The monitor: short questions typed on a console, answered on that console only.
//!
//! | module | what it is about |
//! |---|---|
//! | `editor` | a line as it is typed |
//! | `commands` | what can be asked, and the answers |
//! | `dump` | reading and explaining a device's config space |
//!
//! It changes nothing but the log's level. Text waits here, bounded, until the console has
//! room for it; while it waits nothing more is read there, so neither typing nor a slow
//! terminal costs a guest anything.

mod commands;
mod dump;
mod editor;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;

use super::Machine;
use crate::platform::{Console, Platform};

use dump::Dump;
use editor::{Editor, Typed};

/// Most text that waits for a console: the whole ring, and some.
const MAX_OUTPUT: usize = 32 * 1024;
/// Bytes taken at a time.
const CHUNK: usize = 32;

/// All that is remembered of consoles.
#[derive(Debug, Default)]
pub(super) struct Monitor {
    pv: Terminal,
    com2: Terminal,
    /// One at a time.
    dump: Option<Dump>,
}

impl Monitor {
    const fn terminal(&mut self, console: Console) -> &mut Terminal {
        match console {
            Console::Pv => &mut self.pv,
            Console::Com2 => &mut self.com2,
        }
    }
}

/// One console.
#[derive(Debug, Default)]
struct Terminal {
    editor: Editor,
    /// Pieces that are shown whole: nothing of the log gets into them.
    output: VecDeque<String>,
    /// How much came in since nothing waited; above [`MAX_OUTPUT`] once something was cut.
    bytes: usize,
}

impl Terminal {
    fn push(&mut self, piece: String) {
        const CUT: &str = "...\r\n";
        if self.bytes > MAX_OUTPUT {
            return;
        }
        let fits = self.bytes + piece.len() <= MAX_OUTPUT;
        let piece = if fits { piece } else { CUT.into() };
        self.bytes = if fits { self.bytes + piece.len() } else { MAX_OUTPUT + 1 };
        self.output.push_back(piece);
    }

    fn push_lines(&mut self, text: &str) {
        for line in text.lines() {
            self.push(format!("{line}\r\n"));
        }
    }

    /// Hands over what there is room for; whether that was all.
    fn flush<P: Platform>(&mut self, console: Console, platform: &mut P) -> bool {
        while let Some(piece) = self.output.front() {
            if !platform.say(console, piece) {
                return false;
            }
            self.output.pop_front();
        }
        self.bytes = 0;
        true
    }
}

impl<P: Platform> Machine<P> {
    /// Something was typed on the console, or it has room again.
    pub(super) fn console_event(&mut self, console: Console, platform: &mut P) {
        while self.show(console, platform) {
            let mut bytes = [0; CHUNK];
            let count = platform.typed(console, &mut bytes);
            if count == 0 {
                break;
            }
            for byte in bytes.iter().take(count) {
                let mut echo = String::new();
                let terminal = self.monitor.terminal(console);
                let typed = terminal.editor.take(*byte, &mut echo);
                if !echo.is_empty() {
                    terminal.push(echo);
                }
                match typed {
                    Some(Typed::Line(line)) => {
                        let answer = self.command(console, &line, platform);
                        self.monitor.terminal(console).push_lines(&answer);
                    }
                    Some(Typed::Interrupt) => self.end_dump(console),
                    None => {}
                }
            }
        }
    }

    /// Shows what waits, and goes on with what has more to show; whether nothing waits now.
    fn show(&mut self, console: Console, platform: &mut P) -> bool {
        let shown = self.monitor.terminal(console).flush(console, platform);
        if shown {
            self.go_on_with_dump(console, platform);
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_OUTPUT, Terminal};

    #[test]
    fn text_that_waits_is_bounded_and_its_end_is_marked() {
        let mut terminal = Terminal::default();
        for _ in 0..MAX_OUTPUT {
            terminal.push_lines("some line or other");
        }
        let bytes: usize = terminal.output.iter().map(String::len).sum();
        assert!(bytes <= MAX_OUTPUT + 5);
        assert_eq!(terminal.output.back().map(String::as_str), Some("...\r\n"));
    }
}

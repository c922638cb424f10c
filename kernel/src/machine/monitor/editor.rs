//! A line as it is typed: bytes in, echo and whole lines out.

use alloc::string::String;

/// Longest line; what is typed beyond it rings the bell.
pub(super) const MAX_LINE: usize = 80;

/// Shown before the first character of a line, not before: so nothing is left on a console
/// that only shows the log.
pub(super) const PROMPT: &str = "pcidom> ";

const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;
const CTRL_C: u8 = 0x03;
const CTRL_U: u8 = 0x15;
const ESCAPE: u8 = 0x1b;
const ERASE: &str = "\x08 \x08";
const BELL: char = '\x07';

/// What typing has brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// A line, without its end.
    Line(String),
    /// Ctrl-C.
    Interrupt,
}

/// How far an escape sequence has come, such as that of an arrow key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Started,
    /// Behind `ESC [` or `ESC O`, up to a letter or `~`.
    Inside,
}

/// One line while it is typed.
#[derive(Debug, Default)]
pub(super) struct Editor {
    line: String,
    prompted: bool,
    escape: Escape,
    after_return: bool,
}

impl Editor {
    /// Takes a byte; `echo` gets what the terminal is to show.
    pub(super) fn take(&mut self, byte: u8, echo: &mut String) -> Option<Typed> {
        let after_return = core::mem::take(&mut self.after_return);
        match (self.escape, byte) {
            (_, ESCAPE) => self.escape = Escape::Started,
            (Escape::Started, b'[' | b'O') => self.escape = Escape::Inside,
            (Escape::Inside, 0x20..=0x3f) => {}
            (Escape::Started | Escape::Inside, _) => self.escape = Escape::None,
            // One Enter that sends two bytes.
            (Escape::None, b'\n') if after_return => {}
            (Escape::None, _) => return self.key(byte, echo),
        }
        None
    }

    fn key(&mut self, byte: u8, echo: &mut String) -> Option<Typed> {
        let known =
            matches!(byte, b' '..=DELETE | b'\r' | b'\n' | BACKSPACE | CTRL_C | CTRL_U);
        if known && !self.prompted {
            self.prompted = true;
            echo.push_str(PROMPT);
        }
        match byte {
            b'\r' | b'\n' => {
                self.after_return = byte == b'\r';
                echo.push_str("\r\n");
                return Some(Typed::Line(self.end()));
            }
            CTRL_C => {
                echo.push_str("^C\r\n");
                self.end();
                return Some(Typed::Interrupt);
            }
            BACKSPACE | DELETE => echo.push_str(self.line.pop().map_or("", |_| ERASE)),
            CTRL_U => {
                while self.line.pop().is_some() {
                    echo.push_str(ERASE);
                }
            }
            b' '..=b'~' if self.line.len() < MAX_LINE => {
                self.line.push(byte.into());
                echo.push(byte.into());
            }
            b' '..=b'~' => echo.push(BELL),
            _ => {}
        }
        None
    }

    fn end(&mut self) -> String {
        self.prompted = false;
        core::mem::take(&mut self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::{Editor, MAX_LINE, Typed};

    /// Types all, and gives the lines and the echo.
    fn typed(editor: &mut Editor, bytes: &[u8]) -> (Vec<Typed>, String) {
        let mut echo = String::new();
        let lines = bytes.iter().filter_map(|byte| editor.take(*byte, &mut echo));
        (lines.collect(), echo)
    }

    fn line(text: &str) -> Typed {
        Typed::Line(text.into())
    }

    #[test]
    fn a_line_is_echoed_and_ends_with_any_kind_of_enter() {
        for enter in ["\r", "\n", "\r\n"] {
            let mut editor = Editor::default();
            let (lines, echo) =
                typed(&mut editor, format!("help{enter}x{enter}").as_bytes());
            assert_eq!(lines, [line("help"), line("x")]);
            assert_eq!(echo, "pcidom> help\r\npcidom> x\r\n");
        }
    }

    #[test]
    fn mistakes_can_be_erased_and_no_more_than_was_typed() {
        let mut editor = Editor::default();
        let (lines, echo) = typed(&mut editor, b"ab\x7f\x08\x08c\r");
        assert_eq!(lines, [line("c")]);
        assert_eq!(echo, "pcidom> ab\x08 \x08\x08 \x08c\r\n");
        assert_eq!(typed(&mut editor, b"wrong\x15right\r").0, [line("right")]);
        assert_eq!(
            typed(&mut editor, b"wrong\x03right\r").0,
            [Typed::Interrupt, line("right")]
        );
    }

    #[test]
    fn arrow_keys_and_other_bytes_are_no_text() {
        let mut editor = Editor::default();
        let (lines, _) =
            typed(&mut editor, b"a\x1b[A\x1b[1;5C\x1bOB\x1bxb\x00\xff\xc3\x1b\x1b[Cc\r");
        assert_eq!(lines, [line("abc")]);
        assert_eq!(typed(&mut editor, b"\x00\xff\x1b[A"), (vec![], String::new()));
    }

    #[test]
    fn a_line_is_bounded() {
        let mut editor = Editor::default();
        let (_, echo) = typed(&mut editor, &[b'x'; 3 * MAX_LINE]);
        assert_eq!(echo.matches('\x07').count(), 2 * MAX_LINE);
        assert_eq!(typed(&mut editor, b"\r").0, [line(&"x".repeat(MAX_LINE))]);
    }
}

//! What a line on the serial console means.
//!
//! Xen, dom0 and (copied there by dom0, behind `NAME| `) every guest write to it, so a
//! line counts only if its beginning shows who wrote it.

use super::verdict::Verdict;

/// Starts every line that dom0's scenario library means for the harness.
const MARK: &str = "@@BED ";

/// Something the harness reacts to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// The scenario begins its next part.
    Step(&'a str),
    /// A check passed or failed.
    Check {
        /// Whether it passed.
        passed: bool,
        /// What was checked.
        what: &'a str,
    },
    /// A remark for the person who watches.
    Note(&'a str),
    /// The scenario is over.
    End(Verdict),
    /// Xen or dom0 is dead.
    Panic,
}

impl<'a> Event<'a> {
    /// Reads one line; most lines mean nothing.
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim();
        if is_panic(line) {
            return Some(Self::Panic);
        }
        let (kind, text) = line.strip_prefix(MARK)?.split_once(' ')?;
        match kind {
            "step" => Some(Self::Step(text)),
            "ok" => Some(Self::Check { passed: true, what: text }),
            "failed" => Some(Self::Check { passed: false, what: text }),
            "note" => Some(Self::Note(text)),
            "verdict" => Verdict::parse(text).map(Self::End),
            _ => None,
        }
    }
}

fn is_panic(line: &str) -> bool {
    if let Some(text) = line.strip_prefix("(XEN)") {
        return text.contains("Panic on CPU");
    }
    // dom0's kernel: only a time stamp stands before the words.
    line.split_once("Kernel panic - not syncing").is_some_and(|(before, _)| {
        before.chars().all(|c| matches!(c, '[' | ']' | '.' | ' ' | '0'..='9'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_marks() {
        assert_eq!(
            Event::parse("@@BED step attach it\r"),
            Some(Event::Step("attach it"))
        );
        assert_eq!(
            Event::parse("@@BED failed no fault"),
            Some(Event::Check { passed: false, what: "no fault" })
        );
        assert_eq!(
            Event::parse("@@BED verdict SUCCESS"),
            Some(Event::End(Verdict::Success))
        );
        assert_eq!(Event::parse("@@BED verdict SUCCES"), None);
        assert_eq!(Event::parse("g1| @@BED verdict SUCCESS"), None);
        assert_eq!(Event::parse("[    1.0] something"), None);
    }

    #[test]
    fn only_xen_and_dom0_can_crash_the_run() {
        assert_eq!(Event::parse("(XEN) Panic on CPU 0:"), Some(Event::Panic));
        let dom0 = "[   12.345] Kernel panic - not syncing: Attempted to kill init!";
        assert_eq!(Event::parse(dom0), Some(Event::Panic));
        assert_eq!(Event::parse(&format!("g1| {dom0}")), None);
    }
}

//! The checks of a run that failed, each with what it printed, for the very end of all output:
//! of a run on another machine that may be all there is.

use super::console::Event;

/// How many checks are told with what they printed. Those after the first few mostly follow
/// from them.
const TOLD: usize = 3;

/// How many lines of each: what `passes` in `ci/lib/dom0.sh` shows, and some of others between.
const LINES: usize = 50;

/// Collects them from the console, line by line.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    text: String,
    checks: usize,
    /// How many lines the last one may still add.
    left: usize,
}

impl Failures {
    /// Takes one line of the console and what it means.
    pub(crate) fn hear(&mut self, line: &str, event: Option<&Event<'_>>) {
        match event {
            Some(Event::Check { passed: false, what }) => {
                self.checks += 1;
                self.left = if self.checks <= TOLD { LINES } else { 0 };
                self.add(what);
            }
            Some(_) => self.left = 0,
            None if self.left > 0 => {
                self.left -= 1;
                self.add(&format!("    {line}"));
            }
            None => {}
        }
    }

    fn add(&mut self, line: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(line);
    }

    /// All of them; nothing if none has failed.
    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard<'a>(lines: impl IntoIterator<Item = &'a str>) -> String {
        let mut failures = Failures::default();
        for line in lines {
            failures.hear(line, Event::parse(line).as_ref());
        }
        failures.into_text()
    }

    #[test]
    fn tells_what_a_failed_check_printed() {
        let log = [
            "before",
            "@@BED ok good",
            "of no interest",
            "@@BED failed bad",
            "command: false",
            "the cause",
            "@@BED step next",
            "after",
            "@@BED failed worse",
        ];
        assert_eq!(heard(log), "bad\n    command: false\n    the cause\nworse");
        assert_eq!(heard(["@@BED ok good", "more"]), "");
    }

    #[test]
    fn is_bounded() {
        let one = std::iter::once("@@BED failed bad").chain(std::iter::repeat_n("x", 99));
        let log = std::iter::repeat_n(one, 9).flatten();
        assert_eq!(heard(log).lines().count(), 9 + TOLD * LINES);
    }
}

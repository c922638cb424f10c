//! From the scenario's rows to a table for people.

use std::collections::BTreeMap;
use std::fmt::Write;

/// How a metric is shown.
struct Line {
    metric: &'static str,
    title: &'static str,
    unit: Unit,
}

#[derive(Clone, Copy)]
enum Unit {
    /// Measured in nanoseconds.
    Micros,
    /// Likewise, for longer times.
    Millis,
    PerSecond,
}

/// What both guests did.
const COMPARED: &[Line] = &[
    line("read/sweep", "config read: first 256 bytes, per dword", Unit::Micros),
    line("read/COMMAND", "config read: COMMAND", Unit::Micros),
    line("read/STATUS", "config read: STATUS", Unit::Micros),
    line("read/PMCSR", "config read: PMCSR", Unit::Micros),
    line("read/MSI-X-control", "config read: MSI-X control", Unit::Micros),
    line("read/DEVSTA", "config read: DEVSTA", Unit::Micros),
    line("read/LNKSTA", "config read: LNKSTA", Unit::Micros),
    line("write/latency-timer", "config write, shadowed: latency timer", Unit::Micros),
    line("write/interrupt-line", "config write, shadowed: interrupt line", Unit::Micros),
    line("write/BAR0", "config write, shadowed: BAR0 as it is", Unit::Micros),
    line(
        "write/cache-line-size",
        "config write, hardware: cache line size",
        Unit::Micros,
    ),
    line("write/bus-master", "config write, hardware: bus master off, on", Unit::Micros),
    line("iops/1", "NVMe 4 KiB random reads, one at a time", Unit::PerSecond),
    line("iops/4", "NVMe 4 KiB random reads, four at a time", Unit::PerSecond),
    line("attach/returned", "hot attach: until the command returns", Unit::Millis),
    line("attach/seen", "hot attach: until the guest has the device", Unit::Millis),
];

const fn line(metric: &'static str, title: &'static str, unit: Unit) -> Line {
    Line { metric, title, unit }
}

/// All rows of a run.
#[derive(Debug, Default)]
pub(crate) struct Measurements {
    rows: BTreeMap<(String, String), Vec<u64>>,
    texts: Vec<String>,
}

impl Measurements {
    /// Reads `WHO METRIC NUMBER` and `text ...` lines; others mean nothing.
    pub(crate) fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines() {
            if let Some(words) = line.strip_prefix("text ") {
                all.texts.push(words.to_owned());
                continue;
            }
            let words: Vec<_> = line.split_whitespace().collect();
            if let [who, metric, value] = words.as_slice()
                && let Ok(value) = value.parse()
            {
                let key = ((*who).to_owned(), (*metric).to_owned());
                all.rows.entry(key).or_default().push(value);
            }
        }
        all
    }

    fn values(&self, who: &str, metric: &str) -> &[u64] {
        let key = (who.to_owned(), metric.to_owned());
        self.rows.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        for text in &self.texts {
            let _ = writeln!(out, "{text}");
        }
        let _ = writeln!(
            out,
            "\n{:46} {:>5} {:>10} {:>10} {:>6}  stock from..to, pcidom from..to",
            "median of turns", "", "stock", "pcidom", "ratio"
        );
        for line in COMPARED {
            let (stock, lent) =
                (self.values("stock", line.metric), self.values("pcidom", line.metric));
            let _ = writeln!(
                out,
                "{:46} {:>5} {:>10} {:>10} {:>6}  {}, {}",
                line.title,
                line.unit.name(),
                line.unit.show(median(stock)),
                line.unit.show(median(lent)),
                ratio(median(lent), median(stock)),
                line.unit.range(stock),
                line.unit.range(lent),
            );
        }
        out.push('\n');
        for ((_, metric), values) in self.rows.iter().filter(|((w, _), _)| w == "alone") {
            out.push_str(&alone(metric, values));
        }
        out
    }
}

/// One line about pcidom itself.
fn alone(metric: &str, values: &[u64]) -> String {
    let (middle, range) = (Unit::Millis.show(median(values)), Unit::Millis.range(values));
    let number = median(values).unwrap_or_default();
    match metric {
        "start/seen" => format!("from `xl unpause` to ready: {middle} ms ({range})\n"),
        "start/returned" => String::new(),
        "memory/four-guests" => {
            format!("least `memory=` that served four guests: {number} MiB\n")
        }
        "idle30/wakes" => {
            let per_second = decimal(number.saturating_mul(1_000_000) / 30, 1_000_000, 2);
            format!("wake-ups per idle second: {per_second} ({number} in 30 s)\n")
        }
        "busy2/wakes" => {
            format!(
                "wake-ups in 2 s with a guest in config space, for comparison: {number}\n"
            )
        }
        _ => format!("{metric}: {number}\n"),
    }
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Micros => "us",
            Self::Millis => "ms",
            Self::PerSecond => "1/s",
        }
    }

    fn show(self, value: Option<u64>) -> String {
        let Some(value) = value else { return "-".into() };
        match self {
            Self::Micros => decimal(value, 1000, 1),
            Self::Millis => decimal(value, 1_000_000, 1),
            Self::PerSecond => value.to_string(),
        }
    }

    fn range(self, values: &[u64]) -> String {
        let (low, high) = (values.iter().min(), values.iter().max());
        format!("{}..{}", self.show(low.copied()), self.show(high.copied()))
    }
}

/// The value in the middle; of an even number, the lower of the two.
fn median(values: &[u64]) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

fn ratio(ours: Option<u64>, theirs: Option<u64>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0 => decimal(ours, theirs, 2),
        _ => "-".into(),
    }
}

/// `value / unit` with so many decimals, rounded.
pub(super) fn decimal(value: u64, unit: u64, decimals: usize) -> String {
    let scale = (0..decimals).fold(1_u128, |scale, _| scale * 10);
    let unit = u128::from(unit.max(1));
    let scaled = (u128::from(value) * scale + unit / 2) / unit;
    format!("{}.{:0decimals$}", scaled / scale, scaled % scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3, 900, 1]), Some(3));
        assert_eq!(ratio(Some(150), Some(100)), "1.50");
        assert_eq!(ratio(Some(150), None), "-");
        assert_eq!(ratio(Some(150), Some(0)), "-");
        assert_eq!(decimal(1_999, 1000, 1), "2.0");
        assert_eq!(decimal(7, 100, 2), "0.07");
    }

    #[test]
    fn a_table_has_what_was_measured_and_says_what_was_not() {
        let text = "text placement\nstock read/sweep 400000\nstock read/sweep 100\n\
                    stock read/sweep 420000\npcidom read/sweep 200000\n\
                    pcidom nonsense\nalone memory/four-guests 4\nalone idle30/wakes 6\n";
        let table = Measurements::parse(text).table();
        assert!(table.starts_with("placement\n"), "{table}");
        let sweep = table.lines().find(|l| l.contains("per dword")).unwrap();
        let words: Vec<_> = sweep.split_whitespace().collect();
        assert!(words.ends_with(&[
            "400.0",
            "200.0",
            "0.50",
            "0.1..420.0,",
            "200.0..200.0"
        ]));
        assert!(table.contains("four guests: 4 MiB"), "{table}");
        assert!(table.contains("idle second: 0.20 (6 in 30 s)"), "{table}");
        assert!(table.lines().any(|l| l.contains("LNKSTA") && l.contains(" - ")));
    }
}

//! What can be asked, and the answers.

use alloc::format;
use alloc::string::String;
use core::fmt::Write;

use log::LevelFilter;
use pcidom_pci::Sbdf;

use super::super::Machine;
use super::super::report::{device_text, function_text, guest_text};
use super::super::trace::RING_ENTRIES;
use crate::platform::{Console, Platform};

const HELP: &str = "\
pool                what can be lent
guests              links, what was asked on them, and what was denied
loans               which device is with which guest
leases              interrupts of lent devices: pirqs of the guest
dump BDF            config space of a pool device, as dom0's backend shows it
log LEVEL [PART]    off, error, warn, info, debug or trace; of one part, such as pciback
ring [COUNT]        the last events
";

/// Most words of a command that count.
const MAX_WORDS: usize = 3;

/// Lines of an answer. Writing to a `String` can't fail.
macro_rules! line {
    ($out:expr, $($text:tt)*) => { let _ = writeln!($out, $($text)*); };
}

impl<P: Platform> Machine<P> {
    /// Carries out a line that was typed; the text to show, with plain line ends.
    pub(super) fn command(
        &mut self,
        console: Console,
        line: &str,
        platform: &mut P,
    ) -> String {
        let mut words = [""; MAX_WORDS];
        for (place, word) in words.iter_mut().zip(line.split_ascii_whitespace()) {
            *place = word;
        }
        let [name, first, second] = words;
        match name {
            "" => String::new(),
            "help" | "?" => HELP.into(),
            "pool" => self.pool_lines(),
            "guests" => self.guest_lines(),
            "loans" => self.loan_lines(),
            "leases" => self.lease_lines(),
            "ring" => self.ring_lines(first),
            "log" => set_log_level(first, second, platform),
            "dump" => match first.parse() {
                Ok(device) => self.start_dump(console, device, platform),
                Err(error) => format!("`{first}`: {error}"),
            },
            _ => format!("`{name}` is not a command; `help` lists them"),
        }
    }

    fn loan_of(&self, device: Sbdf) -> Option<String> {
        let (id, loan) =
            self.loans.iter().find(|(_, loan)| loan.order.device == device)?;
        Some(format!("loan {id} to domain {}, {:?}", loan.guest(), loan.order.phase))
    }

    fn pool_lines(&self) -> String {
        let mut out = String::new();
        for (device, known) in &self.pool {
            let quarantined = self.quarantined.contains(device);
            let free =
                if quarantined { "free, in quarantine" } else { "not in quarantine" };
            let use_of = self.loan_of(*device).unwrap_or_else(|| free.into());
            let window = self.windows.is_open(*device);
            line!(out, "{}: {use_of}", device_text(*device, known, window));
        }
        line!(out, "{} device(s)", self.pool.len());
        out
    }

    fn guest_lines(&self) -> String {
        let mut out = String::new();
        for (guest, known) in &self.guests {
            line!(out, "domain {guest}: {}", guest_text(known));
            line!(out, "  leases: {}", known.waits);
            for status in known.server.functions() {
                line!(out, "  {}", function_text(&status));
            }
        }
        line!(out, "{} guest(s)", self.guests.len());
        out
    }

    fn loan_lines(&self) -> String {
        let mut out = String::new();
        for (id, loan) in &self.loans {
            let order = &loan.order;
            let (generation, phase) = (order.generation, order.phase);
            line!(
                out,
                "loan {id}: {} with domain {}, {phase:?}, generation {generation}",
                order.device,
                loan.guest()
            );
        }
        line!(out, "{} loan(s)", self.loans.len());
        out
    }

    fn lease_lines(&self) -> String {
        let mut out = String::new();
        for (id, loan) in &self.loans {
            let open = if loan.lease.is_open() { ", the daemon is asked" } else { "" };
            let (guest, device) = (loan.guest(), loan.order.device);
            let server = self.guests.get(&guest).map(|known| &known.server);
            let mut functions = server.into_iter().flat_map(|s| s.functions());
            match functions.find(|status| status.sbdf == device) {
                Some(status) => {
                    let _ = write!(out, "loan {id}: {device} {}, pirqs", status.mode);
                    for pirq in &status.pirqs {
                        let _ = write!(out, " {}", pirq.0);
                    }
                    line!(out, " of domain {guest}{open}");
                }
                None => {
                    line!(out, "loan {id}: {device} is not on the link{open}");
                }
            }
        }
        line!(out, "{} loan(s)", self.loans.len());
        out
    }

    fn ring_lines(&self, count: &str) -> String {
        let count = if count.is_empty() { Ok(RING_ENTRIES) } else { count.parse() };
        let Ok(count) = count else { return "ring [COUNT]".into() };
        let mut out = String::new();
        for entry in self.trace.last(count) {
            line!(out, "{entry}");
        }
        out
    }
}

fn set_log_level<P: Platform>(level: &str, part: &str, platform: &mut P) -> String {
    let Ok(level) = level.parse::<LevelFilter>() else {
        return "log off|error|warn|info|debug|trace [PART]".into();
    };
    let part = Some(part).filter(|part| !part.is_empty());
    if !platform.set_log_level(part, level) {
        return "too many parts have a level; `log LEVEL` sets all to one".into();
    }
    match part {
        Some(part) => format!("{part} logs at {level}"),
        None => format!("everything logs at {level}"),
    }
}

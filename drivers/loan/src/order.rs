//! Loans: what the daemon orders and what pcidom reports.

use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;

use pcidom_pci::Sbdf;
use pcidom_pci::reset::Method;

use crate::exceptions::Exceptions;
use crate::text::{Fields, MAX_TEXT, ParseError, decimal};
use crate::{BusPolicy, Generation};

/// How far a loan has come, by the daemon's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The device is in quarantine: pcidom resets it and reports ready or failed.
    Prepare,
    /// The device belongs to the guest: pcidom serves it on the guest's link.
    Lent,
    /// The guest has no right to the device any more, its leases are unmapped and the
    /// device is in quarantine: pcidom takes it off the link, resets it, lets go of a dead
    /// guest's page, and reports returned or failed.
    Ending,
    /// No loan at all, but a reset on demand: pcidom resets the device and reports ready or
    /// failed. The daemon has ended the leases of every function that it takes with it.
    Reset,
}

impl Phase {
    const ALL: [(Self, &str); 4] = [
        (Self::Prepare, "prepare"),
        (Self::Lent, "lent"),
        (Self::Ending, "ending"),
        (Self::Reset, "reset"),
    ];
}

/// What a reset may use and has to achieve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResetTerms {
    /// The port right above the device, for slot and bus reset. The daemon vouches for it: it
    /// is in the pool, and so is every function below it. If there is none, neither is
    /// possible.
    pub port: Option<Sbdf>,
    /// How many functions are below that port, this device included. If pcidom knows of
    /// another number, one has just come or gone, and the port is not used.
    pub below: u16,
    /// Only this method, if one was asked for.
    pub method: Option<Method>,
    /// Being quiet is enough where no method works: a person has said so.
    pub lax: bool,
    /// Functions that others have borrowed may be reset with it: a person has said so.
    pub force: bool,
}

/// What the daemon says of one loan, in `loans/ID`. Removed when the loan is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoanOrder {
    /// Which loan of this id.
    pub generation: Generation,
    /// How far it has come.
    pub phase: Phase,
    /// The guest's domid.
    pub guest: u16,
    /// The device, by its physical address.
    pub device: Sbdf,
    /// The virtual slot that was asked for, if one was.
    pub slot: Option<u8>,
    /// Which address the guest sees it at.
    pub bus: BusPolicy,
    /// Whether the guest may use the device's interrupt line. If not, another guest does.
    pub line: bool,
    /// How to reset it.
    pub reset: ResetTerms,
    /// What its guest may write beyond the register table.
    pub exceptions: Exceptions,
}

impl fmt::Display for LoanOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = Phase::ALL.into_iter().find(|(phase, _)| *phase == self.phase);
        let phase = phase.map_or("", |(_, word)| word);
        let Self {
            generation, guest, device, slot, bus, line, reset, exceptions, ..
        } = self;
        write!(f, "gen={generation} phase={phase} guest={guest} dev={device}")?;
        slot.map_or(Ok(()), |slot| write!(f, " vslot={slot}"))?;
        if *bus != BusPolicy::default() {
            write!(f, " bus={}", bus.word())?;
        }
        f.write_str(if *line { "" } else { " line=none" })?;
        reset.port.map_or(Ok(()), |port| write!(f, " port={port}"))?;
        match reset.below {
            0 => {}
            below => write!(f, " below={below}")?,
        }
        reset.method.map_or(Ok(()), |method| write!(f, " method={}", method.word()))?;
        f.write_str(if reset.lax { " lax" } else { "" })?;
        f.write_str(if reset.force { " force" } else { "" })?;
        write!(f, "{exceptions}")
    }
}

impl FromStr for LoanOrder {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut fields = Fields::new(text)?;
        let generation = Generation(fields.value("gen")?);
        let word = fields.text("phase")?;
        let phase = Phase::ALL.into_iter().find(|(_, name)| *name == word);
        let (phase, _) = phase.ok_or(ParseError::Field("phase"))?;
        let guest = fields.value("guest")?;
        let device = fields.value("dev")?;
        let (slot, line, reset) = (None, true, ResetTerms::default());
        let bus = BusPolicy::default();
        let exceptions = Exceptions::default();
        let mut order =
            Self { generation, phase, guest, device, slot, bus, line, reset, exceptions };
        let mut last = 0;
        while let Ok(word) = fields.word("option") {
            let place = order.option(word).ok_or(ParseError::Field("option"))?;
            // Each at most once, in the order in which they are written.
            if place <= last {
                return Err(ParseError::Field("option"));
            }
            last = place;
        }
        fields.end()?;
        Ok(order)
    }
}

impl LoanOrder {
    /// Takes one option, and says which place it has among them.
    fn option(&mut self, word: &str) -> Option<u8> {
        match (word.split_once('='), word) {
            (Some(("vslot", number)), _) => {
                self.slot = Some(decimal(number).filter(|slot| *slot < 32)?);
                Some(1)
            }
            (Some(("bus", policy)), _) => {
                self.bus = policy.parse().ok()?;
                Some(2)
            }
            (Some(("line", "none")), _) => {
                self.line = false;
                Some(3)
            }
            (Some(("port", port)), _) => {
                self.reset.port = Some(port.parse().ok()?);
                Some(4)
            }
            (Some(("below", number)), _) => {
                self.reset.below = decimal(number)?;
                Some(5)
            }
            (Some(("method", method)), _) => {
                self.reset.method = Some(method.parse().ok()?);
                Some(6)
            }
            (None, "lax") => {
                self.reset.lax = true;
                Some(7)
            }
            (None, "force") => {
                self.reset.force = true;
                Some(8)
            }
            (None, "permissive") => {
                self.exceptions.permissive = true;
                Some(9)
            }
            (Some(("allow", list)), _) => {
                self.exceptions.parse_allowed(list)?;
                Some(10)
            }
            _ => None,
        }
    }
}

/// How pcidom's part of a phase ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Prepared: reset by this method, and quiet.
    Ready(String),
    /// Back from the guest: off its link, reset by this method, its page let go.
    Returned(String),
    /// Not done, with the reason for people. After `Ending` the device stays in quarantine,
    /// off the link and with the page let go, and can't be lent before a reset worked.
    Failed(String),
}

/// What pcidom says of one loan, in `data/pcidom/loans/ID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoanReport {
    /// The generation of the order this answers.
    pub generation: Generation,
    /// How it ended.
    pub outcome: Outcome,
}

/// Longest text for people in a report, so that the message stays below [`MAX_TEXT`].
const MAX_REASON: usize = MAX_TEXT - 64;

impl fmt::Display for LoanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, text) = match &self.outcome {
            Outcome::Ready(method) => ("ready", method),
            Outcome::Returned(method) => ("returned", method),
            Outcome::Failed(reason) => ("failed", reason),
        };
        let end =
            (0..=MAX_REASON.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        let text = text.get(..end.unwrap_or(0)).unwrap_or_default();
        write!(f, "gen={} {word} {text}", self.generation)
    }
}

impl FromStr for LoanReport {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut fields = Fields::new(text)?;
        let generation = Generation(fields.value("gen")?);
        let word = fields.word("outcome")?;
        let rest = text.splitn(3, ' ').nth(2).unwrap_or_default();
        // For people's eyes and terminals: nothing but printable characters passes.
        let rest: String =
            rest.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).collect();
        let rest = rest.trim().to_string();
        let outcome = match word {
            "ready" => Outcome::Ready(rest),
            "returned" => Outcome::Returned(rest),
            "failed" => Outcome::Failed(rest),
            _ => return Err(ParseError::Field("outcome")),
        };
        Ok(Self { generation, outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::{LoanOrder, LoanReport, Outcome, Phase, ResetTerms};
    use crate::{Allowed, BusPolicy, Exceptions, Generation, MAX_ALLOWED, MAX_TEXT};
    use pcidom_pci::reset::Method;
    use pcidom_pci::{Register, Width};

    #[test]
    fn orders_come_back_as_they_were_written() {
        let device = "0000:01:00.0".parse().unwrap();
        let plain = LoanOrder {
            generation: Generation(7),
            phase: Phase::Prepare,
            guest: 3,
            device,
            slot: None,
            bus: BusPolicy::Vpci,
            line: true,
            reset: ResetTerms::default(),
            exceptions: Exceptions::default(),
        };
        let terms = ResetTerms {
            port: Some("0000:00:1c.4".parse().unwrap()),
            below: 2,
            method: Some(Method::SecondaryBus),
            lax: true,
            force: true,
        };
        for (phase, _) in Phase::ALL {
            for (slot, line) in
                [(None, true), (Some(31), true), (None, false), (Some(0), false)]
            {
                for reset in [ResetTerms::default(), terms] {
                    for bus in BusPolicy::ALL {
                        let order = LoanOrder { phase, slot, bus, line, reset, ..plain };
                        assert_eq!(order.to_string().parse(), Ok(order));
                    }
                }
            }
        }
        let (slot, bus) = (Some(2), BusPolicy::Passthrough);
        let order = LoanOrder {
            phase: Phase::Reset,
            slot,
            bus,
            line: false,
            reset: terms,
            ..plain
        };
        assert_eq!(
            order.to_string(),
            "gen=7 phase=reset guest=3 dev=0000:01:00.0 vslot=2 bus=passthrough line=none \
             port=0000:00:1c.4 below=2 method=bus lax force"
        );
    }

    #[test]
    fn exceptions_come_back_as_they_were_written_and_fit_a_message() {
        let text = "gen=7 phase=lent guest=3 dev=0000:01:00.0 line=none lax";
        let plain: LoanOrder = text.parse().unwrap();
        assert_eq!(plain.exceptions, Exceptions::default());
        let mut exceptions = Exceptions::default();
        exceptions.permissive = true;
        let last = Register::new(0xffc, Width::Dword).unwrap();
        let control = Register::new(0x88, Width::Word).unwrap();
        assert!(exceptions.allow(Allowed::new(control, 0x7000).unwrap()));
        while exceptions.allow(Allowed::new(last, u32::MAX).unwrap()) {}
        assert_eq!(exceptions.allowed().count(), MAX_ALLOWED);
        let order = LoanOrder { exceptions, ..plain };
        let written = order.to_string();
        assert_eq!(written.parse(), Ok(order));
        let start = format!("{text} permissive allow=88+2:7000,ffc+4:ffffffff,");
        assert!(written.starts_with(&start), "{written}");
        assert!(written.len() + 100 < MAX_TEXT);
        assert!(format!("{written},44+1:1").parse::<LoanOrder>().is_err());
        assert_eq!(Allowed::new(control, 0), None);
        assert_eq!(Allowed::new(control, 0x1_0000), None);
    }

    #[test]
    fn bad_orders_are_refused() {
        for text in [
            "",
            "gen=1",
            "gen=1 phase=lent guest=70000 dev=0000:01:00.0",
            "gen=1 phase=gone guest=1 dev=0000:01:00.0",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 vslot=32",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 line=16",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 line=none line=none",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 vslot=3 more",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 port=1c.4",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 method=kick",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 lax=1",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 force lax",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 bus=isa",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 bus=slot vslot=3",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 permissive=1",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 permissive permissive",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 allow=88+2:7000 permissive",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 allow=",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 allow=88+2:7000,",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 allow=88+2",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 allow=88+2:0",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 allow=88+2:10000",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 allow=88+3:1",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 allow=89+2:1",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 allow=1000+4:1",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 allow=10088+2:1",
            "gen=1 phase=lent guest=1 dev=0000:01:00.0 allow=88+2:7000 allow=90+2:1",
            "gen=-1 phase=lent guest=1 dev=0000:01:00.0",
        ] {
            assert!(text.parse::<LoanOrder>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_report_keeps_its_reason_and_drops_what_a_terminal_might_obey() {
        let report: LoanReport = "gen=9 failed no FLR \x1b[2J here".parse().unwrap();
        assert_eq!(report.generation, Generation(9));
        assert_eq!(report.outcome, Outcome::Failed("no FLR  [2J here".into()));
    }

    #[test]
    fn a_long_reason_is_cut_to_fit_a_message() {
        let outcome = Outcome::Failed("x".repeat(5000));
        let text = LoanReport { generation: Generation(u64::MAX), outcome }.to_string();
        assert!(text.len() <= MAX_TEXT && text.parse::<LoanReport>().is_ok());
    }
}

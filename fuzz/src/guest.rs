//! A server of one guest, with the hardware, the daemon and the page around it.

use pciback::serve::Action;
use pciback::{LeaseError, Server};
use pcidom_loan::{LeaseAsk, LeaseRefusal, MAX_VECTORS, repeated};
use pcidom_pci::{Access, AccessError, Answer, Sbdf, VirtualBdf};
use pcidom_script::Instant;
use pcidom_xenbus::Pirq;
use pcidom_xenbus::pciif::{command, word};

use crate::device::{Hardware, Model};
use crate::input::Input;
use crate::page::{End, Page};

/// Steps that one procedure may take: tear down, map, unmap, map, turn on, undo, and each
/// with a read before the write.
const MAX_STEPS: usize = 24;

/// A device with what is around it.
#[derive(Debug)]
struct Lent<'a> {
    hardware: Hardware<'a>,
    /// What the daemon has mapped for it.
    mapped: Vec<Pirq>,
    /// Its loan goes on.
    lent: bool,
    /// It is on the link.
    listed: bool,
    /// It was shown anew within its loan: if making the old one quiet failed, nobody tries
    /// again before the reset at the loan's end.
    anew: bool,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) server: Server,
    pub(crate) page: Page,
    pub(crate) now: Instant,
    devices: Vec<Lent<'a>>,
    question: Option<Action>,
    out: Vec<Action>,
    next_pirq: u16,
    notified: u32,
    /// Nothing has failed so far but what the guest did wrong.
    honest: bool,
    /// The page has been taken away.
    pub(crate) unmapped: bool,
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is answered as asked.
    Good,
    /// It fails, and was not done.
    Failed,
    /// It is reported as failed, and was done.
    Done,
    /// The answer makes no sense; an access is answered with all ones.
    Nonsense,
}

impl<'a> Guest<'a> {
    /// A guest with these devices around, none of them on the link.
    pub(crate) fn new(models: impl Iterator<Item = &'a Model>) -> Self {
        let lent = |model| Lent {
            hardware: Hardware::new(model),
            mapped: Vec::new(),
            lent: false,
            listed: false,
            anew: false,
        };
        Self {
            server: Server::new(),
            page: Page::new(End::Back),
            now: Instant::from_nanos(1_000_000_000),
            devices: models.map(lent).collect(),
            question: None,
            out: Vec::new(),
            next_pirq: 900,
            notified: 0,
            honest: true,
            unmapped: false,
        }
    }

    /// Where the guest sees device `number`.
    pub(crate) fn at(number: usize) -> VirtualBdf {
        VirtualBdf(Sbdf::new(0, 0, number as u8 & 31, 0).unwrap())
    }

    fn sbdf(&self, number: usize) -> Sbdf {
        self.devices[number].hardware.model().function.sbdf
    }

    /// Lends a device and shows it to the guest.
    pub(crate) fn add(&mut self, number: usize) {
        log::trace!("add {number}");
        // An earlier loan has ended, or the device was withdrawn and is shown again.
        if !self.devices[number].lent {
            self.settle();
            self.devices[number].hardware.reset();
        }
        let shown = self.devices[number].hardware.model().shown();
        self.server.add(Self::at(number), shown);
        self.devices[number].anew |= self.devices[number].lent;
        (self.devices[number].lent, self.devices[number].listed) = (true, true);
        self.took_place();
    }

    /// The daemon ends a loan: its pirqs are gone first.
    pub(crate) fn remove(&mut self, number: usize) {
        log::trace!("remove {number}");
        self.devices[number].mapped.clear();
        self.server.remove(self.sbdf(number));
        (self.devices[number].lent, self.devices[number].listed) = (false, false);
        self.devices[number].anew = false;
        // What is on its way comes before the reset.
        let sbdf = self.sbdf(number);
        let open = matches!(
            &self.question,
            Some(Action::Config(asked, _) | Action::Lease(asked, _)) if *asked == sbdf
        );
        if !open {
            self.devices[number].hardware.reset();
        }
        self.took_place();
    }

    /// It is taken off the link and stays lent.
    pub(crate) fn withdraw(&mut self, number: usize) {
        log::trace!("withdraw {number}");
        let sbdf = self.sbdf(number);
        self.call(|server, _, _, out| server.withdraw(sbdf, out));
        self.devices[number].listed = false;
    }

    /// It is reset while it is lent; the daemon has unmapped everything before.
    pub(crate) fn reset(&mut self, number: usize) {
        log::trace!("reset {number}");
        if self.question.is_some() {
            return;
        }
        self.devices[number].mapped.clear();
        self.devices[number].hardware.reset();
        self.server.was_reset(self.sbdf(number));
    }

    /// Lets the server do something, and looks at what it wants.
    pub(crate) fn call(
        &mut self,
        call: impl FnOnce(&mut Server, &Page, Instant, &mut Vec<Action>),
    ) {
        let stores = self.page.stores();
        let mut out = std::mem::take(&mut self.out);
        call(&mut self.server, &self.page, self.now, &mut out);
        let notified = self.notified;
        for action in out.drain(..) {
            log::trace!("  asks {action:?}");
            match action {
                Action::Notify => self.notified += 1,
                Action::Config(sbdf, _) | Action::Lease(sbdf, _) => {
                    assert!(self.question.is_none(), "two questions at a time");
                    let device = self
                        .devices
                        .iter()
                        .find(|d| d.hardware.model().function.sbdf == sbdf);
                    assert!(device.is_some_and(|d| d.lent), "asks for what is not lent");
                    self.question = Some(action);
                }
                Action::Withdrawn(_) | Action::Spurious | Action::Trouble(..) => {}
            }
        }
        self.out = out;
        assert!(
            self.notified != notified || self.page.stores() == stores,
            "a silent answer"
        );
        self.took_place();
    }

    /// Looks at the answers that were given.
    fn took_place(&mut self) {
        for finished in self.server.finished() {
            assert!((-5..=0).contains(&finished.err), "error {}", finished.err);
            if finished.told
                && finished.err == 0
                && finished.raw.cmd == command::CONF_READ
            {
                let bits = 8 * finished.raw.size;
                assert!(matches!(bits, 8 | 16 | 32), "{:?} succeeds", finished.raw);
                let value = u64::from(self.page.get(word::OP_VALUE));
                assert_eq!(value >> bits, 0, "more than was asked for");
            }
        }
        let counters = self.server.counters();
        let told = counters.succeeded + counters.failed.iter().sum::<u32>();
        assert_eq!(self.notified, told, "one event for each answer");
    }

    /// Answers the question that is open, if one is.
    pub(crate) fn answer(&mut self, fate: Fate, input: &mut Input<'_>) {
        log::trace!("answer: {fate:?}");
        self.honest &= fate == Fate::Good;
        match self.question.take() {
            Some(Action::Config(sbdf, access)) => {
                let device = self.device(sbdf);
                let ended = !device.lent;
                let leased = ended || !device.mapped.is_empty();
                device.hardware.unsure |= fate != Fate::Good;
                let answer: Answer = match (fate, access) {
                    (Fate::Failed, _) => Err(failure(input)),
                    // What a device gives that is not there.
                    (Fate::Nonsense, Access::Read(_)) => Ok(u32::MAX),
                    (Fate::Good | Fate::Nonsense | Fate::Done, _) => {
                        let done = device.hardware.access(access, leased);
                        if fate == Fate::Done { Err(failure(input)) } else { Ok(done) }
                    }
                };
                if ended {
                    device.hardware.reset();
                }
                self.give(|server, page, now, out| {
                    server.on_config(page, answer, now, out);
                });
            }
            Some(Action::Lease(sbdf, ask)) => {
                let answer = self.lease(sbdf, &ask, fate, input);
                let device = self.device(sbdf);
                if !device.lent {
                    device.hardware.reset();
                }
                self.give(|server, page, now, out| {
                    server.on_lease(page, answer, now, out);
                });
            }
            _ => {}
        }
    }

    fn give(
        &mut self,
        answer: impl FnOnce(&mut Server, Option<&Page>, Instant, &mut Vec<Action>),
    ) {
        let unmapped = self.unmapped;
        self.call(|server, page, now, out| {
            answer(server, (!unmapped).then_some(page), now, out);
        });
    }

    fn device(&mut self, sbdf: Sbdf) -> &mut Lent<'a> {
        let mut devices = self.devices.iter_mut();
        devices.find(|device| device.hardware.model().function.sbdf == sbdf).unwrap()
    }

    fn lease(
        &mut self,
        sbdf: Sbdf,
        ask: &LeaseAsk,
        fate: Fate,
        input: &mut Input<'_>,
    ) -> Result<Vec<Pirq>, LeaseError> {
        let (honest, next) = (self.honest, self.next_pirq);
        let device = self.device(sbdf);
        // The loan may have ended since it was asked.
        if !device.lent {
            return Err(LeaseRefusal::NotAllowed.into());
        }
        let function = &device.hardware.model().function;
        let count = match ask {
            LeaseAsk::Unmap => 0,
            LeaseAsk::MapMsi => {
                assert!(function.msi.is_some(), "MSI that it does not have");
                1
            }
            LeaseAsk::MapMsix(entries) => {
                // Advisory 164, and no double fetch: these were checked.
                let size = function.msix.map_or(0, |msix| msix.table_size);
                assert!(!entries.is_empty() && entries.len() <= MAX_VECTORS);
                assert!(entries.iter().all(|entry| *entry < size), "beyond its table");
                assert_eq!(repeated(entries), None, "an entry twice");
                entries.len()
            }
        };
        if fate == Fate::Failed {
            let failure = lease_failure(input);
            // The daemon does not lie: a refusal means that nothing is mapped.
            return Err(match (failure, device.mapped.is_empty()) {
                (LeaseError::Refused(_), false) => LeaseError::Unavailable,
                _ => failure,
            });
        }
        if *ask == LeaseAsk::Unmap {
            assert!(!honest || !device.hardware.sends(), "unmaps what is on");
            device.mapped.clear();
            return if fate == Fate::Done {
                Err(LeaseError::Unavailable)
            } else {
                Ok(Vec::new())
            };
        }
        if !device.mapped.is_empty() {
            assert!(!honest, "maps what is mapped");
            return Err(LeaseRefusal::Busy.into());
        }
        let mut pirqs: Vec<Pirq> = (0..count as u16).map(|n| Pirq(next + n)).collect();
        device.mapped.clone_from(&pirqs);
        self.next_pirq = 900 + (self.next_pirq + 200) % 20_000;
        match fate {
            Fate::Done => return Err(LeaseError::Unavailable),
            Fate::Nonsense => match input.byte() % 3 {
                0 => drop(pirqs.pop()),
                1 => pirqs.push(Pirq(input.word())),
                _ => pirqs.iter_mut().for_each(|pirq| pirq.0 = 0),
            },
            Fate::Good | Fate::Failed => {}
        }
        Ok(pirqs)
    }

    /// Everything that is asked is answered as asked.
    pub(crate) fn settle(&mut self) {
        let mut steps = 0;
        while self.question.is_some() {
            steps += 1;
            // Each device may have a procedure, and one more waits.
            assert!(steps <= MAX_STEPS * (self.devices.len() + 1), "it does not end");
            self.answer(Fate::Good, &mut Input::new(&[]));
        }
    }

    /// The guest goes, dom0 and the daemon are well again: nothing may be left.
    pub(crate) fn end(&mut self) {
        self.page.change_after(u8::MAX, 0);
        self.settle();
        let honest = self.honest;
        self.call(|server, _, _, out| server.shut(out));
        self.unmapped = true;
        self.settle();
        assert!(self.server.is_idle(), "does not come to rest");
        for device in &self.devices {
            // What could not be made quiet when it was taken off is the reset's task.
            if device.listed && !device.anew || honest {
                assert!(!device.hardware.sends(), "messages are left on");
                assert!(!device.hardware.masters(), "may still write memory");
                assert_eq!(device.mapped, [], "leases are left");
            }
        }
    }
}

fn failure(input: &mut Input<'_>) -> AccessError {
    input.pick(&[
        AccessError::TimedOut,
        AccessError::Refused,
        AccessError::NoDevice,
        AccessError::NoRegister,
        AccessError::LinkDown,
        AccessError::Failed(-19),
    ])
}

fn lease_failure(input: &mut Input<'_>) -> LeaseError {
    input.pick(&[
        LeaseError::Unavailable,
        LeaseError::Refused(LeaseRefusal::OutOfVectors),
        LeaseError::Refused(LeaseRefusal::NotAllowed),
        LeaseError::Refused(LeaseRefusal::Busy),
        LeaseError::Refused(LeaseRefusal::Failed),
    ])
}

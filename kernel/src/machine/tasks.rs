//! Procedures that run on pool devices: scans, resets, and reads for the monitor.
//!
//! A device has one procedure at a time; another one waits until it has ended. They run
//! access by access between those of guests, so nobody is held up by a reset's waits.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use pcidom_loan::{Generation, LoanId};
use pcidom_pci::function::Function;
use pcidom_pci::reset::{self, Done, Failed, Method, Plan};
use pcidom_pci::scan::{self, ScanError};
use pcidom_pci::{Access, AccessError, Answer, Config, Question, Sbdf};
use pcidom_script::{Instant, Progress, Script};
use vecmap::VecMap;

/// What to run on a device.
#[derive(Debug)]
pub(super) enum Work {
    /// Find out what it is.
    Scan,
    /// Reset it, for this phase of this loan.
    Reset { loan: LoanId, generation: Generation, function: Box<Function> },
    /// Read so many double words, for the monitor. Few at a time: a reset waits for them.
    Read { from: u16, count: u16 },
}

/// What a procedure ended with.
#[derive(Debug)]
pub(super) enum Ended {
    Scanned(Sbdf, Result<Box<Function>, ScanError>),
    Reset(LoanId, Generation, Result<Done, Box<Failed>>),
    Read(Sbdf, Result<Vec<u32>, AccessError>),
}

/// What the event loop does next for a task.
#[derive(Debug)]
pub(super) enum TaskStep {
    Access(Sbdf, Access),
    Ended(Ended),
}

type Procedure = Script<Question, Answer, Ended>;

/// All procedures that run or wait.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    running: VecMap<Sbdf, Procedure>,
    waiting: VecDeque<(Sbdf, Work)>,
    timers: Vec<(Instant, Sbdf)>,
}

impl Tasks {
    /// Runs `work` on `device` as soon as nothing else runs there.
    pub(super) fn start(
        &mut self,
        device: Sbdf,
        work: Work,
        now: Instant,
    ) -> Vec<TaskStep> {
        let mut steps = Vec::new();
        if self.is_busy(device) {
            self.waiting.push_back((device, work));
        } else {
            self.run(device, work, now, &mut steps);
        }
        steps
    }

    /// The access that the device's procedure asked for has ended.
    pub(super) fn answer(
        &mut self,
        device: Sbdf,
        answer: Answer,
        now: Instant,
    ) -> Vec<TaskStep> {
        let mut steps = Vec::new();
        if let Some(procedure) = self.running.remove(&device) {
            self.advance(device, procedure.resume(answer), now, &mut steps);
        }
        steps
    }

    /// Goes on with the procedures whose wait is over.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<TaskStep> {
        let mut steps = Vec::new();
        let (due, rest) = self.timers.iter().partition(|(until, _)| *until <= now);
        self.timers = rest;
        let due: Vec<(Instant, Sbdf)> = due;
        for (_, device) in due {
            steps.extend(self.answer(device, Ok(0), now));
        }
        steps
    }

    /// Drops what runs or waits for a device that is gone.
    pub(super) fn drop_device(&mut self, device: Sbdf) {
        self.running.remove(&device);
        self.waiting.retain(|(of, _)| *of != device);
        self.timers.retain(|(_, of)| *of != device);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.iter().map(|(until, _)| *until).min()
    }

    fn is_busy(&self, device: Sbdf) -> bool {
        self.running.contains_key(&device)
    }

    fn run(&mut self, device: Sbdf, work: Work, now: Instant, steps: &mut Vec<TaskStep>) {
        let progress = Script::start(async move |asker| {
            let config = Config::new(asker, device);
            match work {
                Work::Scan => {
                    Ended::Scanned(device, scan::scan(&config).await.map(Box::new))
                }
                Work::Reset { loan, generation, function } => {
                    let methods = Method::ALL.into_iter().filter(|m| m.is_in(&function));
                    let methods = methods.collect();
                    let plan =
                        Plan { methods, functions: [*function].into(), port: None };
                    Ended::Reset(loan, generation, reset::reset(&config, &plan).await)
                }
                Work::Read { from, count } => {
                    Ended::Read(device, read(&config, from, count).await)
                }
            }
        });
        self.advance(device, progress, now, steps);
    }

    fn advance(
        &mut self,
        device: Sbdf,
        progress: Progress<Question, Answer, Ended>,
        now: Instant,
        steps: &mut Vec<TaskStep>,
    ) {
        match progress {
            Progress::Asks(Question::Access(target, access), procedure) => {
                self.running.insert(device, procedure);
                debug_assert_eq!(target, device, "a task works on its own device");
                steps.push(TaskStep::Access(device, access));
            }
            Progress::Asks(Question::Look(target, register), procedure) => {
                self.running.insert(device, procedure);
                debug_assert_eq!(target, device, "a task works on its own device");
                steps.push(TaskStep::Access(device, Access::Read(register)));
            }
            Progress::Asks(Question::Wait(duration), procedure) => {
                self.running.insert(device, procedure);
                self.timers.push((now.after(duration), device));
            }
            Progress::Done(ended) => {
                steps.push(TaskStep::Ended(ended));
                let next = self.waiting.iter().position(|(of, _)| *of == device);
                if let Some((_, work)) = next.and_then(|at| self.waiting.remove(at)) {
                    self.run(device, work, now, steps);
                }
            }
        }
    }
}

async fn read(config: &Config, from: u16, count: u16) -> Result<Vec<u32>, AccessError> {
    let mut words = Vec::new();
    for n in 0..count {
        words.push(config.read32(from.saturating_add(4 * n)).await?);
    }
    Ok(words)
}

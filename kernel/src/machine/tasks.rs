//! Procedures that run on pool devices: scans, resets, and reads for the monitor.
//!
//! A procedure holds the devices that it works on, and a device is held by one at a time. One
//! that needs several (a reset of everything below a port) gets all of them at once, in its
//! turn: nobody who came later and wants any of them goes first. Every procedure ends, so
//! every turn comes. They run access by access between those of guests, so nobody is held up
//! by a reset's waits.

use alloc::boxed::Box;
use alloc::vec::Vec;

use pcidom_pci::function::Function;
use pcidom_pci::reset::{self, Done, Failed, Plan};
use pcidom_pci::scan::{self, ScanError};
use pcidom_pci::{Access, AccessError, Answer, Config, Question, Register, Sbdf};
use pcidom_script::{Instant, Progress, Script};
use vecmap::VecMap;

use super::resets::Ticket;

/// What to run on a device.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// Find out what it is.
    Scan,
    /// Reset it for a loan. What is done is decided in its turn, by what is so then.
    Reset(Ticket),
    /// Read so many double words, for the monitor. Few at a time: a reset waits for them.
    Read { from: u16, count: u16 },
}

/// What a procedure ended with.
#[derive(Debug)]
pub(super) enum Ended {
    Scanned(Sbdf, Result<Box<Function>, ScanError>),
    Reset(Box<Reset>),
    Read(Sbdf, Result<Vec<u32>, AccessError>),
}

/// A reset that has ended.
#[derive(Debug)]
pub(super) struct Reset {
    /// What it was for.
    pub(super) ticket: Ticket,
    /// What was planned.
    pub(super) plan: Plan,
    /// When it began.
    pub(super) since: Instant,
    /// How it went.
    pub(super) result: Result<Done, Box<Failed>>,
}

/// What the event loop does next for a task, which is named by its device.
#[derive(Debug)]
pub(super) enum TaskStep {
    /// An access to a device that it holds.
    Access(Sbdf, Sbdf, Access),
    /// A read past dom0, if that is possible.
    Look(Sbdf, Sbdf, Register),
    /// It is the turn of this reset: [`Tasks::begin`] or [`Tasks::give_up`].
    Turn(Sbdf, Ticket),
    Ended(Ended),
}

type Procedure = Script<Question, Answer, Ended>;

/// What waits for its turn.
#[derive(Debug)]
struct Job {
    device: Sbdf,
    holds: Vec<Sbdf>,
    work: Work,
}

/// What has its turn.
#[derive(Debug)]
struct Turn {
    /// `None` while it is decided what to do.
    procedure: Option<Procedure>,
    holds: Vec<Sbdf>,
    resets: bool,
}

/// All procedures that run or wait.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    running: VecMap<Sbdf, Turn>,
    waiting: Vec<Job>,
    timers: Vec<(Instant, Sbdf)>,
}

impl Tasks {
    /// Nothing runs, nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty() && self.timers.is_empty()
    }

    /// Gives back the room of those that ran and waited.
    pub(super) fn give_back_room(&mut self) {
        self.running.shrink_to_fit();
        self.waiting.shrink_to_fit();
        self.timers.shrink_to_fit();
    }

    /// Runs `work` on `device` as soon as nobody else holds it or any of `others`.
    pub(super) fn start(
        &mut self,
        device: Sbdf,
        others: Vec<Sbdf>,
        work: Work,
        now: Instant,
    ) -> Vec<TaskStep> {
        let mut holds = others;
        holds.push(device);
        self.waiting.push(Job { device, holds, work });
        let mut steps = Vec::new();
        self.next(now, &mut steps);
        steps
    }

    /// The access that the task asked for has ended.
    pub(super) fn answer(
        &mut self,
        device: Sbdf,
        answer: Answer,
        now: Instant,
    ) -> Vec<TaskStep> {
        let mut steps = Vec::new();
        let turn = self.running.get_mut(&device);
        if let Some(procedure) = turn.and_then(|turn| turn.procedure.take()) {
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

    /// Drops what runs or waits for a device that is gone. Returns what follows, and whether
    /// no access of it is to be waited for. A reset that holds others too goes on: it must
    /// not leave those in the middle of it.
    pub(super) fn drop_device(
        &mut self,
        device: Sbdf,
        now: Instant,
    ) -> (Vec<TaskStep>, bool) {
        self.waiting.retain(|job| job.device != device);
        let alone = self.running.get(&device).is_none_or(|turn| turn.holds.len() == 1);
        if alone {
            self.running.remove(&device);
            self.timers.retain(|(_, of)| *of != device);
        }
        let mut steps = Vec::new();
        self.next(now, &mut steps);
        (steps, alone)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.iter().map(|(until, _)| *until).min()
    }

    /// Whether a reset holds the device now.
    pub(super) fn is_resetting(&self, device: Sbdf) -> bool {
        self.running.values().any(|turn| turn.resets && turn.holds.contains(&device))
    }

    /// Whether the task of `device` holds `other`.
    pub(super) fn holds(&self, device: Sbdf, other: Sbdf) -> bool {
        self.running.get(&device).is_some_and(|turn| turn.holds.contains(&other))
    }

    /// The reset whose turn it is does this.
    pub(super) fn begin(
        &mut self,
        device: Sbdf,
        ticket: Ticket,
        plan: Plan,
        now: Instant,
    ) -> Vec<TaskStep> {
        let mut steps = Vec::new();
        let progress = Script::start(async move |asker| {
            let config = Config::new(asker, device);
            let result = reset::reset(&config, &plan).await;
            Ended::Reset(Box::new(Reset { ticket, plan, since: now, result }))
        });
        self.advance(device, progress, now, &mut steps);
        steps
    }

    /// The reset whose turn it is does nothing.
    pub(super) fn give_up(&mut self, device: Sbdf, now: Instant) -> Vec<TaskStep> {
        let mut steps = Vec::new();
        self.running.remove(&device);
        self.next(now, &mut steps);
        steps
    }

    /// Gives everybody a turn whose devices nobody holds and nobody wanted before him.
    fn next(&mut self, now: Instant, steps: &mut Vec<TaskStep>) {
        let mut held = Vec::new();
        for turn in self.running.values() {
            held.extend_from_slice(&turn.holds);
        }
        let (mut turns, mut place) = (Vec::new(), 0);
        while let Some(job) = self.waiting.get(place) {
            let free = !job.holds.iter().any(|device| held.contains(device));
            held.extend_from_slice(&job.holds);
            if free {
                let Job { device, holds, work } = self.waiting.remove(place);
                let resets = matches!(work, Work::Reset(_));
                self.running.insert(device, Turn { procedure: None, holds, resets });
                turns.push((device, work));
            } else {
                place += 1;
            }
        }
        for (device, work) in turns {
            self.run(device, work, now, steps);
        }
    }

    fn run(&mut self, device: Sbdf, work: Work, now: Instant, steps: &mut Vec<TaskStep>) {
        if let Work::Reset(ticket) = work {
            steps.push(TaskStep::Turn(device, ticket));
            return;
        }
        let progress = Script::start(async move |asker| {
            let config = Config::new(asker, device);
            if let Work::Read { from, count } = work {
                Ended::Read(device, read(&config, from, count).await)
            } else {
                Ended::Scanned(device, scan::scan(&config).await.map(Box::new))
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
        let (question, procedure) = match progress {
            Progress::Asks(question, procedure) => (question, procedure),
            Progress::Done(ended) => {
                self.running.remove(&device);
                steps.push(TaskStep::Ended(ended));
                return self.next(now, steps);
            }
        };
        if let Some(turn) = self.running.get_mut(&device) {
            turn.procedure = Some(procedure);
        }
        match question {
            Question::Access(target, access) => {
                debug_assert!(self.holds(device, target), "a task keeps to its own");
                steps.push(TaskStep::Access(device, target, access));
            }
            Question::Look(target, register) => {
                debug_assert!(self.holds(device, target), "a task keeps to its own");
                steps.push(TaskStep::Look(device, target, register));
            }
            Question::Wait(duration) => self.timers.push((now.after(duration), device)),
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

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::time::Duration;

    use super::{Ended, TaskStep, Tasks, Work};
    use pcidom_pci::Sbdf;
    use pcidom_script::Instant;

    fn at(bus: u8) -> Sbdf {
        Sbdf::new(0, bus, 0, 0).unwrap()
    }

    fn start(tasks: &mut Tasks, device: u8, others: &[u8]) -> Vec<Sbdf> {
        let others = others.iter().map(|bus| at(*bus)).collect();
        let work = Work::Read { from: 0, count: 1 };
        let steps = tasks.start(at(device), others, work, Instant::default());
        asked(steps)
    }

    /// Whose accesses these steps are.
    fn asked(steps: Vec<TaskStep>) -> Vec<Sbdf> {
        let of = |step| match step {
            TaskStep::Access(task, ..) => Some(task),
            _ => None,
        };
        steps.into_iter().filter_map(of).collect()
    }

    fn end(tasks: &mut Tasks, device: u8) -> Vec<Sbdf> {
        let steps = tasks.answer(at(device), Ok(0), Instant::default());
        let first = steps.first();
        assert!(
            matches!(first, Some(TaskStep::Ended(Ended::Read(of, _))) if *of == at(device))
        );
        asked(steps)
    }

    #[test]
    fn who_needs_several_devices_gets_all_at_once_and_nobody_overtakes_him() {
        let mut tasks = Tasks::default();
        assert_eq!(start(&mut tasks, 1, &[]), [at(1)]);
        // Waits for 1; 2 is free now, and is kept for him.
        assert_eq!(start(&mut tasks, 3, &[1, 2]), []);
        assert_eq!(start(&mut tasks, 2, &[]), []);
        // What he does not need is nobody's business.
        assert_eq!(start(&mut tasks, 4, &[]), [at(4)]);
        assert_eq!(start(&mut tasks, 1, &[]), []);
        assert_eq!(end(&mut tasks, 1), [at(3)]);
        assert!(tasks.holds(at(3), at(1)) && tasks.holds(at(3), at(2)));
        assert!(!tasks.is_resetting(at(1)), "it only reads");
        assert_eq!(end(&mut tasks, 4), []);
        assert_eq!(end(&mut tasks, 3), [at(2), at(1)]);
    }

    #[test]
    fn a_device_that_is_gone_lets_others_go_on_but_what_holds_more_is_not_cut_off() {
        let (mut tasks, now) = (Tasks::default(), Instant::default());
        assert_eq!(start(&mut tasks, 1, &[]), [at(1)]);
        assert_eq!(start(&mut tasks, 2, &[1]), []);
        let (steps, alone) = tasks.drop_device(at(1), now);
        assert!(alone);
        assert_eq!(asked(steps), [at(2)]);
        let (steps, alone) = tasks.drop_device(at(2), now);
        assert!(!alone && steps.is_empty());
        assert_eq!(end(&mut tasks, 2), []);
        assert_eq!(tasks.tick(now.after(Duration::from_secs(1))).len(), 0);
        assert_eq!(start(&mut tasks, 2, &[]), [at(2)]);
    }
}

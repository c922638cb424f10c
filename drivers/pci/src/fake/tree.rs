//! Functions and the ports above them, and accesses that go wrong.

use alloc::vec::Vec;
use core::time::Duration;

use pcidom_script::Asker;

use super::{FakeBackend, Fault, drive};
use crate::access::{AccessError, Answer, Config, Question};
use crate::address::Sbdf;

/// What goes wrong with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// This one fails and has no effect; the next one is as good as ever.
    Fails(AccessError),
    /// This one has its effect and seems to fail.
    SeemsToFail(AccessError),
    /// This one and all later ones fail.
    FailsFromNowOn(AccessError),
    /// This function is unplugged before the access.
    Unplugged(Sbdf),
}

/// Several functions on the buses of a host.
#[derive(Clone, Debug)]
pub struct FakeTree {
    backends: Vec<FakeBackend>,
    accesses: usize,
    mishap: Option<(usize, Mishap)>,
    asked_of_gone: usize,
}

/// Lets every function below a port that holds its bus in reset be held, and no other.
pub fn spread_bus_resets(backends: &mut [&mut FakeBackend]) {
    let held: Vec<(u16, (u8, u8))> = backends
        .iter()
        .filter(|backend| backend.hardware().holds_bus())
        .filter_map(|port| Some((port.sbdf().segment(), port.hardware().buses()?)))
        .collect();
    for backend in backends {
        let at = backend.sbdf();
        let below = |(segment, (first, last)): &(u16, (u8, u8))| {
            *segment == at.segment() && (*first..=*last).contains(&at.bus())
        };
        backend.hardware_mut().set_held(held.iter().any(below));
    }
}

impl FakeTree {
    /// These functions, each behind dom0's backend.
    pub const fn new(backends: Vec<FakeBackend>) -> Self {
        Self { backends, accesses: 0, mishap: None, asked_of_gone: 0 }
    }

    /// Access number `n` from now, counted from 0, goes wrong.
    pub const fn set_mishap(&mut self, n: usize, mishap: Mishap) {
        (self.accesses, self.mishap) = (0, Some((n, mishap)));
        self.asked_of_gone = 0;
    }

    /// Accesses since the start, or since a mishap was set.
    pub const fn accesses(&self) -> usize {
        self.accesses
    }

    /// Accesses to the function that was unplugged, since then.
    pub const fn asked_of_gone(&self) -> usize {
        self.asked_of_gone
    }

    /// The function at `sbdf`.
    pub fn get_mut(&mut self, sbdf: Sbdf) -> Option<&mut FakeBackend> {
        self.backends.iter_mut().find(|backend| backend.sbdf() == sbdf)
    }

    /// All of them.
    pub fn backends(&self) -> &[FakeBackend] {
        &self.backends
    }

    /// All of them, to break or to change.
    pub fn backends_mut(&mut self) -> &mut [FakeBackend] {
        &mut self.backends
    }

    /// Runs `procedure`, with the time it took.
    pub fn run<F, Fut, T>(&mut self, procedure: F) -> (T, Duration)
    where
        F: FnOnce(Asker<Question, Answer>) -> Fut,
        Fut: Future<Output = T> + 'static,
    {
        drive(procedure, |question| self.answer(question))
    }

    /// The same for one function.
    pub fn run_at<F, Fut, T>(&mut self, target: Sbdf, procedure: F) -> (T, Duration)
    where
        F: FnOnce(Config) -> Fut,
        Fut: Future<Output = T> + 'static,
    {
        self.run(move |asker| procedure(Config::new(asker, target)))
    }

    fn answer(&mut self, question: Question) -> Answer {
        let target = match question {
            Question::Wait(time) => {
                self.backends.iter_mut().for_each(|backend| backend.elapse(time));
                return Ok(0);
            }
            Question::Access(target, _) | Question::Look(target, _) => target,
        };
        let n = self.accesses;
        self.accesses += 1;
        let mut seems = None;
        match self.mishap {
            Some((at, Mishap::Fails(error))) if at == n => return Err(error),
            Some((at, Mishap::FailsFromNowOn(error))) if at <= n => return Err(error),
            Some((at, Mishap::SeemsToFail(error))) if at == n => seems = Some(error),
            Some((at, Mishap::Unplugged(gone))) if at == n => {
                if let Some(gone) = self.get_mut(gone) {
                    gone.hardware_mut().set_fault(Fault::Gone);
                }
            }
            _ => {}
        }
        if let Some((at, Mishap::Unplugged(gone))) = self.mishap
            && at <= n
            && gone == target
        {
            self.asked_of_gone += 1;
        }
        let backend = self.get_mut(target);
        let answer = backend
            .map_or(Err(AccessError::NoDevice), |backend| backend.answer(question));
        let mut all: Vec<&mut FakeBackend> = self.backends.iter_mut().collect();
        spread_bus_resets(&mut all);
        seems.map_or(answer, Err)
    }
}

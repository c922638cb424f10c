//! A PCI function without hardware, and dom0's backend in front of it.
//!
//! * [`FakeFunction`] is the silicon: raw bytes, write masks, BARs that size, FLR that
//!   resets and takes its time, and ways to go wrong ([`Fault`]).
//! * [`FakeBackend`] is what the A-link leads to: Linux's xen-pciback without permissive
//!   mode, with its cached ids, emulated BARs, shadowed Command, refusals and silent drops.
//! * [`FakeTree`] has several of them below ports, and [`Mishap`]s.
//! * [`run`] drives a script against it on a clock of its own.

mod backend;
mod hardware;
mod models;
mod tree;

use core::time::Duration;

use pcidom_script::{Asker, Progress, Script};

use crate::access::{AccessError, Answer, Config, Question};

pub use backend::{Armed, FakeBackend};
pub use hardware::{Builder, FakeFunction, Fault};
pub use tree::{FakeTree, Mishap, spread_bus_resets};

/// Runs `procedure` against `backend`, which is the only function there is, and gives its
/// result and the time it took: the pauses it asked for, since accesses take none.
pub fn run<F, Fut, T>(backend: &mut FakeBackend, procedure: F) -> (T, Duration)
where
    F: FnOnce(Config) -> Fut,
    Fut: Future<Output = T> + 'static,
{
    let target = backend.sbdf();
    let start = |asker: Asker<Question, Answer>| procedure(Config::new(asker, target));
    drive(start, |question| backend.answer(question))
}

/// Runs `procedure` with these answers.
fn drive<F, Fut, T>(
    procedure: F,
    mut answer: impl FnMut(Question) -> Answer,
) -> (T, Duration)
where
    F: FnOnce(Asker<Question, Answer>) -> Fut,
    Fut: Future<Output = T> + 'static,
{
    let mut progress = Script::start(procedure);
    let mut elapsed = Duration::ZERO;
    loop {
        match progress {
            Progress::Done(result) => return (result, elapsed),
            Progress::Asks(question, script) => {
                if let Question::Wait(pause) = question {
                    elapsed = elapsed.saturating_add(pause);
                }
                progress = script.resume(answer(question));
            }
        }
    }
}

impl FakeBackend {
    /// Answers a question as if there were no other function.
    fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Wait(pause) => {
                self.elapse(pause);
                Ok(0)
            }
            Question::Access(sbdf, _) | Question::Look(sbdf, _)
                if sbdf != self.sbdf() =>
            {
                Err(AccessError::NoDevice)
            }
            Question::Access(_, access) => self.access(access),
            Question::Look(_, register) => self.look(register),
        }
    }
}

//! A PCI function without hardware, and dom0's backend in front of it.
//!
//! * [`FakeFunction`] is the silicon: raw bytes, write masks, BARs that size, FLR that
//!   resets and takes its time, and ways to go wrong ([`Fault`]).
//! * [`FakeBackend`] is what the A-link leads to: Linux's xen-pciback without permissive
//!   mode, with its cached ids, emulated BARs, shadowed Command, refusals and silent drops.
//! * [`run`] drives a script against it on a clock of its own.

mod backend;
mod hardware;
mod models;

use core::time::Duration;

use pcidom_script::{Asker, Progress, Script};

use crate::access::{AccessError, Answer, Config, Question};
use crate::address::Sbdf;

pub use backend::{Armed, FakeBackend};
pub use hardware::{Builder, FakeFunction, Fault};

/// Runs `procedure` against `backend`, which is the only function there is, and gives its
/// result and the time it took: the pauses it asked for, since accesses take none.
pub fn run<F, Fut, T>(backend: &mut FakeBackend, procedure: F) -> (T, Duration)
where
    F: FnOnce(Config) -> Fut,
    Fut: Future<Output = T> + 'static,
{
    let target = backend.sbdf();
    let start = |asker: Asker<Question, Answer>| procedure(Config::new(asker, target));
    let mut progress = Script::start(start);
    let mut elapsed = Duration::ZERO;
    loop {
        match progress {
            Progress::Done(result) => return (result, elapsed),
            Progress::Asks(Question::Wait(pause), script) => {
                elapsed = elapsed.saturating_add(pause);
                backend.elapse(pause);
                progress = script.resume(Ok(0));
            }
            Progress::Asks(Question::Access(sbdf, access), script) => {
                let answer = answer_for(backend, target, sbdf, access);
                progress = script.resume(answer);
            }
        }
    }
}

fn answer_for(
    backend: &mut FakeBackend,
    here: Sbdf,
    asked: Sbdf,
    access: crate::access::Access,
) -> Answer {
    if asked == here { backend.access(access) } else { Err(AccessError::NoDevice) }
}

//! Procedures that ask for one thing at a time, driven from outside.
//!
//! A capability walk, a reset or a XenStore transaction is a straight line of "ask, wait,
//! decide". Written as an `async fn` it reads as one, and still does no I/O of its own:
//! whoever owns the [`Script`] gets each question as a value, answers it when it can (the
//! event loop, the simulator, a test), and gets the next question or the result. There is
//! no executor, no waker and no shared state behind it; a script that is dropped simply
//! never goes on.
//!
//! ```
//! use pcidom_script::{Asker, Progress, Script};
//!
//! async fn sum(asker: Asker<&'static str, u32>) -> u32 {
//!     asker.ask("first").await + asker.ask("second").await
//! }
//!
//! let Progress::Asks("first", script) = Script::start(sum) else { unreachable!() };
//! let Progress::Asks("second", script) = script.resume(40) else { unreachable!() };
//! let Progress::Done(42) = script.resume(2) else { unreachable!() };
//! ```
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod time;

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::Cell;
use core::fmt;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

pub use time::Instant;

/// Where a script leaves its question and finds its answer. One of each at most.
struct Slot<Q, A> {
    question: Cell<Option<Q>>,
    answer: Cell<Option<A>>,
}

/// The script's own end: the only thing a script may `await` on.
pub struct Asker<Q, A>(Rc<Slot<Q, A>>);

impl<Q, A> Clone for Asker<Q, A> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<Q, A> fmt::Debug for Asker<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asker")
    }
}

impl<Q, A> Asker<Q, A> {
    /// Hands `question` to the driver of this script and waits for its answer.
    pub async fn ask(&self, question: Q) -> A {
        self.0.question.set(Some(question));
        poll_fn(|_| match self.0.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        })
        .await
    }
}

/// A procedure that waits for the answer to its last question.
#[must_use = "a script goes on only when it is resumed"]
pub struct Script<Q, A, T> {
    slot: Rc<Slot<Q, A>>,
    future: Pin<Box<dyn Future<Output = T>>>,
}

/// How far a script has come.
#[must_use = "it holds the script or its result"]
#[derive(Debug)]
pub enum Progress<Q, A, T> {
    /// It asks, and goes on with [`Script::resume`].
    Asks(Q, Script<Q, A, T>),
    /// It has ended.
    Done(T),
}

impl<Q, A, T> Script<Q, A, T> {
    /// Runs `procedure` up to its first question.
    pub fn start<F, Fut>(procedure: F) -> Progress<Q, A, T>
    where
        F: FnOnce(Asker<Q, A>) -> Fut,
        Fut: Future<Output = T> + 'static,
    {
        let slot = Rc::new(Slot { question: Cell::new(None), answer: Cell::new(None) });
        let future = Box::pin(procedure(Asker(Rc::clone(&slot))));
        Self { slot, future }.run()
    }

    /// Answers the last question and runs to the next one.
    pub fn resume(self, answer: A) -> Progress<Q, A, T> {
        self.slot.answer.set(Some(answer));
        self.run()
    }

    #[expect(
        clippy::panic,
        reason = "a script that awaits anything but its asker is a bug in our own code, \
                  and no peer's value can lead here"
    )]
    fn run(mut self) -> Progress<Q, A, T> {
        match self.future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Progress::Done(result),
            Poll::Pending => match self.slot.question.take() {
                Some(question) => Progress::Asks(question, self),
                None => panic!("a script awaited something that is not its asker"),
            },
        }
    }
}

impl<Q, A, T> fmt::Debug for Script<Q, A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

#[cfg(test)]
mod tests {
    use super::{Asker, Progress, Script};

    #[test]
    fn a_script_without_questions_is_done_at_once() {
        let progress: Progress<(), (), u8> = Script::start(|_| async { 7 });
        assert!(matches!(progress, Progress::Done(7)));
    }

    #[test]
    fn questions_come_one_by_one_and_answers_reach_their_question() {
        async fn ladder(asker: Asker<u32, u32>) -> u32 {
            let mut sum = 0;
            for rung in 0..3 {
                sum += asker.ask(rung).await;
            }
            sum
        }
        let mut progress = Script::start(ladder);
        let mut asked = Vec::new();
        let result = loop {
            match progress {
                Progress::Asks(rung, script) => {
                    asked.push(rung);
                    progress = script.resume(rung * 10);
                }
                Progress::Done(sum) => break sum,
            }
        };
        assert_eq!(asked, [0, 1, 2]);
        assert_eq!(result, 30);
    }
}

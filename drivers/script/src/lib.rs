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

mod pace;
mod time;

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::Cell;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

pub use pace::Pace;
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
    /// Hands `question` to the driver of this script; the result waits for its answer.
    pub fn ask(&self, question: Q) -> Waiting<'_, Q, A> {
        self.0.question.set(Some(question));
        Waiting(&self.0)
    }

    /// What [`Asker::ask`] gives, for a question that need not be asked: this is the answer.
    pub fn answered(&self, answer: A) -> Waiting<'_, Q, A> {
        self.0.answer.set(Some(answer));
        Waiting(&self.0)
    }
}

/// Waits for the answer to the last question.
///
/// A type of its own, and no `async fn`, so that the many places that ask need no state
/// machine for it.
#[must_use = "the answer comes only to who awaits it"]
pub struct Waiting<'a, Q, A>(&'a Slot<Q, A>);

impl<'a, Q, A> Waiting<'a, Q, A> {
    /// Waits for what `read` makes of the answer.
    pub const fn map<T>(self, read: fn(A) -> T) -> Mapped<'a, Q, A, T> {
        Mapped { waiting: self, read }
    }
}

impl<Q, A> Future for Waiting<'_, Q, A> {
    type Output = A;

    // Called at every step of every procedure: its copies would add up.
    #[inline(never)]
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<A> {
        self.0.answer.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<Q, A> fmt::Debug for Waiting<'_, Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

/// Waits for what is made of the answer to the last question.
#[derive(Debug)]
#[must_use = "the answer comes only to who awaits it"]
pub struct Mapped<'a, Q, A, T> {
    waiting: Waiting<'a, Q, A>,
    read: fn(A) -> T,
}

impl<Q, A, T> Future for Mapped<'_, Q, A, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let read = self.read;
        Pin::new(&mut self.waiting).poll(context).map(read)
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

    #[test]
    fn a_question_that_need_not_be_asked_reaches_no_driver_and_answers_can_be_mapped() {
        async fn double(asker: Asker<&'static str, u32>) -> String {
            let known = asker.answered(20).map(|answer| 2 * answer).await;
            let asked = asker.ask("more").map(|answer| answer.to_string()).await;
            format!("{known} {asked}")
        }
        let Progress::Asks("more", script) = Script::start(double) else {
            panic!("the first question is the only one");
        };
        assert!(matches!(script.resume(7), Progress::Done(text) if text == "40 7"));
    }
}

//! How procedures ask for hardware accesses and leases, and share a function with the
//! server that runs them.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use pcidom_loan::LeaseAsk;
use pcidom_pci::{Access, AccessError, Answer, Sbdf};
use pcidom_script::Asker;
use pcidom_xenbus::Pirq;

use crate::interrupt::LeaseError;
use crate::policy::VirtualFunction;

/// What a procedure needs to know from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Config(Sbdf, Access),
    Lease(Sbdf, LeaseAsk),
}

/// The answer; of the question's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Config(Answer),
    Lease(Result<Vec<Pirq>, LeaseError>),
}

/// A function that the server and a running procedure both have.
#[derive(Clone, Debug)]
pub(crate) struct SharedFunction(Rc<RefCell<VirtualFunction>>);

impl SharedFunction {
    pub(crate) fn new(function: VirtualFunction) -> Self {
        Self(Rc::new(RefCell::new(function)))
    }

    /// Gives it to `visit`, which must not come back here. Everything runs on one CPU and
    /// no borrow lives across a question, so the cell is free whenever this is called.
    pub(crate) fn with<T>(&self, visit: impl FnOnce(&mut VirtualFunction) -> T) -> T {
        visit(&mut self.0.borrow_mut())
    }

    pub(crate) fn sbdf(&self) -> Sbdf {
        self.with(|function| function.sbdf())
    }
}

/// Whether somebody still waits for a procedure's result.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller(Rc<Cell<bool>>);

impl Caller {
    /// Nobody does any more: what it turns on must be turned off again.
    pub(crate) fn leave(&self) {
        self.0.set(true);
    }

    pub(crate) fn has_left(&self) -> bool {
        self.0.get()
    }
}

/// What a procedure works with: its function, and somebody to ask.
#[derive(Clone, Debug)]
pub(crate) struct Hands {
    pub(crate) asker: Asker<Question, Reply>,
    pub(crate) function: SharedFunction,
    pub(crate) caller: Caller,
}

impl Hands {
    /// One config space access. After the loan's end nothing is asked any more, so that
    /// nothing gets in the way of the reset, or of the next loan.
    pub(crate) async fn access(&self, access: Access) -> Answer {
        let (sbdf, ended) = self.function.with(|f| (f.sbdf(), f.ended));
        if ended {
            return Err(AccessError::NoDevice);
        }
        let answer = match self.asker.ask(Question::Config(sbdf, access)).await {
            Reply::Config(answer) => answer,
            Reply::Lease(_) => Err(AccessError::LinkDown),
        };
        self.function.with(|f| f.wrote(access, answer.is_ok()));
        answer
    }

    /// One lease question.
    pub(crate) async fn lease(&self, ask: LeaseAsk) -> Result<Vec<Pirq>, LeaseError> {
        let (sbdf, ended) = self.function.with(|f| (f.sbdf(), f.ended));
        if ended {
            return Err(LeaseError::Unavailable);
        }
        match self.asker.ask(Question::Lease(sbdf, ask)).await {
            Reply::Lease(answer) => answer,
            Reply::Config(_) => Err(LeaseError::Unavailable),
        }
    }
}

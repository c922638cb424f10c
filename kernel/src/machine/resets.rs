//! Which way a device is reset, and which rules forbid it.
//!
//! ```text
//!   order -> its own methods --no effect--> methods of the port --no effect--> quiet
//!              | none                          | none, or a rule forbids it     | clean or lax:
//!              +-> methods of the port         +-> quiet                        v ready
//!                                                                             failed
//! ```
//! Each step waits until nobody holds what it works on ([`Tasks`](super::tasks)), and its rules
//! are looked at in its turn, before anything is touched. The daemon vouches for what pcidom
//! can't see: that nothing below the port belongs to others.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Display, Write};

use pcidom_loan::{LoanId, LoanOrder, Phase};
use pcidom_pci::Sbdf;
use pcidom_pci::function::Function;
use pcidom_pci::reset::{Method, Plan, ResetError, Useless};
use pcidom_xenbus::DomId;

use super::Machine;
use super::report::device_text;
use super::tasks::{Reset, Work};
use crate::platform::Platform;

/// One order to reset: what was ordered later has another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    loan: LoanId,
    number: u32,
}

/// How far an order to reset has come.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    number: u32,
    step: Step,
    useless: Vec<Useless>,
    /// The device does not answer: only the port may bring it back.
    silent: bool,
    /// Why there is no reset by the port.
    forbidden: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Own,
    Port,
    Quiet,
}

/// Functions of a reset that its text names; the others are counted. A message has room for
/// some 50.
const MAX_NAMED: usize = 8;

/// The functions that were reset.
struct Scope<'a>(&'a Plan);

impl Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(port) = &self.0.port {
            write!(f, " at {}", port.sbdf)?;
        }
        let functions = &self.0.functions;
        for (n, function) in functions.iter().take(MAX_NAMED).enumerate() {
            f.write_str(if n == 0 { " of " } else { " and " })?;
            Display::fmt(&function.sbdf, f)?;
        }
        match functions.len().saturating_sub(MAX_NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Adds what was tried in vain.
fn add_useless(text: &mut String, useless: &[Useless]) {
    for (n, useless) in useless.iter().enumerate() {
        let _ = write!(text, "{}{useless}", if n == 0 { ", after " } else { " and " });
    }
}

/// A device of the pool that is scanned.
fn scanned<P: Platform>(machine: &Machine<P>, device: Sbdf) -> Result<&Function, String> {
    let Some(known) = machine.pool.get(&device) else {
        return Err(format!(
            "{device} is not in the pool: add it to pci= of this pcidom"
        ));
    };
    known.function.as_ref().ok_or_else(|| device_text(device, known, false))
}

impl<P: Platform> Machine<P> {
    /// Begins what the loan's order says.
    pub(super) fn begin_reset(&mut self, id: LoanId, platform: &mut P) {
        self.tickets = self.tickets.wrapping_add(1);
        let Some(loan) = self.loans.get_mut(&id) else { return };
        loan.attempt = Attempt { number: self.tickets, ..Attempt::default() };
        self.next_step(id, platform);
    }

    /// Does the step that the loan's reset has come to, in its turn; steps that have no
    /// methods are left out.
    fn next_step(&mut self, id: LoanId, platform: &mut P) {
        let Some(loan) = self.loans.get_mut(&id) else { return };
        let order = loan.order;
        let (device, port) = (order.device, order.reset.port);
        if loan.attempt.step == Step::Own
            && scanned(self, device).is_ok_and(|f| methods(&order, f).is_empty())
        {
            return self.go_to(id, Step::Port, platform);
        }
        let Some(loan) = self.loans.get_mut(&id) else { return };
        if loan.attempt.step == Step::Port {
            let wanted = order.reset.method.is_none_or(Method::is_of_port);
            if wanted && port.is_none() {
                loan.attempt.forbidden = "no port above it was named".into();
            }
            if !wanted || port.is_none() {
                return self.go_to(id, Step::Quiet, platform);
            }
        }
        let Some(loan) = self.loans.get(&id) else { return };
        if loan.attempt.step == Step::Quiet && !self.may_be_quiet(id) {
            let reason = no_reset(&order, &loan.attempt);
            return self.report(id, Err(reason), platform);
        }
        let Some(loan) = self.loans.get(&id) else { return };
        let ticket = Ticket { loan: id, number: loan.attempt.number };
        let mut others = Vec::new();
        if loan.attempt.step == Step::Port
            && let Some(port) = port
        {
            others = self.below(port, device);
            others.push(port);
        }
        let work = Work::Reset(ticket);
        let steps = self.tasks.start(device, others, work, platform.now());
        self.task_steps(steps, platform);
    }

    fn go_to(&mut self, id: LoanId, step: Step, platform: &mut P) {
        if let Some(loan) = self.loans.get_mut(&id) {
            loan.attempt.step = step;
        }
        self.next_step(id, platform);
    }

    /// The other devices of the pool below a port that is scanned.
    fn below(&self, port: Sbdf, device: Sbdf) -> Vec<Sbdf> {
        let mut below = Vec::new();
        if let Some(known) = self.pool.get(&port)
            && let Some(port) = &known.function
        {
            for other in self.pool.keys() {
                if *other != device && port.is_above(*other) {
                    below.push(*other);
                }
            }
        }
        below
    }

    /// Whether being quiet is enough, or must be since the device comes back.
    fn may_be_quiet(&self, id: LoanId) -> bool {
        let Some(loan) = self.loans.get(&id) else { return false };
        match loan.order.phase {
            Phase::Prepare => {
                loan.order.reset.lax || self.cleanliness(&loan.order).is_some()
            }
            Phase::Ending => true,
            Phase::Lent | Phase::Reset => false,
        }
    }

    /// What stands for the reset of a device that was reset with others, and not lent since.
    fn cleanliness(&self, order: &LoanOrder) -> Option<String> {
        let known = self.pool.get(&order.device)?;
        let (method, with) = known.clean.filter(|_| order.reset.method.is_none())?;
        Some(match with == order.device {
            true => format!("{method}, before"),
            false => format!("{method}, with {with}"),
        })
    }

    /// It is the turn of this reset.
    pub(super) fn reset_turn(&mut self, device: Sbdf, ticket: Ticket, platform: &mut P) {
        let now = platform.now();
        if !self.tasks.holds(device, device) {
            return;
        }
        let id = ticket.loan;
        let loan = self.loans.get(&id);
        let loan = loan.filter(|loan| loan.attempt.number == ticket.number);
        let steps = match loan.map(|loan| (self.plan(id, loan.order), loan.attempt.step))
        {
            Some((Ok(plan), _)) => self.tasks.begin(device, ticket, plan, now),
            Some((Err(reason), step)) => {
                let steps = self.tasks.give_up(device, now);
                if let Some(loan) = self.loans.get_mut(&id)
                    && step == Step::Port
                {
                    loan.attempt.forbidden = reason;
                    self.go_to(id, Step::Quiet, platform);
                } else {
                    self.report(id, Err(reason), platform);
                }
                steps
            }
            // Nobody wants it any more.
            None => self.tasks.give_up(device, now),
        };
        self.task_steps(steps, platform);
    }

    /// What the step is to do, or the rule that forbids it.
    fn plan(&self, id: LoanId, order: LoanOrder) -> Result<Plan, String> {
        let step = self.loans.get(&id).map(|loan| loan.attempt.step).unwrap_or_default();
        let device = scanned(self, order.device)?;
        self.check_unused(id, device.sbdf)?;
        let alone = |methods| Plan {
            methods,
            functions: [self.for_reset(device)].into(),
            port: None,
        };
        match (step, order.reset.port) {
            (Step::Own, _) => Ok(alone(methods(&order, device))),
            (Step::Port, Some(port)) => self.port_plan(id, device, port),
            (Step::Port | Step::Quiet, _) => Ok(alone(Vec::new())),
        }
    }

    /// The function as a reset has to leave it.
    fn for_reset(&self, function: &Function) -> Function {
        let device = function.sbdf;
        let without_line = |loan: &super::Loan| {
            (loan.order.device, loan.order.phase) == (device, Phase::Lent)
                && !loan.order.line
        };
        let line_off = self.loans.values().any(without_line);
        Function { line_off, ..function.clone() }
    }

    fn port_plan(
        &self,
        id: LoanId,
        device: &Function,
        port: Sbdf,
    ) -> Result<Plan, String> {
        let port = scanned(self, port)?;
        let order = self.loans.get(&id).map(|loan| loan.order).ok_or("no loan")?;
        let right_below = |bus| device.sbdf.bus() == bus && port.is_above(device.sbdf);
        match port.buses {
            None => return Err(format!("{} is no port", port.sbdf)),
            Some(buses) if !right_below(buses.secondary) => {
                let (port, bus) = (port.sbdf, buses.secondary);
                return Err(format!(
                    "port {port} leads to bus {bus:02x}, where {} is not",
                    device.sbdf
                ));
            }
            Some(_) => {}
        }
        let methods = methods(&order, port);
        if methods.is_empty() {
            return Err(format!("port {} has no hot-plug slot", port.sbdf));
        }
        let below = self.below(port.sbdf, device.sbdf);
        let (known, told) = (below.len().saturating_add(1), order.reset.below);
        if known != usize::from(told) {
            // It may be somebody else's by now, or dom0 is about to give it to us.
            return Err(format!(
                "{known} functions below port {} are known here, and {told} to the daemon: \
                 one has just come or gone, try it again",
                port.sbdf
            ));
        }
        let mut functions: Vec<Function> = [self.for_reset(device)].into();
        for below in below {
            let function = scanned(self, below)?;
            if function.is_bridge() {
                return Err(format!(
                    "{below} below port {} is a bridge, and would lose its buses",
                    port.sbdf
                ));
            }
            self.check_unused(id, below)?;
            if !self.tasks.holds(device.sbdf, below) {
                return Err(format!("{below} has just come: try it again"));
            }
            functions.push(self.for_reset(function));
        }
        if !self.tasks.holds(device.sbdf, port.sbdf) {
            return Err(format!("port {} has just come: try it again", port.sbdf));
        }
        Ok(Plan { methods, functions, port: Some(port.clone()) })
    }

    /// Nobody has borrowed the device but for whom the reset is, or a person has said that it
    /// is to be reset all the same.
    fn check_unused(&self, id: LoanId, device: Sbdf) -> Result<(), String> {
        let Some(order) = self.loans.get(&id).map(|loan| loan.order) else {
            return Err(String::new());
        };
        let others = self.loans.iter().filter(|(other, loan)| {
            **other != id && loan.order.device == device && loan.is_lent()
        });
        let allowed = |guest| order.phase == Phase::Reset && guest == DomId(order.guest);
        let mut users = others.map(|(_, loan)| loan.guest());
        match users.find(|guest| !order.reset.force && !allowed(*guest)) {
            Some(guest) => Err(format!(
                "{device} is lent to domain {guest}: detach it there first, or force it"
            )),
            None => Ok(()),
        }
    }

    /// A step has ended.
    pub(super) fn reset_ended(&mut self, reset: Reset, platform: &mut P) {
        let Reset { ticket, plan, since, result } = reset;
        let id = ticket.loan;
        let method = result.as_ref().map(|done| done.method);
        self.tidy_up(id, &plan, method.map_err(drop), platform);
        let loan = self.loans.get_mut(&id);
        let Some(loan) = loan.filter(|loan| loan.attempt.number == ticket.number) else {
            return;
        };
        let order = loan.order;
        let attempt = &mut loan.attempt;
        let (step, ok) = (attempt.step, result.is_ok());
        let mut text = match result {
            Err(failed)
                if step == Step::Own
                    && matches!(failed.error, ResetError::Silent { .. }) =>
            {
                // Nothing was done to it.
                attempt.silent = true;
                None
            }
            Ok(done) => {
                attempt.useless.extend_from_slice(&done.useless);
                // Not `as_millis`: printing a u128 takes a KiB of code.
                let time = platform.now().since(since);
                let time = time.as_secs() * 1000 + u64::from(time.subsec_millis());
                let scope = Scope(&plan);
                let proof = if done.proven { "" } else { ", not proven" };
                done.method.map(|by| format!("{by}{scope}, {time} ms{proof}"))
            }
            Err(failed) => {
                attempt.useless.extend_from_slice(&failed.useless);
                let own = failed.at == order.device;
                Some(if own { failed.error.to_string() } else { failed.to_string() })
            }
        };
        match (&text, step) {
            (None, Step::Own) => return self.go_to(id, Step::Port, platform),
            (None, Step::Port) => return self.go_to(id, Step::Quiet, platform),
            _ => {}
        }
        let attempt = core::mem::take(attempt);
        if text.is_none() && order.phase == Phase::Prepare {
            // What was clean when its turn was waited for need not be so any more.
            let lax = || order.reset.lax.then(|| "no reset, made quiet only".into());
            text = self.cleanliness(&order).or_else(lax);
        }
        let result = match text {
            Some(mut text) => {
                add_useless(&mut text, &attempt.useless);
                if ok { Ok(text) } else { Err(text) }
            }
            None => Err(no_reset(&order, &attempt)),
        };
        self.report(id, result, platform);
    }

    /// What the functions of a reset are after it, whatever it was for.
    fn tidy_up(
        &mut self,
        id: LoanId,
        plan: &Plan,
        method: Result<Option<Method>, ()>,
        platform: &mut P,
    ) {
        let reset_for = plan.functions.first().map(|function| function.sbdf);
        for function in &plan.functions {
            let device = function.sbdf;
            if let Some(known) = self.pool.get_mut(&device) {
                match (method, reset_for, &plan.port) {
                    (Err(()), ..) => known.clean = None,
                    (Ok(Some(by)), Some(with), Some(_)) => known.clean = Some((by, with)),
                    _ => {}
                }
            }
            let lent = |loan: &&super::Loan| {
                (loan.order.device, loan.order.phase) == (device, Phase::Lent)
            };
            let guest = self.loans.values().find(lent).map(super::Loan::guest);
            if let Some(guest) = guest.filter(|_| !plan.methods.is_empty()) {
                self.serve(guest, platform, |server, _, _, _| server.was_reset(device));
                // It is in use: what is clean now is not so later.
                self.not_clean(device);
            }
            // A guest may have used it while the reset worked on the others.
            let comes_back = |(other, loan): (&LoanId, &super::Loan)| {
                *other != id
                    && (loan.order.device, loan.order.phase) == (device, Phase::Ending)
            };
            if self.loans.iter().any(comes_back) {
                self.not_clean(device);
            }
        }
        let port = plan.port.iter().map(|port| port.sbdf);
        for device in plan.functions.iter().map(|function| function.sbdf).chain(port) {
            self.device_is_unused(device, platform);
        }
    }

    /// The device is lent, or was.
    pub(super) fn not_clean(&mut self, device: Sbdf) {
        if let Some(known) = self.pool.get_mut(&device) {
            known.clean = None;
        }
    }
}

/// The methods that `function`, the device or its port, has and the order allows.
fn methods(order: &LoanOrder, function: &Function) -> Vec<Method> {
    let asked = order.reset.method;
    let mut methods = Vec::new();
    for method in Method::ALL {
        if method.is_of_port() == function.is_bridge()
            && asked.is_none_or(|asked| asked == method)
            && method.is_in(function)
        {
            methods.push(method);
        }
    }
    methods
}

/// Why nothing resets the device, and what to do.
fn no_reset(order: &LoanOrder, attempt: &Attempt) -> String {
    let Attempt { useless, silent, forbidden, .. } = attempt;
    let mut text = String::from("no reset works");
    let mut add = |reason: &dyn Display| {
        let between = if text.len() == "no reset works".len() { ':' } else { ';' };
        let _ = write!(text, "{between} {reason}");
    };
    let mut own = *silent;
    if own {
        add(&format_args!("{} does not answer", order.device));
    }
    for useless in useless {
        own |= !useless.method.is_of_port();
        add(useless);
    }
    match order.reset.method {
        Some(method) if !own && useless.is_empty() && !method.is_of_port() => {
            add(&format_args!("{} has no {method}", order.device));
        }
        None if !own => add(&"the device can't reset itself"),
        _ => {}
    }
    if !forbidden.is_empty() {
        add(&format_args!("no slot or bus reset: {forbidden}"));
    }
    text
}

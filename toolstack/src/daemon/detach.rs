//! Taking a device back: the guest's driver is asked first, unless that is not wanted.

use pcidom_loan::LoanId;
use pcidom_pci::Sbdf;
use pcidom_xenbus::XenbusState;

use super::attach::find_domain;
use super::link::{self, Standing};
use super::loan::{DETACH_DEADLINE, Waiter, state};
use super::{Client, Daemon, Env, Failure, Stage, paths};
use crate::verb::Reply;

impl Daemon {
    /// Begins the end of a loan. The reply comes when it is over.
    pub(super) fn detach(
        &mut self,
        env: &mut Env<'_>,
        client: Client,
        (guest, device, force, pcidom): (&str, Sbdf, bool, Option<&str>),
    ) -> Result<(), Failure> {
        let pcidom = self.find_pcidom(pcidom)?;
        let (domain, name) = find_domain(env, guest)?;
        let not_lent = || {
            Failure::Refused(format!("{device} is not lent to {name}: pcidomctl list"))
        };
        let (id, stage) = self.loan_of(device).ok_or_else(not_lent)?;
        let loan = self.loans.get_mut(&id).ok_or_else(not_lent)?;
        if loan.record.pcidom() != pcidom {
            return Err(not_lent());
        }
        if loan.record.guest() != domain {
            if loan.record.owner() != domain {
                return Err(not_lent());
            }
            let stub = &loan.record.guest_name;
            return Err(Failure::Refused(format!(
                "{device} is {name}'s by way of its stub domain {stub}, which has it on its \
                 link: pcidomctl detach {stub} {device}"
            )));
        }
        let waits = loan.waiter.is_some();
        match stage {
            Stage::Lent if force || !waits => {}
            // An attach may wait for its guest for as long as its `--wait` says.
            Stage::Preparing | Stage::Detaching if force => {}
            Stage::Ending if !waits => {
                loan.waiter = Some(Waiter::Detach(client));
                return Ok(());
            }
            _ => {
                let or_force =
                    if force || stage == Stage::Ending { "" } else { ", or use -f" };
                return Err(Failure::Refused(format!(
                    "{device} is {stage} just now: wait for that{or_force}"
                )));
            }
        }
        if force {
            log::info!("{}: taken back by force", loan.title(id));
            let text = "it was taken back by force meanwhile".to_owned();
            self.tell_waiter(id, Reply::Failed { text });
            self.set_waiter(id, client);
            return self.end(env, id, None).map(|()| self.advance(env, id));
        }
        let record = loan.record.clone();
        match self.standing(env, &record)? {
            Standing::Busy => Err(Failure::Refused(format!(
                "{name}'s PCI link is busy with another change: try again, or use -f"
            ))),
            Standing::Quiet => {
                self.set_waiter(id, client);
                // It may be on its way: if it comes, it is told.
                self.end(env, id, None)?;
                self.advance(env, id);
                Ok(())
            }
            Standing::Connected => {
                self.ask_guest(env, id)?;
                self.set_waiter(id, client);
                self.advance(env, id);
                Ok(())
            }
        }
    }

    fn set_waiter(&mut self, id: LoanId, client: Client) {
        if let Some(loan) = self.loans.get_mut(&id) {
            loan.waiter = Some(Waiter::Detach(client));
        }
    }

    pub(super) fn ask_guest(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<(), Failure> {
        let Some(loan) = self.loans.get_mut(&id) else { return Ok(()) };
        let mut record = loan.record.clone();
        record.stage = Stage::Detaching;
        env.store.transaction(&mut |nodes| {
            if let Some(entry) = record.entry {
                link::ask_to_remove(nodes, &record, entry)?;
            }
            record.save(nodes, id)
        })?;
        log::info!("{}: its driver is asked to let go", loan.title(id));
        loan.record = record;
        loan.deadline = Some(env.now.after(DETACH_DEADLINE));
        Ok(())
    }

    /// The guest's driver lets go, or doesn't.
    pub(super) fn step_detaching(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<(), Failure> {
        if let Some(lost) = self.lost(env, id)? {
            // What was asked for comes about, if in another way.
            log::info!("loan {id}: {}", lost.text());
            return self.end(env, id, None);
        }
        let Some(loan) = self.loans.get_mut(&id) else { return Ok(()) };
        let mut record = loan.record.clone();
        let back = paths::back(record.pcidom(), record.guest());
        match state(env.store, &back)? {
            // We wrote 7, so whatever else stands there came after it.
            XenbusState::Reconfiguring | XenbusState::Reconfigured => {}
            _ => return self.end_told(env, id),
        }
        if self.must_end(env, id) {
            return Ok(());
        }
        let Some(loan) = self.loans.get_mut(&id) else { return Ok(()) };
        if !loan.is_due(env.now) {
            return Ok(());
        }
        if loan.patience.is_some() {
            return self.end(env, id, None);
        }
        let mut answered = false;
        env.store.transaction(&mut |nodes| {
            answered = link::has_answered(nodes, &record)?;
            if answered {
                return Ok(());
            }
            record.stage = Stage::Lent;
            if let Some(entry) = record.entry {
                link::ask_no_more(nodes, &record, entry)?;
            }
            record.save(nodes, id)
        })?;
        if answered {
            return self.end_told(env, id);
        }
        let Some(loan) = self.loans.get_mut(&id) else { return Ok(()) };
        let text = format!(
            "{} did not let {} go in {} s: stop what uses it there, or use -f",
            record.guest_name,
            record.device.0,
            DETACH_DEADLINE.as_secs()
        );
        log::warn!("{}: {text}", loan.title(id));
        loan.record = record;
        loan.deadline = None;
        self.tell_waiter(id, Reply::Failed { text });
        Ok(())
    }
}

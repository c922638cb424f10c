//! The end of a loan, whatever brought it about: all leases and rights first, then pcidom,
//! then the directories. Every step may find its work done already.

use pcidom_loan::{LoanId, Outcome, Phase};
use pcidom_xenbus::XenbusState;

use super::leases::Leases;
use super::loan::{LINK_PAUSE, Loan, Lost, RESET_DEADLINE, TELL_DEADLINE, Waiter};
use super::rights::{self, Taking};
use super::{Daemon, Env, Failure, Record, Stage, link, paths};
use crate::verb::Reply;

impl Daemon {
    /// Ends a loan of which the guest does not know yet. `failure` is what an attach
    /// that waits for it is told once all is undone.
    pub(super) fn end(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
        failure: Option<String>,
    ) -> Result<(), Failure> {
        if let (Some(loan), Some(reason)) = (self.loans.get_mut(&id), failure) {
            log::info!("{}: ends: {reason}", loan.title(id));
            loan.failure.get_or_insert(reason);
        }
        self.end_with(env, id, false)
    }

    /// Ends a loan whose guest has let go.
    pub(super) fn end_told(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<(), Failure> {
        self.end_with(env, id, true)
    }

    fn end_with(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
        told: bool,
    ) -> Result<(), Failure> {
        let Some(loan) = self.loans.get_mut(&id) else { return Ok(()) };
        loan.record.stage = Stage::Ending;
        loan.patience = None;
        loan.deadline = Some(env.now.after(RESET_DEADLINE));
        // If XenStore does not take it, the rights go all the same: that matters more.
        let saved = loan.record.save(env.store, id);
        self.take_back(env, id);
        // After the rights: they matter more. From here on Xen would give the device away.
        let locked = self.keep_lock(env, id);
        let Some(loan) = self.loans.get(&id) else { return Ok(()) };
        let record = loan.record.clone();
        let port = self.port_for(env, record.pcidom(), record.device.0);
        let terms = self.terms(port, record.lax);
        if let Some(loan) = self.loans.get_mut(&id) {
            (loan.reach, loan.no_port) = (terms.reach, terms.no_port);
        }
        env.store.transaction(&mut |nodes| {
            if record.pcidom_is_home(nodes)? {
                record.order(nodes, id, Phase::Ending, terms.order)?;
            }
            record.save(nodes, id)
        })?;
        if let Some(loan) = self.loans.get_mut(&id) {
            loan.tell_guest_at = (!told).then(|| env.now.after(TELL_DEADLINE));
        }
        locked?;
        Ok(saved?)
    }

    /// Tells the guest of a loss once pcidom serves the device no more, or is gone, or does
    /// not say so in time. Not before: a driver that is told first asks whether its device is
    /// there, is answered yes, and then waits for I/O that never ends.
    fn tell_of_loss(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
        pcidom_let_go: bool,
    ) -> Result<(), Failure> {
        let Some(loan) = self.loans.get(&id) else { return Ok(()) };
        let Some(due) = loan.tell_guest_at else { return Ok(()) };
        if !pcidom_let_go && due > env.now {
            return Ok(());
        }
        let record = loan.record.clone();
        let (count, awaited) = (self.entries(&record), self.is_awaited(&record));
        let mut last = count <= 1;
        env.store.transaction(&mut |nodes| {
            if let Some(entry) = record.entry
                && record.guest_is_home(nodes)?
            {
                last = count <= 1 && !(awaited && link::is_connected(nodes, &record)?);
                link::tell_of_loss(nodes, &record, entry, last)?;
            }
            Ok(())
        })?;
        if let Some(loan) = self.loans.get_mut(&id) {
            (loan.tell_guest_at, loan.link_goes) = (None, last);
            loan.told_early = !pcidom_let_go && !last;
        }
        Ok(())
    }

    /// Takes leases and rights from the guest. On a guest that is being destroyed this is
    /// the order in which Xen's own teardown finds nothing to trip over.
    fn take_back(&mut self, env: &mut Env<'_>, id: LoanId) {
        let Some(loan) = self.loans.get(&id) else { return };
        let record = loan.record.clone();
        let (facts, title) = (loan.facts.clone(), loan.title(id));
        let mut is_another = |domain, vm: &str| {
            let now = env.store.read(&paths::vm(domain));
            now.is_ok_and(|now| now.is_some_and(|now| now != vm))
        };
        let other_owner = is_another(record.owner(), record.owner_is().1);
        let other_guest = is_another(record.guest(), &record.guest_vm);
        let stub = record.owner.is_some() && !other_guest;
        if other_owner {
            log::warn!("{title}: another domain has that number now, nothing to take");
            self.set_leases(id, Leases::default());
            if stub {
                self.take_from_stub(env, id);
            }
            return;
        }
        let info = env.xen.domain(record.owner()).ok().flatten();
        let home = record.owner_is_home(env.store).unwrap_or(false);
        let dying = info.is_none_or(|info| info.dying) || !home;
        if self.loans.get(&id).is_some_and(|loan| loan.leases.is_intent()) {
            self.unmap_unrecorded(env, id);
        }
        // Without its IOMMU context every access of a busy device would be a fault.
        if let Err(error) = env.host.stop_dma(record.device.0) {
            log::warn!("{title}: {error}");
        }
        self.end_leases(env, id);
        if stub && !dying {
            self.take_from_stub(env, id);
        }
        let owner = record.owner();
        let keep_gsi = self.is_line_used(id, |other| other.owner() == owner);
        let how = Taking { dying, keep_gsi };
        let taken = rights::take(env, owner, record.device.0, facts.as_ref(), how);
        for failure in taken.failures {
            log::error!("{title}: taking it back: {failure}");
        }
        // After a dying owner: there the device itself can't wait.
        if stub && dying {
            self.take_from_stub(env, id);
        }
    }

    /// Takes from the stub domain what it had in order to serve the owner.
    fn take_from_stub(&self, env: &mut Env<'_>, id: LoanId) {
        let Some(loan) = self.loans.get(&id) else { return };
        let Some(facts) = &loan.facts else { return };
        let stub = loan.record.guest();
        let keep_gsi = self.is_line_used(id, |other| other.both().contains(&stub));
        for failure in rights::take_from_stub(env.xen, stub, facts, keep_gsi) {
            log::error!("{}: taking it from {stub}: {failure}", loan.title(id));
        }
    }

    /// Whether another loan uses the same line, one that is `also` of that domain.
    fn is_line_used(&self, id: LoanId, also: impl Fn(&Record) -> bool) -> bool {
        let gsi_of = |loan: &Loan| loan.facts.as_ref().and_then(|facts| facts.gsi);
        let gsi = self.loans.get(&id).and_then(gsi_of);
        self.loans.iter().any(|(other, loan)| {
            *other != id
                && also(&loan.record)
                && loan.record.line
                && matches!(
                    loan.record.stage,
                    Stage::Lending | Stage::Lent | Stage::Detaching
                )
                && gsi_of(loan) == gsi
        })
    }

    pub(super) fn set_leases(&mut self, id: LoanId, leases: Leases) {
        if let Some(loan) = self.loans.get_mut(&id) {
            loan.record.leases = leases.note();
            loan.leases = leases;
        }
    }

    pub(super) fn end_leases(&mut self, env: &mut Env<'_>, id: LoanId) {
        self.end_leases_saying(env, id, true);
    }

    pub(super) fn end_leases_saying(&mut self, env: &mut Env<'_>, id: LoanId, say: bool) {
        let Some(loan) = self.loans.get_mut(&id) else { return };
        let (owner, title) = (loan.record.owner(), say.then(|| loan.title(id)));
        std::mem::take(&mut loan.leases).end(env, owner, title.as_deref());
        loan.record.leases = loan.leases.note();
    }

    /// pcidom takes the device back; without it the daemon finishes alone: the next loan
    /// begins with a reset anyway.
    pub(super) fn step_ending(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<(), Failure> {
        let alone = self.lost(env, id)? == Some(Lost::Pcidom);
        let Some(loan) = self.loans.get(&id) else { return Ok(()) };
        // What it said when the loan began still stands there.
        let ready = |outcome: &Outcome| matches!(outcome, Outcome::Ready(_));
        let outcome = loan.report(env, id)?.filter(|outcome| !ready(outcome));
        let let_go = alone || outcome.is_some();
        if let Some(loan) = self.loans.get_mut(&id).filter(|l| l.told_early && let_go) {
            // Once more, now that pcidom writes nothing any more.
            (loan.told_early, loan.tell_guest_at) = (false, Some(env.now));
        }
        let late = self.loans.get(&id).is_some_and(|loan| loan.is_due(env.now));
        if alone || late || !self.is_guest_changing(env, id)? {
            self.tell_of_loss(env, id, let_go)?;
            if let_go && self.is_guest_closing(env, id)? {
                return Ok(());
            }
        } else {
            return Ok(());
        }
        let Some(loan) = self.loans.get(&id) else { return Ok(()) };
        match outcome {
            _ if alone => self.finish(env, id, None),
            Some(Outcome::Returned(method)) => {
                log::info!("{}: returned, reset: {method}", loan.title(id));
                self.finish(env, id, None)
            }
            Some(Outcome::Failed(reason)) => {
                log::warn!("{}: returned without a reset: {reason}", loan.title(id));
                self.finish(env, id, Some(reason))
            }
            _ if loan.is_due(env.now) => {
                let late = "pcidom did not answer in time";
                log::warn!("{}: {late}, finishing alone", loan.title(id));
                self.finish(env, id, Some(late.into()))
            }
            _ => Ok(()),
        }
    }

    /// Removes all that is left of a loan.
    pub(super) fn finish(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
        note: Option<String>,
    ) -> Result<(), Failure> {
        let Some(loan) = self.loans.get(&id) else { return Ok(()) };
        let record = loan.record.clone();
        let (pcidom, guest) = (record.pcidom(), record.guest());
        let count = self.entries(&record);
        let moved = self.moved_up(&record);
        let back = format!("{}/state", paths::back(pcidom, guest));
        if record.entry.is_some() && count <= 1 {
            let closing = env.store.read(&back)?;
            if XenbusState::parse(closing.as_deref()) == XenbusState::Closing {
                env.store.write(&back, &XenbusState::Closed.number().to_string())?;
            }
        }
        let awaited = self.is_awaited(&record);
        let mut gone = false;
        env.store.transaction(&mut |nodes| {
            if let Some(entry) = record.entry {
                let keep = count <= 1 && awaited && link::is_connected(nodes, &record)?;
                gone = count <= 1 && !keep;
                link::remove(nodes, &record, entry, (count, keep))?;
                for (sibling, record) in &moved {
                    record.save(nodes, *sibling)?;
                }
            } else if count == 0 && !awaited {
                gone = link::remove_kept(nodes, &record)?;
            }
            nodes.remove(&paths::order(pcidom, id))?;
            nodes.remove(&paths::answer(pcidom, id))?;
            nodes.remove(&paths::record(id))
        })?;
        for (sibling, record) in moved {
            if let Some(loan) = self.loans.get_mut(&sibling) {
                loan.record = record;
            }
        }
        self.release_lock(env, id)?;
        let Some(loan) = self.loans.remove(&id) else { return Ok(()) };
        log::info!("{}: over", loan.title(id));
        match loan.waiter {
            Some(Waiter::Attach(client)) => {
                let text = loan.failure.unwrap_or_else(|| "the loan ended".into());
                self.reply(client, Reply::Failed { text });
            }
            Some(Waiter::Detach(client)) => {
                self.reply(client, Reply::Done { text: String::new() });
            }
            None => {}
        }
        if let Some(entry) =
            self.pcidoms.get_mut(&pcidom).and_then(|p| p.pool.get_mut(&record.device.0))
        {
            entry.note = note;
        }
        if gone {
            self.link_is_gone(env, &record)?;
        }
        self.watch_owner(env, &record, false)?;
        self.forget_if_left(env, pcidom, record.device.0)?;
        self.scan_pool(env, pcidom)?;
        let freed = loan.reach;
        self.look_again(env, pcidom, &freed);
        self.advance_all(env, |loan| {
            loan.record.guest() == guest || freed.contains(&loan.record.device.0)
        });
        Ok(())
    }

    fn link_is_gone(
        &mut self,
        env: &mut Env<'_>,
        record: &Record,
    ) -> Result<(), Failure> {
        let link = (record.pcidom(), record.guest());
        self.pauses.retain(|_, until| *until > env.now);
        self.pauses.insert(link, env.now.after(LINK_PAUSE));
        self.watch_link(env, link, false)
    }

    /// A link that was kept, and whose guest has closed its end since, goes like any other:
    /// it is made anew after the pause.
    pub(super) fn drop_unconnected(
        &mut self,
        env: &mut Env<'_>,
        record: &Record,
    ) -> Result<(), Failure> {
        if self.entries(record) > 0 {
            return Ok(());
        }
        let mut gone = false;
        env.store.transaction(&mut |nodes| {
            gone =
                !link::is_connected(nodes, record)? && link::remove_kept(nodes, record)?;
            Ok(())
        })?;
        if gone { self.link_is_gone(env, record) } else { Ok(()) }
    }

    /// The loans behind this one on its link, with the numbers they get when it goes.
    fn moved_up(&self, gone: &Record) -> Vec<(LoanId, Record)> {
        let Some(hole) = gone.entry else { return Vec::new() };
        let behind = self.loans.iter().filter(|(_, loan)| {
            (loan.record.pcidom, loan.record.guest) == (gone.pcidom, gone.guest)
                && loan.record.entry.is_some_and(|entry| entry > hole)
        });
        let moved = behind.map(|(id, loan)| {
            let mut record = loan.record.clone();
            record.entry = record.entry.map(|entry| entry - 1);
            (*id, record)
        });
        moved.collect()
    }
}

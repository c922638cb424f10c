//! Interrupt leases: pcidom asks, the daemon's own record decides.

use pcidom_loan::{
    Generation, LeaseAnswer, LeaseAsk, LeaseRefusal, LeaseRequest, LoanId, MAX_TEXT,
};
use pcidom_xenbus::Pirq;

use super::leases::{Leases, Noted, Vector};
use super::{Daemon, Env, Failure, Record, Stage, paths};
use crate::hypervisor::errno;

impl Daemon {
    /// Looks whether pcidom asks for something new for this loan, and answers it.
    pub(super) fn serve_lease(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<(), Failure> {
        let Some(loan) = self.loans.get_mut(&id) else { return Ok(()) };
        if loan.serve_at.is_some_and(|at| at > env.now) {
            return Ok(());
        }
        loan.serve_at = None;
        let pcidom = loan.record.pcidom();
        let Some(text) = env.store.read(&paths::request(pcidom, id))? else {
            return Ok(());
        };
        let request: LeaseRequest = match text.parse() {
            Ok(request) => request,
            Err(error) => {
                let length = text.len().min(MAX_TEXT);
                if loan.lines.may(env.now) {
                    log::warn!(
                        "{}: no request ({length} bytes): {error}",
                        loan.title(id)
                    );
                }
                return Ok(());
            }
        };
        // One that was left over, or was served: pcidom must not be able to have anything
        // done twice, nor for a loan it isn't about.
        let ours = request.generation == Generation(loan.record.generation);
        if !ours || request.sequence <= loan.record.sequence {
            return Ok(());
        }
        if let Err(later) = loan.requests.take(env.now) {
            loan.serve_at = Some(later);
            return Ok(());
        }
        if !record_is_alive(env, &loan.record)? {
            // Being destroyed: its end is on the way, and does what an unmap would.
            return Ok(());
        }
        loan.record.sequence = request.sequence;
        let result = match request.ask {
            LeaseAsk::Unmap => {
                let say = loan.vector_lines.may(env.now);
                self.end_leases_saying(env, id, say);
                Ok(Vec::new())
            }
            LeaseAsk::MapMsi => self.map_leases(env, id, None)?,
            LeaseAsk::MapMsix(entries) => self.map_leases(env, id, Some(entries))?,
        };
        let Some(loan) = self.loans.get_mut(&id) else { return Ok(()) };
        if let Err(refusal) = &result
            && loan.lines.may(env.now)
        {
            log::warn!("{}: request {}: {refusal}", loan.title(id), request.sequence);
        }
        let answer = LeaseAnswer {
            generation: request.generation,
            sequence: request.sequence,
            result: result.map(|pirqs| pirqs.iter().map(|pirq| pirq.0).collect()),
        };
        // Together: an answer that the record doesn't know would be served again.
        let record = &loan.record;
        let answered = env.store.transaction(&mut |nodes| {
            record.save(nodes, id)?;
            if record.pcidom_is_home(nodes)? {
                nodes.write(&paths::answer(pcidom, id), &answer.to_string())?;
            }
            Ok(())
        });
        Ok(answered?)
    }

    /// Serves what came too soon, and whose time has come now.
    pub(super) fn serve_put_off(&mut self, env: &mut Env<'_>) {
        for id in self.loan_ids() {
            let due = self.loans.get(&id).and_then(|loan| loan.serve_at);
            if due.is_some_and(|due| due <= env.now)
                && let Err(error) = self.serve_lease(env, id)
            {
                log::error!("loan {id}: {error}");
            }
        }
    }

    /// Maps MSI, or these entries of the MSI-X table: all or none.
    fn map_leases(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
        entries: Option<Vec<u16>>,
    ) -> Result<Result<Vec<Pirq>, LeaseRefusal>, Failure> {
        let Some(loan) = self.loans.get(&id) else {
            return Ok(Err(LeaseRefusal::NotAllowed));
        };
        let title = loan.title(id);
        let lent = matches!(loan.record.stage, Stage::Lent | Stage::Detaching);
        let Some(vectors) = self.allowed(id, entries).filter(|_| lent) else {
            return Ok(Err(LeaseRefusal::NotAllowed));
        };
        // What is being reset gets its interrupts when that is over.
        if !loan.leases.is_none() || self.reset_over(loan.record.device.0).is_some() {
            return Ok(Err(LeaseRefusal::Busy));
        }
        let mut record = loan.record.clone();
        // From here until the answer, only this node knows that there may be pirqs.
        record.leases = Noted::INTENT;
        record.save(env.store, id)?;
        let mapped = Leases::map(env, id, &record, &vectors);
        let now = env.now;
        let loan = self.loans.get_mut(&id);
        let result = match mapped {
            Ok(leases) => {
                let pirqs: Vec<Pirq> = leases.pirqs().collect();
                if loan.is_some_and(|loan| loan.vector_lines.may(now)) {
                    let list = list(&vectors, &pirqs);
                    log::info!("{title}: mapped {} pirqs: {list}", pirqs.len());
                }
                self.set_leases(id, leases);
                Ok(pirqs)
            }
            Err(error) => {
                if loan.is_some_and(|loan| loan.lines.may(now)) {
                    log::warn!("{title}: {} vectors: {error}", vectors.len());
                }
                self.set_leases(id, Leases::default());
                Err(match error.errno {
                    errno::ENOSPC => LeaseRefusal::OutOfVectors,
                    _ => LeaseRefusal::Failed,
                })
            }
        };
        Ok(result)
    }

    /// What a request comes to by the device's own tables, if it may be done at all.
    fn allowed(&self, id: LoanId, entries: Option<Vec<u16>>) -> Option<Vec<Vector>> {
        let loan = self.loans.get(&id)?;
        let facts = loan.facts.as_ref()?;
        if loan.record.device.0.segment() != 0 {
            // libxenctrl's call has no segment: it would map for another device.
            // The refusal is logged, as often as it may.
            log::debug!("{}: only segment 0 can have MSI", loan.title(id));
            return None;
        }
        let Some(entries) = entries else {
            return facts.msi.map(|_| vec![Vector::Msi]);
        };
        let (_, table) = facts.msix?;
        let table_base = table.bar_base;
        let fits = entries.iter().all(|entry| *entry < table.entries);
        let vectors = entries.into_iter().map(|entry| Vector::Msix { entry, table_base });
        fits.then(|| vectors.collect())
    }
}

/// What was mapped, for the log.
fn list(vectors: &[Vector], pirqs: &[Pirq]) -> String {
    let pairs = vectors.iter().zip(pirqs).map(|(vector, pirq)| match vector {
        Vector::Msi => format!("{pirq} (MSI)"),
        Vector::Msix { entry, .. } => format!("{pirq} (MSI-X {entry})"),
    });
    pairs.collect::<Vec<_>>().join(", ")
}

/// Not for a guest on its way out: its end is on the way too, and unmaps what is mapped.
fn record_is_alive(env: &mut Env<'_>, record: &Record) -> Result<bool, Failure> {
    for domain in record.both() {
        if env.xen.domain(domain)?.is_none_or(|info| info.dying) {
            return Ok(false);
        }
    }
    Ok(true)
}

//! libxl's lock on a device, which keeps `xl` from giving it to another domain.
//!
//! libxl writes it when it gives a device to pcidom and drops it when it takes the device
//! away, whoever has it by then. So while a loan lasts the lock is put back. An attach that
//! has slipped in between fails, since Xen does not assign a device that somebody owns, but
//! libxl grants the BARs before it finds that out and leaves them: they are taken back.

use pcidom_loan::{LoanId, NodeName};
use pcidom_pci::Sbdf;
use pcidom_xenbus::DomId;

use super::rights::{self, Taking};
use super::{Daemon, Env, Failure, paths};
use crate::host::DeviceFacts;
use crate::hypervisor::errno;
use crate::store::Nodes;

/// The domain that a lock names.
fn holder(
    nodes: &mut dyn Nodes,
    path: &str,
) -> Result<Option<DomId>, crate::store::StoreError> {
    Ok(nodes.read(path)?.and_then(|text| text.trim().parse().ok()))
}

/// Takes the device's BARs from every domain but dom0 and `owners`.
pub(super) fn take_from_strangers(
    env: &mut Env<'_>,
    facts: &DeviceFacts,
    owners: &[DomId],
) {
    let domains = match env.store.list("/local/domain") {
        Ok(domains) => domains,
        Err(error) => return log::error!("looking who has rights: {error}"),
    };
    for domain in domains.iter().filter_map(|node| node.parse::<DomId>().ok()) {
        if domain == DomId::DOM0 || owners.contains(&domain) {
            continue;
        }
        if let Err(error) = rights::take_bars(env.xen, domain, facts)
            && error.errno != errno::ESRCH
        {
            log::error!("taking BARs from domain {domain}: {error}");
        }
    }
}

impl Daemon {
    /// A lock has changed, or all of them may have.
    pub(super) fn check_locks(
        &mut self,
        env: &mut Env<'_>,
        path: &str,
    ) -> Result<(), Failure> {
        let rest = path.strip_prefix(paths::LOCKS).unwrap_or_default();
        let node = rest.trim_matches('/').split('/').next().unwrap_or_default();
        let device = NodeName::parse(node).map(|NodeName(device)| device);
        if let Some(device) = device
            && holder(env.store, &paths::lock(device))?.is_none()
        {
            self.take_from_pcidoms(env, device);
        }
        for id in self.loan_ids() {
            let about = self.loans.get(&id).map(|loan| loan.record.device.0);
            if device.is_none() || device == about {
                self.keep_lock(env, id)?;
            }
        }
        Ok(())
    }

    /// libxl drops the lock as well when it can't give a device to pcidom after all, and
    /// leaves what it has granted until then.
    fn take_from_pcidoms(&self, env: &mut Env<'_>, device: Sbdf) {
        let facts = env.host.device(device).and_then(|raw| DeviceFacts::read(&raw));
        // What dom0 does not have, nobody has got.
        let Ok(facts) = facts else { return };
        for pcidom in self.pcidoms.keys() {
            let how = Taking::default();
            let taken = rights::take(env, *pcidom, device, Some(&facts), how);
            for failure in taken.failures {
                log::error!("{device}: taking it from pcidom {pcidom}: {failure}");
            }
        }
    }

    /// Puts the lock of a loan's device back if it is gone.
    pub(super) fn keep_lock(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<(), Failure> {
        let Some(loan) = self.loans.get(&id) else { return Ok(()) };
        let (record, title) = (loan.record.clone(), loan.title(id));
        let (owner, pcidom) = (record.owner(), record.pcidom());
        let path = paths::lock(record.device.0);
        let mut found = None;
        env.store.transaction(&mut |nodes| {
            found = holder(nodes, &path)?;
            match found {
                Some(_) => Ok(()),
                None => nodes.write(&path, &owner.to_string()),
            }
        })?;
        match found {
            Some(holder) if holder == owner || holder == pcidom => {}
            Some(other) => {
                log::error!(
                    "{title}: xl is giving the device to domain {other}; Xen refuses that \
                     until the loan is over"
                );
            }
            None => {
                log::info!("{title}: libxl's lock is put back until the loan is over");
                if let Some(facts) = self.loans.get(&id).and_then(|l| l.facts.clone()) {
                    take_from_strangers(env, &facts, &record.both());
                }
            }
        }
        Ok(())
    }

    /// The loan is over: the lock is pcidom's again, or nobody's if the device has left the
    /// pool meanwhile.
    pub(super) fn release_lock(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<(), Failure> {
        let Some(loan) = self.loans.get(&id) else { return Ok(()) };
        let (record, facts) = (loan.record.clone(), loan.facts.clone());
        let (owner, pcidom, device) = (record.owner(), record.pcidom(), record.device.0);
        let path = paths::lock(device);
        let others = match holder(env.store, &path)? {
            // Between libxl's look at the lock and its assignment, which works now.
            Some(other) if other != owner && other != pcidom => vec![other],
            _ => Vec::new(),
        };
        if let Some(facts) = facts {
            take_from_strangers(env, &facts, &others);
        }
        let stays = self.in_pool(pcidom, device);
        env.store.transaction(&mut |nodes| {
            if holder(nodes, &path)? != Some(owner) {
                return Ok(());
            }
            match stays {
                true => nodes.write(&path, &pcidom.to_string()),
                false => nodes.remove(&path),
            }
        })?;
        Ok(())
    }
}

//! Vectors that a guest has and no record names: a daemon died while it mapped them.
//!
//! Xen picks a vector's number, so the record can name it only afterwards, and Xen tells
//! nobody which numbers of a domain are mapped. Asking for a number that was written down
//! before is no way out: Xen 4.17 reports success, and maps nothing, if that number is in use,
//! and does not look whether the guest still has it bound from an earlier mapping. Nor can
//! the numbers be guessed from the next one it gives (from the top downwards): a guest that
//! closes the channel of a vector that was taken by force makes a higher one free.
//!
//! But a guest has its vectors from this daemon alone (one with devices of dom0 is refused),
//! and an unmap where nothing is mapped does nothing. So every number there can be is
//! unmapped but those that are known. It is some thirty thousand short calls, once, after
//! a daemon died within these few milliseconds.
//!
//! It is the same on a dying guest: Xen frees all its vectors, bound or not, but only at the
//! very end, when the device has long been reset, and would mask them through a device that
//! may be another's by then.

use std::collections::BTreeSet;

use pcidom_loan::LoanId;
use pcidom_xenbus::Pirq;

use super::guest_config::line_pirqs;
use super::{Daemon, Env, Record};
use crate::hypervisor::errno;

/// Numbers of pirqs that a domain can have: Xen keeps one bit for each in a page (this bounds
/// what `extra_guest_irqs=` can ask for).
const MAX_PIRQS: u16 = 0x8000;

impl Daemon {
    /// Unmaps the vectors of a loan's owner that no record names. May be interrupted, and
    /// done again.
    pub(super) fn unmap_unrecorded(&self, env: &mut Env<'_>, id: LoanId) {
        let Some(loan) = self.loans.get(&id) else { return };
        let (guest, title) = (loan.record.owner(), loan.title(id));
        let known = self.known_pirqs(env, &loan.record);
        let (mut found, mut failure) = (Vec::new(), None);
        for pirq in (0..MAX_PIRQS).filter(|number| !known.contains(number)).map(Pirq) {
            match env.xen.unmap_pirq(guest, pirq) {
                Ok(()) => found.push(pirq.to_string()),
                Err(error) if error.errno == errno::EINVAL => {}
                // All of its own have gone with it.
                Err(error) if error.errno == errno::ESRCH => break,
                Err(error) => failure = Some((pirq, error)),
            }
        }
        log::warn!(
            "{title}: a daemon died while it mapped vectors; unmapped {} that were not \
             recorded: {}",
            found.len(),
            found.join(",")
        );
        if let Some((pirq, error)) = failure {
            log::error!("{title}: pirq {pirq}: {error}");
        }
    }

    /// What a guest has by right: the vectors and lines of its loans, and the lines that
    /// `irqs=` in its config gives it.
    fn known_pirqs(&self, env: &mut Env<'_>, record: &Record) -> BTreeSet<u16> {
        let (_, vm) = record.owner_is();
        let uuid = vm.trim_start_matches("/vm/");
        let config = env.host.domain_config(record.owner(), uuid).unwrap_or_default();
        let mut known: BTreeSet<u16> = line_pirqs(&config).into_iter().collect();
        for loan in self.loans.values().filter(|l| l.record.owner() == record.owner()) {
            known.extend(loan.leases.pirqs().map(|pirq| pirq.0));
            let gsi = loan.facts.as_ref().and_then(|facts| facts.gsi);
            known.extend(gsi.map(|gsi| gsi.0));
        }
        known
    }
}

//! What the daemon knows, and what its pcidoms say of themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use pcidom_loan::{Generation, LeaseAnswer, MAX_TEXT};
use pcidom_pci::VirtualBdf;
use pcidom_script::Instant;
use pcidom_xenbus::DomId;

use super::attach::find_domain;
use super::loan::Loan;
use super::pool::{Pcidom, PoolDevice, PoolState};
use super::{Client, Daemon, Env, Failure, Stage, exceptions, line, paths};
use crate::store::{Nodes, StoreError};
use crate::verb::{
    Bdf, DeniedLine, ListLine, LoanLine, OwnerLine, PcidomLine, PoolLine, Reply, Status,
};

/// A pcidom that serves writes its report in milliseconds; one that doesn't is shown without.
const REPORT_DEADLINE: Duration = Duration::from_secs(2);
/// Most nodes of a report that are looked at, shown or not: a pcidom with a full pool writes half
/// of that, and XenStore's quota, where it is the usual one, lets a domain have 1000.
const MAX_REPORT_NODES: usize = 512;
/// How deep they may be nested; pcidom's own are two deep.
const MAX_REPORT_DEPTH: usize = 4;

/// What pcidom writes in front of the writes that it denied.
const DENIED: &str = " denied writes:";

/// A status that waits for reports.
#[derive(Debug)]
pub(super) struct Query {
    client: Client,
    number: u64,
    pcidoms: Vec<DomId>,
    pub(super) deadline: Instant,
}

impl Daemon {
    pub(super) fn list(
        &mut self,
        env: &mut Env<'_>,
        guest: Option<&str>,
        pcidom: Option<&str>,
    ) -> Result<Reply, Failure> {
        let pcidom = self.find_pcidom(pcidom)?;
        let guest = match guest {
            Some(guest) => Some(find_domain(env, guest)?.0),
            None => None,
        };
        let mut lines = Vec::new();
        for loan in self.loans.values() {
            let record = &loan.record;
            let wanted = guest.is_none_or(|guest| record.both().contains(&guest));
            let lent = matches!(record.stage, Stage::Lent | Stage::Detaching);
            if record.pcidom() != pcidom || !wanted || !lent {
                continue;
            }
            let back = paths::back(record.pcidom(), record.guest());
            let shown = match record.entry {
                Some(entry) => env.store.read(&format!("{back}/vdev-{entry}"))?,
                None => None,
            };
            // pcidom's word, for people's eyes only.
            let shown = shown.and_then(|text| text.trim().parse().ok()).map(VirtualBdf);
            lines.push(ListLine {
                guest: record.guest_name.clone(),
                virtual_device: shown.map(vdev),
                device: record.device,
                owner: record.owner.as_ref().map(|owner| owner.name.clone()),
            });
        }
        lines.sort_by(|a, b| (&a.guest, a.device).cmp(&(&b.guest, b.device)));
        Ok(Reply::List { lines })
    }

    pub(super) fn status(
        &mut self,
        env: &mut Env<'_>,
        client: Client,
        pcidom: Option<&str>,
    ) -> Result<(), Failure> {
        let pcidoms: Vec<DomId> = match pcidom {
            Some(name) => vec![self.find_pcidom(Some(name))?],
            None => self.pcidoms.keys().copied().collect(),
        };
        self.query_number += 1;
        // Numbers of an earlier daemon may still stand in a report: start from the clock.
        let number = self.query_number.wrapping_add(env.now.as_nanos());
        for (domain, pcidom) in &self.pcidoms {
            if pcidom.ready && pcidoms.contains(domain) {
                let (path, vm) = (paths::query(*domain), &pcidom.vm);
                env.store.transaction(&mut |nodes| {
                    if nodes.read(&paths::vm(*domain))?.as_ref() != Some(vm) {
                        return Ok(());
                    }
                    nodes.write(&path, &number.to_string())
                })?;
            }
        }
        let deadline = env.now.after(REPORT_DEADLINE);
        self.queries.push(Query { client, number, pcidoms, deadline });
        self.answer_queries(env);
        Ok(())
    }

    /// Answers every status whose reports are there, or won't come.
    pub(super) fn answer_queries(&mut self, env: &mut Env<'_>) {
        for query in std::mem::take(&mut self.queries) {
            let waits = query.pcidoms.iter().any(|domain| {
                let serves = self.pcidoms.get(domain).is_some_and(|pcidom| pcidom.ready);
                serves && !has_report(env, *domain, query.number)
            });
            if waits && env.now < query.deadline {
                self.queries.push(query);
                continue;
            }
            let lines = self.pcidoms.iter().filter(|(d, _)| query.pcidoms.contains(d));
            let pcidoms =
                lines.map(|(d, p)| self.line(env, *d, p, query.number)).collect();
            let status = Status {
                daemon: env!("CARGO_PKG_VERSION").into(),
                names: self.names.clone(),
                trouble: self.protection.trouble().map(Into::into),
                pcidoms,
            };
            self.replies.push_back((query.client, Reply::Status { status }));
        }
    }

    fn line(
        &self,
        env: &mut Env<'_>,
        domain: DomId,
        pcidom: &Pcidom,
        number: u64,
    ) -> PcidomLine {
        let pool = pcidom.pool.iter().map(|(device, entry)| {
            let state = match &entry.state {
                PoolState::Leaving => "leaving",
                PoolState::Unfit(_) => "unfit",
                PoolState::Quarantined if entry.port => "port",
                PoolState::Quarantined if self.reset_over(*device).is_some() => {
                    "resetting"
                }
                PoolState::Quarantined if self.loan_of(*device).is_some() => "lent",
                PoolState::Quarantined => "free",
            };
            let (port, no_port) = match entry.port {
                true => (None, None),
                false => match self.port_for(env, domain, *device) {
                    Ok(port) => (Some(Bdf(port.port)), None),
                    Err(reason) => (None, Some(reason.to_string())),
                },
            };
            let armed = match entry.port {
                true => Vec::new(),
                false => exceptions::armed(env, *device),
            };
            let (device, note) = (Bdf(*device), note(entry));
            PoolLine { device, state: state.into(), note, port, no_port, armed }
        });
        let pool = pool.collect();
        let mut report = None;
        if has_report(env, domain, number) {
            let mut nodes = BTreeMap::new();
            let root = paths::report(domain);
            // What could not be read is left out.
            let mut left = MAX_REPORT_NODES;
            let _ = read_report(env.store, &root, "", (0, &mut left), &mut nodes);
            report = Some(nodes);
        }
        let said =
            |id| report.as_ref().and_then(|nodes| nodes.get(&format!("leases/{id}")));
        let ours = self.loans.iter().filter(|(_, loan)| loan.record.pcidom() == domain);
        let loans = ours.map(|(id, loan)| LoanLine {
            id: id.to_string(),
            generation: loan.record.generation,
            device: loan.record.device,
            guest: loan.record.guest_name.clone(),
            domid: loan.record.guest,
            owner: loan
                .record
                .owner
                .as_ref()
                .map(|owner| OwnerLine { name: owner.name.clone(), domid: owner.domid }),
            phase: loan.record.stage.to_string(),
            bus: loan.record.bus,
            pirqs: loan.leases.pirqs().map(|pirq| pirq.0).collect(),
            no_line: (!loan.record.line).then(|| line::NOT_GIVEN.into()),
            no_strict_reset: loan.record.lax,
            difference: said(id).and_then(|text| difference(loan, text)),
            exceptions: loan.record.granted.texts(),
            denied: denied_writes(report.as_ref(), loan),
        });
        let loans = loans.collect();
        PcidomLine {
            name: pcidom.name.clone(),
            domid: domain.0,
            ready: pcidom.ready,
            pool,
            loans,
            report,
        }
    }
}

/// As xl writes it where there is one bus, 0000:00; otherwise whole.
fn vdev(VirtualBdf(at): VirtualBdf) -> String {
    match (at.segment(), at.bus()) {
        (0, 0) => format!("{:02x}.{:x}", at.device(), at.function()),
        _ => at.to_string(),
    }
}

/// What pcidom says that the loan's guest was denied.
fn denied_writes(
    report: Option<&BTreeMap<String, String>>,
    loan: &Loan,
) -> Vec<DeniedLine> {
    let nodes = format!("guests/{}/", loan.record.guest);
    let device = format!("{} ", loan.record.device.0);
    let mut said = report.into_iter().flatten();
    let said =
        said.find(|(key, text)| key.starts_with(&nodes) && text.starts_with(&device));
    let text = said.and_then(|(_, text)| text.split_once(DENIED));
    text.map(|(_, text)| exceptions::denied(text)).unwrap_or_default()
}

/// Compares what pcidom says it holds for a loan with the record. Each request that was
/// answered since has changed both, so only a report after the same request counts.
fn difference(loan: &Loan, said: &str) -> Option<String> {
    let said: LeaseAnswer = said.parse().ok()?;
    let record = &loan.record;
    let same_moment = said.generation == Generation(record.generation)
        && said.sequence == record.sequence
        && matches!(record.stage, Stage::Lent | Stage::Detaching);
    let theirs = said.result.ok().filter(|_| same_moment)?;
    let ours: Vec<u16> = loan.leases.pirqs().map(|pirq| pirq.0).collect();
    if theirs == ours {
        return None;
    }
    let list = |pirqs: &[u16]| match pirqs {
        [] => "none".into(),
        some => some.iter().map(u16::to_string).collect::<Vec<_>>().join(","),
    };
    let (guest, device) = (&record.guest_name, record.device.0);
    Some(format!(
        "pcidom holds pirqs {}, the daemon's record has {}: its guest may miss interrupts; \
         detach it (pcidomctl detach {guest} {device}), attach it again, and report this",
        list(&theirs),
        list(&ours)
    ))
}

fn note(entry: &PoolDevice) -> Option<String> {
    match &entry.state {
        PoolState::Unfit(reason) => Some(reason.clone()),
        _ => entry.note.clone(),
    }
}

/// pcidom writes the number last, so the rest is whole then.
fn has_report(env: &mut Env<'_>, domain: DomId, number: u64) -> bool {
    let path = format!("{}/number", paths::report(domain));
    let text = env.store.read(&path).ok().flatten();
    text.and_then(|text| text.trim().parse().ok()) == Some(number)
}

/// Reads a report node by node. It is text of a domain that is not trusted: bounded, and
/// nothing but printable characters passes.
fn read_report(
    store: &mut dyn Nodes,
    root: &str,
    below: &str,
    (depth, left): (usize, &mut usize),
    nodes: &mut BTreeMap<String, String>,
) -> Result<(), StoreError> {
    let mut names = store.list(&format!("{root}{below}"))?;
    names.sort();
    for name in names {
        let Some(less) = left.checked_sub(1) else { break };
        *left = less;
        let path = format!("{below}/{name}");
        if let Some(text) = store.read(&format!("{root}{path}"))?
            && !text.is_empty()
            && path != "/number"
        {
            let key = path.trim_start_matches('/');
            nodes.insert(printable(key), printable(&text));
        }
        if depth < MAX_REPORT_DEPTH {
            read_report(store, root, &path, (depth + 1, left), nodes)?;
        }
    }
    Ok(())
}

/// At most [`MAX_TEXT`] characters, none of which a terminal obeys.
pub(super) fn printable(text: &str) -> String {
    let visible = |c: char| if c.is_ascii_graphic() { c } else { ' ' };
    text.chars().take(MAX_TEXT).map(visible).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_address_is_short_where_there_is_one_bus_and_whole_elsewhere() {
        for (at, shown) in [("00:1f.3", "1f.3"), ("03:00.0", "0000:03:00.0")] {
            assert_eq!(super::vdev(pcidom_pci::VirtualBdf(at.parse().unwrap())), shown);
        }
    }

    #[test]
    fn what_pcidom_writes_can_not_reach_a_terminal() {
        let shown = super::printable(&format!("a\x1b[2J\n{}", "x".repeat(5000)));
        assert!(shown.starts_with("a [2J x") && shown.len() == 900);
    }
}

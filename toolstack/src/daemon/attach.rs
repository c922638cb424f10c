//! Lending a device: checks, preparation by pcidom, rights, link.

use std::time::Duration;

use pcidom_loan::{LoanId, MAX_LOANS, Outcome, Phase, ResetTerms};
use pcidom_pci::Sbdf;
use pcidom_xenbus::{DomId, XenbusState};

use super::bus::Place;
use super::exceptions::Granted;
use super::guest_config;
use super::link::{self, Standing};
use super::loan::{CONNECT_DEADLINE, Loan, RESET_DEADLINE, Waiter, state};
use super::lock;
use super::owner;
use super::pool::Pcidom;
use super::rights;
use super::status::printable;
use super::stop::STOPS;
use super::terms::NoPort;
use super::{Client, Daemon, Env, Failure, Record, Stage, paths, version};
use crate::host::DeviceFacts;
use crate::hypervisor::{XenError, errno};
use crate::store::StoreError;
use crate::verb::{Bdf, Bus, Reply, Wish};

fn refused(text: impl Into<String>) -> Failure {
    Failure::Refused(text.into())
}

fn is_port(device: Sbdf) -> Failure {
    refused(format!(
        "{device} is a port: it is in the pool to reset what is below it, and is never lent; \
         pcidomctl status shows the devices that are"
    ))
}

/// A guest that a device can be lent to.
pub(super) struct Guest {
    pub(super) domain: DomId,
    pub(super) name: String,
    vm: String,
}

/// What a person has allowed for one loan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exceptions<'a> {
    /// Its line, although another guest has it.
    pub(super) share_line: bool,
    /// Being quiet instead of being reset.
    pub(super) lax: bool,
    /// So many seconds for the guest to connect.
    pub(super) wait: Option<u16>,
    /// Writes beyond pcidom's register table.
    pub(super) wish: &'a Wish,
}

impl Daemon {
    /// Begins a loan. From here on the reply comes when it is done or undone.
    pub(super) fn attach(
        &mut self,
        env: &mut Env<'_>,
        client: Client,
        (guest, owner, device, pcidom): (&str, Option<&str>, Sbdf, Option<&str>),
        place: Place,
        Exceptions { share_line, lax, wait, wish }: Exceptions<'_>,
    ) -> Result<(), Failure> {
        if let Some(refusal) = self.protection.refusal() {
            return Err(refused(refusal));
        }
        let pcidom = self.find_pcidom(pcidom)?;
        let whose = owner.map(|owner| find_domain(env, owner)).transpose()?;
        let guest = self.check_guest(env, guest, pcidom, whose.as_ref())?;
        let owner = self.check_owner(env, &guest, whose)?;
        let assigned = owner.as_ref().map_or(guest.domain, |owner| DomId(owner.domid));
        self.check_device(device, pcidom)?;
        let vm = self.serving(pcidom)?;
        let bus = self.bus_for(env, (&guest.vm, &guest.name), &vm, place.bus)?;
        place.check(&guest.name, device, bus)?;
        let facts = self.refresh_for_reset(env, pcidom, device)?;
        if facts.port {
            // It was unfit until now, so nothing was known of it.
            return Err(is_port(device));
        }
        let line = self.may_use_line(assigned, device, &facts, share_line)?;
        let config = env.host.device(device)?.config;
        let granted = Granted::read(device, &config, wish)?;
        let id = self.free_id()?;
        self.refresh_port(env, pcidom, device);
        let port = self.mended_port_for(env, pcidom, device);
        let terms = self.terms(port, lax);
        granted.arm(env, device, &facts.quirks)?;
        let generation = self.generation + 1;
        let guest = (guest.domain, guest.name, guest.vm);
        let mut record =
            Record::new(generation, (pcidom, vm), guest, Bdf(device), place.slot)
                .owned_by(owner);
        record.bus = Bus(bus);
        record.line = line;
        record.lax = lax;
        record.granted = granted;
        env.store.transaction(&mut |nodes| {
            nodes.write(&paths::generation(), &generation.to_string())?;
            record.save(nodes, id)?;
            nodes.remove(&paths::answer(pcidom, id))?;
            record.order(nodes, id, Phase::Prepare, terms.order)
        })?;
        self.generation = generation;
        let mut loan = Loan::new(id, record);
        loan.facts = Some(facts);
        loan.connect_wait =
            wait.map_or(CONNECT_DEADLINE, |wait| Duration::from_secs(wait.into()));
        loan.reach = terms.reach;
        loan.no_port = terms.no_port;
        loan.waiter = Some(Waiter::Attach(client));
        loan.deadline = Some(env.now.after(RESET_DEADLINE));
        log::info!("{}: pcidom prepares it", loan.title(id));
        let record = loan.record.clone();
        self.loans.insert(id, loan);
        if let Err(error) = self.watch_owner(env, &record, true) {
            // Its death is noticed later, by Xen's word.
            log::error!("{}: {error}", record.owner());
        }
        self.advance(env, id);
        Ok(())
    }

    fn check_guest(
        &self,
        env: &mut Env<'_>,
        text: &str,
        pcidom: DomId,
        owner: Option<&(DomId, String)>,
    ) -> Result<Guest, Failure> {
        let (domain, name) = find_domain(env, text)?;
        let owner = owner.filter(|(owner, _)| *owner != domain);
        let about = |text: &str| Err(refused(format!("{name} {text}")));
        if domain == DomId::DOM0 || self.pcidoms.contains_key(&domain) {
            return about("is no guest: devices are lent to other domains, see xl list");
        }
        let info = env.xen.domain(domain)?;
        let Some(info) = info.filter(|info| !info.dying) else {
            return about("is being destroyed");
        };
        if info.hvm {
            return about(match owner {
                None => {
                    "is no PV guest, and only those have a PCI frontend: write type=\"pv\" in \
                     its config and create it anew; or, if it has a PV stub domain, attach \
                     --owner it and name the stub domain"
                }
                Some(_) => {
                    "is no PV guest, and only those have a PCI frontend: after --owner and the \
                     guest comes its stub domain, see xl list"
                }
            });
        }
        if owner.is_some() && (info.paused || info.ended) {
            return about(
                "does not run, and a stub domain must before it gets a device: xl unpause it \
                 first",
            );
        }
        if !env.store.list(&paths::stock_link(domain))?.is_empty() {
            return about(
                "has devices from dom0 (pci= in its config), and a guest has one link only: \
                 take them out of its config, write passthrough=\"enabled\" and e820_host=1 \
                 there instead, and create it anew",
            );
        }
        let elsewhere = self
            .loans
            .values()
            .find(|loan| loan.record.guest() == domain && loan.record.pcidom() != pcidom);
        if let Some(loan) = elsewhere {
            return about(&format!(
                "has devices of pcidom {} already, and a guest has one link only",
                loan.record.pcidom
            ));
        }
        let Some(vm) = env.store.read(&paths::vm(domain))? else {
            return about("is being destroyed");
        };
        let uuid = vm.trim_start_matches("/vm/");
        let record = env.host.domain_config(domain, uuid).unwrap_or_default();
        let mut missing = guest_config::missing_settings(&record);
        // A stub domain has no device of its own.
        missing
            .retain(|setting| owner.is_none() || *setting != guest_config::PASSTHROUGH);
        let missing = missing.join(" and ");
        if !missing.is_empty() {
            return about(&format!(
                "was created without {missing}, so no device works in it: write that in its \
                 config and create it anew"
            ));
        }
        Ok(Guest { domain, name, vm })
    }

    fn check_device(&self, device: Sbdf, pcidom: DomId) -> Result<(), Failure> {
        if let Some((id, stage)) = self.loan_of(device) {
            let guest = self.loans.get(&id).map_or("", |loan| &loan.record.guest_name);
            return Err(refused(format!(
                "{device} is {stage} (guest {guest}): pcidomctl detach {guest} {device}"
            )));
        }
        self.check_no_reset(device)?;
        self.check_in_pool(device, pcidom)?;
        if self.is_port(pcidom, device) {
            return Err(is_port(device));
        }
        Ok(())
    }

    /// A number that neither a loan nor a reset has.
    pub(super) fn free_id(&self) -> Result<LoanId, Failure> {
        let mut all = (0..MAX_LOANS).filter_map(LoanId::new);
        let free =
            all.find(|id| !self.loans.contains_key(id) && !self.resets.contains_key(id));
        free.ok_or_else(|| refused(format!("{MAX_LOANS} devices are lent")))
    }

    /// The `vm` path of a pcidom that serves.
    pub(super) fn serving(&self, pcidom: DomId) -> Result<String, Failure> {
        match self.pcidoms.get(&pcidom) {
            Some(serving) if serving.ready => Ok(serving.vm.clone()),
            Some(Pcidom { name, foreign: Some(spoken), .. }) => {
                Err(refused(version::other(name, spoken)))
            }
            _ if self.is_stopping(pcidom) => {
                Err(refused(format!("pcidom {pcidom} is shutting down")))
            }
            _ => Err(refused(format!(
                "pcidom {pcidom} does not serve yet: look at xl console {pcidom}"
            ))),
        }
    }

    pub(super) fn check_in_pool(
        &self,
        device: Sbdf,
        pcidom: DomId,
    ) -> Result<(), Failure> {
        if !self.in_pool(pcidom, device) {
            return Err(refused(format!(
                "{device} is not in the pool: xl pci-assignable-add {device}, then \
                 xl pci-attach {pcidom} {device}"
            )));
        }
        Ok(())
    }

    /// pcidom resets the device.
    pub(super) fn step_preparing(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<(), Failure> {
        if let Some(lost) = self.lost(env, id)? {
            return self.end(env, id, Some(lost.text().into()));
        }
        let Some(loan) = self.loans.get(&id) else { return Ok(()) };
        if self.is_stopping(loan.record.pcidom()) {
            return self.end(env, id, Some(STOPS.into()));
        }
        let Some(loan) = self.loans.get_mut(&id) else { return Ok(()) };
        let device = loan.record.device.0;
        let mut freed = Vec::new();
        if !loan.ready {
            match loan.report(env, id)? {
                Some(Outcome::Ready(method)) => {
                    log::info!("{}: pcidom is ready, reset: {method}", loan.title(id));
                    loan.ready = true;
                    freed = std::mem::take(&mut loan.reach);
                    loan.deadline = Some(env.now.after(loan.connect_wait));
                }
                Some(Outcome::Failed(reason)) => {
                    let addition = loan.no_port.as_ref().map(NoPort::addition);
                    let addition = addition.unwrap_or_default();
                    let text =
                        format!("pcidom can't make {device} ready: {reason}{addition}");
                    loan.failure = Some(text);
                    // Nothing was given, and pcidom has given up already.
                    return self.finish(env, id, Some(reason));
                }
                _ if loan.is_due(env.now) => {
                    let reason = format!(
                        "pcidom did not make {device} ready in {} s: look at its console",
                        RESET_DEADLINE.as_secs()
                    );
                    return self.end(env, id, Some(reason));
                }
                _ => return Ok(()),
            }
        }
        if let Some(link) = self.loans.get(&id).map(|loan| loan.record.pcidom()) {
            self.look_again(env, link, &freed);
            self.look_again(env, link, &[device]);
        }
        let result = self.lend_when_possible(env, id);
        // Those that had to wait for this reset.
        self.advance_all(env, |l| l.ready && freed.contains(&l.record.device.0));
        result
    }

    /// Lends what is ready, unless it has to wait for somebody else.
    fn lend_when_possible(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<(), Failure> {
        let Some(loan) = self.loans.get(&id) else { return Ok(()) };
        let (record, due) = (loan.record.clone(), loan.is_due(env.now));
        let device = record.device.0;
        let link = (record.pcidom(), record.guest());
        self.drop_unconnected(env, &record)?;
        let pause = self.pauses.get(&link).filter(|until| **until > env.now).copied();
        if let Some(loan) = self.loans.get_mut(&id) {
            loan.link_at = pause;
        }
        if pause.is_some() {
            return Ok(());
        }
        let guest = &record.guest_name;
        let reason = if let Some(other) = self.reached_by(device) {
            format!("{other} below the same port is still being reset: try again")
        } else if self.standing(env, &record)? == Standing::Busy {
            format!(
                "{guest}'s PCI link is still busy with another change: see its kernel log"
            )
        } else if self.is_closed(env, &record)? {
            format!(
                "{guest} has closed its PCI link, and has devices on it ({guest} may be \
                 shutting down): detach those, then attach {device} again"
            )
        } else {
            return self.lend(env, id);
        };
        if due { self.end(env, id, Some(reason)) } else { Ok(()) }
    }

    /// Gives the guest its rights and puts the device on its link: both, or neither.
    fn lend(&mut self, env: &mut Env<'_>, id: LoanId) -> Result<(), Failure> {
        let Some(loan) = self.loans.get_mut(&id) else { return Ok(()) };
        loan.record.stage = Stage::Lending;
        let mut record = loan.record.clone();
        let facts = loan.facts.clone();
        record.save(env.store, id)?;
        let given = match facts {
            Some(facts) => {
                lock::take_from_strangers(env, &facts, &record.both());
                give(env, &record, &facts)
            }
            None => Err(refused("dom0 does not know the device any more")),
        };
        if let Err(error) = given {
            return self.end(env, id, Some(explain(&record, &error)));
        }
        let entry = self.entries(&record);
        record.stage = Stage::Lent;
        record.entry = Some(entry);
        let linked = env.store.transaction(&mut |nodes| {
            // Not into a home that is not there any more.
            if !record.guest_is_home(nodes)?
                || !record.owner_is_home(nodes)?
                || !record.pcidom_is_home(nodes)?
            {
                return Err(StoreError::Gone);
            }
            link::add(nodes, &record, entry)?;
            record.order(nodes, id, Phase::Lent, ResetTerms::default())?;
            record.save(nodes, id)
        });
        if let Err(error) = linked {
            return self.end(env, id, Some(format!("XenStore: {error}")));
        }
        let ends = (record.pcidom(), record.guest());
        if let Some(loan) = self.loans.get_mut(&id) {
            loan.record = record;
            loan.lent_at = env.now;
            loan.deadline = loan.waiter.map(|_| env.now.after(loan.connect_wait));
            log::info!("{}: lent", loan.title(id));
        }
        self.watch_link(env, ends, true)
    }

    /// The guest has it; somebody may still wait for its driver to see it.
    pub(super) fn step_lent(
        &mut self,
        env: &mut Env<'_>,
        id: LoanId,
    ) -> Result<(), Failure> {
        if let Some(lost) = self.lost(env, id)? {
            return self.end(env, id, Some(lost.text().into()));
        }
        let Some(loan) = self.loans.get(&id) else { return Ok(()) };
        if self.is_stopping(loan.record.pcidom()) {
            return self.retire(env, id);
        }
        let Some(loan) = self.loans.get_mut(&id) else { return Ok(()) };
        let (Some(_), Some(entry)) = (loan.waiter, loan.record.entry) else {
            loan.deadline = None;
            return Ok(());
        };
        let record = &loan.record;
        let (guest, device) = (record.guest_name.clone(), record.device.0);
        let back = paths::back(record.pcidom(), record.guest());
        let exported = env.store.read(&format!("{back}/state-{entry}"))?;
        let exported = XenbusState::parse(exported.as_deref());
        let done = |text: String| Ok(Some(Reply::Done { text }));
        let front = state(env.store, &paths::front(record.guest()))?;
        let paused = front == XenbusState::Initialising
            && env.xen.domain(record.guest())?.is_some_and(|info| info.paused);
        let late = loan.lent_at.after(loan.connect_wait);
        let seconds = loan.connect_wait.as_secs();
        let not_yet = |why| format!("{device} is lent, but {guest} {why}");
        let outcome = match (state(env.store, &back)?, exported, front) {
            (XenbusState::Connected, XenbusState::Initialised, _) => done(String::new()),
            (_, XenbusState::Closing | XenbusState::Closed, _) => {
                // pcidom's word, for people's eyes only.
                let why = env.store.read(&format!("{back}/error-{entry}"))?;
                let why = why.unwrap_or_else(|| "look at its console".into());
                Err(format!(
                    "pcidom could not put {device} on the bus of {guest}: {} (pcidomctl list \
                     {guest})",
                    printable(&why)
                ))
            }
            (_, _, XenbusState::Initialising) if paused => done(not_yet(
                "is paused and has not connected yet: it does when it runs (xl unpause)",
            )),
            (_, _, XenbusState::Closing | XenbusState::Closed) => {
                done(not_yet("has not connected yet: see its kernel log"))
            }
            (_, _, _) if env.now < late => {
                loan.deadline = Some(late);
                Ok(None)
            }
            (_, _, XenbusState::Initialising) => Err(format!(
                "{guest} did not connect in {seconds} s: it needs xen-pcifront, and must have \
                 booted; look at xl console {guest}, then attach {device} again"
            )),
            _ => Err(format!(
                "{guest} did not take {device} in {seconds} s: see its kernel log \
                 (xl console {guest})"
            )),
        };
        match outcome {
            Ok(Some(reply)) => {
                loan.deadline = None;
                self.tell_waiter(id, reply);
                self.wake_siblings(env, id);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(reason) => self.end(env, id, Some(reason)),
        }
    }

    /// Loans that wait for the link of this one to settle.
    fn wake_siblings(&mut self, env: &mut Env<'_>, id: LoanId) {
        let Some(guest) = self.loans.get(&id).map(|loan| loan.record.guest) else {
            return;
        };
        self.advance_all(env, |loan| loan.record.guest == guest && loan.ready);
    }
}

/// The last look at the device before it is given away, and the giving.
fn give(env: &mut Env<'_>, record: &Record, facts: &DeviceFacts) -> Result<(), Failure> {
    let device = record.device.0;
    let raw = env.host.device(device)?;
    if DeviceFacts::read(&raw)?.bars != facts.bars {
        return Err(refused(format!("{device}: dom0 has moved its BARs")));
    }
    if let Some(what) = facts.unquiet(&raw) {
        return Err(refused(format!("pcidom left {device} unfit to be lent: {what}")));
    }
    if !record.line {
        // Before the guest can touch it: pcidom leaves this bit as it is.
        env.host.disable_line(device)?;
    }
    Ok(rights::give(env, (record.guest(), record.owner()), device, facts, record.line)?)
}

/// What a refusal means for whoever asked.
fn explain(record: &Record, error: &Failure) -> String {
    let ((guest, _), device) = (record.owner_is(), record.device.0);
    match error {
        Failure::Xen(XenError { call: "xc_assign_device", errno: errno::EOPNOTSUPP })
            if record.owner.is_some() =>
        {
            owner::without_context(guest)
        }
        Failure::Xen(error @ XenError { call: "xc_physdev_map_pirq", .. })
            if record.owner.is_some() =>
        {
            owner::without_pirqs(guest, error)
        }
        Failure::Xen(XenError { errno: errno::EOPNOTSUPP, .. }) => format!(
            "{guest} was created without an IOMMU context: put passthrough=\"enabled\" and \
             e820_host=1 in its config and create it anew"
        ),
        Failure::Xen(XenError { call: "xc_assign_device", errno: errno::EBUSY }) => {
            format!(
                "Xen says {device} is busy: another domain has it, or a reset left it masked. \
             Try again; see xl dmesg"
            )
        }
        error => error.to_string(),
    }
}

/// A domain by its domid or name, with its name.
pub(super) fn find_domain(
    env: &mut Env<'_>,
    text: &str,
) -> Result<(DomId, String), Failure> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(domain) = text.parse().ok().filter(|_| is_number)
        && let Some(name) = env.store.read(&paths::name(domain))?
    {
        return Ok((domain, name));
    }
    for node in env.store.list("/local/domain")? {
        if let Ok(domain) = node.parse()
            && env.store.read(&paths::name(domain))?.as_deref() == Some(text)
        {
            return Ok((domain, text.into()));
        }
    }
    Err(refused(format!("there is no domain {text}: xl list")))
}

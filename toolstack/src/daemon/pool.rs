//! pcidoms and their pools: a device that enters a pool goes into quarantine at once.

use std::collections::{BTreeMap, BTreeSet};

use pcidom_loan::{
    ConfigFrame, LoanId, NodeName, PROTOCOL, QUARANTINED, READY, STOPPING,
};
use pcidom_pci::Sbdf;
use pcidom_script::Pace;
use pcidom_xenbus::DomId;

use super::exports::{About, Exports};
use super::loan::Loan;
use super::pace;
use super::rights::{self, Taking};
use super::unfit::Again;
use super::{Daemon, Env, Failure, Stage, ecam, paths, version};
use crate::host::{DeviceFacts, HostError};
use crate::hypervisor::{DEASSIGN, errno};
use crate::store::Permissions;

/// Whether a device can be lent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PoolState {
    /// pcidom has no right to it.
    Quarantined,
    /// It can't be, and why. Looked at again before each loan, and now and then ([`unfit`]).
    Unfit(String),
    /// dom0 takes it away; it stays until its loan is over.
    Leaving,
}

#[derive(Clone, Debug)]
pub(super) struct PoolDevice {
    pub(super) state: PoolState,
    /// What the last loan left to say.
    pub(super) note: Option<String>,
    /// A port: it helps to reset what is below it, and is never lent.
    pub(super) port: bool,
    /// The frame of its config space, if pcidom may read it.
    ecam: Option<u64>,
    /// What it was when it last answered.
    facts: Option<DeviceFacts>,
    /// It answers nothing: only its port can bring it back.
    silent: bool,
    /// When it is looked at again, if it is unfit.
    pub(super) again: Again,
}

impl PoolDevice {
    fn new(
        quarantined: &Result<(DeviceFacts, bool), Failure>,
        note: Option<String>,
    ) -> Self {
        let (state, facts) = match quarantined {
            Ok((facts, _)) => (PoolState::Quarantined, Some(facts.clone())),
            Err(error) => (PoolState::Unfit(error.to_string()), None),
        };
        let port = facts.as_ref().is_some_and(|facts| facts.port);
        let silent = matches!(quarantined, Err(Failure::Silent(_)));
        Self { state, note, port, ecam: None, facts, silent, again: Again::default() }
    }

    /// What it was, if it answers nothing now and its port may change that. Its registers
    /// are armed as they were then.
    pub(super) fn may_come_back(&self) -> Option<&DeviceFacts> {
        let unfit = matches!(self.state, PoolState::Unfit(_)) && self.silent;
        self.facts.as_ref().filter(|facts| unfit && !facts.port)
    }
}

#[derive(Debug)]
pub(super) struct Pcidom {
    pub(super) name: String,
    pub(super) vm: String,
    pub(super) ready: bool,
    /// The version of its protocol, if it is not ours: it is not served.
    pub(super) foreign: Option<String>,
    /// It was told to shut down, and waits for its loans to end.
    pub(super) stopping: bool,
    pub(super) pool: BTreeMap<Sbdf, PoolDevice>,
    /// What an earlier daemon left among the pool's nodes is gone.
    swept: bool,
    /// How much may be said of what it says of itself.
    lines: Pace,
}

impl Daemon {
    /// Looks which pcidoms there are.
    pub(super) fn scan_domains(&mut self, env: &mut Env<'_>) -> Result<(), Failure> {
        let mut found = BTreeMap::new();
        for node in env.store.list("/local/domain")? {
            let Ok(domain) = node.parse::<DomId>() else { continue };
            let name = env.store.read(&paths::name(domain))?.unwrap_or_default();
            if domain == DomId::DOM0 || !self.names.contains(&name) {
                continue;
            }
            let alive =
                env.xen.domain(domain)?.is_some_and(|info| !info.dying && !info.ended);
            if let Some(vm) = env.store.read(&paths::vm(domain))?.filter(|_| alive) {
                found.insert(domain, (name, vm));
            }
        }
        let known: Vec<DomId> = self.pcidoms.keys().copied().collect();
        for domain in known {
            let is_same =
                |p: &Pcidom| found.get(&domain).is_some_and(|(_, vm)| *vm == p.vm);
            if self.pcidoms.get(&domain).is_some_and(|pcidom| !is_same(pcidom)) {
                log::info!("pcidom {domain} is gone");
                self.pcidoms.remove(&domain);
                self.watch_pcidom(env, domain, false)?;
                self.answer_queries(env);
            }
        }
        for (domain, (name, vm)) in found {
            if !self.pcidoms.contains_key(&domain) {
                self.welcome(env, domain, name, vm)?;
            }
        }
        Ok(())
    }

    /// A pcidom has appeared: makes the directories, and takes its pool in.
    fn welcome(
        &mut self,
        env: &mut Env<'_>,
        domain: DomId,
        name: String,
        vm: String,
    ) -> Result<(), Failure> {
        log::info!("pcidom {domain}: {name}");
        let control = paths::control(domain);
        let loans: BTreeSet<LoanId> = self.loans.keys().copied().collect();
        env.store.transaction(&mut |nodes| {
            if nodes.read(&paths::vm(domain))?.as_ref() != Some(&vm) {
                return Ok(());
            }
            nodes.write(&control, "")?;
            nodes.set_permissions(&control, Permissions::shared(DomId::DOM0, domain))?;
            nodes.write(&format!("{control}/protocol"), PROTOCOL)?;
            for directory in ["pool", "ecam", "loans", "answers"] {
                let directory = format!("{control}/{directory}");
                if nodes.read(&directory)?.is_none() {
                    nodes.write(&directory, "")?;
                }
            }
            // Left over from a daemon that stopped between two steps.
            for node in nodes.list(&format!("{control}/loans"))? {
                if LoanId::parse(&node).is_none_or(|id| !loans.contains(&id)) {
                    nodes.remove(&format!("{control}/loans/{node}"))?;
                }
            }
            let said = paths::said(domain);
            if nodes.read(&said)?.is_none() {
                nodes.write(&said, "")?;
                nodes.set_permissions(&said, Permissions::private(domain))?;
            }
            Ok(())
        })?;
        let pcidom = Pcidom {
            name,
            vm,
            ready: false,
            foreign: None,
            stopping: false,
            pool: BTreeMap::new(),
            swept: false,
            lines: pace::of_lines(),
        };
        self.pcidoms.insert(domain, pcidom);
        self.watch_pcidom(env, domain, true)?;
        self.greet(env, domain)?;
        self.scan_pool(env, domain)
    }

    /// Looks whether a pcidom serves.
    pub(super) fn greet(
        &mut self,
        env: &mut Env<'_>,
        domain: DomId,
    ) -> Result<(), Failure> {
        let Some(pcidom) = self.pcidoms.get_mut(&domain) else { return Ok(()) };
        let said = env.store.read(&format!("{}/state", paths::said(domain)))?;
        let serves = said.as_deref() == Some(READY);
        let foreign = if serves { version::foreign(env, domain)? } else { None };
        let ready = serves && foreign.is_none();
        let news = pcidom.foreign != foreign || pcidom.ready != ready;
        let say = news && pcidom.lines.may(env.now);
        if let Some(spoken) =
            foreign.as_ref().filter(|_| say && pcidom.foreign != foreign)
        {
            log::error!("{}", version::other(&pcidom.name, spoken));
        }
        pcidom.foreign = foreign;
        if pcidom.ready != ready {
            let what = if ready { "serves" } else { "does not serve any more" };
            if say {
                log::info!("pcidom {domain} {what}");
            }
            pcidom.ready = ready;
        }
        let stopping = said.as_deref() == Some(STOPPING);
        if stopping && !pcidom.stopping {
            log::info!("pcidom {domain} was told to shut down: its loans end");
            pcidom.stopping = true;
            self.advance_all(env, |loan| loan.record.pcidom() == domain);
        }
        Ok(())
    }

    /// Something has changed in dom0's end of the A-link.
    ///
    /// A device that left the pool and came back may look as if it had never been away. libxl
    /// writes `dev-N` after it has given the device to pcidom, and nobody else ever does
    /// (pciback writes states and virtual slots), so at each such write the device that is
    /// there is taken from pcidom again. libxl also writes it when another device goes and
    /// this one moves up: then there is nothing to take, and nothing happens.
    pub(super) fn pool_changed(
        &mut self,
        env: &mut Env<'_>,
        domain: DomId,
        path: &str,
    ) -> Result<(), Failure> {
        let about = About::of(domain, path);
        if about == About::Nothing {
            return Ok(());
        }
        let scanned = self.scan_pool(env, domain);
        let written = about == About::Device;
        let device = if written { env.store.read(path)? } else { None };
        if let Some(device) = device.and_then(|device| device.trim().parse().ok()) {
            // Whatever came of the scan: this event comes once.
            self.take_again(env, domain, device)?;
        }
        scanned
    }

    /// Compares a pool with what dom0's end of the A-link has. libxl writes a device there
    /// as the last step of giving it to pcidom, so all that has to be taken is there.
    pub(super) fn scan_pool(
        &mut self,
        env: &mut Env<'_>,
        domain: DomId,
    ) -> Result<(), Failure> {
        let exports = Exports::read(env, domain)?;
        let Some(pcidom) = self.pcidoms.get_mut(&domain) else { return Ok(()) };
        let known = pcidom.pool.keys().copied();
        let gone: Vec<Sbdf> = known.filter(|device| exports.lack(*device)).collect();
        for device in &gone {
            if let Some(entry) = pcidom.pool.get_mut(device) {
                entry.state = PoolState::Leaving;
            }
            log::info!("{device} leaves the pool of pcidom {domain}");
        }
        self.advance_all(env, |loan| gone.contains(&loan.record.device.0));
        for device in gone {
            self.forget_if_left(env, domain, device)?;
        }
        for device in exports.present {
            let state = self
                .pcidoms
                .get(&domain)
                .and_then(|p| p.pool.get(&device))
                .map(|d| &d.state);
            let back_again =
                state == Some(&PoolState::Leaving) && self.loan_of(device).is_none();
            if state.is_none() || back_again {
                self.arrive(env, domain, device)?;
            }
        }
        self.sweep_pool_nodes(env, domain)
    }

    /// Removes, once, pool nodes of devices that left while no daemon ran.
    fn sweep_pool_nodes(
        &mut self,
        env: &mut Env<'_>,
        domain: DomId,
    ) -> Result<(), Failure> {
        let Some(pcidom) = self.pcidoms.get_mut(&domain) else { return Ok(()) };
        if pcidom.swept {
            return Ok(());
        }
        let control = paths::control(domain);
        for directory in ["pool", "ecam"].map(|name| format!("{control}/{name}")) {
            for node in env.store.list(&directory)? {
                let device = NodeName::parse(&node).map(|NodeName(device)| device);
                if device.is_some_and(|device| pcidom.pool.contains_key(&device)) {
                    continue;
                }
                env.store.remove(&format!("{directory}/{node}"))?;
                if let Some(device) = device
                    && let Some(frame) = ecam::frame(env, device)
                {
                    ecam::close(env, domain, device, frame);
                }
            }
        }
        pcidom.swept = true;
        Ok(())
    }

    fn arrive(
        &mut self,
        env: &mut Env<'_>,
        domain: DomId,
        device: Sbdf,
    ) -> Result<(), Failure> {
        // Also if a loan of it was found in the record: libxl may have given it to pcidom
        // meanwhile, when its guest had died. Whoever else has it keeps it.
        let result = self.quarantine(env, domain, device);
        match &result {
            Ok((facts, _)) => {
                let port = if facts.port { " as a port" } else { "" };
                log::info!(
                    "{device} is in the pool of pcidom {domain}{port}, quarantined"
                );
            }
            Err(error) => log::error!("{device} can't be lent: {error}"),
        }
        self.enter(env, domain, device, PoolDevice::new(&result, None))
    }

    /// Takes a device of the pool from pcidom, in case libxl has given it again.
    fn take_again(
        &mut self,
        env: &mut Env<'_>,
        domain: DomId,
        device: Sbdf,
    ) -> Result<(), Failure> {
        let pool = self.pcidoms.get(&domain).map(|pcidom| &pcidom.pool);
        let Some(known) = pool.and_then(|pool| pool.get(&device)) else { return Ok(()) };
        let (leaving, note) = (known.state == PoolState::Leaving, known.note.clone());
        let ours = |loan: &Loan| {
            (loan.record.pcidom(), loan.record.device.0) == (domain, device)
        };
        let in_loan = self.loans.values().any(ours);
        let result = self.quarantine(env, domain, device);
        let owned = result.as_ref().is_ok_and(|(_, owned)| *owned);
        match &result {
            Ok(_) if owned => {
                log::info!("{device} had left the pool of pcidom {domain} and is back");
            }
            Ok(_) => {}
            Err(error) => log::error!("{device}: {error}"),
        }
        // A loan goes on with what it has; the next one begins with a quarantine anyway.
        if !leaving && (result.is_ok() || !in_loan) {
            self.enter(env, domain, device, PoolDevice::new(&result, note))?;
        }
        if owned && in_loan {
            // It ends as for any device that leaves; then this one is new.
            let pool = self.pcidoms.get_mut(&domain).map(|pcidom| &mut pcidom.pool);
            if let Some(entry) = pool.and_then(|pool| pool.get_mut(&device)) {
                entry.state = PoolState::Leaving;
            }
            self.advance_all(env, ours);
        }
        Ok(())
    }

    /// Writes a device's new standing down, where pcidom sees it.
    fn enter(
        &mut self,
        env: &mut Env<'_>,
        domain: DomId,
        device: Sbdf,
        mut entry: PoolDevice,
    ) -> Result<(), Failure> {
        let Some(pcidom) = self.pcidoms.get_mut(&domain) else { return Ok(()) };
        let (quarantined, vm) =
            (entry.state == PoolState::Quarantined, pcidom.vm.clone());
        let before = pcidom.pool.get(&device);
        if let Some(before) = before.filter(|before| before.state != PoolState::Leaving) {
            entry.facts = entry.facts.or_else(|| before.facts.clone());
            entry.port |= entry.facts.as_ref().is_some_and(|facts| facts.port);
        }
        if !quarantined {
            entry.again = before.map(|entry| entry.again).unwrap_or_default();
            entry.again.begin(env.now);
        }
        let (is_new, before) = (before.is_none(), before.and_then(|entry| entry.ecam));
        if quarantined {
            let opened = ecam::open(env, domain, device);
            if let Err(reason) = &opened
                && is_new
            {
                log::info!(
                    "{device}: pcidom reads its config space through dom0: {reason}"
                );
            }
            entry.ecam = opened.ok();
        }
        let frame = entry.ecam;
        pcidom.pool.insert(device, entry);
        let pool_node = paths::pool_node(domain, device);
        let ecam_node = paths::ecam_node(domain, device);
        env.store.transaction(&mut |nodes| {
            let at_home = nodes.read(&paths::vm(domain))?.as_ref() == Some(&vm);
            let frame =
                frame.filter(|_| at_home).map(|frame| ConfigFrame(frame).to_string());
            let standing = (quarantined && at_home).then_some(QUARANTINED);
            for (node, value) in [(&ecam_node, frame.as_deref()), (&pool_node, standing)]
            {
                // To change nothing would have pcidom read all of its pool again.
                if nodes.read(node)?.as_deref() != value {
                    match value {
                        Some(value) => nodes.write(node, value)?,
                        None => nodes.remove(node)?,
                    }
                }
            }
            Ok(())
        })?;
        if let Some(before) = before.filter(|_| frame.is_none()) {
            ecam::close(env, domain, device, before);
        }
        Ok(())
    }

    /// Quarantines a device again, right before it is lent: dom0's pciback forgets what it
    /// was told when a device leaves a frontend, and what made a device unfit may be mended.
    pub(super) fn refresh(
        &mut self,
        env: &mut Env<'_>,
        domain: DomId,
        device: Sbdf,
    ) -> Result<DeviceFacts, Failure> {
        let note = self
            .pcidoms
            .get(&domain)
            .and_then(|p| p.pool.get(&device))
            .and_then(|d| d.note.clone());
        let result = self.quarantine(env, domain, device);
        self.enter(env, domain, device, PoolDevice::new(&result, note))?;
        result.map(|(facts, _)| facts)
    }

    /// Drops a device that left, once no loan needs it.
    pub(super) fn forget_if_left(
        &mut self,
        env: &mut Env<'_>,
        domain: DomId,
        device: Sbdf,
    ) -> Result<(), Failure> {
        if self.loan_of(device).is_some() || self.in_pool(domain, device) {
            return Ok(());
        }
        if let Some(pcidom) = self.pcidoms.get_mut(&domain) {
            // As long as this fails it is known, and so tried again.
            env.store.remove(&paths::pool_node(domain, device))?;
            env.store.remove(&paths::ecam_node(domain, device))?;
            let entry = pcidom.pool.remove(&device);
            if let Some(frame) = entry.and_then(|entry| entry.ecam) {
                ecam::close(env, domain, device, frame);
            }
            log::info!("{device} has left the pool of pcidom {domain}");
        }
        Ok(())
    }

    pub(super) fn in_pool(&self, domain: DomId, device: Sbdf) -> bool {
        let entry = self.pcidoms.get(&domain).and_then(|pcidom| pcidom.pool.get(&device));
        entry.is_some_and(|entry| entry.state != PoolState::Leaving)
    }

    /// Whether it is known as a port; of what is unfit nothing may be known.
    pub(super) fn is_port(&self, domain: DomId, device: Sbdf) -> bool {
        let pool = self.pcidoms.get(&domain).map(|pcidom| &pcidom.pool);
        pool.and_then(|pool| pool.get(&device)).is_some_and(|entry| entry.port)
    }

    /// The loan a device is in.
    pub(super) fn loan_of(&self, device: Sbdf) -> Option<(LoanId, Stage)> {
        let mut loans = self.loans.iter();
        let found = loans.find(|(_, loan)| loan.record.device.0 == device);
        found.map(|(id, loan)| (*id, loan.record.stage))
    }
}

impl Daemon {
    /// Takes from pcidom what libxl gave it, and arms pciback; does nothing to whoever else
    /// has the device. Returns also whether it was assigned to pcidom, which only libxl does.
    /// Whatever is wrong with the device, pcidom loses its rights to it.
    fn quarantine(
        &self,
        env: &mut Env<'_>,
        domain: DomId,
        device: Sbdf,
    ) -> Result<(DeviceFacts, bool), Failure> {
        let pool = self.pcidoms.get(&domain).map(|pcidom| &pcidom.pool);
        let known = pool.and_then(|pool| pool.get(&device));
        let known = known.filter(|entry| entry.state != PoolState::Leaving);
        let known = known.and_then(|entry| entry.facts.as_ref());
        let raw = env.host.device(device);
        let facts = raw.clone().and_then(|raw| DeviceFacts::read(&raw));
        let shown = raw.as_ref().ok().map(DeviceFacts::of_resources);
        let for_rights = facts.as_ref().ok().or(shown.as_ref()).or(known);
        let taken = rights::take(env, domain, device, for_rights, Taking::default());
        let is_port = for_rights.or(known).is_some_and(|facts| facts.port);
        let mut unfit = None;
        for failure in taken.failures {
            // A port does no DMA of its own, and not every IOMMU has a place for one.
            if is_port && failure.call == DEASSIGN && failure.errno == errno::EINVAL {
                log::info!("{device}: a port that Xen assigns to nobody: {failure}");
                continue;
            }
            log::error!("{device}: taking it from pcidom {domain}: {failure}");
            unfit.get_or_insert(failure);
        }
        let raw = raw?;
        if !raw.on_pciback {
            return Err(Failure::Refused(format!(
                "{device} is not bound to pciback: xl pci-assignable-add {device}"
            )));
        }
        if let Some(failure) = unfit {
            return Err(failure.into());
        }
        let same_place =
            |known: &&DeviceFacts| shown.is_some_and(|s| s.bars == known.bars);
        let silent = facts.is_err() && DeviceFacts::is_silent(&raw);
        let facts = match (facts, known.filter(same_place)) {
            (Ok(facts), _) => facts,
            (Err(error), Some(known)) if silent => {
                // For a reset by its port, which may bring it back.
                env.host.arm(device, &known.quirks)?;
                return Err(Failure::Silent(error));
            }
            (Err(error), _) => return Err(error.into()),
        };
        let armed = match facts.port {
            true => env.host.arm_port(device, &facts.quirks),
            false => env.host.arm(device, &facts.quirks),
        };
        armed.map_err(|HostError(text)| Failure::Refused(format!("{device}: {text}")))?;
        Ok((facts, taken.owned))
    }
}

//! The record: what the daemon has to know again after it was started anew.
//!
//! One node per loan, below a directory that only dom0 can see. A stage is written down
//! before the first step that belongs to it, so whatever was interrupted can be told from the
//! record, and finished or undone:
//!
//! | found | done about it |
//! |---|---|
//! | preparing | ended: whoever asked for it is gone |
//! | lending | ended: nobody knows which rights were given |
//! | lent | goes on; ended if a mapping was under way, and what it mapped is searched for |
//! | detaching | goes on |
//! | ending | done again from the start, which does no harm |

use std::fmt;

use pcidom_loan::{LoanId, LoanOrder, Phase, ResetTerms};
use pcidom_xenbus::DomId;
use serde::{Deserialize, Serialize};

use super::exceptions::Granted;
use super::leases::Noted;
use super::{Env, Failure, paths};
use crate::store::{Nodes, Permissions, StoreError};
use crate::verb::{Bdf, Bus};

/// Version of the record's form.
const VERSION: u32 = 2;
/// The same with an owner. A daemon that knows of none would take the device from the
/// wrong domain: it must not take such a loan up.
const VERSION_WITH_OWNER: u32 = 3;

/// How far a loan has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// pcidom resets the device. The guest has no right yet.
    Preparing,
    /// Rights are being given.
    Lending,
    /// The guest has it.
    Lent,
    /// The guest's driver was asked to let it go.
    Detaching,
    /// Rights are being taken, then pcidom takes it back.
    Ending,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preparing => "preparing",
            Self::Lending => "lending",
            Self::Lent => "lent",
            Self::Detaching => "detaching",
            Self::Ending => "ending",
        })
    }
}

/// The domain a device is assigned to, if that is another one than has it on its link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its domid.
    pub domid: u16,
    /// Its `vm` path.
    pub vm: String,
    /// Its name, for people.
    pub name: String,
}

/// What survives the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The loan's generation.
    pub generation: u64,
    /// How far it has come.
    pub stage: Stage,
    /// Domid of the pcidom.
    pub pcidom: u16,
    /// Its `vm` path: another domain with that domid has another.
    pub pcidom_vm: String,
    /// Domid of the guest.
    pub guest: u16,
    /// Its `vm` path.
    pub guest_vm: String,
    /// Its name, for people.
    pub guest_name: String,
    /// Whose stub domain the guest is; none if the guest has the device for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// The device.
    pub device: Bdf,
    /// The virtual slot that was asked for.
    pub slot: Option<u8>,
    /// How the guest's bus is laid out; the same in all loans of a guest.
    #[serde(default)]
    pub bus: Bus,
    /// Its number in the link's directory, from [`Stage::Lent`] on.
    pub entry: Option<u16>,
    /// Whether the guest may use its interrupt line.
    pub line: bool,
    /// Being quiet is enough where no reset method works: `no-strict-reset=1`.
    #[serde(default)]
    pub lax: bool,
    /// What its guest may write beyond pcidom's register table.
    #[serde(default)]
    pub granted: Granted,
    /// The last lease request that was served.
    pub sequence: u32,
    /// What is mapped.
    pub leases: Noted,
}

impl Record {
    /// A loan that begins.
    pub(super) fn new(
        generation: u64,
        pcidom: (DomId, String),
        guest: (DomId, String, String),
        device: Bdf,
        slot: Option<u8>,
    ) -> Self {
        Self {
            version: VERSION,
            generation,
            stage: Stage::Preparing,
            pcidom: pcidom.0.0,
            pcidom_vm: pcidom.1,
            guest: guest.0.0,
            guest_name: guest.1,
            guest_vm: guest.2,
            owner: None,
            device,
            slot,
            bus: Bus::default(),
            entry: None,
            line: true,
            lax: false,
            granted: Granted::default(),
            sequence: 0,
            leases: Noted::default(),
        }
    }

    /// The pcidom.
    pub const fn pcidom(&self) -> DomId {
        DomId(self.pcidom)
    }

    /// The guest: the frontend's domain.
    pub const fn guest(&self) -> DomId {
        DomId(self.guest)
    }

    /// The same loan for a guest with a stub domain.
    pub(super) fn owned_by(mut self, owner: Option<Owner>) -> Self {
        self.version = if owner.is_some() { VERSION_WITH_OWNER } else { VERSION };
        self.owner = owner;
        self
    }

    /// The domain that the device is assigned to, and that has its pirqs.
    pub const fn owner(&self) -> DomId {
        match &self.owner {
            Some(owner) => DomId(owner.domid),
            None => self.guest(),
        }
    }

    /// The name of the owner, and its `vm` path.
    pub(super) fn owner_is(&self) -> (&str, &str) {
        match &self.owner {
            Some(owner) => (&owner.name, &owner.vm),
            None => (&self.guest_name, &self.guest_vm),
        }
    }

    /// Guest and owner, which are mostly the same.
    pub(super) const fn both(&self) -> [DomId; 2] {
        [self.guest(), self.owner()]
    }

    const fn has_known_form(&self) -> bool {
        match self.owner {
            None => self.version == VERSION,
            Some(_) => self.version == VERSION_WITH_OWNER,
        }
    }

    /// Writes it.
    pub(super) fn save(
        &self,
        nodes: &mut dyn Nodes,
        loan: LoanId,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(self)
            .map_err(|error| StoreError::Other(error.to_string()))?;
        nodes.write(&paths::record(loan), &text)
    }

    /// Writes what pcidom is told of it.
    pub(super) fn order(
        &self,
        nodes: &mut dyn Nodes,
        loan: LoanId,
        phase: Phase,
        reset: ResetTerms,
    ) -> Result<(), StoreError> {
        let order = LoanOrder {
            generation: pcidom_loan::Generation(self.generation),
            phase,
            guest: self.guest,
            device: self.device.0,
            slot: self.slot,
            bus: self.bus.0,
            line: self.line,
            reset,
            exceptions: self.granted.exceptions(),
        };
        nodes.write(&paths::order(self.pcidom(), loan), &order.to_string())
    }

    /// Whether the domain that is meant is still the one in XenStore. Nothing below its
    /// home may be written otherwise: that would bring the home of a dead domain back.
    pub(super) fn guest_is_home(
        &self,
        nodes: &mut dyn Nodes,
    ) -> Result<bool, StoreError> {
        Ok(nodes.read(&paths::vm(self.guest()))?.as_ref() == Some(&self.guest_vm))
    }

    /// The same for the owner.
    pub(super) fn owner_is_home(
        &self,
        nodes: &mut dyn Nodes,
    ) -> Result<bool, StoreError> {
        let (_, vm) = self.owner_is();
        Ok(nodes.read(&paths::vm(self.owner()))?.as_deref() == Some(vm))
    }

    /// The same for the pcidom.
    pub(super) fn pcidom_is_home(
        &self,
        nodes: &mut dyn Nodes,
    ) -> Result<bool, StoreError> {
        Ok(nodes.read(&paths::vm(self.pcidom()))?.as_ref() == Some(&self.pcidom_vm))
    }

    /// Those that the loan needs, as far as XenStore tells.
    pub(super) fn find(&self, nodes: &mut dyn Nodes) -> Result<Found, StoreError> {
        let pcidom = paths::vm(self.pcidom());
        let guest = paths::vm(self.guest());
        let front = format!("{}/state", paths::front(self.guest()));
        let found = nodes.read_all(&[&pcidom, &guest, &front])?;
        let value = |place: usize| found.get(place).and_then(Option::as_deref);
        Ok(Found {
            pcidom_home: value(0) == Some(&self.pcidom_vm),
            guest_home: value(1) == Some(&self.guest_vm),
            front: value(2).is_some(),
        })
    }
}

/// What XenStore has of those that a loan needs.
pub(super) struct Found {
    /// The pcidom that is meant, and not another domain with its number.
    pub(super) pcidom_home: bool,
    /// The same of the guest.
    pub(super) guest_home: bool,
    /// The guest has its end of the link.
    pub(super) front: bool,
}

/// Makes the directory if need be, and reads all there is.
pub(super) fn load(env: &mut Env<'_>) -> Result<(u64, Vec<(LoanId, Record)>), Failure> {
    let generation = env.store.read(&paths::generation())?;
    let Some(generation) = generation else {
        env.store.transaction(&mut |nodes| {
            nodes.write(paths::RECORD, "")?;
            // What is made below inherits this.
            nodes.set_permissions(paths::RECORD, Permissions::private(DomId::DOM0))?;
            nodes.write(&paths::records(), "")?;
            nodes.write(&paths::generation(), "0")
        })?;
        return Ok((0, Vec::new()));
    };
    let unreadable = |path: String| {
        Failure::Refused(format!(
            "the record in XenStore at {path} can't be read: it is of another version of \
             pcidomctl. Start that one, detach all devices, then start this one"
        ))
    };
    let generation = generation.parse().map_err(|_| unreadable(paths::generation()))?;
    let mut loans = Vec::new();
    for node in env.store.list(&paths::records())? {
        let path = format!("{}/{node}", paths::records());
        let Some(text) = env.store.read(&path)? else { continue };
        let record = serde_json::from_str(&text).ok();
        let record = record.filter(Record::has_known_form);
        let (Some(id), Some(record)) = (LoanId::parse(&node), record) else {
            return Err(unreadable(path));
        };
        loans.push((id, record));
    }
    Ok((generation, loans))
}

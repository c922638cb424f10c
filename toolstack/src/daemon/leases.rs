//! Leases: (loan, generation, kind, entry) to pirq.
//!
//! A [`Lease`] is made by a map that succeeded, here and nowhere else, and is gone when it is
//! ended: it can't be copied, and no other part of the daemon has a call of Xen that takes
//! a vector's pirq but the search for those that no record names (`unrecorded.rs`). The
//! record has [`Noted`], out of which only a daemon that starts makes leases again.

use std::fmt;

use pcidom_loan::{LoanId, MAX_VECTORS};
use pcidom_pci::Sbdf;
use pcidom_xenbus::{DomId, Pirq};
use serde::{Deserialize, Serialize};

use super::{Env, Record};
use crate::hypervisor::{Hypervisor, XenError, errno};

/// What a node of XenStore holds (`XENSTORE_PAYLOAD_MAX`), and what of it the rest of a
/// record takes at most: names and paths.
const NODE: usize = 4096;
const REST: usize = 1024;
const _: () = assert!(MAX_VECTORS * "[2047,65535],".len() + REST <= NODE);

/// Which interrupt of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vector {
    /// The only one that MSI is used with.
    Msi,
    /// This entry of the MSI-X table, which is in the BAR that begins here.
    Msix { entry: u16, table_base: u64 },
}

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    loan: LoanId,
    generation: u64,
    /// The entry of the MSI-X table, or MSI.
    entry: Option<u16>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loan {} gen {} ", self.loan, self.generation)?;
        match self.entry {
            None => f.write_str("MSI"),
            Some(entry) => write!(f, "MSI-X entry {entry}"),
        }
    }
}

/// One pirq of a guest, alive from its map to [`Lease::end`].
#[derive(Debug, PartialEq, Eq)]
struct Lease {
    key: Key,
    pirq: Pirq,
}

impl Lease {
    fn map(
        xen: &mut dyn Hypervisor,
        (guest, device): (DomId, Sbdf),
        (loan, generation): (LoanId, u64),
        vector: Vector,
    ) -> Result<Self, XenError> {
        let (entry, number, base) = match vector {
            Vector::Msi => (None, 0, 0),
            Vector::Msix { entry, table_base } => (Some(entry), entry, table_base),
        };
        let pirq = xen.map_msi(guest, device, number, base)?;
        Ok(Self { key: Key { loan, generation, entry }, pirq })
    }

    /// A mapping that is gone went with its domain.
    fn end(self, xen: &mut dyn Hypervisor, guest: DomId) {
        if let Err(error) = xen.unmap_pirq(guest, self.pirq)
            && ![errno::EINVAL, errno::ESRCH].contains(&error.errno)
        {
            log::error!("{}: pirq {}: {error}", self.key, self.pirq);
        }
    }
}

/// The leases of a loan.
#[derive(Debug, Default)]
pub(super) struct Leases(State);

#[derive(Debug, Default)]
enum State {
    #[default]
    None,
    /// Being mapped when a daemon died: which, nobody knows.
    Intent,
    Held(Vec<Lease>),
}

impl Leases {
    /// Maps these, all or none.
    pub(super) fn map(
        env: &mut Env<'_>,
        id: LoanId,
        record: &Record,
        vectors: &[Vector],
    ) -> Result<Self, XenError> {
        let (owner, device) = (record.owner(), record.device.0);
        let mut held = Vec::with_capacity(vectors.len());
        #[cfg(feature = "cached-pirqs")]
        held.extend(cached::take(id, record.generation, vectors));
        for vector in vectors.iter().skip(held.len()) {
            let of = (id, record.generation);
            match Lease::map(env.xen, (owner, device), of, *vector) {
                Ok(lease) => held.push(lease),
                Err(error) => {
                    held.into_iter().for_each(|lease| lease.end(env.xen, owner));
                    return Err(error);
                }
            }
        }
        Ok(Self(State::Held(held)))
    }

    /// Those of a record that is taken up.
    pub(super) fn recover(id: LoanId, record: &Record) -> Self {
        let lease = |entry, pirq: u16| Lease {
            key: Key { loan: id, generation: record.generation, entry },
            pirq: Pirq(pirq),
        };
        Self(match &record.leases.0 {
            Form::None => State::None,
            Form::Intent => State::Intent,
            Form::Msi(pirq) => State::Held(vec![lease(None, *pirq)]),
            Form::Msix(all) => State::Held(
                all.iter().map(|(entry, pirq)| lease(Some(*entry), *pirq)).collect(),
            ),
        })
    }

    /// Ends all of them. Says so if there is a title to say it under.
    pub(super) fn end(self, env: &mut Env<'_>, guest: DomId, title: Option<&str>) {
        let State::Held(held) = self.0 else { return };
        let pirqs: Vec<String> = held.iter().map(|held| held.pirq.to_string()).collect();
        #[cfg(feature = "cached-pirqs")]
        cached::keep(&held);
        held.into_iter().for_each(|lease| lease.end(env.xen, guest));
        if let Some(title) = title {
            log::info!("{title}: unmapped {} pirqs: {}", pirqs.len(), pirqs.join(","));
        }
    }

    /// The record's form.
    pub(super) fn note(&self) -> Noted {
        Noted(match &self.0 {
            State::None => Form::None,
            State::Intent => Form::Intent,
            State::Held(held) => match held.as_slice() {
                [Lease { key: Key { entry: None, .. }, pirq }] => Form::Msi(pirq.0),
                held => {
                    let pair = |held: &Lease| Some((held.key.entry?, held.pirq.0));
                    Form::Msix(held.iter().filter_map(pair).collect())
                }
            },
        })
    }

    /// Nothing is mapped.
    pub(super) const fn is_none(&self) -> bool {
        matches!(self.0, State::None)
    }

    /// Something may be mapped that only Xen knows of.
    pub(super) const fn is_intent(&self) -> bool {
        matches!(self.0, State::Intent)
    }

    /// The pirqs, in the order of the request.
    pub(super) fn pirqs(&self) -> impl Iterator<Item = Pirq> + '_ {
        let held = if let State::Held(held) = &self.0 { held.as_slice() } else { &[] };
        held.iter().map(|lease| lease.pirq)
    }
}

/// The leases of a loan as the record has them: nothing but text for the next daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Noted(Form);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    #[default]
    None,
    Intent,
    Msi(u16),
    /// Entries and their pirqs.
    Msix(Vec<(u16, u16)>),
}

impl Noted {
    /// From here until the next note, Xen alone knows which pirqs there are.
    pub(super) const INTENT: Self = Self(Form::Intent);
}

/// The mistake of old Linux guests, on purpose: a number that an interrupt had before is given
/// to the next one, although its mapping is gone and it may be another device's by now.
#[cfg(feature = "cached-pirqs")]
mod cached {
    use std::sync::Mutex;

    use pcidom_loan::LoanId;
    use pcidom_xenbus::Pirq;

    use super::{Key, Lease, Vector};

    static KEPT: Mutex<Vec<((LoanId, u64), Pirq)>> = Mutex::new(Vec::new());

    /// Remembers what a loan had.
    pub(super) fn keep(held: &[Lease]) {
        if let Ok(mut kept) = KEPT.lock() {
            let of = |lease: &Lease| ((lease.key.loan, lease.key.generation), lease.pirq);
            kept.extend(held.iter().map(of));
        }
    }

    /// What it had, as much as is wanted.
    pub(super) fn take(loan: LoanId, generation: u64, wanted: &[Vector]) -> Vec<Lease> {
        let Ok(mut kept) = KEPT.lock() else { return Vec::new() };
        let entries = wanted.iter().map(|vector| match vector {
            Vector::Msi => None,
            Vector::Msix { entry, .. } => Some(*entry),
        });
        let mut leases = Vec::new();
        for entry in entries {
            let at = kept.iter().position(|(of, _)| *of == (loan, generation));
            let Some(at) = at else { break };
            let (_, pirq) = kept.remove(at);
            leases.push(Lease { key: Key { loan, generation, entry }, pirq });
        }
        leases
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use pcidom_loan::LoanId;
    use pcidom_xenbus::DomId;

    use super::{Leases, Noted, State};
    use crate::daemon::Record;
    use crate::verb::Bdf;

    fn keys(note: &str) -> Vec<String> {
        let guest = (DomId(2), "g".into(), "/vm/g".into());
        let device = Bdf("01:00.0".parse().unwrap());
        let mut record = Record::new(7, (DomId(1), "/vm/p".into()), guest, device, None);
        record.leases = serde_json::from_str::<Noted>(note).unwrap();
        let leases = Leases::recover(LoanId::new(3).unwrap(), &record);
        assert_eq!(serde_json::to_string(&leases.note()).unwrap(), note);
        let State::Held(held) = leases.0 else { return Vec::new() };
        held.iter().map(|lease| format!("{}: {}", lease.key, lease.pirq)).collect()
    }

    #[test]
    fn a_note_keeps_loan_generation_kind_and_entry_of_each_pirq() {
        assert_eq!(keys(r#"{"msi":55}"#), ["loan 3 gen 7 MSI: 55"]);
        assert_eq!(
            keys(r#"{"msix":[[9,55],[0,40]]}"#),
            ["loan 3 gen 7 MSI-X entry 9: 55", "loan 3 gen 7 MSI-X entry 0: 40"]
        );
        assert_eq!(keys(r#"{"msix":[[0,55]]}"#), ["loan 3 gen 7 MSI-X entry 0: 55"]);
        assert!(keys(r#""none""#).is_empty() && keys(r#""intent""#).is_empty());
    }

    #[test]
    fn no_other_part_of_the_daemon_maps_or_unmaps_a_vector() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/daemon");
        let mut callers = Vec::new();
        for file in fs::read_dir(here).unwrap().map(|entry| entry.unwrap().path()) {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for call in ["map_msi(", "unmap_pirq("] {
                if code.contains(&format!("xen.{call}")) {
                    callers.push(format!("{name} {call}"));
                }
            }
        }
        callers.sort();
        // The line, and what a daemon that died left without a record.
        let others = ["rights.rs unmap_pirq(", "unrecorded.rs unmap_pirq("];
        assert_eq!(callers[..2], ["leases.rs map_msi(", "leases.rs unmap_pirq("]);
        assert_eq!(callers[2..], others);
    }
}

//! What protects a host from the devices it gives away: an IOMMU, and the remapping of
//! interrupts. Without them nothing is lent.

use super::{Env, Failure, paths};

/// Whether Xen has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It says so.
    Yes,
    /// It says that it hasn't.
    No,
    /// Nothing tells.
    Unknown,
}

impl Found {
    const fn text(self) -> Option<&'static str> {
        match self {
            Self::Yes => Some("yes"),
            Self::No => Some("no"),
            Self::Unknown => None,
        }
    }

    fn parse(text: Option<&str>) -> Self {
        match text {
            Some("yes") => Self::Yes,
            Some("no") => Self::No,
            _ => Self::Unknown,
        }
    }
}

/// What was found on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// An IOMMU, for PV guests.
    pub iommu: Found,
    /// Interrupt remapping.
    pub remapping: Found,
    /// A person has said that devices are lent without interrupt remapping.
    pub allow_no_intremap: bool,
}

impl Default for Protection {
    /// All there is.
    fn default() -> Self {
        Self { iommu: Found::Yes, remapping: Found::Yes, allow_no_intremap: false }
    }
}

const NO_IOMMU: &str = "Xen runs without an IOMMU, so no device can be lent (and xl starts \
    no pcidom that has any): switch VT-d or AMD-Vi on in the firmware, boot Xen without \
    iommu=0, and look for pv_directio in xl info";
const NO_REMAPPING: &str = "Xen runs without interrupt remapping, so a guest with a device \
    could forge interrupts of the host: switch it on in the firmware and boot Xen with \
    iommu=intremap; if every guest is trusted, restart: pcidomctl daemon --allow-no-intremap";
const UNKNOWN_REMAPPING: &str = "Xen's log no longer tells whether interrupts are remapped: \
    start the daemon right after boot; or look at xl debug-keys V; xl dmesg, and if they \
    are, restart: pcidomctl daemon --allow-no-intremap";
const ALLOWED: &str = "devices are lent although interrupt remapping is not known to be on \
    (--allow-no-intremap): a guest with a device could forge interrupts of the host";

impl Protection {
    /// Why nothing is lent here.
    pub(super) const fn refusal(self) -> Option<&'static str> {
        match self {
            Self { iommu: Found::No, .. } => Some(NO_IOMMU),
            Self { allow_no_intremap: true, .. } | Self { remapping: Found::Yes, .. } => {
                None
            }
            Self { remapping: Found::No, .. } => Some(NO_REMAPPING),
            Self { remapping: Found::Unknown, .. } => Some(UNKNOWN_REMAPPING),
        }
    }

    /// What a person should know, whether it keeps devices from being lent or not.
    pub(super) fn trouble(self) -> Option<&'static str> {
        let allowed = self.remapping != Found::Yes;
        self.refusal().or_else(|| allowed.then_some(ALLOWED))
    }

    /// Xen's log forgets its beginning, XenStore lives exactly as long as Xen does: what one
    /// daemon saw, the next one knows.
    pub(super) fn remember(&mut self, env: &mut Env<'_>) -> Result<(), Failure> {
        let path = paths::remapping();
        let known = env.store.read(&path)?;
        match self.remapping.text() {
            Some(text) if known.as_deref() != Some(text) => {
                env.store.write(&path, text)?;
            }
            Some(_) => {}
            None => self.remapping = Found::parse(known.as_deref()),
        }
        Ok(())
    }
}

/// What Xen's log says of interrupt remapping (`iommu_setup` in Xen's source).
pub fn remapping_in_log(log: &str) -> Found {
    let said = log.lines().rev().find_map(|line| {
        let (_, what) = line.split_once("Interrupt remapping ")?;
        match what.trim() {
            "enabled" => Some(Found::Yes),
            "disabled" => Some(Found::No),
            _ => None,
        }
    });
    said.unwrap_or(Found::Unknown)
}

#[cfg(test)]
mod tests {
    use super::{Found, Protection, remapping_in_log};

    #[test]
    fn nothing_is_lent_without_an_iommu_whatever_is_allowed() {
        let protection = Protection {
            iommu: Found::No,
            allow_no_intremap: true,
            ..Protection::default()
        };
        assert!(protection.refusal().unwrap().contains("iommu=0"));
    }

    #[test]
    fn a_person_may_do_without_interrupt_remapping_and_is_reminded() {
        for remapping in [Found::No, Found::Unknown] {
            let mut protection = Protection { remapping, ..Protection::default() };
            let refusal = protection.refusal().unwrap();
            assert!(refusal.contains("pcidomctl daemon --allow-no-intremap"));
            assert_eq!(protection.trouble(), Some(refusal));
            protection.allow_no_intremap = true;
            assert_eq!(protection.refusal(), None);
            assert!(protection.trouble().unwrap().contains("--allow-no-intremap"));
        }
        assert_eq!(Protection::default().trouble(), None);
    }

    #[test]
    fn xens_log_tells_until_it_has_forgotten() {
        let log = "(XEN) I/O virtualisation enabled\n(XEN)  - Dom0 mode: Relaxed\n";
        assert_eq!(remapping_in_log(log), Found::Unknown);
        for (word, found) in [("enabled", Found::Yes), ("disabled", Found::No)] {
            let log = format!("{log}(XEN) Interrupt remapping {word}\n(XEN) more\n");
            assert_eq!(remapping_in_log(&log), found);
        }
    }
}

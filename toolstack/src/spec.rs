//! xl's PCI_SPEC_STRING: `[DDDD:]BB:SS.F[@VSLOT][,key=value...]`
//! (xl-pci-configuration(5)).

use pcidom_pci::Sbdf;

use crate::verb::Wish;

/// Slots of a PCI bus.
const SLOTS: u8 = 32;

/// A device as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Which one.
    pub device: Sbdf,
    /// The slot the guest is to see it in.
    pub slot: Option<u8>,
    /// Being quiet is enough where no reset method works.
    pub lax: bool,
    /// What the guest may write beyond pcidom's register table.
    pub wish: Wish,
}

/// Why a text is no [`Spec`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSpec {
    /// xl would not take it either.
    #[error(
        "malformed PCI_SPEC_STRING \"{0}\": write [DDDD:]BB:SS.F[@VSLOT][,key=value...]; \
         pcidomctl status shows the devices there are"
    )]
    Malformed(String),
    /// xl takes it, pcidom has nothing that would do it.
    #[error("{key}={value} is not supported: pcidom takes {key}={only} only")]
    Unsupported {
        /// The option.
        key: String,
        /// The value.
        value: String,
        /// Those that are taken.
        only: String,
    },
}

/// Our own key beside xl's: with 1, a device that no method resets is lent all the same.
const NO_STRICT_RESET: &str = "no-strict-reset";

/// xl's key; pcidom's permissive opens less, and ends with the loan.
const PERMISSIVE: &str = "permissive";
/// Our own key: one register. It may be given several times.
const ALLOW: &str = "allow";

/// xl's keys, and the values that ask for what pcidom does anyway. (`name` is another way to
/// say which device, and `seize` and a pool don't go together.)
const KEYS: [(&str, &[&str]); 6] = [
    (NO_STRICT_RESET, &["0", "1"]),
    (PERMISSIVE, &["0", "1"]),
    ("msitranslate", &["0"]),
    ("power_mgmt", &["0"]),
    ("seize", &["0"]),
    ("rdm_policy", &["relaxed", "strict"]),
];

impl Spec {
    /// Reads it.
    pub fn parse(text: &str) -> Result<Self, BadSpec> {
        let malformed = || BadSpec::Malformed(text.into());
        let mut parts = text.split(',');
        let place = parts.next().unwrap_or_default();
        let (device, slot) = match place.split_once('@') {
            Some((device, slot)) => (device, Some(slot)),
            None => (place, None),
        };
        let device = device.parse().map_err(|_| malformed())?;
        let slot = match slot {
            Some(digits) => Some(parse_slot(digits).ok_or_else(malformed)?),
            None => None,
        };
        let mut seen = Vec::new();
        let mut lax = false;
        let mut wish = Wish::default();
        for option in parts {
            let (key, value) = option.split_once('=').ok_or_else(malformed)?;
            if key == ALLOW && !value.is_empty() {
                wish.allow.push(value.into());
                continue;
            }
            let known = KEYS.iter().find(|(name, _)| *name == key);
            let (_, values) = known.ok_or_else(malformed)?;
            if seen.contains(&key) {
                return Err(malformed());
            }
            seen.push(key);
            if !values.contains(&value) {
                let only = values.join(" or ");
                return Err(BadSpec::Unsupported {
                    key: key.into(),
                    value: value.into(),
                    only,
                });
            }
            lax |= (key, value) == (NO_STRICT_RESET, "1");
            wish.permissive |= (key, value) == (PERMISSIVE, "1");
        }
        Ok(Self { device, slot, lax, wish })
    }
}

/// Hexadecimal, always, as xl reads it.
fn parse_slot(digits: &str) -> Option<u8> {
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let valid = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let slot = u8::from_str_radix(digits, 16).ok();
    slot.filter(|slot| valid && *slot < SLOTS)
}

#[cfg(test)]
mod tests {
    use super::{BadSpec, Spec};
    use crate::verb::Wish;

    #[test]
    fn what_xl_takes_is_taken() {
        let device = "0000:01:00.0".parse().unwrap();
        let plain = Spec { device, slot: None, lax: false, wish: Wish::default() };
        assert_eq!(Spec::parse("01:00.0"), Ok(plain.clone()));
        let spec = Spec::parse("0000:01:00.0@1f,permissive=0,rdm_policy=strict");
        assert_eq!(spec, Ok(Spec { slot: Some(0x1f), ..plain }));
    }

    #[test]
    fn a_device_that_can_not_be_reset_is_lent_only_if_a_person_says_so() {
        let lax = |text| Spec::parse(text).map(|spec| spec.lax);
        assert_eq!(lax("01:00.0@1,no-strict-reset=1,permissive=0"), Ok(true));
        assert_eq!(lax("01:00.0,no-strict-reset=0,permissive=0"), Ok(false));
        assert_eq!(lax("01:00.0,permissive=0"), Ok(false));
        for value in ["", "2", "yes"] {
            let text = format!("01:00.0,no-strict-reset={value}");
            let error = Spec::parse(&text).unwrap_err().to_string();
            assert!(error.ends_with("takes no-strict-reset=0 or 1 only"), "{error}");
        }
    }

    #[test]
    fn registers_are_allowed_by_as_many_keys_as_it_takes() {
        let wish = |text| Spec::parse(text).map(|spec| spec.wish);
        let both =
            Wish { permissive: true, allow: vec!["LNKCTL".into(), "0x44:1".into()] };
        assert_eq!(wish("01:00.0,allow=LNKCTL,permissive=1,allow=0x44:1"), Ok(both));
        assert_eq!(wish("01:00.0,permissive=0"), Ok(Wish::default()));
        assert!(wish("01:00.0,allow=").is_err() && wish("01:00.0,allow").is_err());
    }

    #[test]
    fn what_xl_refuses_is_malformed() {
        for text in [
            "",
            "nonsense",
            "01:00.8",
            "01:00.0@",
            "01:00.0@20",
            "01:00.0@+1",
            "01:00.0,",
            "01:00.0,permissive",
            "01:00.0,fly=1",
            "01:00.0,seize=0,seize=0",
        ] {
            assert_eq!(Spec::parse(text), Err(BadSpec::Malformed(text.into())));
        }
    }

    #[test]
    fn what_pcidom_would_not_do_is_refused_by_name() {
        let error = Spec::parse("01:00.0,power_mgmt=1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "power_mgmt=1 is not supported: pcidom takes power_mgmt=0 only"
        );
    }
}

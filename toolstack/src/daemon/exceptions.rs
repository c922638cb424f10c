//! What a person lets one guest write beyond pcidom's register table: from what was typed to
//! registers and bits, by the same table; and back, for status.

use pciback::VirtualFunction;
use pciback::policy::registers;
use pcidom_loan::{Allowed, Exceptions};
use pcidom_pci::dump::scan_dump;
use pcidom_pci::{Register, Sbdf, Width};
use serde::{Deserialize, Serialize};

use super::{Env, Failure};
use crate::host::{Armed, DeviceFacts, Quirk};
use crate::verb::{DeniedLine, Wish};

/// Most denied registers of one device that are shown: pcidom remembers no more.
const MAX_DENIED: usize = 32;
/// What the registers of a device without a row may do.
const OWN: &str = "what a device keeps there only its maker knows";

/// What was granted for one loan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// As it was typed.
    wish: Wish,
    /// Offset, width and bits of each register.
    registers: Vec<(u16, u16, u32)>,
}

impl Granted {
    /// What a person wishes for a device that has this config space.
    pub(super) fn read(
        device: Sbdf,
        config: &[u8],
        wish: &Wish,
    ) -> Result<Self, Failure> {
        let mut granted = Self { wish: wish.clone(), registers: Vec::new() };
        if *wish == Wish::default() {
            return Ok(granted);
        }
        let function = scan_dump(device, config)
            .map_err(|error| Failure::Refused(format!("{device}: {error}")))?;
        let guest = VirtualFunction::new(&function);
        for item in &wish.allow {
            let allowed = read(&guest, item).map_err(|text| {
                Failure::Refused(format!("{device}: allow={item}: {text}"))
            })?;
            let register = allowed.register;
            let (offset, bytes) = (register.offset(), register.width().bytes());
            granted.registers.push((offset, bytes, allowed.mask));
        }
        if granted.exceptions().allowed().count() < granted.registers.len() {
            let most = pcidom_loan::MAX_ALLOWED;
            return Err(Failure::Refused(format!(
                "{device}: at most {most} registers can be allowed one by one; \
                 permissive=1 allows more"
            )));
        }
        Ok(granted)
    }

    /// For pcidom.
    pub(super) fn exceptions(&self) -> Exceptions {
        let mut exceptions = Exceptions::default();
        exceptions.permissive = self.wish.permissive;
        for (offset, bytes, mask) in &self.registers {
            let width = Width::from_bytes((*bytes).into());
            let register = width.and_then(|width| Register::new(*offset, width));
            if let Some(allowed) = register.and_then(|at| Allowed::new(at, *mask)) {
                exceptions.allow(allowed);
            }
        }
        exceptions
    }

    /// Makes dom0 let through what pcidom will; `own` is what it lets through anyway.
    pub(super) fn arm(
        &self,
        env: &mut Env<'_>,
        device: Sbdf,
        own: &[Quirk],
    ) -> Result<(), Failure> {
        if !self.registers.is_empty() {
            let mut quirks = own.to_vec();
            for (offset, bytes, _) in &self.registers {
                let bytes = u8::try_from(*bytes).unwrap_or(4);
                let quirk = Quirk { offset: *offset, bytes };
                if !quirks.contains(&quirk) {
                    quirks.push(quirk);
                }
            }
            env.host.arm(device, &quirks)?;
        }
        if self.wish.permissive {
            env.host.permit(device)?;
        }
        Ok(())
    }

    /// For people.
    pub(super) fn texts(&self) -> Vec<String> {
        let permissive = self.wish.permissive.then(|| "permissive=1".to_owned());
        let allowed = self.wish.allow.iter().map(|item| format!("allow={item}"));
        permissive.into_iter().chain(allowed).collect()
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `NAME[:MASK]` or `OFFSET:BYTES[:MASK]`.
fn read(guest: &VirtualFunction, item: &str) -> Result<Allowed, String> {
    let mut parts = item.split(':');
    let place = parts.next().unwrap_or_default();
    let by_offset = place.starts_with(|c: char| c.is_ascii_digit());
    let register = if by_offset {
        let offset = number(place).and_then(|offset| u16::try_from(offset).ok());
        let width = parts.next().and_then(number).and_then(Width::from_bytes);
        let register = offset.zip(width).and_then(|(at, width)| Register::new(at, width));
        let register = register.filter(|at| at.end() <= guest.function().space);
        register.ok_or("write OFFSET:BYTES[:MASK], with 1, 2 or 4 bytes of the device")?
    } else {
        let field = guest.field(place).ok_or_else(|| match registers::entry(place) {
            Some(_) => format!("the device has no {place}"),
            None => "no such register: write a name of docs/config-space.md, or \
                     OFFSET:BYTES[:MASK]"
                .to_owned(),
        })?;
        field.register
    };
    let mask = match parts.next() {
        Some(mask) => Some(number(mask).filter(|mask| *mask != 0).ok_or("a bad mask")?),
        None => None,
    };
    if parts.next().is_some() {
        return Err("too many parts".into());
    }
    // The table itself says what it would open.
    let most = openable(guest, register)?;
    let mask = mask.unwrap_or(most);
    match Allowed::new(register, mask) {
        Some(allowed) if mask & !most == 0 => Ok(allowed),
        _ => Err(format!("only the bits {most:#x} of it can be allowed")),
    }
}

/// The bits of a register that can be opened for a guest.
fn openable(guest: &VirtualFunction, register: Register) -> Result<u32, String> {
    let whole = register.offset()..register.end();
    if guest.hidden().iter().any(|hidden| hidden.contains(register)) {
        return Err("it is in a capability that is hidden from guests".into());
    }
    let fields = guest.fields().iter().filter(|field| {
        let at = field.register;
        at.offset() < whole.end && whole.start < at.end()
    });
    let mut most = None;
    for field in fields {
        if field.register != register {
            return Err(format!("{} is there: name it", field.name));
        }
        if field.grantable == 0 {
            let why = registers::entry(field.name).map_or("read-only", |entry| entry.why);
            return Err(format!("{} can't be allowed: {why}", field.name));
        }
        most = Some(field.grantable);
    }
    Ok(most.unwrap_or_else(|| register.width().mask()))
}

/// What pciback lets through for a device because of an exception, of this loan or of one
/// that is over.
pub(super) fn armed(env: &mut Env<'_>, device: Sbdf) -> Vec<String> {
    let Ok(Armed { permissive, quirks }) = env.host.armed(device) else {
        return Vec::new();
    };
    let facts = env.host.device(device).and_then(|raw| DeviceFacts::read(&raw));
    let own = facts.map(|facts| facts.quirks).unwrap_or_default();
    let mut texts = Vec::new();
    for Quirk { offset, bytes } in quirks.iter().filter(|quirk| !own.contains(quirk)) {
        texts.push(format!(
            "dom0 lets writes to {} at {offset:#04x} through until the device leaves the pool",
            count(*bytes, "byte")
        ));
    }
    if permissive {
        texts.push(
            "dom0's pciback is permissive for it until it lets go of the device \
             (xl pci-assignable-remove)"
                .into(),
        );
    }
    texts
}

fn count(number: u8, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Reads what pcidom says of denied writes to one function: `NAME@OFFSET+BYTES=VALUE*COUNT`,
/// separated by blanks. It is text of a domain that is not trusted: what is not of this form
/// is left out, and names are those of our own table.
pub(super) fn denied(text: &str) -> Vec<DeniedLine> {
    let words = text.split_ascii_whitespace().filter_map(line);
    words.take(MAX_DENIED).collect()
}

fn line(word: &str) -> Option<DeniedLine> {
    let hexadecimal = |digits: &str| u32::from_str_radix(digits, 16).ok();
    let (name, rest) = word.split_once('@')?;
    let (place, rest) = rest.split_once('=')?;
    let (wanted, times) = rest.split_once('*')?;
    let (offset, bytes) = place.split_once('+')?;
    let offset = u16::try_from(hexadecimal(offset)?).ok()?;
    let width = Width::from_bytes(bytes.parse().ok()?)?;
    Register::new(offset, width)?;
    let known = registers::entry(name);
    let (exception, why) = match known {
        Some(entry) if entry.row.grantable != 0 => (Some(name.into()), entry.why.into()),
        Some(entry) => (None, entry.why.into()),
        None if name.is_empty() => (Some(format!("{offset:#04x}:{bytes}")), OWN.into()),
        None => (None, "it is in a capability that is hidden from guests".into()),
    };
    let shown = known.map(|entry| entry.row.name).or_else(|| {
        let short = name.len() <= 12 && name.bytes().all(|b| b.is_ascii_alphanumeric());
        (short && !name.is_empty()).then_some(name)
    });
    Some(DeniedLine {
        register: shown.map(Into::into),
        offset,
        bytes: width.bytes(),
        wanted: hexadecimal(wanted)?,
        times: times.parse().ok()?,
        exception: exception.map(|text: String| format!("allow={text}")),
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::{Granted, denied};
    use crate::fake;
    use crate::verb::Wish;

    fn wish(items: &[&str]) -> Wish {
        let allow = items.iter().map(|item| (*item).into()).collect();
        Wish { permissive: false, allow }
    }

    fn grant(items: &[&str]) -> Result<String, String> {
        let device = "01:00.0".parse().unwrap();
        Granted::read(device, &fake::nvme().config, &wish(items))
            .map(|granted| granted.exceptions().to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_register_is_found_by_its_name_or_its_offset() {
        assert_eq!(grant(&[]).unwrap(), "");
        assert_eq!(grant(&["DEVCTL"]).unwrap(), " allow=88+2:7dff");
        assert_eq!(grant(&["DEVCTL:0x7000"]).unwrap(), " allow=88+2:7000");
        assert_eq!(grant(&["0x88:2:0x7000"]).unwrap(), " allow=88+2:7000");
        let two = grant(&["0xf0:4", "LATENCY_TIMER:240"]).unwrap();
        assert_eq!(two, " allow=f0+4:ffffffff,d+1:f0");
    }

    #[test]
    fn what_can_not_be_allowed_is_refused_with_the_reason() {
        for (item, text) in [
            ("DEVCTL:0x8000", "only the bits 0x7dff of it can be allowed"),
            ("COMMAND", "COMMAND can't be allowed: decode stays on"),
            ("BAR0", "Xen lets the guest reach the addresses that dom0 gave"),
            ("MSIX_CONTROL", "by a request, not by a write"),
            ("0x40:2", "CAPABILITY can't be allowed: read-only"),
            ("0x88:4", "DEVCTL is there: name it"),
            ("0x89:1", "DEVCTL is there: name it"),
            ("MSI_ADDRESS", "the device has no MSI_ADDRESS"),
            ("FLY", "no such register"),
            ("0xf1:2", "write OFFSET:BYTES[:MASK]"),
            ("0x100:4", "write OFFSET:BYTES[:MASK]"),
            ("0xf0", "write OFFSET:BYTES[:MASK]"),
            ("0xf0:4:0", "a bad mask"),
            ("0xf0:1:0x100", "only the bits 0xff"),
            ("0xf0:4:1:1", "too many parts"),
        ] {
            let error = grant(&[item]).unwrap_err();
            assert!(error.contains(text), "{item}: {error}");
            assert!(error.contains(&format!("allow={item}")), "{error}");
        }
        let nine = grant(&["0xf0:1"; 9]).unwrap_err();
        assert!(nine.contains("at most 8 registers"), "{nine}");
    }

    #[test]
    fn a_denied_write_comes_with_the_option_that_allows_it_and_its_risk() {
        let said = "DEVCTL@88+2=2817*3 @45+1=77*1 BIST@f+1=40*1 AER@104+4=1*2";
        let lines = denied(said);
        let shown: Vec<_> = lines
            .iter()
            .map(|line| (line.register.as_deref(), line.exception.as_deref()))
            .collect();
        let expected = [
            (Some("DEVCTL"), Some("allow=DEVCTL")),
            (None, Some("allow=0x45:1")),
            (Some("BIST"), None),
            (Some("AER"), None),
        ];
        assert_eq!(shown, expected);
        assert_eq!((lines[0].offset, lines[0].bytes), (0x88, 2));
        assert_eq!((lines[0].wanted, lines[0].times), (0x2817, 3));
        assert!(lines[0].why.contains("can stop other devices or the host"));
        assert!(lines[3].why.contains("hidden"));
    }

    #[test]
    fn what_a_hostile_pcidom_says_of_denied_writes_is_left_out_or_bounded() {
        for said in [
            "DEVCTL@88+2=2817",
            "DEVCTL@88+3=2817*3",
            "DEVCTL@89+2=2817*3",
            "DEVCTL@10000+2=2817*3",
            "@=*",
            "DEVCTL@88+2=1ffffffff*1",
            "others*7",
        ] {
            assert_eq!(denied(said), [], "{said}");
        }
        let foreign = denied("allow=it;rm@44+1=1*1 \u{1b}[2J@44+1=1*1");
        assert!(foreign.iter().all(|line| line.register.is_none()), "{foreign:?}");
        assert!(foreign.iter().all(|line| line.exception.is_none()), "{foreign:?}");
        assert_eq!(denied(&"@44+1=1*1 ".repeat(1000)).len(), 32);
    }
}

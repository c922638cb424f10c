//! Names of PCI functions: segment, bus, device, function.

use core::fmt;
use core::str::FromStr;

/// The physical address of a function, as dom0 and Xen name it.
///
/// Written `DDDD:BB:SS.F` as xl does (`%04x:%02x:%02x.%01x`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sbdf(u32);

/// A text is not `[DDDD:]BB:SS.F`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PCI address of the form [DDDD:]BB:SS.F")]
pub struct ParseAddressError;

/// Most digits that any part of an address is written with. Linux's pciback writes the
/// function of `vdev-N` with two digits, segments on large hosts may have more than four.
const MAX_DIGITS: usize = 8;

impl Sbdf {
    /// `None` if `device` is over 31 or `function` over 7.
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self(
            (segment as u32) << 16
                | (bus as u32) << 8
                | (device as u32) << 3
                | function as u32,
        ))
    }

    /// From the three words of a ring request, which a peer filled with anything.
    pub fn from_wire(domain: u32, bus: u32, devfn: u32) -> Option<Self> {
        let segment = u16::try_from(domain).ok()?;
        let bus = u8::try_from(bus).ok()?;
        let devfn = u8::try_from(devfn).ok()?;
        Self::new(segment, bus, devfn >> 3, devfn & 7)
    }

    /// Segment, which Linux and the ring call domain.
    pub const fn segment(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Bus number.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8 & 0xff) as u8
    }

    /// Device (slot) number, 0 to 31.
    pub const fn device(self) -> u8 {
        (self.0 >> 3 & 0x1f) as u8
    }

    /// Function number, 0 to 7.
    pub const fn function(self) -> u8 {
        (self.0 & 7) as u8
    }

    /// Device and function in one byte, as PCI and Xen encode them.
    pub const fn devfn(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// The number Xen's domctls take: segment, bus, devfn.
    pub const fn as_machine_sbdf(self) -> u32 {
        self.0
    }
}

impl FromStr for Sbdf {
    type Err = ParseAddressError;

    /// Takes what xl takes, and the two-digit function of `vdev-N`.
    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let part = |digits: &str, max: u32| {
            let valid = !digits.is_empty()
                && digits.len() <= MAX_DIGITS
                && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let number = u32::from_str_radix(digits, 16).ok().filter(|n| *n <= max);
            number.filter(|_| valid).ok_or(ParseAddressError)
        };
        let (rest, function) = text.rsplit_once('.').ok_or(ParseAddressError)?;
        let (rest, device) = rest.rsplit_once(':').ok_or(ParseAddressError)?;
        let (segment, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
        let devfn = part(device, 31)? << 3 | part(function, 7)?;
        Self::from_wire(part(segment, 0xffff)?, part(bus, 0xff)?, devfn)
            .ok_or(ParseAddressError)
    }
}

impl fmt::Display for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(_) = self;
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{:x}",
            self.segment(),
            self.bus(),
            self.device(),
            self.function()
        )
    }
}

impl fmt::Debug for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The address under which one link's frontend sees a function.
///
/// Means nothing outside that link, hence its own type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualBdf(pub Sbdf);

impl fmt::Display for VirtualBdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for VirtualBdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtual {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{ParseAddressError, Sbdf};

    #[test]
    fn addresses_are_read_as_xl_and_pciback_write_them() {
        let nvme = Sbdf::new(0, 1, 0, 0).unwrap();
        assert_eq!("01:00.0".parse(), Ok(nvme));
        assert_eq!("0000:01:00.0".parse(), Ok(nvme));
        assert_eq!("0000:01:00.00".parse(), Ok(nvme));
        assert_eq!(nvme.to_string(), "0000:01:00.0");
        let last: Sbdf = "FFFF:fF:1f.7".parse().unwrap();
        assert_eq!(last.as_machine_sbdf(), 0xffff_ffff);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", ":", "01:00", "01.0", "1:20.0", "01:00.8", "01:+0.0", "g:00.0"] {
            assert_eq!(text.parse::<Sbdf>(), Err(ParseAddressError), "{text}");
        }
        assert_eq!("00000000001:00.0".parse::<Sbdf>(), Err(ParseAddressError));
    }

    #[test]
    fn words_of_a_request_are_bounded_before_they_are_narrowed() {
        assert_eq!(Sbdf::from_wire(0, 1, 0), Sbdf::new(0, 1, 0, 0));
        assert_eq!(Sbdf::from_wire(0x1_0000, 0, 0), None);
        assert_eq!(Sbdf::from_wire(0, 0x100, 0), None);
        assert_eq!(Sbdf::from_wire(0, 0, 0x100), None);
    }
}

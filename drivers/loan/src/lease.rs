//! Leases: pirqs that pcidom asks for and the daemon maps.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::Generation;
use crate::text::{Fields, MAX_TEXT, ParseError, decimal};

/// Most vectors of one request: what the ring's page has room for (`SH_INFO_MAX_VEC`).
pub const MAX_VECTORS: usize = 128;

/// Entries of an MSI-X table (PCI 3.0, 6.8.2: an 11-bit field).
const MAX_TABLE: u16 = 2048;

// The longest request: 128 entries of four digits with commas, and the fields before them.
// An answer is as long: pirqs below 65536, and Xen gives guests far fewer.
const _: () = assert!(MAX_VECTORS * "2047,".len() + 64 <= MAX_TEXT);
const _: () = assert!(MAX_VECTORS * "65535,".len() + 64 <= MAX_TEXT);

/// What pcidom wants mapped or unmapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAsk {
    /// One MSI vector.
    MapMsi,
    /// These entries of the MSI-X table: 1 to [`MAX_VECTORS`], none twice, in the order in
    /// which the pirqs are to come back.
    MapMsix(Vec<u16>),
    /// All that this loan has mapped.
    Unmap,
}

/// A request of pcidom, in `data/pcidom/requests/ID`. One is open at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// The loan's generation.
    pub generation: Generation,
    /// Grows with every request of a loan, so that none is served twice.
    pub sequence: u32,
    /// What is wanted.
    pub ask: LeaseAsk,
}

/// The first item that comes again later. It compares each with each, since a list of
/// [`MAX_VECTORS`] is short.
pub fn repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    let mut rest = items;
    while let [first, more @ ..] = rest {
        if more.contains(first) {
            return Some(first);
        }
        rest = more;
    }
    None
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (n, item) in items.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        write!(f, "{comma}{item}")?;
    }
    Ok(())
}

fn parse_list(text: &str, name: &'static str) -> Result<Vec<u16>, ParseError> {
    let items: Option<Vec<u16>> =
        text.split(',').take(MAX_VECTORS + 1).map(decimal).collect();
    items.filter(|items| items.len() <= MAX_VECTORS).ok_or(ParseError::Field(name))
}

impl fmt::Display for LeaseRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gen={} seq={} ", self.generation, self.sequence)?;
        match &self.ask {
            LeaseAsk::MapMsi => f.write_str("map msi"),
            LeaseAsk::MapMsix(entries) => {
                f.write_str("map msix ")?;
                list(f, entries)
            }
            LeaseAsk::Unmap => f.write_str("unmap"),
        }
    }
}

impl FromStr for LeaseRequest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut fields = Fields::new(text)?;
        let generation = Generation(fields.value("gen")?);
        let sequence = fields.value("seq")?;
        let ask = match (fields.word("verb")?, text) {
            ("unmap", _) => LeaseAsk::Unmap,
            ("map", _) => match fields.word("kind")? {
                "msi" => LeaseAsk::MapMsi,
                "msix" => {
                    let entries = parse_list(fields.word("entries")?, "entries")?;
                    let beyond = entries.iter().any(|entry| *entry >= MAX_TABLE);
                    if beyond || repeated(&entries).is_some() {
                        return Err(ParseError::Field("entries"));
                    }
                    LeaseAsk::MapMsix(entries)
                }
                _ => return Err(ParseError::Field("kind")),
            },
            _ => return Err(ParseError::Field("verb")),
        };
        fields.end()?;
        Ok(Self { generation, sequence, ask })
    }
}

/// Why the daemon did not map or unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LeaseRefusal {
    /// Xen has no pirq left for the guest.
    #[error(
        "the guest has no MSI vectors left: raise extra_guest_irqs= on Xen's command line"
    )]
    OutOfVectors,
    /// The request doesn't fit the daemon's record or the device's own tables.
    #[error("the daemon's record does not allow it, see the daemon's log")]
    NotAllowed,
    /// Leases of this loan are mapped already: unmap first. Or the device is being reset by
    /// force: map when that is over.
    #[error(
        "its vectors are still mapped, or it is being reset: reload the driver when that is over, or detach the device and attach it again"
    )]
    Busy,
    /// Xen refused for another reason, which the daemon's log tells.
    #[error("Xen refused it, see the daemon's log")]
    Failed,
}

/// The daemon's answer, in `answers/ID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// The request's generation.
    pub generation: Generation,
    /// The request's sequence number.
    pub sequence: u32,
    /// The pirqs in the request's order (none for an unmap), all or nothing.
    pub result: Result<Vec<u16>, LeaseRefusal>,
}

impl fmt::Display for LeaseAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gen={} seq={} ", self.generation, self.sequence)?;
        match &self.result {
            Ok(pirqs) if pirqs.is_empty() => f.write_str("ok"),
            Ok(pirqs) => {
                f.write_str("ok ")?;
                list(f, pirqs)
            }
            Err(LeaseRefusal::OutOfVectors) => f.write_str("refused out-of-vectors"),
            Err(LeaseRefusal::NotAllowed) => f.write_str("refused not-allowed"),
            Err(LeaseRefusal::Busy) => f.write_str("refused busy"),
            Err(LeaseRefusal::Failed) => f.write_str("refused failed"),
        }
    }
}

impl FromStr for LeaseAnswer {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut fields = Fields::new(text)?;
        let generation = Generation(fields.value("gen")?);
        let sequence = fields.value("seq")?;
        let word: String = fields.word("result")?.into();
        let rest = fields.word("detail");
        let result = match (word.as_str(), rest) {
            ("ok", Err(_)) => {
                return Ok(Self { generation, sequence, result: Ok(Vec::new()) });
            }
            ("ok", Ok(pirqs)) => Ok(parse_list(pirqs, "pirqs")?),
            ("refused", Ok("out-of-vectors")) => Err(LeaseRefusal::OutOfVectors),
            ("refused", Ok("not-allowed")) => Err(LeaseRefusal::NotAllowed),
            ("refused", Ok("busy")) => Err(LeaseRefusal::Busy),
            ("refused", Ok("failed")) => Err(LeaseRefusal::Failed),
            _ => return Err(ParseError::Field("result")),
        };
        fields.end()?;
        Ok(Self { generation, sequence, result })
    }
}

#[cfg(test)]
mod tests {
    use super::{LeaseAnswer, LeaseAsk, LeaseRefusal, LeaseRequest, MAX_VECTORS};
    use crate::{Generation, MAX_TEXT};

    #[test]
    fn requests_and_answers_come_back_as_they_were_written() {
        let full = (0..128).map(|n| 2047 - n).collect();
        for ask in [LeaseAsk::MapMsi, LeaseAsk::MapMsix(full), LeaseAsk::Unmap] {
            let request = LeaseRequest {
                generation: Generation(u64::MAX),
                sequence: u32::MAX,
                ask,
            };
            let text = request.to_string();
            assert!(text.len() <= MAX_TEXT);
            assert_eq!(text.parse(), Ok(request));
        }
        let pirqs: Vec<u16> = (0..128).map(|n| u16::MAX - n).collect();
        for result in [Ok(pirqs), Ok(vec![]), Err(LeaseRefusal::OutOfVectors)] {
            let generation = Generation(u64::MAX);
            let answer = LeaseAnswer { generation, sequence: u32::MAX, result };
            let text = answer.to_string();
            assert!(text.len() <= MAX_TEXT);
            assert_eq!(text.parse(), Ok(answer));
        }
    }

    #[test]
    fn entries_are_bounded_and_unique() {
        let parse =
            |list: &str| format!("gen=1 seq=1 map msix {list}").parse::<LeaseRequest>();
        assert!(parse("0,1,2").is_ok());
        for bad in ["", "0,0", "5,0,5", "2048", "+1", "1,", "0 1", "-1", "65536"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let many: Vec<String> = (0..=MAX_VECTORS).map(|n| n.to_string()).collect();
        assert!(parse(&many.join(",")).is_err());
    }
}

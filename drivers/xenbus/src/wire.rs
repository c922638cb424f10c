//! XenStore messages (`struct xsd_sockmsg`, io/xs_wire.h): a header and a payload.
//!
//! The same bytes go over the ring of a domain and over the socket in dom0. A message is
//! built whole and read whole: a request half written when a domain restarts breaks its
//! ring for good.

use alloc::string::String;
use alloc::vec::Vec;

/// Bytes of a header.
pub const HEADER: usize = 16;
/// Most bytes of a payload (`XENSTORE_PAYLOAD_MAX`).
pub const MAX_PAYLOAD: usize = 4096;
/// Most bytes of a path that isn't relative (`XENSTORE_ABS_PATH_MAX`).
pub const MAX_PATH: usize = 3072;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Message types (`enum xsd_sockmsg_type`), as far as we speak them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl Kind {
            const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// `XS_DIRECTORY`
    Directory = 1,
    /// `XS_READ`
    Read = 2,
    /// `XS_GET_PERMS`
    GetPerms = 3,
    /// `XS_WATCH`
    Watch = 4,
    /// `XS_UNWATCH`
    Unwatch = 5,
    /// `XS_TRANSACTION_START`
    TransactionStart = 6,
    /// `XS_TRANSACTION_END`
    TransactionEnd = 7,
    /// `XS_WRITE`
    Write = 11,
    /// `XS_MKDIR`
    Mkdir = 12,
    /// `XS_RM`
    Remove = 13,
    /// `XS_SET_PERMS`
    SetPerms = 14,
    /// `XS_WATCH_EVENT`
    WatchEvent = 15,
    /// `XS_ERROR`
    Error = 16,
}

/// A message taken apart. An unknown type is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub kind: Option<Kind>,
    /// The request it belongs to; the sender of a request chooses.
    pub request: u32,
    /// The transaction, 0 for none.
    pub transaction: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// A header that no XenStore sends: the connection is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("XenStore message with a payload of {0} bytes")]
pub struct BadLength(pub u32);

/// Bytes of the whole message that starts with `header`.
pub fn message_length(header: &[u8; HEADER]) -> Result<usize, BadLength> {
    let [.., l0, l1, l2, l3] = *header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let payload = usize::try_from(length).map_err(|_| BadLength(length))?;
    if payload > MAX_PAYLOAD { Err(BadLength(length)) } else { Ok(HEADER + payload) }
}

impl Message {
    /// Takes a whole message apart; `None` if `bytes` is not exactly one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, payload) = bytes.split_first_chunk::<HEADER>()?;
        if message_length(header) != Ok(bytes.len()) {
            return None;
        }
        let (words, _) = header.as_chunks::<4>();
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        let kind = Kind::from_number(words.next()?);
        Some(Self {
            kind,
            request: words.next()?,
            transaction: words.next()?,
            payload: payload.to_vec(),
        })
    }

    /// The payload's strings: they end with a NUL each, the last one perhaps without.
    pub fn strings(&self) -> Vec<String> {
        let text = self.payload.strip_suffix(&[0]).unwrap_or(&self.payload);
        if text.is_empty() {
            return Vec::new();
        }
        text.split(|byte| *byte == 0)
            .map(|s| String::from_utf8_lossy(s).into_owned())
            .collect()
    }
}

/// Builds a whole message. `None` if the payload is over [`MAX_PAYLOAD`].
pub fn encode(
    kind: Kind,
    request: u32,
    transaction: u32,
    parts: &[&[u8]],
) -> Option<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let payload = u32::try_from(length).ok().filter(|_| length <= MAX_PAYLOAD)?;
    let mut bytes = Vec::with_capacity(HEADER + length);
    for word in [kind as u32, request, transaction, payload] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for part in parts {
        bytes.extend_from_slice(part);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{BadLength, HEADER, Kind, MAX_PAYLOAD, Message, encode, message_length};

    #[test]
    fn a_message_comes_back_as_it_was_built() {
        let bytes = encode(Kind::Write, 7, 3, &[b"data/x\0", b"value"]).unwrap();
        let message = Message::decode(&bytes).unwrap();
        assert_eq!(message.kind, Some(Kind::Write));
        assert_eq!((message.request, message.transaction), (7, 3));
        assert_eq!(message.strings(), ["data/x", "value"]);
    }

    #[test]
    fn cut_long_and_oversized_messages_are_refused() {
        let bytes = encode(Kind::Read, 1, 0, &[b"domid\0"]).unwrap();
        assert!(Message::decode(&bytes[..bytes.len() - 1]).is_none());
        assert!(Message::decode(&bytes[..HEADER - 1]).is_none());
        assert!(Message::decode(&[bytes.as_slice(), b"x"].concat()).is_none());
        let mut header = [0; HEADER];
        header[12..].copy_from_slice(b"text");
        assert_eq!(message_length(&header), Err(BadLength(u32::from_le_bytes(*b"text"))));
        assert!(encode(Kind::Write, 1, 0, &[&[0; MAX_PAYLOAD + 1]]).is_none());
    }
}

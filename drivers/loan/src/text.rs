//! The small grammar of all messages: words separated by single spaces, `key=value` first.

use core::str::{FromStr, Split};

/// Longest message, in bytes. A XenStore message holds 1024 bytes with header and path in
/// one piece, and pieces are what breaks a ring when a domain restarts.
pub const MAX_TEXT: usize = 900;

/// A message is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Longer than [`MAX_TEXT`].
    #[error("message of more than {MAX_TEXT} bytes")]
    TooLong,
    /// A field is missing, misspelt, out of its range, or something follows the last one.
    #[error("bad or missing field `{0}`")]
    Field(&'static str),
}

/// Reads a message field by field.
pub(crate) struct Fields<'a>(Split<'a, char>);

impl<'a> Fields<'a> {
    pub(crate) fn new(text: &'a str) -> Result<Self, ParseError> {
        if text.len() > MAX_TEXT {
            return Err(ParseError::TooLong);
        }
        Ok(Self(text.split(' ')))
    }

    /// The next word as it is.
    pub(crate) fn word(&mut self, name: &'static str) -> Result<&'a str, ParseError> {
        self.0.next().filter(|word| !word.is_empty()).ok_or(ParseError::Field(name))
    }

    /// The text of the next word, which must be `name=text`.
    pub(crate) fn text(&mut self, name: &'static str) -> Result<&'a str, ParseError> {
        let text = self.word(name)?.strip_prefix(name).and_then(|w| w.strip_prefix('='));
        text.ok_or(ParseError::Field(name))
    }

    /// The value of the next word, which must be `name=value`.
    pub(crate) fn value<T: FromStr>(
        &mut self,
        name: &'static str,
    ) -> Result<T, ParseError> {
        self.text(name)?.parse().map_err(|_| ParseError::Field(name))
    }

    /// Nothing may follow.
    pub(crate) fn end(mut self) -> Result<(), ParseError> {
        if self.0.next().is_some() {
            Err(ParseError::Field("end of message"))
        } else {
            Ok(())
        }
    }
}

/// A decimal number without sign or blanks.
pub(crate) fn decimal<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A hexadecimal number of at most eight digits, without sign or prefix.
pub(crate) fn hexadecimal(text: &str) -> Option<u32> {
    let digits = text.len() <= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u32::from_str_radix(text, 16).ok())?
}

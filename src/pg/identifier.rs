//! Which cluster a stream, a file or a backup belongs to.

use std::fmt;
use std::str::FromStr;

/// The number `initdb` gave the cluster; every physical copy shares it.
///
/// WAL of one identifier must never be appended to WAL of another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemIdentifier(u64);

impl SystemIdentifier {
    /// An identifier from its number.
    pub const fn new(number: u64) -> Self {
        SystemIdentifier(number)
    }

    /// An identifier from a `bigint`, as SQL has it.
    pub const fn from_sql(number: i64) -> Self {
        SystemIdentifier(number as u64)
    }

    /// The number, as `pg_control` holds it.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an unsigned decimal number of 64 bits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid system identifier \"{}\"", .text.escape_debug())]
pub struct ParseSystemIdentifierError {
    text: String,
}

impl FromStr for SystemIdentifier {
    type Err = ParseSystemIdentifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits_only = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = if digits_only { text.parse().ok() } else { None };
        number
            .map(SystemIdentifier)
            .ok_or_else(|| ParseSystemIdentifierError { text: text.chars().take(64).collect() })
    }
}

impl serde::Serialize for SystemIdentifier {
    /// As text: JSON readers lose digits of numbers above 2^53.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_identify_system_sends() {
        assert_eq!("7710876330348008478".parse(), Ok(SystemIdentifier::new(7_710_876_330_348_008_478)));
        for text in ["", "-1", "+1", "1 ", "18446744073709551616", "0x1"] {
            assert!(text.parse::<SystemIdentifier>().is_err(), "{text:?} was taken");
        }
    }
}

//! A backup's name: when it began, and something that no other has.

use std::fmt;
use std::str::FromStr;

use crate::pg::Timestamp;

/// `20261126T134500Z-3f9a1c07`: the moment at which it began and eight random digits. Names sort by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupName(String);

/// Not a backup's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is no backup's name, such as 20261126T134500Z-3f9a1c07", .0.escape_debug())]
pub struct ParseBackupNameError(String);

/// The shape of a name: `0` stands for a decimal digit, `x` for a hexadecimal one.
const SHAPE: &[u8] = b"00000000T000000Z-xxxxxxxx";

impl BackupName {
    /// A name for a backup that begins now.
    pub fn new(now: Timestamp, nonce: u32) -> Self {
        BackupName(format!("{}-{nonce:08x}", now.compact()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for BackupName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl FromStr for BackupName {
    type Err = ParseBackupNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |(shape, byte): (&u8, &u8)| match shape {
            b'0' => byte.is_ascii_digit(),
            b'x' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            shape => shape == byte,
        };
        if text.len() == SHAPE.len() && SHAPE.iter().zip(text.as_bytes()).all(fits) {
            return Ok(BackupName(text.to_owned()));
        }
        Err(ParseBackupNameError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_time_and_lead_nowhere_else() {
        let at = |text: &str| BackupName::new(text.parse().unwrap(), 0x3f);
        assert_eq!(at("2026-11-26 13:45:00Z").as_str(), "20261126T134500Z-0000003f");
        assert!(at("2026-11-26 13:45:00Z") < at("2026-12-01 00:00:00Z"));
        assert_eq!("20261126T134500Z-0000003f".parse(), Ok(at("2026-11-26 13:45:00Z")));
        for text in [
            "",
            "latest",
            "20261126T134500Z-0000003F",
            "20261126T134500Z-0000003f/",
            "../26T134500Z-0000003f.....",
        ] {
            assert!(text.parse::<BackupName>().is_err(), "{text}");
        }
    }
}

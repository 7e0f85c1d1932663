//! Names of replication slots.

use std::fmt;
use std::str::FromStr;

/// A name that the server accepts for a replication slot: 1 to 63 of `a`–`z`, `0`–`9` and `_`.
///
/// Answers to `ReplicationSlotValidateName` in PostgreSQL's `slot.c`. Because nothing else can be in it, it may
/// stand in a replication command or in a configuration file without quoting.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotName(String);

/// The longest name, `NAMEDATALEN - 1`, in bytes.
const MAX_LEN: usize = 63;

impl SlotName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl serde::Serialize for SlotName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Why a text is not the name of a slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotNameError {
    /// No characters at all.
    #[error("replication slot name is empty")]
    Empty,
    /// More than 63 bytes.
    #[error("replication slot name \"{}\" is too long: {} bytes, and 63 are allowed", .0.escape_debug(), .0.len())]
    TooLong(String),
    /// A character outside `a`–`z`, `0`–`9` and `_`.
    #[error(
        "replication slot name \"{}\" contains the invalid character {:?}: only lower-case letters, digits and _ are allowed",
        .name.escape_debug(), .character
    )]
    InvalidCharacter {
        /// The name as given.
        name: String,
        /// The first character that cannot be in it.
        character: char,
    },
}

impl FromStr for SlotName {
    type Err = SlotNameError;

    fn from_str(name: &str) -> Result<Self, SlotNameError> {
        if name.is_empty() {
            return Err(SlotNameError::Empty);
        }
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if let Some(character) = name.chars().find(|&c| !valid(c)) {
            return Err(SlotNameError::InvalidCharacter { name: name.chars().take(80).collect(), character });
        }
        if name.len() > MAX_LEN {
            return Err(SlotNameError::TooLong(name.to_owned()));
        }
        Ok(SlotName(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_server_accepts() {
        for name in ["a", "standby1", "_", "0", &"x".repeat(63)] {
            assert_eq!(name.parse::<SlotName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn refuses_what_the_server_refuses() {
        assert_eq!("".parse::<SlotName>(), Err(SlotNameError::Empty));
        assert!(matches!("x".repeat(64).parse::<SlotName>(), Err(SlotNameError::TooLong(_))));
        for name in ["Standby", "a-b", "a b", "a\"b", "ä", "a;DROP"] {
            assert!(
                matches!(name.parse::<SlotName>(), Err(SlotNameError::InvalidCharacter { .. })),
                "{name:?}"
            );
        }
    }
}

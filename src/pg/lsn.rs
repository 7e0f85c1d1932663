//! A position in the write-ahead log.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

/// A log sequence number: the byte position in the write-ahead log, counted from the cluster's beginning.
///
/// Printed as PostgreSQL prints it up to version 18, `%X/%X`; version 19 pads the low half to eight digits, and
/// parsing takes both. [`Lsn::INVALID`] (`0/0`) means "no position".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// `0/0`, PostgreSQL's `InvalidXLogRecPtr`: never a real position.
    pub const INVALID: Lsn = Lsn(0);

    /// The highest position that can be written down.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// No log gets here: at 10 GB/s it would take 29 years. What a peer, a file or a file's name says is beyond it is
    /// refused where it enters, so that to go on by a message or a few segments never overflows.
    pub const LIMIT: Lsn = Lsn(1 << 63);

    /// A position from its byte count.
    pub const fn new(position: u64) -> Self {
        Lsn(position)
    }

    /// The byte count, as it travels in protocol messages.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Whether this is a position at all.
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `len` bytes further on, or `None` past the end of the address space.
    pub const fn checked_add(self, len: u64) -> Option<Self> {
        match self.0.checked_add(len) {
            Some(position) => Some(Lsn(position)),
            None => None,
        }
    }

    /// Bytes from `earlier` to here; zero when `earlier` is not earlier.
    pub const fn saturating_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Lsn {
    type Output = Lsn;

    /// # Panics
    /// Past the end of the address space, in every build: a wrapped position would be a lie about durability.
    fn add(self, len: u64) -> Lsn {
        self.checked_add(len).expect("a WAL position does not exceed 64 bits")
    }
}

impl Sub for Lsn {
    type Output = u64;

    /// # Panics
    /// When `earlier` is later, in every build.
    fn sub(self, earlier: Lsn) -> u64 {
        self.0.checked_sub(earlier.0).expect("the subtracted WAL position is the earlier one")
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an LSN: two groups of one to eight hexadecimal digits with a slash between, at most [`Lsn::LIMIT`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid LSN \"{}\"", .text.escape_debug())]
pub struct ParseLsnError {
    text: String,
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let error = || ParseLsnError { text: text.chars().take(64).collect() };
        let (high, low) = text.split_once('/').ok_or_else(error)?;
        let half = |digits: &str| parse_hex_u32(digits).ok_or_else(error);
        let lsn = Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?));
        if lsn <= Lsn::LIMIT { Ok(lsn) } else { Err(error()) }
    }
}

/// One to eight hexadecimal digits, and nothing else (`from_str_radix` alone would take a sign).
fn parse_hex_u32(digits: &str) -> Option<u32> {
    let plausible = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plausible.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

impl serde::Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_both_spellings() {
        assert_eq!("0/3000060".parse(), Ok(Lsn::new(0x300_0060)));
        assert_eq!("16/0B374D84".parse::<Lsn>().unwrap(), "16/B374D84".parse().unwrap());
        assert_eq!(Lsn::new(0x16_0B37_4D84).to_string(), "16/B374D84");
    }

    #[test]
    fn refuses_everything_else() {
        for text in
            ["", "/", "0", "0/", "/0", "0/0/0", "+1/0", "0/-1", "123456789/0", "0/123456789", "0 /1", "g/0"]
        {
            assert!(text.parse::<Lsn>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn refuses_what_no_log_gets_to() {
        assert_eq!("80000000/0".parse(), Ok(Lsn::LIMIT));
        for text in ["80000000/1", "FFFFFFFF/FF000000", "FFFFFFFF/FFFFFFFF"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn print_and_parse_round_trip(position in 0..=Lsn::LIMIT.as_u64()) {
            let lsn = Lsn::new(position);
            prop_assert_eq!(lsn.to_string().parse::<Lsn>().unwrap(), lsn);
        }
    }
}

//! Checksums of files, as backup manifests carry them.
//!
//! Answers to `pg_checksum_*` in PostgreSQL's `src/common/checksum_helper.c`. CRC-32C is kept as its four bytes in
//! the machine's order, because that is what the server prints.

use std::fmt;

use sha2::Digest;

pub use crate::pg::{ChecksumAlgorithm, ParseChecksumAlgorithmError};

/// The longest checksum, in bytes.
pub const MAX_CHECKSUM_LEN: usize = 64;

impl ChecksumAlgorithm {
    /// A checksum over nothing yet.
    pub fn start(self) -> RunningChecksum {
        RunningChecksum(match self {
            Self::None => Running::None,
            Self::Crc32c => Running::Crc32c(0),
            Self::Sha224 => Running::Sha224(Box::default()),
            Self::Sha256 => Running::Sha256(Box::default()),
            Self::Sha384 => Running::Sha384(Box::default()),
            Self::Sha512 => Running::Sha512(Box::default()),
        })
    }
}

/// A checksum being computed.
#[derive(Debug, Clone)]
pub struct RunningChecksum(Running);

#[derive(Debug, Clone)]
enum Running {
    None,
    Crc32c(u32),
    Sha224(Box<sha2::Sha224>),
    Sha256(Box<sha2::Sha256>),
    Sha384(Box<sha2::Sha384>),
    Sha512(Box<sha2::Sha512>),
}

impl RunningChecksum {
    /// Adds bytes.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            Running::None => {}
            Running::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, data),
            Running::Sha224(sha) => sha.update(data),
            Running::Sha256(sha) => sha.update(data),
            Running::Sha384(sha) => sha.update(data),
            Running::Sha512(sha) => sha.update(data),
        }
    }

    /// The checksum of all bytes added.
    pub fn finish(self) -> Checksum {
        match self.0 {
            Running::None => Checksum::new(&[]),
            Running::Crc32c(crc) => Checksum::new(&crc.to_ne_bytes()),
            Running::Sha224(sha) => Checksum::new(&sha.finalize()),
            Running::Sha256(sha) => Checksum::new(&sha.finalize()),
            Running::Sha384(sha) => Checksum::new(&sha.finalize()),
            Running::Sha512(sha) => Checksum::new(&sha.finalize()),
        }
    }
}

/// A finished checksum: at most [`MAX_CHECKSUM_LEN`] bytes, none for [`ChecksumAlgorithm::None`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Checksum {
    bytes: [u8; MAX_CHECKSUM_LEN],
    len: u8,
}

impl Checksum {
    fn new(digest: &[u8]) -> Self {
        let mut bytes = [0; MAX_CHECKSUM_LEN];
        bytes[..digest.len()].copy_from_slice(digest);
        Checksum { bytes, len: digest.len() as u8 }
    }

    /// The bytes, in the order a manifest prints them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(algorithm: ChecksumAlgorithm, data: &[u8]) -> String {
        let mut running = algorithm.start();
        let (first, second) = data.split_at(data.len() / 2);
        running.update(first);
        running.update(second);
        format!("{:?}", running.finish())
    }

    #[test]
    fn agree_with_known_answers() {
        use ChecksumAlgorithm as A;
        let crc = if cfg!(target_endian = "little") { "839206e3" } else { "e3069283" };
        assert_eq!(hex(A::Crc32c, b"123456789"), crc);
        assert_eq!(hex(A::None, b"123456789"), "");
        assert!(hex(A::Sha224, b"abc").starts_with("23097d22") && hex(A::Sha224, b"abc").len() == 56);
        assert!(hex(A::Sha256, b"abc").starts_with("ba7816bf") && hex(A::Sha256, b"abc").len() == 64);
        assert!(hex(A::Sha384, b"abc").starts_with("cb00753f") && hex(A::Sha384, b"abc").len() == 96);
        assert!(hex(A::Sha512, b"abc").starts_with("ddaf35a1") && hex(A::Sha512, b"abc").len() == 128);
    }

    #[test]
    fn names_round_trip_in_any_case() {
        for algorithm in ChecksumAlgorithm::ALL {
            assert_eq!(algorithm.name().to_lowercase().parse(), Ok(algorithm));
        }
        assert!("MD5".parse::<ChecksumAlgorithm>().is_err());
    }
}

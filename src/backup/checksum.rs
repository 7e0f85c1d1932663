//! Checksums of files, as backup manifests carry them.
//!
//! Answers to `pg_checksum_*` in PostgreSQL's `src/common/checksum_helper.c`. CRC-32C is kept as its four bytes in
//! the machine's order, because that is what the server prints. It is computed with the widest carry-less multiplication
//! that the processor has, which takes a third of the time of its instructions for CRC-32C: those wait for each other.

use std::fmt;

use crc_fast::CrcAlgorithm;
use sha2::Digest as _;

pub use crate::pg::{ChecksumAlgorithm, ParseChecksumAlgorithmError};

/// The longest checksum, in bytes.
pub const MAX_CHECKSUM_LEN: usize = 64;

impl ChecksumAlgorithm {
    /// A checksum over nothing yet.
    pub fn start(self) -> RunningChecksum {
        RunningChecksum(match self {
            Self::None => Running::None,
            Self::Crc32c => Running::Crc32c(Box::new(crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi))),
            Self::Sha224 => Running::Sha224(Box::default()),
            Self::Sha256 => Running::Sha256(Box::default()),
            Self::Sha384 => Running::Sha384(Box::default()),
            Self::Sha512 => Running::Sha512(Box::default()),
        })
    }
}

/// A checksum being computed.
#[derive(Clone)]
pub struct RunningChecksum(Running);

#[derive(Clone)]
enum Running {
    None,
    Crc32c(Box<crc_fast::Digest>),
    Sha224(Box<sha2::Sha224>),
    Sha256(Box<sha2::Sha256>),
    Sha384(Box<sha2::Sha384>),
    Sha512(Box<sha2::Sha512>),
}

impl fmt::Debug for RunningChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningChecksum").finish_non_exhaustive()
    }
}

impl RunningChecksum {
    /// Adds bytes.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            Running::None => {}
            Running::Crc32c(crc) => crc.update(data),
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
            // the upper half of what it returns is for longer ones
            Running::Crc32c(crc) => Checksum::new(&(crc.finalize() as u32).to_ne_bytes()),
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
    fn crc32c_is_the_same_however_it_is_computed() {
        let data: Vec<u8> = (0..70_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for len in [0, 1, 7, 8, 63, 64, 255, 256, 257, 1023, 4096, 8192, 32_768, 69_999] {
            let mut running = ChecksumAlgorithm::Crc32c.start();
            data[..len].chunks(4099).for_each(|piece| running.update(piece));
            assert_eq!(running.finish().as_bytes(), crc32c::crc32c(&data[..len]).to_ne_bytes(), "{len}");
        }
    }

    #[test]
    fn names_round_trip_in_any_case() {
        for algorithm in ChecksumAlgorithm::ALL {
            assert_eq!(algorithm.name().to_lowercase().parse(), Ok(algorithm));
        }
        assert!("MD5".parse::<ChecksumAlgorithm>().is_err());
    }
}

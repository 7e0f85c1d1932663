//! The checksums that a backup manifest can hold.

use std::fmt;
use std::str::FromStr;

/// Which checksum a manifest holds for each file (`MANIFEST_CHECKSUMS`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    /// None.
    None,
    /// CRC-32C, the server's default.
    #[default]
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// Not the name of a checksum algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized checksum algorithm \"{}\"", .name.escape_debug())]
pub struct ParseChecksumAlgorithmError {
    name: String,
}

impl ChecksumAlgorithm {
    /// All of them, in the order of the server's documentation.
    pub const ALL: [ChecksumAlgorithm; 6] =
        [Self::None, Self::Crc32c, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The name that commands and manifests use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Crc32c => "CRC32C",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }
}

impl fmt::Display for ChecksumAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ChecksumAlgorithm {
    type Err = ParseChecksumAlgorithmError;

    /// In any case, as the server takes it.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| ParseChecksumAlgorithmError { name: name.chars().take(64).collect() })
    }
}

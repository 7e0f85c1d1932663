//! `global/pg_control`: what a data directory says of itself.

use super::SystemIdentifier;

/// The head of a control file, of which every supported major keeps the same layout.
///
/// Answers to `ControlFileData` in PostgreSQL's `catalog/pg_control.h`: system identifier (u64), control file
/// version (u32) and catalog version (u32), machine byte order. The checksum, a CRC-32C over all before it,
/// moves with the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster's identity.
    pub system_identifier: SystemIdentifier,
    /// `PG_CONTROL_VERSION`, such as 1300.
    pub control_version: u32,
    /// `CATALOG_VERSION_NO`, such as 202209061.
    pub catalog_version: u32,
}

/// Why a control file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// Shorter than its fields.
    #[error("control file is too short: {0} bytes")]
    TooShort(usize),
    /// Written on a machine of the other byte order.
    #[error("control file has the byte order of another machine")]
    ByteOrder,
    /// No offset at which the checksum could stand agrees with the content.
    #[error("control file has an incorrect checksum")]
    Checksum,
}

/// The size of the file on disk (`PG_CONTROL_FILE_SIZE`); the fields fill only its beginning.
pub const CONTROL_FILE_LEN: usize = 8192;

/// `PG_CONTROL_MAX_SAFE_SIZE`: all fields, checksum included, lie within one disk sector.
const MAX_FIELDS_LEN: usize = 512;

/// Where the search for the checksum begins: the mandatory fields take more than this in every version.
const MIN_FIELDS_LEN: usize = 200;

impl ControlFile {
    /// Reads the fields and checks the CRC.
    ///
    /// The checksum's offset depends on the version's fields; it is the last of them, and what follows it is
    /// zeros. So the last aligned word that is not zero is the checksum, or, for a checksum that happens to be
    /// zero, one of the words behind it. No other offset is tried: a scan over all would weaken the check.
    pub fn parse(content: &[u8]) -> Result<Self, ControlFileError> {
        if content.len() < MAX_FIELDS_LEN {
            return Err(ControlFileError::TooShort(content.len()));
        }
        let word = |offset: usize| {
            let bytes = [content[offset], content[offset + 1], content[offset + 2], content[offset + 3]];
            u32::from_ne_bytes(bytes)
        };
        let control_version = word(8);
        if control_version % 65536 == 0 && control_version / 65536 != 0 {
            return Err(ControlFileError::ByteOrder);
        }
        let last = (MIN_FIELDS_LEN..MAX_FIELDS_LEN).step_by(4).rev().find(|&offset| word(offset) != 0);
        let matches =
            |offset: usize| offset < MAX_FIELDS_LEN && crc32c::crc32c(&content[..offset]) == word(offset);
        if !last.is_some_and(|offset| matches(offset) || matches(offset + 4) || matches(offset + 8)) {
            return Err(ControlFileError::Checksum);
        }
        let low = u64::from(word(0));
        let high = u64::from(word(4));
        let number = if cfg!(target_endian = "little") { high << 32 | low } else { low << 32 | high };
        Ok(ControlFile {
            system_identifier: SystemIdentifier::new(number),
            control_version,
            catalog_version: word(12),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(crc_offset: usize) -> Vec<u8> {
        let mut content = vec![0; CONTROL_FILE_LEN];
        content[..8].copy_from_slice(&7_710_876_330_348_008_478u64.to_ne_bytes());
        content[8..12].copy_from_slice(&1300u32.to_ne_bytes());
        content[12..16].copy_from_slice(&202_209_061u32.to_ne_bytes());
        content[100..crc_offset].fill(7);
        let crc = crc32c::crc32c(&content[..crc_offset]);
        content[crc_offset..crc_offset + 4].copy_from_slice(&crc.to_ne_bytes());
        content
    }

    #[test]
    fn finds_the_checksum_wherever_the_version_puts_it() {
        for crc_offset in [288, 292, 296] {
            let control = ControlFile::parse(&sample(crc_offset)).unwrap();
            assert_eq!(control.system_identifier.as_u64(), 7_710_876_330_348_008_478);
            assert_eq!((control.control_version, control.catalog_version), (1300, 202_209_061));
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let content = sample(288);
        for bit in 0..MAX_FIELDS_LEN * 8 {
            let mut damaged = content.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(ControlFile::parse(&damaged).is_err(), "bit {bit}");
        }
        assert_eq!(ControlFile::parse(&content[..100]), Err(ControlFileError::TooShort(100)));
    }
}

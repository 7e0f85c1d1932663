//! `global/pg_control`: what a data directory says of itself.

use super::{Lsn, SystemIdentifier, TimelineId};

/// The head of a control file, of which every supported major keeps the same layout, and how far recovery had come.
///
/// Answers to `ControlFileData` in PostgreSQL's `catalog/pg_control.h`, in the machine's byte order. The end of
/// recovery moves with the version, and so does the checksum, a CRC-32C over all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster's identity.
    pub system_identifier: SystemIdentifier,
    /// `PG_CONTROL_VERSION`, such as 1300.
    pub control_version: u32,
    /// `CATALOG_VERSION_NO`, such as 202209061.
    pub catalog_version: u32,
    /// What the cluster was doing when the file was written.
    pub state: ClusterState,
    /// Where recovery from the last checkpoint begins.
    pub redo_lsn: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: Option<TimelineId>,
    /// How far recovery had come at least; `None` outside of recovery, and for versions newer than any known.
    pub min_recovery_lsn: Option<Lsn>,
    /// The timeline of that position.
    pub min_recovery_timeline: Option<TimelineId>,
    /// What the cluster was compiled and made with; `None` for versions newer than any known.
    pub layout: Option<ClusterLayout>,
}

/// How a cluster lays its data out on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterLayout {
    /// `BLCKSZ`, in bytes.
    pub block_len: u32,
    /// `RELSEG_SIZE`: how many blocks one file of a relation holds at most.
    pub segment_block_count: u32,
    /// The version of the data pages' checksums; zero where there are none.
    pub data_checksum_version: u32,
}

/// `DBState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterState {
    /// Shut down as a primary.
    ShutDown,
    /// Shut down as a standby.
    ShutDownInRecovery,
    /// A standby, or a recovery, that runs or was cut off.
    InRecovery,
    /// A primary that runs or was cut off.
    InProduction,
    /// Anything else: just made, or cut off on the way from one state to another.
    Between,
}

impl ClusterState {
    fn of_number(number: u32) -> Self {
        match number {
            1 => ClusterState::ShutDown,
            2 => ClusterState::ShutDownInRecovery,
            5 => ClusterState::InRecovery,
            6 => ClusterState::InProduction,
            _ => ClusterState::Between,
        }
    }
}

/// Where `minRecoveryPoint` is; its timeline follows. By `PG_CONTROL_VERSION`, which carries the major from 17 on.
const fn min_recovery_offset(control_version: u32) -> Option<usize> {
    match control_version {
        1300..=1899 => Some(136),
        1900..=1999 => Some(144),
        _ => None,
    }
}

/// Where `blcksz` and `data_checksum_version` are; `relseg_size` follows the first.
const fn layout_offsets(control_version: u32) -> Option<(usize, usize)> {
    match control_version {
        1300..=1899 => Some((216, 252)),
        1900..=1999 => Some((224, 268)),
        _ => None,
    }
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
        let long = |offset: usize| {
            let (first, second) = (u64::from(word(offset)), u64::from(word(offset + 4)));
            if cfg!(target_endian = "little") { second << 32 | first } else { first << 32 | second }
        };
        let min_recovery = min_recovery_offset(control_version);
        let layout = layout_offsets(control_version).map(|(block_len, checksums)| ClusterLayout {
            block_len: word(block_len),
            segment_block_count: word(block_len + 4),
            data_checksum_version: word(checksums),
        });
        Ok(ControlFile {
            system_identifier: SystemIdentifier::new(long(0)),
            control_version,
            catalog_version: word(12),
            state: ClusterState::of_number(word(16)),
            redo_lsn: Lsn::new(long(40)),
            timeline: TimelineId::new(word(48)),
            min_recovery_lsn: min_recovery.map(|offset| Lsn::new(long(offset))).filter(|lsn| lsn.is_valid()),
            min_recovery_timeline: min_recovery.and_then(|offset| TimelineId::new(word(offset + 8))),
            layout,
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
    fn the_end_of_recovery_is_where_the_version_puts_it() {
        for (version, offset) in [(1300u32, 136), (1700, 136), (1800, 136), (1905, 144)] {
            let mut content = vec![0; CONTROL_FILE_LEN];
            content[8..12].copy_from_slice(&version.to_ne_bytes());
            content[16..20].copy_from_slice(&5u32.to_ne_bytes());
            content[40..48].copy_from_slice(&0x1_0000_0028u64.to_ne_bytes());
            content[48..52].copy_from_slice(&2u32.to_ne_bytes());
            content[offset..offset + 8].copy_from_slice(&0x1_0000_0700u64.to_ne_bytes());
            content[offset + 8..offset + 12].copy_from_slice(&3u32.to_ne_bytes());
            let crc = crc32c::crc32c(&content[..292]);
            content[292..296].copy_from_slice(&crc.to_ne_bytes());
            let control = ControlFile::parse(&content).unwrap();
            assert_eq!(control.state, ClusterState::InRecovery);
            assert_eq!((control.redo_lsn.to_string(), control.timeline), ("1/28".into(), TimelineId::new(2)));
            assert_eq!(control.min_recovery_lsn, Some("1/700".parse().unwrap()));
            assert_eq!(control.min_recovery_timeline, TimelineId::new(3));
        }
    }

    #[test]
    fn the_layout_is_where_the_version_puts_it() {
        for (version, block_len, checksums) in [(1700u32, 216, 252), (1905, 224, 268)] {
            let mut content = vec![0; CONTROL_FILE_LEN];
            content[8..12].copy_from_slice(&version.to_ne_bytes());
            content[block_len..block_len + 4].copy_from_slice(&8192u32.to_ne_bytes());
            content[block_len + 4..block_len + 8].copy_from_slice(&131_072u32.to_ne_bytes());
            content[checksums..checksums + 4].copy_from_slice(&1u32.to_ne_bytes());
            let crc = crc32c::crc32c(&content[..304]);
            content[304..308].copy_from_slice(&crc.to_ne_bytes());
            let layout = ControlFile::parse(&content).unwrap().layout.unwrap();
            assert_eq!((layout.block_len, layout.segment_block_count), (8192, 131_072));
            assert_eq!(layout.data_checksum_version, 1);
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

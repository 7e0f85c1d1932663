//! Bodies of the fuzz targets; `tests/corpus.rs` replays the committed corpus through them.

use super::envelope;
use super::identity::ClusterIdentity;
use super::keyring::Keyring;
use super::layout::{self, SegmentRange};
use super::lease::LeaseRecord;
use super::wal_object;
use crate::pg::WalSegmentSize;

/// The most that an object of this target may decompress to.
const MAX_WAL_LEN: u64 = 1 << 20;

/// An object of an encrypted archive, and a list of keys. No input panics, and what somebody made up does not open.
///
/// # Panics
/// When that does not hold.
pub fn fuzz_encrypted_object(data: &[u8]) {
    let keys = Keyring::parse(&format!("k1 {}", "5a".repeat(32))).expect("a list of one key");
    assert!(envelope::open(&keys, None, "wal/00000002.history", data).is_err());
    let sealed = envelope::seal(&keys, None, "cluster.json", data).expect("random numbers");
    assert_eq!(envelope::open(&keys, None, "cluster.json", &sealed).as_deref(), Ok(data));
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Keyring::parse(text);
    }
}

/// An object of an archive: its content as WAL, as `cluster.json`, and as a listing's key. No input panics, none makes
/// more WAL than its name says, and what is understood is written the same way again.
///
/// # Panics
/// When that does not hold.
pub fn fuzz_archive_object(data: &[u8]) {
    for expected in [0, 1, 4096, MAX_WAL_LEN] {
        if let Ok(wal) = wal_object::decode(data, expected) {
            assert_eq!(wal.len() as u64, expected);
        }
    }
    if let Some(identity) = ClusterIdentity::decode(data) {
        assert_eq!(ClusterIdentity::decode(&identity.encode()), Some(identity));
    }
    if let Some(record) = LeaseRecord::decode(data) {
        assert_eq!(LeaseRecord::decode(&record.encode()), Some(record));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    for key in text.lines() {
        if let Some(range) = SegmentRange::parse(key, WalSegmentSize::DEFAULT) {
            assert_eq!(range.key(), key);
            assert!(range.wal_len() > 0 && range.wal_len() <= WalSegmentSize::DEFAULT.as_u64());
        }
        if let Some(file) = layout::parse_segment_key(key, WalSegmentSize::DEFAULT) {
            assert_eq!(layout::segment_key(file), key);
        }
        let _ = layout::parse_timeline(key);
        if let Some(generation) = layout::parse_lease_key(key) {
            assert_eq!(layout::lease_key(generation), key);
        }
    }
}

//! Bodies of the fuzz targets; `tests/corpus.rs` replays the committed corpus through them.

use super::record::BackupRecord;
use super::{keys, piece_reader, sums};
use crate::pg::Timestamp;

/// An object of a backup: as its record, as its list of checksums, as a piece, as keys and moments. No input panics, and what is
/// understood is written the same way again.
///
/// # Panics
/// When that does not hold.
pub fn fuzz_backup_object(data: &[u8]) {
    if let Some(record) = BackupRecord::decode(data) {
        assert_eq!(BackupRecord::decode(&record.encode()), Some(record));
    }
    if let Some(sums) = sums::parse(data) {
        let mut text = String::new();
        for (name, sum) in &sums {
            sums::push_line(&mut text, name, sum);
        }
        assert_eq!(sums::parse(text.as_bytes()), Some(sums));
    }
    if data.len() < 64 << 10 {
        let _ = piece_reader::decompress(data);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.lines() {
        if let Some(name) = keys::parse_record_key(line) {
            assert_eq!(keys::record_key(&name), line);
        }
        let _ = keys::parse_data_prefix(line);
        if let Ok(moment) = line.parse::<Timestamp>() {
            assert_eq!(moment.to_string().parse(), Ok(moment));
        }
    }
}

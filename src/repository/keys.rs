//! Which object of a backup holds what: the keys below an archive's prefix.
//!
//! ```text
//! backups/<name>.json                      the record: the last object, and what makes it a backup
//! backups/<name>/begun.json                the first object: somebody is at it, or was
//! backups/<name>/start.json                the next one: from where on it needs WAL
//! backups/<name>/<oid>.tar.00000001.zst    a piece of a tablespace
//! backups/<name>/base.tar.00000001.zst     a piece of the data directory
//! backups/<name>/backup_manifest.00000001.zst
//! backups/<name>/SHA256SUMS                of all pieces
//! ```

use super::name::BackupName;

/// Where backups are.
pub const BACKUPS_PREFIX: &str = "backups/";

/// The name of the data directory's archive, and of the manifest, in pieces' names.
pub const BASE_STREAM: &str = "base.tar";
/// See [`BASE_STREAM`].
pub const MANIFEST_STREAM: &str = "backup_manifest";

const RECORD_SUFFIX: &str = ".json";
const PIECE_SUFFIX: &str = ".zst";

/// The most pieces of one archive: 1.5 PB of tar.
pub const MAX_PIECES: u32 = 99_999_999;

/// The object that makes it a backup.
pub fn record_key(name: &BackupName) -> String {
    format!("{BACKUPS_PREFIX}{name}{RECORD_SUFFIX}")
}

/// The name of the backup whose record this is.
pub fn parse_record_key(key: &str) -> Option<BackupName> {
    key.strip_prefix(BACKUPS_PREFIX)?.strip_suffix(RECORD_SUFFIX)?.parse().ok()
}

/// Where everything else of a backup is.
pub fn data_prefix(name: &BackupName) -> String {
    format!("{BACKUPS_PREFIX}{name}/")
}

/// The backup whose objects are below this, of which the slash at the end may be missing.
pub fn parse_data_prefix(prefix: &str) -> Option<BackupName> {
    let name = prefix.strip_prefix(BACKUPS_PREFIX)?;
    name.strip_suffix('/').unwrap_or(name).parse().ok()
}

/// The object that says that a backup was begun.
pub fn begun_key(name: &BackupName) -> String {
    format!("{}begun.json", data_prefix(name))
}

/// The object that says from where on it needs WAL.
pub fn start_key(name: &BackupName) -> String {
    format!("{}start.json", data_prefix(name))
}

/// The object with the checksums of all pieces.
pub fn sums_key(name: &BackupName) -> String {
    format!("{}SHA256SUMS", data_prefix(name))
}

/// The archive of a tablespace, in pieces' names.
pub fn tablespace_stream(oid: u32) -> String {
    format!("{oid}.tar")
}

/// The name of a piece below [`data_prefix`]; pieces are counted from one.
pub fn piece_name(stream: &str, number: u32) -> String {
    format!("{stream}.{number:08}{PIECE_SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_documentation() {
        let name: BackupName = "20261126T134500Z-3f9a1c07".parse().unwrap();
        assert_eq!(record_key(&name), "backups/20261126T134500Z-3f9a1c07.json");
        assert_eq!(parse_record_key(&record_key(&name)), Some(name.clone()));
        assert_eq!(parse_data_prefix(&data_prefix(&name)), Some(name.clone()));
        assert_eq!(parse_data_prefix("backups/20261126T134500Z-3f9a1c07"), Some(name.clone()));
        assert_eq!(sums_key(&name), "backups/20261126T134500Z-3f9a1c07/SHA256SUMS");
        assert_eq!(piece_name(&tablespace_stream(16384), 12), "16384.tar.00000012.zst");
        for key in ["backups/x.json", "backups/20261126T134500Z-3f9a1c07", "20261126T134500Z-3f9a1c07.json"] {
            assert_eq!(parse_record_key(key), None, "{key}");
        }
    }
}

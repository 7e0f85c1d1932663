//! `pg_wal` elsewhere, for a cluster that was combined in one place.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::Path;

use crate::backup::confined::FileError;

/// Copies what is in `pg_wal` of a data directory to `directory`, durably, and puts a link in its place. Nobody but who runs this
/// can write in either of them yet.
pub(super) fn move_to(data: &Path, directory: &Path) -> Result<(), FileError> {
    let pg_wal = data.join("pg_wal");
    copy_entries(&pg_wal, directory)?;
    fs::remove_dir_all(&pg_wal).map_err(|error| FileError::new("remove directory", &pg_wal, error))?;
    symlink(directory, &pg_wal).map_err(|error| FileError::new("create link", &pg_wal, error))?;
    sync(data)
}

fn copy_entries(from: &Path, to: &Path) -> Result<(), FileError> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| FileError::new(operation, path, error)
    };
    for entry in fs::read_dir(from).map_err(failed("list directory", from))? {
        let entry = entry.map_err(failed("list directory", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = entry.metadata().map_err(failed("examine", &source))?;
        let mode = metadata.mode() & 0o777;
        if metadata.is_dir() {
            let made = DirBuilder::new().mode(mode).create(&target);
            made.map_err(failed("create directory", &target))?;
            copy_entries(&source, &target)?;
            continue;
        }
        let mut original = File::open(&source).map_err(failed("open file", &source))?;
        let created = File::options().write(true).create_new(true).mode(mode).open(&target);
        let mut copy = created.map_err(failed("create file", &target))?;
        std::io::copy(&mut original, &mut copy).map_err(failed("write file", &target))?;
        copy.sync_all().map_err(failed("fsync file", &target))?;
    }
    sync(to)
}

fn sync(directory: &Path) -> Result<(), FileError> {
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(|error| FileError::new("fsync directory", directory, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_is_behind_the_link_and_what_marks_the_directory_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let (data, elsewhere) = (scratch.path().join("data"), scratch.path().join("elsewhere"));
        fs::create_dir_all(data.join("pg_wal/archive_status")).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("mark"), "ours").unwrap();
        fs::write(data.join("pg_wal/000000010000000000000001"), "wal").unwrap();
        move_to(&data, &elsewhere).unwrap();
        assert_eq!(fs::read_link(data.join("pg_wal")).unwrap(), elsewhere);
        assert_eq!(fs::read(data.join("pg_wal/000000010000000000000001")).unwrap(), b"wal");
        assert!(elsewhere.join("archive_status").is_dir() && elsewhere.join("mark").is_file());
    }
}

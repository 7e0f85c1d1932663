use super::super::testing::{LABEL, Scratch, Tar, base, manifest, tablespace};
use super::super::{ArchiveName, FileProblem};
use super::*;

const CONTROL: &[u8] = &[1; 8192];

fn inspect(
    archives: &[(ArchiveName, Vec<u8>)],
    manifest: Option<Vec<u8>>,
    chunk_len: usize,
) -> Result<InspectedBackup, BackupError> {
    let mut inspector = BackupInspector::new(ChecksumAlgorithm::Crc32c, ArchiveEnd::Terminated);
    for (name, archive) in archives {
        inspector.handle(ArchiveEvent::ArchiveBegin(name.clone()))?;
        for chunk in archive.chunks(chunk_len) {
            inspector.handle(ArchiveEvent::ArchiveData(Bytes::copy_from_slice(chunk)))?;
        }
    }
    if let Some(manifest) = manifest {
        inspector.handle(ArchiveEvent::ManifestBegin)?;
        for chunk in manifest.chunks(chunk_len) {
            inspector.handle(ArchiveEvent::ManifestData(Bytes::copy_from_slice(chunk)))?;
        }
    }
    inspector.finish()
}

fn listed() -> Vec<(&'static str, &'static [u8])> {
    vec![
        ("pg_tblspc/16384/PG_15_202209061/9", b"row"),
        ("backup_label", LABEL),
        ("base/1259", &[7; 3000]),
        ("global/pg_control", CONTROL),
    ]
}

fn archives(content: &[u8]) -> Vec<(ArchiveName, Vec<u8>)> {
    let space = Tar::default().directory(b"PG_15_202209061/").file(b"PG_15_202209061/9", b"row").end();
    let data = Tar::base().file(b"base/1259", content).control();
    vec![tablespace(space), base(data)]
}

#[test]
fn a_backup_that_is_whole_passes_in_any_pieces() {
    for chunk_len in [1, 511, 512, 4097, 1 << 20] {
        let found = inspect(&archives(&[7; 3000]), Some(manifest(&listed())), chunk_len).unwrap();
        assert_eq!(found.manifest.file_count, 4);
        assert_eq!(found.backup_label.start_lsn.to_string(), "0/2000028");
    }
}

/// What the writer of files refuses is refused here, too.
#[test]
fn what_is_not_as_listed_is_named() {
    let mismatch = |error: BackupError| match error {
        BackupError::Mismatch(mismatch) => mismatch.problems,
        other => panic!("{other}"),
    };
    let altered = inspect(&archives(&[8; 3000]), Some(manifest(&listed())), 700).unwrap_err();
    assert_eq!(mismatch(altered), [FileProblem::Checksum { path: (*b"base/1259").into() }]);
    let missing = inspect(&archives(&[7; 3000]), Some(manifest(&listed()[1..])), 700).unwrap_err();
    assert!(matches!(&mismatch(missing)[..], [FileProblem::Unlisted { .. }]));
    let mut more = listed();
    more.push(("base/2", b""));
    let missing = inspect(&archives(&[7; 3000]), Some(manifest(&more)), 700).unwrap_err();
    assert!(matches!(&mismatch(missing)[..], [FileProblem::Missing { .. }]));
}

#[test]
fn what_is_not_whole_is_no_backup() {
    let whole = archives(&[7; 3000]);
    assert!(matches!(inspect(&whole, None, 700), Err(BackupError::MissingManifest)));
    assert!(matches!(inspect(&[], None, 700), Err(BackupError::DataOutsideArchive)));
    let mut cut = whole.clone();
    let len = cut[1].1.len();
    cut[1].1.truncate(len - 1024);
    assert!(matches!(inspect(&cut, Some(manifest(&listed())), 700), Err(BackupError::Tar { .. })));
    let without_control = vec![base(Tar::base().end())];
    let found = inspect(&without_control, Some(manifest(&[("backup_label", LABEL)])), 700);
    assert!(matches!(found, Err(BackupError::MissingFile("global/pg_control"))));
    // and the writer agrees on all of it
    let scratch = Scratch::with_tablespace();
    assert!(scratch.receive(&whole, Some(manifest(&listed()[1..]))).is_err());
}

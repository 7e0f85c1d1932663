use super::super::testing::{LABEL, Scratch, Tar, base, manifest, tablespace};
use super::super::{ArchiveName, FileProblem};
use super::*;
use crate::pg::wal_builder::WalBuilder;
use crate::pg::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};

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

#[test]
fn wal_that_a_backup_carries_is_read_if_that_is_wanted() {
    let (system, size) = (SystemIdentifier::new(5), WalSegmentSize::from_bytes(1 << 20).unwrap());
    let mut wal = WalBuilder::new(system, size, TimelineId::FIRST, Lsn::new(0x200_0000));
    while wal.bytes().len() < 1 << 20 {
        wal.record(&[7; 30]);
    }
    let segment = wal.bytes()[..1 << 20].to_vec();
    let mut damaged = segment.clone();
    damaged[0x90] ^= 1;
    let manifest = manifest(&listed()[1..]);
    for (content, carried, whole) in [
        (None, true, false),
        (Some(&segment), true, true),
        (Some(&damaged), true, false),
        (None, false, true),
    ] {
        let mut tar = Tar::base().file(b"base/1259", &[7; 3000]);
        if let Some(content) = content {
            tar = tar.file(b"pg_wal/000000010000000000000020", content);
        }
        let included = carried.then(|| IncludedWal::new(system, size, Lsn::new(0x200_0028)));
        let inspector = BackupInspector::new(ChecksumAlgorithm::Crc32c, ArchiveEnd::Terminated);
        let mut inspector = inspector.with_wal(included);
        for event in [
            ArchiveEvent::ArchiveBegin(ArchiveName::data_directory()),
            ArchiveEvent::ArchiveData(tar.control().into()),
            ArchiveEvent::ManifestBegin,
            ArchiveEvent::ManifestData(manifest.clone().into()),
        ] {
            inspector.handle(event).unwrap();
        }
        match inspector.finish() {
            Ok(_) => assert!(whole),
            Err(error) => assert!(!whole && matches!(error, BackupError::IncludedWal(_)), "{error:?}"),
        }
    }
}

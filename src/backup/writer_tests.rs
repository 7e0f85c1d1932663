use super::super::testing::{LABEL, Scratch, Tar, base, manifest, tablespace};
use super::super::{ArchiveName, DirectoryModes, FileProblem, TablespacePlace, TablespaceTarget, WalMembers};
use super::*;
use std::os::unix::fs::PermissionsExt;

const CONTROL: &[u8] = &[1; 8192];

fn list(scratch: &Scratch, name: &str) -> Vec<String> {
    scratch.list(name).into_iter().map(|(name, what)| format!("{name} {what}")).collect()
}

fn common() -> Vec<(&'static str, &'static [u8])> {
    vec![("backup_label", LABEL), ("global/pg_control", CONTROL)]
}

#[test]
fn a_backup_becomes_a_directory() {
    for sync in [SyncMethod::Fsync, SyncMethod::Syncfs, SyncMethod::None] {
        let mut scratch = Scratch::new();
        scratch.target.sync = sync;
        let archive =
            Tar::base().directory(b"base/1/").file(b"base/1/1259", &[7; 8192]).file(b"base/1/empty", b"");
        let mut files = common();
        files.extend([("base/1/1259", &[7; 8192][..]), ("base/1/empty", b"")]);
        let finished = scratch.receive(&[base(archive.control())], Some(manifest(&files))).unwrap();
        assert_eq!(
            list(&scratch, "target"),
            [
                &format!("backup_label {}", LABEL.len())[..],
                &format!("backup_manifest {}", manifest(&files).len()),
                "base /",
                "base/1 /",
                "base/1/1259 8192",
                "base/1/empty 0",
                "global /",
                "global/pg_control 8192",
                "pg_tblspc /",
                "pg_wal /",
                "pg_wal/archive_status /",
            ]
        );
        assert_eq!(std::fs::read(scratch.path("target/backup_manifest")).unwrap(), manifest(&files));
        assert_eq!((finished.file_count, finished.byte_count), (4, 16384 + LABEL.len() as u64));
        assert_eq!(finished.backup_label.start_lsn.to_string(), "0/2000028");
        assert_eq!(finished.manifest.unwrap().wal_ranges.len(), 1);
    }
}

/// The server's directory is what an interrupted backup left, and was started all the same.
#[test]
fn a_servers_unfinished_manifest_is_a_file_like_any_other() {
    let scratch = Scratch::new();
    let archive = Tar::base().file(b"backup_manifest.tmp", b"unfinished").control();
    let mut files = common();
    files.push(("backup_manifest.tmp", b"unfinished"));
    scratch.receive(&[base(archive)], Some(manifest(&files))).unwrap();
    let read = |name: &str| std::fs::read(scratch.path("target").join(name)).unwrap();
    assert_eq!(read("backup_manifest.tmp"), b"unfinished");
    assert_eq!(read("backup_manifest"), manifest(&files));
    assert!(!scratch.list("target").contains_key(".pgwake-manifest.tmp"));
}

#[test]
fn tablespaces_go_where_they_are_mapped() {
    let scratch = Scratch::with_tablespace();
    let space = Tar::default().directory(b"PG_15_202209061/").file(b"PG_15_202209061/9", b"row").end();
    let archive = Tar::base().link(b"pg_tblspc/16384/", b"/srv/ts").control();
    let mut files = common();
    files.insert(0, ("pg_tblspc/16384/PG_15_202209061/9", b"row"));
    scratch.receive(&[tablespace(space), base(archive)], Some(manifest(&files))).unwrap();
    assert_eq!(list(&scratch, "ts"), ["PG_15_202209061 /", "PG_15_202209061/9 3"]);
    assert_eq!(scratch.list("target")["pg_tblspc/16384"], "-> ts");
    scratch.assert_confined();
}

#[test]
fn tablespaces_in_place_stay_in_the_data_directory() {
    // From version 16 on they are announced, and have an archive of their own.
    let mut scratch = Scratch::new();
    let location = b"pg_tblspc/16385".to_vec();
    scratch.target.tablespaces =
        vec![TablespaceTarget { oid: 16385, location: location.clone(), place: TablespacePlace::InPlace }];
    let name = ArchiveName::tablespace(16385, location.into());
    let space = Tar::default().directory(b"PG_16_202307071/").file(b"PG_16_202307071/9", b"row").end();
    let archive = Tar::base().directory(b"pg_tblspc/16385/").control();
    let mut files = common();
    files.insert(0, ("pg_tblspc/16385/PG_16_202307071/9", b"row"));
    scratch.receive(&[(name, space), base(archive)], Some(manifest(&files))).unwrap();
    assert_eq!(scratch.list("target")["pg_tblspc/16385/PG_16_202307071/9"], "3");

    // Up to version 15 they are directories like any other.
    let scratch = Scratch::new();
    let archive = Tar::base().directory(b"pg_tblspc/16385/").file(b"pg_tblspc/16385/9", b"row").control();
    let mut files = common();
    files.push(("pg_tblspc/16385/9", b"row"));
    scratch.receive(&[base(archive)], Some(manifest(&files))).unwrap();
}

#[test]
fn a_tablespace_dropped_meanwhile_keeps_its_link_and_a_new_one_gets_none() {
    let scratch = Scratch::with_tablespace();
    let archive = Tar::base().link(b"pg_tblspc/20000/", b"/srv/new").control();
    let finished = scratch
        .receive(&[tablespace(Tar::default().end()), base(archive)], Some(manifest(&common())))
        .unwrap();
    let listed = scratch.list("target");
    assert_eq!(listed["pg_tblspc/16384"], "-> ts");
    assert!(!listed.contains_key("pg_tblspc/20000"));
    let [new] = &finished.unannounced_tablespaces[..] else { panic!("one new tablespace") };
    assert_eq!((new.oid, &new.location[..]), (20000, &b"/srv/new"[..]));
}

#[test]
fn pg_wal_may_lie_elsewhere() {
    let mut scratch = Scratch::new();
    scratch.target.wal_directory = Some(scratch.path("wal"));
    let archive = Tar::base().directory(b"./pg_wal/summaries/").control();
    scratch.receive(&[base(archive)], Some(manifest(&common()))).unwrap();
    assert_eq!(list(&scratch, "wal"), ["archive_status /", "summaries /"]);
    assert_eq!(scratch.list("target")["pg_wal"], "-> wal");
}

#[test]
fn wal_in_the_archive_is_not_in_the_manifest() {
    let mut scratch = Scratch::new();
    let archive = || base(Tar::base().file(b"pg_wal/000000010000000000000002", &[0; 99]).control());
    assert!(matches!(scratch.receive(&[archive()], None), Err(BackupError::Member { .. })));
    scratch = Scratch::new();
    scratch.target.wal_members = WalMembers::Accepted;
    scratch.receive(&[archive()], Some(manifest(&common()))).unwrap();
    assert_eq!(scratch.list("target")["pg_wal/000000010000000000000002"], "99");
}

#[test]
fn modes_follow_the_policy() {
    let mut scratch = Scratch::new();
    scratch.target.modes = DirectoryModes::GroupRead;
    let mut group = super::super::tar_header::tests::header(b"readable", b'0', 0);
    group[100..108].copy_from_slice(b"0000644 ");
    super::super::tar_header::tests::seal(&mut group);
    let mut files = common();
    files.push(("readable", b""));
    scratch.receive(&[base(Tar::base().raw(&group).control())], Some(manifest(&files))).unwrap();
    let mode =
        |name: &str| scratch.path("target").join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode("readable"), mode("backup_label"), mode("pg_wal"), mode("backup_manifest")),
        (0o640, 0o600, 0o750, 0o640)
    );
}

#[test]
fn archives_of_older_servers_have_no_end() {
    let mut scratch = Scratch::new();
    let mut archive = Tar::base().control();
    archive.truncate(archive.len() - 1024);
    assert!(matches!(
        scratch.receive(&[base(archive.clone())], Some(manifest(&common()))),
        Err(BackupError::Tar { .. })
    ));
    scratch = Scratch::new();
    scratch.target.archive_end = ArchiveEnd::Unterminated;
    scratch.receive(&[base(archive)], Some(manifest(&common()))).unwrap();
}

#[test]
fn what_does_not_match_the_manifest_is_named() {
    let archive = || base(Tar::base().file(b"base/a", b"a").control());
    let problems = |files: &[(&str, &[u8])]| {
        let scratch = Scratch::new();
        match scratch.receive(&[archive()], Some(manifest(files))) {
            Err(error @ BackupError::Mismatch(_)) => {
                assert!(error.is_integrity());
                assert!(!scratch.list("target").contains_key("backup_manifest"));
                let BackupError::Mismatch(mismatch) = error else { unreachable!() };
                mismatch.problems
            }
            Ok(_) => Vec::new(),
            Err(other) => panic!("{other:?}"),
        }
    };
    let with = |name, content| [common(), vec![(name, content)]].concat();
    assert_eq!(problems(&with("base/a", b"a")), []);
    assert_eq!(problems(&with("base/a", b"b")), [FileProblem::Checksum { path: b"base/a"[..].into() }]);
    let path = || Box::from(&b"base/a"[..]);
    assert_eq!(
        problems(&with("base/a", b"ab")),
        [FileProblem::Size { path: path(), listed: 2, received: 1 }]
    );
    assert_eq!(problems(&common()), [FileProblem::Unlisted { path: path() }]);
}

#[test]
fn what_is_missing_is_noticed() {
    let whole = || Tar::base().control();
    let label = manifest(&common());
    let mut label_missing = Scratch::new().receive(&[base(Tar::default().end())], Some(label.clone()));
    assert!(matches!(label_missing, Err(BackupError::MissingFile("backup_label"))));
    label_missing = Scratch::new().receive(&[], None);
    assert!(matches!(label_missing, Err(BackupError::MissingFile("backup_label"))));
    let control = Scratch::new().receive(&[base(Tar::base().end())], Some(label.clone()));
    assert!(matches!(control, Err(BackupError::MissingFile("global/pg_control"))));
    let space = Scratch::with_tablespace().receive(&[base(whole())], Some(label.clone()));
    assert!(matches!(space, Err(BackupError::MissingTablespace(16384))));
    assert!(matches!(Scratch::new().receive(&[base(whole())], None), Err(BackupError::MissingManifest)));
    let cut = Scratch::new().receive(&[base(whole())], Some(label[..label.len() - 1].to_vec()));
    assert!(matches!(cut, Err(BackupError::Manifest(_))));
    let mut unasked = Scratch::new();
    unasked.target.manifest = ManifestPolicy::Absent;
    assert!(matches!(unasked.receive(&[base(whole())], Some(label)), Err(BackupError::UnexpectedManifest)));
    let mut none = Scratch::new();
    none.target.manifest = ManifestPolicy::Absent;
    assert_eq!(none.receive(&[base(whole())], None).unwrap().file_count, 2);
}

#[test]
fn archives_must_be_the_announced_ones() {
    let space = || tablespace(Tar::default().end());
    let unannounced = Scratch::new().receive(&[space()], None);
    assert!(matches!(unannounced, Err(BackupError::UnannouncedArchive(_))));
    let elsewhere = ArchiveName::tablespace(16384, Bytes::from_static(b"/elsewhere"));
    let other = Scratch::with_tablespace().receive(&[(elsewhere, Vec::new())], None);
    assert!(matches!(other, Err(BackupError::UnannouncedArchive(_))));
    let twice = Scratch::with_tablespace().receive(&[space(), space()], None);
    assert!(matches!(twice, Err(BackupError::RepeatedArchive(_))));
    let archive = || base(Tar::base().control());
    let twice = Scratch::new().receive(&[archive(), archive()], None);
    assert!(matches!(twice, Err(BackupError::RepeatedArchive(_))));
}

#[test]
fn a_failed_backup_cannot_be_finished() {
    let scratch = Scratch::new();
    let mut writer = BackupWriter::create(&scratch.target).unwrap();
    let data = || ArchiveEvent::ArchiveData(Bytes::from_static(b"x"));
    assert!(matches!(writer.handle(data()), Err(BackupError::DataOutsideArchive)));
    assert!(matches!(writer.handle(data()), Err(BackupError::FailedBefore)));
    assert!(matches!(writer.finish(), Err(BackupError::FailedBefore)));
}

/// Whoever owns the directory above puts a link in its place, to lead a process with more rights elsewhere.
#[test]
fn a_directory_that_is_held_is_filled_wherever_its_name_leads_to() {
    let mut scratch = Scratch::with_tablespace();
    scratch.target.wal_directory = Some(scratch.path("wal"));
    let names = ["target", "ts", "wal"].map(|name| scratch.path(name));
    let opened = names.each_ref().map(|name| std::fs::File::open(name).unwrap());
    let leading = |file: &std::fs::File| format!("/proc/self/fd/{}/.", std::os::fd::AsRawFd::as_raw_fd(file));
    let held = opened.each_ref().map(|file| PathBuf::from(leading(file)));
    scratch.target.held = crate::backup::HeldPlaces(names.iter().cloned().zip(held).collect());
    for name in &names {
        std::fs::rename(name, name.with_extension("moved")).unwrap();
        std::os::unix::fs::symlink(scratch.path("outside"), name).unwrap();
    }
    let writer = BackupWriter::create(&scratch.target).unwrap();
    assert!(scratch.path("target.moved/pg_wal").is_symlink());
    assert!(scratch.path("wal.moved/archive_status").is_dir());
    drop(writer);
    assert_eq!(std::fs::read_dir(scratch.path("outside")).unwrap().count(), 1);
}

#[test]
fn a_writer_may_move_to_another_thread() {
    fn assert_send<T: Send>() {}
    assert_send::<BackupWriter>();
    assert_send::<BackupError>();
}

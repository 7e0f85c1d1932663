//! Streams that no honest server sends. Each must fail, and leave everything outside the target untouched.

use super::super::tar_header::tests::{header, seal};
use super::super::testing::{LABEL, Scratch, Tar, base, manifest, tablespace};
use super::super::{MemberRule, SyncMethod, TablespacePlace};
use super::*;

/// Where an attack is mounted.
#[derive(Clone, Copy)]
enum Stage {
    /// In the archive of the data directory.
    Base,
    /// In the archive of a tablespace.
    Tablespace,
}

fn patched(type_flag: u8, len: u64, patch: impl FnOnce(&mut [u8; 512])) -> Tar {
    let mut block = header(b"x", type_flag, len);
    patch(&mut block);
    seal(&mut block);
    Tar::default().raw(&block)
}

fn named(name: &[u8]) -> Tar {
    Tar::default().file(name, b"evil")
}

fn kind(type_flag: u8) -> Tar {
    Tar::default().raw(&header(b"base/x", type_flag, 0))
}

fn long_name(len: usize) -> Tar {
    patched(b'0', 0, |block| {
        block[0..100].fill(b'a');
        block[345..500].fill(b'b');
        if len < 256 {
            block[50] = b'/';
        }
    })
}

/// What it is called, and the members that mount it.
fn corpus() -> Vec<(&'static str, Stage, Tar)> {
    use Stage::{Base, Tablespace};
    let outside = b"../outside";
    let mut corpus = vec![
        ("parent", Base, named(b"../outside/x")),
        ("parent alone", Base, named(b"..")),
        ("parent inside", Base, named(b"base/../../outside/x")),
        ("parent last", Base, named(b"base/..")),
        ("parent after dot", Base, named(b"./../outside/x")),
        ("overwrite the sentinel", Base, named(b"../outside/sentinel")),
        ("absolute", Base, named(b"/tmp/pgwake-hostile")),
        ("absolute twice", Base, named(b"//tmp/pgwake-hostile")),
        ("absolute after dot", Base, named(b".//tmp/pgwake-hostile")),
        ("dot", Base, named(b".")),
        ("dot inside", Base, named(b"base/./x")),
        ("empty name", Base, named(b"")),
        ("empty component", Base, named(b"base//x")),
        ("slash", Base, named(b"/")),
        ("parent directory", Base, Tar::default().directory(b"../outside/d/")),
        ("directory above", Base, Tar::default().directory(b"../")),
        ("absolute directory", Base, Tar::default().directory(b"/tmp/pgwake-hostile/")),
        ("parent in tablespace", Tablespace, named(b"../outside/x")),
        ("absolute in tablespace", Tablespace, named(b"/tmp/pgwake-hostile")),
        ("parent in prefix", Base, patched(b'0', 0, |b| b[345..355].copy_from_slice(b"../outside"))),
        ("absolute prefix", Base, patched(b'0', 0, |b| b[345..349].copy_from_slice(b"/tmp"))),
        ("name too long", Base, long_name(256)),
        ("component too long", Base, patched(b'0', 0, |b| b[0..100].fill(b'a')).raw(&[1; 512])),
        ("file where a directory must be", Base, named(b"base/x/y")),
        ("file below a file", Base, named(b"backup_label/x")),
        ("file over a directory", Base, named(b"base")),
        ("directory over a file", Base, Tar::default().directory(b"backup_label/")),
        ("file with a slash", Base, Tar::default().raw(&header(b"base/x/", b'0', 0))),
        ("file twice", Base, named(b"base/x").file(b"base/x", b"again")),
        ("file twice, other spelling", Base, named(b"base/x").file(b"./base/x", b"again")),
        ("label twice", Base, Tar::default().file(b"backup_label", LABEL)),
        ("directory twice", Base, Tar::default().directory(b"base/")),
        ("pg_wal a file", Base, named(b"pg_wal")),
        ("wal unasked", Base, named(b"pg_wal/000000010000000000000002")),
        ("directory in pg_wal", Base, Tar::default().directory(b"pg_wal/more/")),
        ("done file unasked", Base, named(b"pg_wal/archive_status/x.done")),
        ("link to outside", Base, Tar::default().link(b"base/l", outside)),
        ("absolute link", Base, Tar::default().link(b"base/l", b"/tmp")),
        ("link to itself", Base, Tar::default().link(b"base/l", b"l")),
        ("link, then through it", Base, Tar::default().link(b"base/l", outside).file(b"base/l/x", b"evil")),
        ("link for pg_wal", Base, Tar::default().link(b"pg_wal", outside)),
        ("link for pg_tblspc", Base, Tar::default().link(b"pg_tblspc", outside)),
        ("link in tablespace", Tablespace, Tar::default().link(b"PG_15_202209061", outside)),
        ("link of tablespace in tablespace", Tablespace, Tar::default().link(b"pg_tblspc/16384", b"/srv/ts")),
        ("tablespace link elsewhere", Base, Tar::default().link(b"pg_tblspc/16384/", b"/tmp")),
        ("tablespace link climbs", Base, Tar::default().link(b"pg_tblspc/16384/", b"../../outside")),
        ("tablespace link no number", Base, Tar::default().link(b"pg_tblspc/evil/", b"/srv/ts")),
        ("tablespace link zero", Base, Tar::default().link(b"pg_tblspc/0/", b"/srv/ts")),
        ("tablespace link leading zero", Base, Tar::default().link(b"pg_tblspc/016384/", b"/srv/ts")),
        ("tablespace link too deep", Base, Tar::default().link(b"pg_tblspc/16384/x", b"/srv/ts")),
        (
            "tablespace link twice",
            Base,
            Tar::default().link(b"pg_tblspc/16384/", b"/srv/ts").link(b"pg_tblspc/16384/", b"/srv/ts"),
        ),
        (
            "tablespace link swapped",
            Base,
            Tar::default().link(b"pg_tblspc/16384/", b"/srv/ts").link(b"pg_tblspc/16384/", b"/tmp"),
        ),
        ("directory over tablespace link", Base, Tar::default().directory(b"pg_tblspc/16384/")),
        ("file over tablespace link", Base, named(b"pg_tblspc/16384")),
        ("file through tablespace link", Base, named(b"pg_tblspc/16384/x")),
        ("directory through tablespace link", Base, Tar::default().directory(b"pg_tblspc/16384/d/")),
        (
            "through a link not made",
            Base,
            Tar::default()
                .link(b"pg_tblspc/20000/", b"/tmp")
                .file(b"pg_tblspc/20000/pgwake-hostile", b"evil"),
        ),
        (
            "new link twice",
            Base,
            Tar::default().link(b"pg_tblspc/20000/", b"/a").link(b"pg_tblspc/20000/", b"/b"),
        ),
        ("link without target", Base, Tar::default().raw(&header(b"pg_tblspc/16384", b'2', 0))),
        ("file with link target", Base, patched(b'0', 0, |b| b[157..161].copy_from_slice(b"/tmp"))),
        ("directory with link target", Base, patched(b'5', 0, |b| b[157..161].copy_from_slice(b"/tmp"))),
        ("directory with content", Base, patched(b'5', 4, |_| ()).raw(&[1; 512])),
        (
            "link with content",
            Base,
            patched(b'2', 4, |b| b[157..161].copy_from_slice(b"/tmp")).raw(&[1; 512]),
        ),
        ("hard link", Base, kind(b'1')),
        ("hard link to outside", Base, patched(b'1', 0, |b| b[157..167].copy_from_slice(outside))),
        ("character device", Base, kind(b'3')),
        ("block device", Base, kind(b'4')),
        ("fifo", Base, kind(b'6')),
        ("contiguous file", Base, kind(b'7')),
        ("GNU long name", Base, kind(b'L')),
        ("GNU long link", Base, kind(b'K')),
        ("GNU sparse", Base, kind(b'S')),
        ("GNU volume", Base, kind(b'V')),
        ("pax header", Base, kind(b'x')),
        ("pax global header", Base, kind(b'g')),
        ("unknown type", Base, kind(b'!')),
        ("reserved: manifest", Base, named(b"backup_manifest")),
        ("reserved: manifest under another name", Base, named(b".pgwake-manifest.tmp")),
        ("reserved: tablespace map", Base, named(b"tablespace_map")),
        ("reserved: pid file", Base, named(b"./postmaster.pid")),
        ("size negative", Base, patched(b'0', 0, |b| b[124..136].fill(0xFF))),
        (
            "size of 2^63",
            Base,
            patched(b'0', 0, |b| b[124..136].copy_from_slice(b"\x80\0\0\0\x80\0\0\0\0\0\0\0")),
        ),
        (
            "size over 2^64",
            Base,
            patched(b'0', 0, |b| b[124..136].copy_from_slice(b"\x80\0\0\x01\0\0\0\0\0\0\0\0")),
        ),
        ("size of 2^53, cut", Base, patched(b'0', 1 << 53, |_| ()).raw(&[1; 512])),
        ("size not octal", Base, patched(b'0', 0, |b| b[124..136].copy_from_slice(b"00000000009 "))),
        ("size blank", Base, patched(b'0', 0, |b| b[124..136].fill(b' '))),
        ("size beyond content", Base, Tar::default().raw(&header(b"base/x", b'0', 1 << 20)).raw(&[1; 512])),
        ("mode over 7777", Base, patched(b'0', 0, |b| b[100..108].copy_from_slice(b"7777777 "))),
        ("checksum wrong", Base, Tar::default().raw(&header(b"base/x", b'0', 0).map(|b| b.max(1)))),
        ("checksum blank", Base, {
            let mut block = header(b"base/x", b'0', 0);
            block[148..156].fill(b' ');
            Tar::default().raw(&block)
        }),
        ("not ustar", Base, patched(b'0', 0, |b| b[257..265].copy_from_slice(b"ustar  \0"))),
        ("version 7 tar", Base, patched(b'0', 0, |b| b[257..265].fill(0))),
        ("garbage", Base, Tar::default().raw(&[0xA5; 512])),
        ("lone zero block", Base, Tar::default().raw(&[0; 512]).file(b"base/x", b"evil")),
        ("member after the end", Base, Tar::default().raw(&[0; 1024]).file(b"base/x", b"evil")),
        ("garbage after the end", Base, Tar::default().raw(&[0; 1024]).raw(b"x")),
        ("padding not zero", Base, Tar::default().raw(&header(b"base/x", b'0', 1)).raw(&[1; 512])),
        ("cut in a header", Base, Tar::default().raw(&header(b"base/x", b'0', 0)[..100])),
        ("unlisted file", Base, named(b"base/unlisted")),
        ("unlisted setuid", Base, patched(b'0', 0, |b| b[100..108].copy_from_slice(b"0004777 "))),
    ];
    // A NUL ends a name, so what stands behind it must change nothing.
    corpus.push(("NUL hides a climb", Base, named(b"base\0/../../outside/x")));
    corpus
}

/// Names that lead out, or nowhere.
const NAMES: [&[u8]; 24] = [
    b"..",
    b"../",
    b"./..",
    b"../x",
    b"./../x",
    b"../../x",
    b"../outside/x",
    b"../target/../outside/x",
    b"base/../x/../../outside/x",
    b"base/../../outside/sentinel",
    b"global/../../x",
    b"pg_wal/../../outside/x",
    b"pg_tblspc/../../outside/x",
    b"pg_tblspc/16384/../../../outside/x",
    b"base/x/..",
    b"base/./x",
    b"base//x",
    b"base/x/.",
    b"./.",
    b".//x",
    b"//x",
    b"/tmp/pgwake-hostile",
    b"/../tmp/pgwake-hostile",
    b"/proc/self/cwd/x",
];

/// Targets that lead out. Where a link may be, its target is known; anywhere else there may be none.
const TARGETS: [&[u8]; 6] =
    [b"..", b"../outside", b"/tmp", b"/", b"/proc/self/cwd", b"../../../../../../../../tmp"];

/// Every name as every kind of member, in either archive; every target behind some names.
fn generated() -> Vec<(String, Stage, Tar)> {
    let mut attacks = Vec::new();
    for (stage, place) in [(Stage::Base, "base"), (Stage::Tablespace, "tablespace")] {
        for name in NAMES {
            for (kind, members) in [
                ("file", Tar::default().file(name, b"evil")),
                ("directory", Tar::default().directory(name)),
                ("link", Tar::default().link(name, b"x")),
            ] {
                attacks.push((format!("{kind} \"{}\" in {place}", name.escape_ascii()), stage, members));
            }
        }
        for target in TARGETS {
            for name in [&b"base/l"[..], b"PG_VERSION", b"PG_15_202209061/l"] {
                let members = Tar::default().link(name, target).file(&[name, b"/x"].concat(), b"evil");
                let (name, target) = (name.escape_ascii(), target.escape_ascii());
                attacks.push((format!("link \"{name}\" to \"{target}\" in {place}"), stage, members));
            }
        }
    }
    attacks
}

#[test]
fn every_attack_fails_and_stays_inside() {
    let mut corpus = generated();
    corpus.extend(self::corpus().into_iter().map(|(name, stage, tar)| (name.to_owned(), stage, tar)));
    assert!(corpus.len() >= 200, "only {} attacks", corpus.len());
    for (attack, stage, members) in corpus {
        let attack = attack.as_str();
        let scratch = Scratch::with_tablespace();
        let (space, data_directory) = match stage {
            Stage::Base => (Tar::default(), Tar::base().raw(&members.0)),
            Stage::Tablespace => (members, Tar::base()),
        };
        let archives = [tablespace(space.end()), base(data_directory.control())];
        let files = [("backup_label", LABEL), ("global/pg_control", &[1; 8192][..])];
        let result = scratch.receive(&archives, Some(manifest(&files)));
        let error = result.map(|_| ()).expect_err(attack);
        assert!(error.is_integrity(), "{attack}: {error:?}");
        scratch.assert_confined();
        assert!(!scratch.path("target/backup_manifest").exists(), "{attack}: the backup looks whole");
        assert!(!std::path::Path::new("/tmp/pgwake-hostile").exists(), "{attack}: escaped");
        let special = scratch.list("target").into_iter().filter(|(_, what)| what.starts_with("->"));
        let special: Vec<_> = special.collect();
        assert_eq!(special, [("pg_tblspc/16384".to_owned(), "-> ts".to_owned())], "{attack}");
    }
}

#[test]
fn links_planted_in_the_target_are_not_followed() {
    for (name, link) in [("base", "../outside"), ("base", "/tmp"), ("backup_label", "../outside/sentinel")] {
        let scratch = Scratch::new();
        std::os::unix::fs::symlink(link, scratch.path("target").join(name)).unwrap();
        let archive = Tar::base().file(b"base/pgwake-hostile", b"evil").control();
        assert!(scratch.receive(&[base(archive)], None).is_err());
        scratch.assert_confined();
        assert!(!std::path::Path::new("/tmp/pgwake-hostile").exists());
    }
}

#[test]
fn announcements_that_contradict_themselves_are_refused() {
    let mut scratch = Scratch::with_tablespace();
    scratch.target.tablespaces[0].place = TablespacePlace::InPlace;
    assert!(matches!(BackupWriter::create(&scratch.target), Err(BackupError::TablespaceTarget(16384))));
    let mut scratch = Scratch::with_tablespace();
    let again = scratch.target.tablespaces[0].clone();
    scratch.target.tablespaces.push(again);
    assert!(matches!(BackupWriter::create(&scratch.target), Err(BackupError::TablespaceTarget(16384))));
    let mut scratch = Scratch::with_tablespace();
    scratch.target.tablespaces[0].place = TablespacePlace::InPlace;
    scratch.target.tablespaces[0].location = b"pg_tblspc/../../outside".to_vec();
    assert!(BackupWriter::create(&scratch.target).is_err());
    scratch.assert_confined();
}

#[test]
fn a_label_too_long_is_not_kept() {
    let long = vec![b'x'; BackupLabel::MAX_LEN + 1];
    let archive = Tar::default().file(b"backup_label", &long).end();
    let error = Scratch::new().receive(&[base(archive)], None).unwrap_err();
    assert!(matches!(error, BackupError::BackupLabel(BackupLabelError::TooLong(_))));
}

#[test]
fn a_full_disk_or_lost_directory_is_the_operators() {
    let mut scratch = Scratch::new();
    scratch.target.sync = SyncMethod::Fsync;
    scratch.target.directory = scratch.path("target/none");
    let error = BackupWriter::create(&scratch.target).unwrap_err();
    assert!(!error.is_integrity());
    assert!(error.to_string().starts_with("could not open directory \"/"), "{error}");
}

/// An archive that is kept as it is will be unpacked by somebody else: names, kinds and links that lead out are refused
/// there, too, whether it is passed on or rewritten.
#[test]
fn no_archive_is_kept_that_leads_out() {
    let links = corpus().into_iter().filter(|(name, _, _)| name.starts_with("link"));
    let links = links.map(|(name, stage, members)| (name.to_owned(), stage, members));
    for (attack, stage, members) in generated().into_iter().chain(links) {
        let (space, data_directory) = match stage {
            Stage::Base => (Tar::default(), Tar::base().raw(&members.0)),
            Stage::Tablespace => (members, Tar::base()),
        };
        for rewritten in [false, true] {
            let map = data_directory.clone().file(b"tablespace_map", b"16384 /srv/ts\n");
            let result = keep(&[tablespace(space.clone().end()), base(map.control())], rewritten);
            let error = result.expect_err(&attack);
            assert!(error.is_integrity(), "{attack}: {error:?}");
        }
    }
}

/// Recovery makes links of the map, so it may name nothing but what the server announced, and has to name all of that.
#[test]
fn no_archive_is_kept_whose_map_leads_elsewhere() {
    for (map, is_kept) in [
        (Some(&b"16384 /srv/ts\n"[..]), true),
        (Some(b"16384 /srv/ts"), false),
        (Some(b"16384 /tmp\n"), false),
        (Some(b"16384 /srv/ts\n16385 /tmp\n"), false),
        (Some(b"16384 /srv/ts\n16384 /srv/ts\n"), false),
        (Some(b""), false),
        (None, false),
    ] {
        for rewritten in [false, true] {
            let tar = Tar::base();
            let tar = map.map_or(tar.clone(), |map| tar.file(b"tablespace_map", map));
            let result = keep(&[tablespace(Tar::default().end()), base(tar.control())], rewritten);
            assert_eq!(result.is_ok(), is_kept, "{map:?}: {result:?}");
            let error = result.err();
            assert!(error.is_none_or(|error| matches!(error, BackupError::TablespaceMap(_))));
        }
    }
    let twice = Tar::base().file(b"tablespace_map", b"16384 /srv/ts\n").file(b"tablespace_map", b"");
    let result = keep(&[tablespace(Tar::default().end()), base(twice.control())], false);
    assert!(matches!(result, Err(BackupError::Member { source: MemberRule::Repeated, .. })), "{result:?}");
}

/// Keeps the archives of a cluster with tablespace 16384, on the server at `/srv/ts`.
fn keep(archives: &[(ArchiveName, Vec<u8>)], rewritten: bool) -> Result<(), BackupError> {
    use super::super::{ManifestRequest, StandbyFiles, TarBackupWriter, TarPlace, TarTarget};
    let directory = tempfile::tempdir().unwrap();
    let standby = StandbyFiles { configuration: "postgresql.auto.conf", lines: Bytes::new(), signal: None };
    let mut writer = TarBackupWriter::create(TarTarget {
        place: TarPlace::Directory(directory.path().to_owned()),
        modes: super::super::DirectoryModes::OwnerOnly,
        sync: SyncMethod::None,
        compression: None,
        archive_end: ArchiveEnd::Terminated,
        archive_count: archives.len(),
        announced: super::super::Announced {
            tablespaces: vec![(16384, b"/srv/ts".to_vec())],
            escapes: super::super::tablespace_map::MapEscapes::Backslashes,
        },
        manifest: ManifestRequest::NotRequested,
        standby: rewritten.then_some(standby),
        now: 0,
    })?;
    for (name, content) in archives {
        writer.handle(ArchiveEvent::ArchiveBegin(name.clone()))?;
        writer.handle(ArchiveEvent::ArchiveData(Bytes::from(content.clone())))?;
    }
    writer.complete().map(drop)
}

//! What comes out is an archive that others can read, with exactly what was asked for added.

use std::io::Read as _;

use proptest::prelude::*;

use super::super::testing::Tar;
use super::*;

const ADDED: Added = Added { mode: 0o600, mtime: 1_700_000_000 };

fn standby() -> StandbyFiles {
    StandbyFiles {
        configuration: "postgresql.auto.conf",
        lines: Bytes::from_static(b"primary_conninfo = 'x'\n"),
        signal: Some("standby.signal"),
    }
}

fn rewritten(archive: &[u8], piece: usize, standby: Option<StandbyFiles>, files: &[AddedFile]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rewriter = TarRewriter::new(standby, ADDED);
    for chunk in archive.chunks(piece) {
        rewriter.push(Bytes::copy_from_slice(chunk), &mut out).unwrap();
    }
    rewriter.finish(ArchiveEnd::Unterminated, files.iter().cloned(), &mut out).unwrap();
    out.concat()
}

/// Name, mode, owner and content, as the `tar` crate reads them.
fn members(archive: &[u8]) -> Vec<(String, u32, u64, String)> {
    let mut archive = tar::Archive::new(archive);
    let read = |mut entry: tar::Entry<'_, _>| {
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let content = String::from_utf8_lossy(&content).into_owned();
        let header = entry.header();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        (name, header.mode().unwrap(), header.uid().unwrap(), content)
    };
    archive.entries().unwrap().map(|entry| read(entry.unwrap())).collect()
}

fn sample() -> Tar {
    Tar::default()
        .file(b"backup_label", b"label")
        .directory(b"base/")
        .file(b"postgresql.auto.conf", b"a = 1\n")
        .file(b"standby.signal", b"what")
        .file(b"PG_VERSION", b"15\n")
}

#[test]
fn nothing_asked_for_changes_nothing() {
    let archive = sample().end();
    assert_eq!(rewritten(&archive, 300, None, &[]), archive);
    // servers up to 14 do not end their archives
    assert_eq!(rewritten(&archive[..archive.len() - 1024], 300, None, &[]), archive);
}

#[test]
fn a_standby_is_configured() {
    let names = |archive: &[u8]| members(archive).into_iter().map(|member| member.0).collect::<Vec<_>>();
    let archive = rewritten(&sample().end(), 512, Some(standby()), &[]);
    assert_eq!(
        names(&archive),
        ["backup_label", "base/", "postgresql.auto.conf", "PG_VERSION", "standby.signal"]
    );
    let (_, _, _, content) = &members(&archive)[2];
    assert_eq!(content, "a = 1\nprimary_conninfo = 'x'\n");
    let bare = Tar::default().file(b"PG_VERSION", b"15\n").end();
    let archive = rewritten(&bare, 512, Some(standby()), &[]);
    let last = &members(&archive)[1..];
    assert_eq!(
        last[0],
        ("postgresql.auto.conf".to_owned(), 0o600, 0o4000, "primary_conninfo = 'x'\n".to_owned())
    );
    assert_eq!(last[1], ("standby.signal".to_owned(), 0o600, 0o4000, String::new()));
}

#[test]
fn files_go_to_the_end() {
    let manifest = AddedFile { name: "backup_manifest", content: Bytes::from(vec![b'm'; 513]) };
    let archive = rewritten(&sample().end(), 512, None, &[manifest]);
    let (name, mode, _, content) = members(&archive).pop().unwrap();
    assert_eq!((name.as_str(), mode, content.len()), ("backup_manifest", 0o600, 513));
    assert_eq!(archive.len() % 512, 0);
    assert!(archive.ends_with(&[0; 1024]));
}

#[test]
fn what_is_torn_is_refused() {
    let archive = sample().0;
    let mut rewriter = TarRewriter::new(Some(standby()), ADDED);
    rewriter.push(Bytes::copy_from_slice(&archive[..700]), &mut Vec::new()).unwrap();
    assert!(rewriter.finish(ArchiveEnd::Unterminated, [], &mut Vec::new()).is_err());
}

proptest! {
    #[test]
    fn any_split_gives_the_same(
        contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1500), 0..5),
        piece in 1usize..2000,
    ) {
        let mut archive = Tar::default().file(b"postgresql.auto.conf", b"");
        for (index, content) in contents.iter().enumerate() {
            archive = archive.file(format!("f{index}").as_bytes(), content);
        }
        let archive = archive.end();
        let whole = rewritten(&archive, archive.len(), Some(standby()), &[]);
        prop_assert_eq!(&rewritten(&archive, piece, Some(standby()), &[]), &whole);
        prop_assert_eq!(members(&whole).len(), contents.len() + 2);
    }
}

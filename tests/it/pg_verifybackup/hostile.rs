//! Backups by somebody who means harm: nothing hangs, nothing is read outside, nothing takes more memory than it should.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::backups::{Backups, create, edit, edit_manifest};
use super::table::find_member;
use super::{Form, damaged, ours};
use crate::require_server;
use crate::support::servers::default_major;
use crate::support::{Outcome, TestDir};

fn verify(dir: &TestDir, backup: &std::path::Path) -> Outcome {
    ours(dir).arg(backup).timeout(Duration::from_secs(20)).run()
}

#[test]
fn hostile_backups_do_no_harm() {
    let major = default_major();
    require_server!(major);
    let dir = TestDir::in_memory();
    let backups = Backups::new(major);
    // links out of the backup
    let backup = damaged(&backups, Form::Plain, &dir, |b| {
        symlink("/etc", b.join("base/etc")).expect("make a link");
        symlink("/dev/zero", b.join("zero")).expect("make a link");
        symlink("..", b.join("base/loop")).expect("make a link");
        symlink("/proc/self/root", b.join("base/1/root")).expect("make a link");
    });
    let outcome = verify(&dir, &backup).exited(1);
    for name in ["base/etc", "zero", "base/loop", "base/1/root"] {
        let text = format!("\"{name}\" is not a regular file or directory");
        assert!(outcome.stderr.contains(&text), "{name}\n{outcome}");
    }
    assert!(!outcome.stderr.contains("passwd"), "{outcome}");
    // a tablespace that is the backup itself
    let backup = damaged(&backups, Form::Plain, &dir, |b| {
        symlink(b, b.join("pg_tblspc/77")).expect("make a link");
    });
    verify(&dir, &backup).exited(1).complains("\"pg_tblspc/77/PG_VERSION\" is present on disk but not in");
    // segments that are links, or pipes
    let backup = damaged(&backups, Form::Plain, &dir, |b| {
        let segment = super::backups::first_segment(&b.join("pg_wal"));
        fs::remove_file(&segment).expect("remove a segment");
        symlink("/dev/zero", &segment).expect("make a link");
    });
    verify(&dir, &backup).exited(1).complains("WAL parsing failed for timeline 1");
    // names that command terminals
    let backup = damaged(&backups, Form::Plain, &dir, |b| create(&b.join("a\x1b[2J\nb"), b"x"));
    let outcome = verify(&dir, &backup).exited(1).complains("a\\u{1b}[2J\\nb");
    assert!(!outcome.stderr.contains('\x1b'), "{outcome}");
    // ranges without end, and files as large as can be
    let backup = damaged(&backups, Form::Plain, &dir, |b| {
        edit_manifest(b, |text| {
            let (front, rest) = text.split_once("\"End-LSN\": \"").expect("a range");
            let (_, rest) = rest.split_once('"').expect("its end");
            format!("{front}\"End-LSN\": \"7FFFFFFF/0\"{rest}")
        });
    });
    verify(&dir, &backup).exited(1).complains("detail: could not find file \"0000000100000000");
    let backup = damaged(&backups, Form::Plain, &dir, |b| {
        edit_manifest(b, |text| text.replace("\"Size\": ", "\"Size\": 1844674407370955"));
    });
    verify(&dir, &backup).exited(1);
    let backup = damaged(&backups, Form::Plain, &dir, |b| {
        edit(&b.join("base/1/1259"), Vec::clear);
        let file = fs::File::options().write(true).open(b.join("base/1/1259")).expect("open it");
        // a terabyte of nothing is not read: its size is not the manifest's
        file.set_len(1 << 40).expect("make it long");
    });
    verify(&dir, &backup).exited(1).complains("has size 1099511627776 on disk");
}

#[test]
fn hostile_archives_do_no_harm() {
    let major = default_major();
    require_server!(major);
    let dir = TestDir::in_memory();
    let backups = Backups::new(major);
    let with_base = |change: &dyn Fn(&mut Vec<u8>)| {
        damaged(&backups, Form::Tar, &dir, |b| edit(&b.join("base.tar"), |bytes| change(bytes)))
    };
    let header = |change: &dyn Fn(&mut [u8])| {
        with_base(&|bytes| {
            let at = find_member(bytes, "base/1/1259");
            let block = &mut bytes[at..at + 512];
            change(block);
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        })
    };
    let name = |text: &[u8], block: &mut [u8]| {
        block[..100].fill(0);
        block[..text.len()].copy_from_slice(text);
    };
    let number = b"\x80\0\0\0\0\x1f\xff\xff\xff\xff\xff\xff";
    let backups_and_words = [
        (
            header(&|block| name(b"../../etc/passwd", block)),
            "member name \"../../etc/passwd\" is not acceptable",
        ),
        (header(&|block| name(b"/etc/passwd", block)), "member name \"/etc/passwd\" is not acceptable"),
        (header(&|block| name(b"", block)), "member name \"\" is not acceptable"),
        (header(&|block| block[156] = b'x'), "unsupported type 'x'"),
        (header(&|block| block[156] = b'1'), "unsupported type '1'"),
        (header(&|block| block[124..136].fill(b'7')), "archive ends in the middle of member"),
        (header(&|block| block[124..136].fill(0xff)), "size field of tar header is not acceptable"),
        (header(&|block| block[124..136].copy_from_slice(number)), "archive ends in the middle of member"),
        (with_base(&|bytes| bytes.truncate(700)), "archive ends in the middle of"),
        (with_base(&|bytes| bytes.truncate(1024 * 1024 + 13)), "archive ends in the middle of"),
        (with_base(&|bytes| bytes.extend([7; 4096])), "archive goes on after its end"),
        (with_base(&|bytes| bytes.fill(0)), "archive goes on after its end"),
        (with_base(&|bytes| bytes.fill(b'x')), "checksum of tar header does not match"),
        (
            damaged(&backups, Form::Gzip, &dir, |b| {
                edit(&b.join("base.tar.gz"), |bytes| bytes.truncate(9000));
            }),
            "could not decompress data",
        ),
        (
            damaged(&backups, Form::Gzip, &dir, |b| edit(&b.join("base.tar.gz"), |bytes| bytes.fill(0))),
            "could not decompress data",
        ),
        (
            damaged(&backups, Form::Gzip, &dir, |b| {
                fs::rename(b.join("base.tar.gz"), b.join("base.tar.zst")).expect("rename it");
            }),
            "could not decompress data",
        ),
        (
            damaged(&backups, Form::Gzip, &dir, |b| {
                fs::rename(b.join("base.tar.gz"), b.join("base.tar.lz4")).expect("rename it");
            }),
            "could not decompress data",
        ),
        (
            damaged(&backups, Form::Tar, &dir, |b| {
                fs::remove_file(b.join("base.tar")).expect("remove it");
                symlink("/dev/zero", b.join("base.tar")).expect("make a link");
            }),
            "file \"base.tar\" is not a regular file",
        ),
        (
            damaged(&backups, Form::Gzip, &dir, |b| {
                edit(&b.join("pg_wal.tar.gz"), |bytes| bytes.truncate(300));
            }),
            "WAL parsing failed for timeline 1",
        ),
    ];
    for (backup, words) in backups_and_words {
        verify(&dir, &backup).exited(1).complains(words);
    }
}

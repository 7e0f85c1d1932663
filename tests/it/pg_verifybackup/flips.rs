//! A bit that flips, wherever in a backup, is found.
//!
//! The library is called, as both commands call it: one flip at a time, in any file that the manifest lists, in the
//! manifest itself, and in the WAL that recovery needs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::backups::Backups;
use super::{Form, original};
use crate::require_server;
use crate::support::servers::{default_major, program};
use crate::support::{TestDir, Tool, tree};
use pgwake::backup::verify::{
    AfterProblem, ChecksumCheck, Problem, Progress, VerifyObserver, VerifyRequest, WalCheck, verify,
};

/// How many problems there are.
#[derive(Default)]
struct Count(AtomicU64);

impl VerifyObserver for Count {
    fn problem(&self, _: Problem) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn progress(&self, _: Progress) {}
}

/// Whether anything is wrong.
fn is_damaged(directory: &Path) -> bool {
    let request = VerifyRequest {
        directory: directory.to_owned(),
        manifest: None,
        format: None,
        ignored: Vec::new(),
        checksums: ChecksumCheck::Compare,
        wal: WalCheck::Read,
        wal_path: None,
        after_problem: AfterProblem::Stop,
        thread_count: 2,
    };
    let count = Count::default();
    match verify(&request, &count) {
        Ok(report) => {
            assert_eq!(report.problem_count, count.0.into_inner());
            report.problem_count > 0
        }
        Err(_) => true,
    }
}

/// Flips a bit, and what comes back flips it back.
fn flip(path: &Path, bit: u64) {
    let file = File::options().read(true).write(true).open(path).expect("open a file to flip a bit of");
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).expect("read a byte");
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8).expect("write a byte");
}

/// A backup that is nobody else's, with little in it: the databases that every cluster has are the same thrice.
fn small_backup(backups: &Backups, dir: &TestDir, form: Form) -> PathBuf {
    let (linked, copy) = (backups.copy(form, dir, "linked"), dir.join("copy"));
    Tool::new("/bin/cp").args(["-rL"]).arg(&linked).arg(&copy).run().succeeded();
    copy
}

/// Files that are compared: all but what is always passed over.
fn listed_files(backup: &Path) -> Vec<(PathBuf, u64)> {
    let lines = tree(backup);
    let files = lines.lines().filter_map(|line| {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let [_, _, len, name] = words[..] else { return None };
        let len: u64 = len.parse().ok().filter(|len| *len > 0)?;
        let passed_over = name.starts_with("pg_wal/") || name == "postgresql.auto.conf";
        (line.starts_with("f ") && !passed_over).then(|| (backup.join(name), len))
    });
    files.collect()
}

fn range_of(backup: &Path) -> (u64, u64) {
    let manifest = fs::read_to_string(backup.join("backup_manifest")).expect("a manifest");
    let lsn = |name: &str| {
        let (_, rest) = manifest.split_once(&format!("\"{name}\": \"")).expect("a WAL range");
        let (high, low) = rest.split('"').next().and_then(|lsn| lsn.split_once('/')).expect("an LSN");
        let half = |text| u64::from_str_radix(text, 16).expect("hexadecimal digits");
        half(high) << 32 | half(low)
    };
    (lsn("Start-LSN"), lsn("End-LSN"))
}

#[test]
fn every_flipped_bit_is_found() {
    flips(120);
}

#[test]
#[ignore = "a thousand verifications; run by make torture"]
fn a_thousand_flipped_bits_are_found() {
    flips(1000);
}

fn flips(count: u64) {
    let major = default_major();
    require_server!(major);
    let dir = TestDir::in_memory();
    let backup = small_backup(&Backups::new(major), &dir, Form::Plain);
    assert!(!is_damaged(&backup), "the backup is whole");
    let files = listed_files(&backup);
    let (start, end) = range_of(&backup);
    let segment = super::backups::first_segment(&backup.join("pg_wal"));
    let mut random = fastrand::Rng::with_seed(19);
    let mut missed = Vec::new();
    for number in 0..count {
        let (path, bit) = if number % 10 == 0 {
            // the segments are of 1 MB, and the range of a quiet server is within one of them
            assert_eq!(start >> 20, (end - 1) >> 20, "a range within a segment");
            (&segment, random.u64((start % (1 << 20)) * 8..((end - 1) % (1 << 20) + 1) * 8))
        } else {
            let (path, len) = &files[random.usize(..files.len())];
            (path, random.u64(..len * 8))
        };
        flip(path, bit);
        if !is_damaged(&backup) {
            missed.push((path.clone(), bit));
        }
        flip(path, bit);
    }
    assert!(!is_damaged(&backup), "all is as it was");
    // A hexadecimal digit in capitals is the same digit. Padding between records means nothing; the original's decoder
    // is asked whether that is what it was.
    let wal_missed: Vec<_> = missed.iter().filter(|(path, _)| *path == segment).cloned().collect();
    missed.retain(|(path, bit)| {
        let is_digit = path.ends_with("backup_manifest") && bit % 8 == 5;
        *path != segment && !is_digit
    });
    assert!(missed.is_empty(), "not found: {missed:?}");
    if let (false, Some(_), Some(waldump)) =
        (wal_missed.is_empty(), original(major), program(major, "pg_waldump"))
    {
        let dump = || {
            let range = [
                format!("--start={:X}/{:X}", start >> 32, start as u32),
                format!("--end={:X}/{:X}", end >> 32, end as u32),
            ];
            let outcome = Tool::new(&waldump).args(["-p"]).arg(backup.join("pg_wal")).args(range).run();
            (outcome.code, outcome.stdout, outcome.stderr)
        };
        let before = dump();
        for (path, bit) in wal_missed {
            flip(&path, bit);
            assert_eq!(dump(), before, "the original sees bit {bit} of {}", path.display());
            flip(&path, bit);
        }
    }
}

#[test]
fn flipped_bits_in_archives_are_found() {
    let major = default_major();
    require_server!(major);
    let dir = TestDir::in_memory();
    let backups = Backups::new(major);
    for (form, archives) in [(Form::Tar, &["base.tar", "pg_wal.tar"][..]), (Form::Gzip, &["base.tar.gz"])] {
        let backup = dir.join(&format!("{form:?}"));
        Tool::new("/bin/cp").arg("-r").arg(backups.path(form)).arg(&backup).run().succeeded();
        assert!(!is_damaged(&backup), "the backup is whole");
        let mut random = fastrand::Rng::with_seed(7);
        for name in archives {
            let path = backup.join(name);
            let len = fs::metadata(&path).expect("stat an archive").len();
            for _ in 0..25 {
                let bit = match *name {
                    // the first segment's records; what is behind the range is not needed
                    "pg_wal.tar" => (512 + 0x28 + 24) * 8 + random.u64(..8),
                    _ => random.u64(..len * 8),
                };
                flip(&path, bit);
                let is_found = is_damaged(&backup);
                flip(&path, bit);
                assert!(is_found || may_be_unseen(&path, bit, name), "bit {bit} of {name}");
            }
        }
    }
}

/// What has no meaning: most of a header but its checksum is checked as a whole, so only files that are passed over,
/// and the ten bytes in front of a gzip stream.
fn may_be_unseen(path: &Path, bit: u64, name: &str) -> bool {
    match name {
        "base.tar" => {
            let bytes = fs::read(path).expect("read an archive");
            let member = |member| super::table::find_member(&bytes, member) as u64;
            let at = bit / 8;
            let start = member("postgresql.auto.conf");
            (start..start + 1024).contains(&at)
        }
        _ => bit / 8 < 10,
    }
}

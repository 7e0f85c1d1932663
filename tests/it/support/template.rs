//! Data directories that `initdb` made before: it takes most of a second of CPU time, a copy a small part of that.
//!
//! What tells clusters apart is made anew in each copy: the system identifier, in `pg_control` and where the WAL begins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where directories of such a kind are kept: `program` is the `initdb` that is asked with `args`.
pub(super) fn place(major: u32, program: &Path, args: &[String]) -> PathBuf {
    let built = fs::metadata(program).and_then(|found| found.modified()).ok();
    let built = built.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let what = format!("{} {} {args:?}", program.display(), built.as_nanos());
    let user = rustix::process::getuid().as_raw();
    let name = format!("cluster-{major}-{user}-{:08x}", crc32c::crc32c(what.as_bytes()));
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Makes `data_dir` from the directory at `place`; `false`, and nothing is made, where there is none.
pub(super) fn copy(place: &Path, data_dir: &Path) -> bool {
    if !place.is_dir() {
        return false;
    }
    copy_tree(place, data_dir);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    // as the server makes it
    let identifier = seconds.as_secs() << 32
        | u64::from(seconds.subsec_micros()) << 12
        | u64::from(std::process::id()) & 0xFFF;
    set_system_identifier(data_dir, identifier);
    true
}

/// Keeps what `initdb` has just made at `place`, unless somebody was quicker.
pub(super) fn keep(data_dir: &Path, place: &Path) {
    let new = place.with_extension(format!("{}", std::process::id()));
    // of one that was killed, and had this number
    let _ = fs::remove_dir_all(&new);
    copy_tree(data_dir, &new);
    if fs::rename(&new, place).is_err() {
        fs::remove_dir_all(&new).expect("remove what is there already");
    }
}

fn copy_tree(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("run cp");
    assert!(copied.success(), "cp -a {} {}", from.display(), to.display());
}

fn set_system_identifier(data_dir: &Path, identifier: u64) {
    let path = data_dir.join("global/pg_control");
    let mut control = fs::read(&path).expect("read pg_control");
    // its last field is the checksum of those before
    let is_checksum = |at: &usize| control[*at..*at + 4] == crc32c::crc32c(&control[..*at]).to_le_bytes();
    let checksum = (64..512).step_by(4).find(is_checksum).expect("pg_control has a checksum");
    control[..8].copy_from_slice(&identifier.to_le_bytes());
    let sum = crc32c::crc32c(&control[..checksum]);
    control[checksum..checksum + 4].copy_from_slice(&sum.to_le_bytes());
    fs::write(&path, control).expect("write pg_control");
    for entry in fs::read_dir(data_dir.join("pg_wal")).expect("list pg_wal").flatten() {
        if entry.file_name().len() == 24 {
            let mut wal = fs::read(entry.path()).expect("read a segment");
            // XLogLongPageHeaderData: the identifier follows the short header of 24 bytes
            wal[24..32].copy_from_slice(&identifier.to_le_bytes());
            fs::write(entry.path(), wal).expect("write a segment");
        }
    }
}

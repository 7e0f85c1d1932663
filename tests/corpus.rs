//! Replays the committed fuzz corpora, so that what the fuzzers found once is tried in every test run.

use std::path::{Path, PathBuf};

use pgwake::backup::fuzzing;
use pgwake::stream::fuzzing::fuzz_receiver;

/// Every file of a target's corpus. A target without one would be tested by nothing.
fn corpus(target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&directory).expect("a fuzz target has a corpus");
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.expect("the corpus can be listed").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    files
}

fn replay(target: &str, body: fn(&[u8])) {
    for file in corpus(target) {
        let data = std::fs::read(&file).expect("the corpus can be read");
        println!("{}", file.display());
        body(&data);
        // Cut short, and damaged: the neighbours of what a server sends.
        for len in (0..data.len()).step_by(data.len() / 40 + 1) {
            body(&data[..len]);
            let mut damaged = data.clone();
            damaged[len] ^= 0x11;
            body(&damaged);
        }
    }
}

#[test]
fn archive_stream() {
    replay("archive_stream", fuzzing::fuzz_archive_stream);
}

#[test]
fn tar() {
    replay("tar", fuzzing::fuzz_tar);
}

#[test]
fn manifest() {
    replay("manifest", fuzzing::fuzz_manifest);
}

#[test]
fn backup_label() {
    replay("backup_label", fuzzing::fuzz_backup_label);
}

#[test]
fn receiver() {
    replay("receiver", fuzz_receiver);
}

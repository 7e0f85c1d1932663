//! Replays the committed fuzz corpora, so that what the fuzzers found once is tried in every test run.

use std::path::{Path, PathBuf};

use pgwake::stream::fuzzing::fuzz_receiver;
use pgwake::{archive, backup, client, pg, wire};

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
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/fuzz_targets/{target}.rs")).is_file());
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
    replay("archive_stream", backup::fuzzing::fuzz_archive_stream);
}

#[test]
fn archive_object() {
    replay("archive_object", archive::fuzzing::fuzz_archive_object);
}

#[test]
fn backup_object() {
    replay("backup_object", pgwake::repository::fuzzing::fuzz_backup_object);
}

#[test]
fn encrypted_object() {
    replay("encrypted_object", archive::fuzzing::fuzz_encrypted_object);
}

#[test]
fn tar() {
    replay("tar", backup::fuzzing::fuzz_tar);
}

#[test]
fn manifest() {
    replay("manifest", backup::fuzzing::fuzz_manifest);
}

#[test]
fn backup_label() {
    replay("backup_label", backup::fuzzing::fuzz_backup_label);
}

#[test]
fn tablespace_map() {
    replay("tablespace_map", backup::fuzzing::fuzz_tablespace_map);
}

#[test]
fn chain_label() {
    replay("chain_label", backup::fuzzing::fuzz_chain_label);
}

#[test]
fn incremental_file() {
    replay("incremental_file", backup::fuzzing::fuzz_incremental_file);
}

#[test]
fn receiver() {
    replay("receiver", fuzz_receiver);
}

#[test]
fn backend() {
    replay("backend", wire::fuzzing::fuzz_backend);
}

#[test]
fn replication_message() {
    replay("replication_message", wire::fuzzing::fuzz_replication_message);
}

#[test]
fn authentication() {
    replay("authentication", wire::fuzzing::fuzz_authentication);
}

#[test]
fn conninfo() {
    replay("conninfo", client::fuzzing::fuzz_conninfo);
}

#[test]
fn configuration_files() {
    replay("configuration_files", client::fuzzing::fuzz_configuration_files);
}

#[test]
fn certificate() {
    replay("certificate", client::fuzzing::fuzz_certificate);
}

#[test]
fn timeline_history() {
    replay("timeline_history", pg::fuzzing::fuzz_timeline_history);
}

#[test]
fn control_file() {
    replay("control_file", pg::fuzzing::fuzz_control_file);
}

#[test]
fn wal() {
    replay("wal", pg::fuzzing::fuzz_wal);
}

#[test]
fn no_target_is_forgotten() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let source = include_str!("corpus.rs");
    for entry in std::fs::read_dir(directory).expect("the fuzz targets can be listed") {
        let path = entry.expect("the fuzz targets can be listed").path();
        let target = path.file_stem().and_then(|stem| stem.to_str()).expect("a target has a name");
        assert!(source.contains(&format!("replay(\"{target}\"")), "{target} is not replayed");
    }
}

#[test]
fn sql_answer() {
    replay("sql_answer", client::sql::fuzzing::fuzz_sql_answer);
}

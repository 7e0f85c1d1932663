//! What of a run is the same however often it is done: words without numbers that change, files without what changes in
//! them.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::support::{Outcome, TestDir, tree};

/// Where one run has its directories.
#[derive(Debug)]
pub(super) struct Place {
    run: PathBuf,
}

impl Place {
    pub(super) fn new(dir: &TestDir, name: &str) -> Place {
        let run = dir.subdir(name, 0o777);
        for name in ["empty", "full"] {
            fs::create_dir(run.join(name)).expect("create a directory");
        }
        fs::write(run.join("full/file"), "").expect("write a file");
        Place { run }
    }

    /// The words of a command line.
    pub(super) fn words(&self, line: &str) -> Vec<String> {
        let run = self.run.display().to_string();
        let word = |word: &str| match word {
            "NOTHING" => String::new(),
            word => word
                .replace("RUN", &run)
                .replace("OUT", &format!("{run}/out"))
                .replace("EMPTY", &format!("{run}/empty"))
                .replace("FULL", &format!("{run}/full"))
                .replace("=NOTHING", "="),
        };
        line.split(' ').filter(|word| !word.is_empty()).map(word).collect()
    }
}

/// All that is compared.
pub(super) fn essence(outcome: &Outcome, program: &str, place: &Place) -> String {
    let run = place.run.display().to_string();
    let plain = |text: &str| text.replace(program, "PROGRAM").replace(&run, "RUN");
    let is_tar = outcome.stdout_bytes.len() > 512;
    let stdout = if is_tar { archive("stdout", &outcome.stdout_bytes) } else { plain(&outcome.stdout) };
    let stderr: Vec<String> = plain(&outcome.stderr).lines().map(settled).collect();
    let mut lines: Vec<&str> = stderr.iter().map(String::as_str).collect();
    // how many lines of progress there are is chance
    lines.dedup_by(|next, last| next == last && next.contains("kB"));
    format!(
        "exit code {:?}\n{stdout}\n--- stderr\n{}\n--- files\n{}",
        outcome.code,
        lines.join("\n"),
        described(&place.run).replace(&run, "RUN")
    )
}

/// A line without positions, process ids and sizes.
fn settled(line: &str) -> String {
    if line.contains(" kB (") {
        let place = line.split(", ").nth(1).unwrap_or_default();
        let words: Vec<&str> = place.split_whitespace().take(2).collect();
        return format!("PROGRESS kB {}", words.join(" "));
    }
    let word = |word: &str| {
        let is_position = word.split_once('/').is_some_and(|(high, low)| {
            let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hex(high) && is_hex(low)
        });
        match word.split_once("pg_basebackup_") {
            _ if is_position => "POSITION".to_owned(),
            Some((before, _)) if word.starts_with('"') => format!("{before}pg_basebackup_PID\""),
            _ => word.to_owned(),
        }
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Every entry with its mode; files with their length and a sum of their content, where that is settled.
fn described(directory: &Path) -> String {
    let mut text = String::new();
    for line in tree(directory).lines() {
        let name = line.rsplit(' ').next().unwrap_or_default();
        let path = directory.join(name);
        if name.contains(".tar") {
            let kind: Vec<&str> = line.split(' ').take(2).collect();
            let bytes = fs::read(&path).expect("read an archive");
            let _ = writeln!(text, "{} {name}\n{}", kind.join(" "), archive(name, &bytes));
        } else if line.starts_with('f') {
            let mode = line.split(' ').nth(1).unwrap_or_default();
            let content = fs::read(&path).expect("read a file");
            text.push_str(&file(name, mode, &content));
        } else {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

fn file(name: &str, mode: &str, content: &[u8]) -> String {
    let last = name.rsplit('/').next().unwrap_or_default();
    let is_segment = last.len() == 24 && last.bytes().all(|byte| byte.is_ascii_hexdigit());
    // the original marks the last segment that it streamed only when it has come to its end
    if last.ends_with(".done") {
        return String::new();
    }
    if is_segment {
        return format!("f {mode} {} {}SEGMENT\n", content.len(), &name[..name.len() - 24]);
    }
    match last {
        "backup_label" | "backup_manifest" | "backup_manifest.tmp" | "pg_control" => {
            format!("f {mode} {name}\n")
        }
        // a difference is to be seen
        "postgresql.auto.conf" => format!("f {mode} {name}\n{}", String::from_utf8_lossy(content)),
        _ => format!("f {mode} {} {:08x} {name}\n", content.len(), crc32c::crc32c(content)),
    }
}

/// What is in an archive, however that is compressed: standard output has no name that says it.
fn archive(name: &str, bytes: &[u8]) -> String {
    let mut plain = Vec::new();
    let read = match bytes {
        [0x1F, 0x8B, ..] => flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain),
        [0x04, 0x22, 0x4D, 0x18, ..] => lz4_flex::frame::FrameDecoder::new(bytes).read_to_end(&mut plain),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => {
            zstd::Decoder::new(bytes).and_then(|mut decoder| decoder.read_to_end(&mut plain))
        }
        mut bytes => bytes.read_to_end(&mut plain),
    };
    read.unwrap_or_else(|error| panic!("{name}: {error}"));
    members(&plain)
}

/// Members in their order.
pub(super) fn members(archive: &[u8]) -> String {
    assert!(archive.len().is_multiple_of(512) && archive.ends_with(&[0; 1024]), "an archive has its end");
    let mut text = String::new();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("a member");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("a member's content");
        let header = entry.header();
        let (mode, uid) = (header.mode().expect("a mode"), header.uid().expect("an owner"));
        let name = entry.path().expect("a name").display().to_string();
        let kind = header.entry_type();
        let line = match kind.is_file() {
            true => file(&name, &format!("{mode:o} {uid}"), &content),
            false => format!("{kind:?} {mode:o} {uid} {name}\n"),
        };
        if !line.is_empty() {
            let _ = write!(text, "  {line}");
        }
    }
    text
}

//! The original and ours, one after the other, in the same scene.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::chain::Chain;
use super::ours;
use super::scene::Scene;
use crate::support::{Outcome, TestDir, Tool, servers, tree};

/// A command line, and what it finds.
pub(super) struct Case {
    pub(super) line: &'static str,
    pub(super) prepare: fn(&Scene<'_>),
    /// The first major whose original takes this.
    pub(super) since: u32,
}

impl Case {
    pub(super) const fn new(line: &'static str) -> Case {
        Case { line, prepare: |_| {}, since: 17 }
    }

    pub(super) const fn with(line: &'static str, prepare: fn(&Scene<'_>)) -> Case {
        Case { line, prepare, since: 17 }
    }

    pub(super) const fn since(mut self, major: u32) -> Case {
        self.since = major;
        self
    }
}

/// Runs every case with both tools, and shows all that differ.
pub(super) fn compare(chain: &Chain, cases: &[Case]) {
    let major = chain.cluster.major();
    let dir = TestDir::new();
    let original = Tool::new(servers::program(major, "pg_combinebackup").expect("the original"));
    let tools = [original, ours(&dir)];
    let (mut different, mut count) = (Vec::new(), 0);
    for case in cases.iter().filter(|case| case.since <= major) {
        count += 1;
        let [original, ours] = tools.each_ref().map(|tool| {
            let scene = Scene::set(chain);
            (case.prepare)(&scene);
            let outcome = tool.clone().args(scene.words(case.line)).dir(&scene.dir);
            let outcome = outcome.timeout(Duration::from_secs(60)).run();
            let result = shown(&outcome, &tool.to_string(), &scene);
            scene.clear();
            result
        });
        if original != ours {
            different.push(format!("{:?}\n{}", case.line, differences(&original, &ours)));
        }
    }
    assert!(different.is_empty(), "{major}: {} of {count} differ\n{}", different.len(), different.join("\n"));
}

/// All that can be seen of a run.
fn shown(outcome: &Outcome, program: &str, scene: &Scene<'_>) -> String {
    let plain = |text: &str| in_words_of_19(&text.replace(program, "PROGRAM"));
    let mut all = format!(
        "exit code {:?}, signal {:?}\n{}--- stderr\n{}--- files\n",
        outcome.code,
        outcome.signal,
        without_version(&plain(&outcome.stdout)),
        plain(&outcome.stderr)
    );
    for name in ["out", "ts.out", "late.out", "parent"] {
        let directory = scene.dir.join(name);
        if !directory.is_dir() {
            all.push_str(&format!("{name} is {}\n", if directory.exists() { "a file" } else { "absent" }));
            continue;
        }
        all.push_str(&format!("{name}: {:o}\n{}", mode(&directory), tree(&directory)));
        for (path, content) in contents(&directory) {
            all.push_str(&format!("{name}/{path}: {content}\n"));
        }
    }
    all
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().expect("stat").permissions().mode() & 0o7777
}

/// What there is in each file, short.
fn contents(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(relative) = waiting.pop() {
        for entry in fs::read_dir(directory.join(&relative)).expect("list a directory") {
            let entry = entry.expect("an entry");
            let path = relative.join(entry.file_name());
            let kind = entry.file_type().expect("a type");
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file() {
                let content = fs::read(entry.path()).expect("read a file");
                let name = path.display().to_string();
                let shown = match name.rsplit('/').next() {
                    Some("backup_manifest") => manifest_without_times(&content),
                    _ => format!("{} bytes, {:08x}", content.len(), crc32c::crc32c(&content)),
                };
                found.insert(name, shown);
            }
        }
    }
    found
}

/// The order of the files counts; when they were made, and the checksum over that, does not.
fn manifest_without_times(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content);
    let lines = text.lines().map(|line| {
        let line = line.split("\"Manifest-Checksum\"").next().unwrap_or_default();
        match (line.find("\"Last-Modified\": \""), line) {
            (Some(start), line) => {
                let time = &line[start..start + "\"Last-Modified\": \"2026-11-25 22:25:47 GMT\"".len()];
                assert!(time.ends_with(" GMT\""), "{line}");
                line.replace(time, "")
            }
            (None, line) => line.to_owned(),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What 17 and 18 say otherwise, or not at all.
fn in_words_of_19(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let is_banner =
        |line: &str| line.ends_with("executing in dry-run mode") || line.ends_with("will not be modified.");
    lines.retain(|line| !is_banner(line));
    for line in &mut lines {
        if line.contains("could not open file") && line.contains("/PG_VERSION\"") {
            *line = line.replace("could not open file", "could not open version file");
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Help and version name who made the program.
fn without_version(text: &str) -> String {
    let is_ours = |line: &str| {
        line.contains("(PostgreSQL)") || line.starts_with("Report bugs") || line.starts_with("This is pgwake")
    };
    // 17 has no --link
    text.lines()
        .filter(|line| !is_ours(line) && !line.contains("--link"))
        .map(|line| line.to_owned() + "\n")
        .collect()
}

fn differences(original: &str, ours: &str) -> String {
    let (its, our): (Vec<_>, Vec<_>) = (original.lines().collect(), ours.lines().collect());
    let only = |these: &[&str], those: &[&str], sign: &str| {
        let those: std::collections::HashSet<_> = those.iter().collect();
        let lines = these.iter().filter(|line| !those.contains(line)).take(12);
        lines.map(|line| format!("  {sign} {line}\n")).collect::<String>()
    };
    let text = only(&its, &our, "original") + &only(&our, &its, "ours    ");
    if text.is_empty() { "  the same lines in another order\n".to_owned() } else { text }
}

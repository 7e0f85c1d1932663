//! The original and ours, one after the other, each in a directory of its own, on the same server.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{STAMP, original, ours};
use crate::support::{Cluster, Outcome, Running, TestDir, Tool, tree};

/// Which of the two it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Original,
    Ours,
}

/// A place for the runs, and the environment that leads to the server.
pub(super) struct Comparison {
    dir: TestDir,
    tools: [(Who, Tool, String); 2],
}

/// What a run left.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// Names, modes and lengths; the length of a compressed file is its encoder's business.
    pub(super) listing: String,
    pub(super) directory: PathBuf,
}

impl Comparison {
    pub(super) fn new(cluster: &Cluster) -> Comparison {
        let dir = TestDir::new();
        let tools = [(Who::Original, original(cluster)), (Who::Ours, ours(&dir))].map(|(who, tool)| {
            let program = tool.to_string();
            let tool = tool
                .env("PGHOST", cluster.socket_dir())
                .env("PGPORT", cluster.port().to_string())
                .env("PGUSER", "postgres")
                .timeout(Duration::from_secs(30));
            (who, tool, program)
        });
        Comparison { dir, tools }
    }

    /// What both do with `change` applied to their command line, in a directory that `prepare` has filled.
    #[track_caller]
    pub(super) fn run(
        &self,
        name: &str,
        change: impl Fn(Tool, &Path) -> Tool,
        prepare: impl Fn(&Path),
        during: impl Fn(&mut Running, &Path),
    ) -> [Run; 2] {
        [0, 1].map(|index| {
            let (who, tool, program) = &self.tools[index];
            let directory = self.dir.subdir(&format!("{name}-{who:?}").replace('/', ""), 0o700);
            prepare(&directory);
            let mut running = change(tool.clone(), &directory).spawn();
            during(&mut running, &directory);
            Run::new(&running.wait(), program, directory)
        })
    }

    /// Both at the same time, from before `during` to after it.
    #[track_caller]
    pub(super) fn run_together(
        &self,
        name: &str,
        change: impl Fn(Tool, &Path) -> Tool,
        during: impl FnOnce(&mut [Running; 2], &[PathBuf; 2]),
    ) -> [Run; 2] {
        let directories = [0, 1].map(|index| {
            let who = self.tools[index].0;
            self.dir.subdir(&format!("{name}-{who:?}"), 0o700)
        });
        let mut running =
            [0, 1].map(|index| change(self.tools[index].1.clone(), &directories[index]).spawn());
        during(&mut running, &directories);
        let outcomes = running.map(Running::wait);
        let mut outcomes = outcomes.into_iter().zip(directories).zip(&self.tools);
        [(); 2].map(|()| {
            let ((outcome, directory), (_, _, program)) = outcomes.next().expect("there are two");
            Run::new(&outcome, program, directory)
        })
    }
}

impl Run {
    fn new(outcome: &Outcome, program: &str, directory: PathBuf) -> Run {
        let plain =
            |text: &str| text.replace(program, "PROGRAM").replace(&directory.display().to_string(), "DIR");
        Run {
            code: outcome.code,
            signal: outcome.signal,
            stdout: plain(&outcome.stdout),
            stderr: plain(&outcome.stderr),
            listing: listing(&directory),
            directory,
        }
    }

    /// All that is compared as text.
    pub(super) fn shown(&self) -> String {
        let Run { code, signal, stdout, stderr, listing, .. } = self;
        format!("exit code {code:?}, signal {signal:?}\n{stdout}--- stderr\n{stderr}--- files\n{listing}")
    }

    /// The files that hold WAL, decompressed, by name.
    pub(super) fn segments(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(&self.directory).expect("list a directory").map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, path)
        });
        let wal = entries.filter(|(name, path)| {
            name.len() >= 24 && name[..24].bytes().all(|byte| byte.is_ascii_hexdigit()) && path.is_file()
        });
        wal.map(|(name, path)| (name, decompressed(&path))).collect()
    }
}

/// Panics, with both shown, unless `left` and `right` are the same.
#[track_caller]
pub(super) fn assert_same(what: &str, left: &str, right: &str) {
    assert!(left == right, "{what}\n=== original\n{left}\n=== ours\n{right}");
}

fn listing(directory: &Path) -> String {
    let lines = tree(directory);
    let lines = lines.lines().filter(|line| !line.ends_with(STAMP)).map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            [kind, mode, _, name] if name.contains(".gz") || name.contains(".lz4") => {
                format!("{kind} {mode} {name}\n")
            }
            _ => format!("{line}\n"),
        }
    });
    lines.collect()
}

/// As far as the format can be read: what an interrupted original leaves may lack its end.
fn decompressed(path: &Path) -> Vec<u8> {
    let name = path.to_string_lossy();
    let stem = name.strip_suffix(".partial").unwrap_or(&name);
    let mut file = File::open(path).expect("open a segment");
    let mut plain = Vec::new();
    let result = if stem.ends_with(".gz") {
        flate2::read::GzDecoder::new(file).read_to_end(&mut plain)
    } else if stem.ends_with(".lz4") {
        lz4_flex::frame::FrameDecoder::new(file).read_to_end(&mut plain)
    } else {
        file.read_to_end(&mut plain)
    };
    result.unwrap_or_else(|error| panic!("{name}: {error}"));
    plain
}

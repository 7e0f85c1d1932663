//! The command lines that are compared. `DIR` stands for a directory that is made for the run.

use super::{WITHOUT_LZ4, has_lz4, original_major};
use crate::support::Cluster;

/// What of a run is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// All of it.
    All,
    /// All but the first line of standard output: the version differs.
    AllButVersion,
    /// All but the last two lines of standard output: where to report bugs.
    AllButLastLines,
}

#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) args: Vec<String>,
    slot: Option<&'static str>,
    compared: Compared,
}

impl Case {
    fn new(line: &str) -> Case {
        let args = line.split(' ').filter(|word| !word.is_empty());
        let args =
            args.map(
                |word| if word == "EMPTY" { String::new() } else { word.replace('_', " ").replace('~', "_") },
            );
        Case { args: args.collect(), slot: None, compared: Compared::All }
    }

    /// A slot that is there before the run.
    fn with_slot(mut self, name: &'static str) -> Case {
        self.slot = Some(name);
        self
    }

    pub(super) fn prepare(&self, cluster: &Cluster) {
        if let Some(slot) = self.slot {
            cluster.psql(&format!("SELECT pg_create_physical_replication_slot('{slot}')"));
        }
    }

    pub(super) fn has_to_do_with_slots(&self) -> bool {
        self.slot.is_some() || self.args.iter().any(|word| word.contains("-slot") || word.starts_with("-S"))
    }

    /// What slots there are, which are dropped then.
    pub(super) fn slots_afterwards(&self, cluster: &Cluster) -> String {
        let slots = "SELECT slot_name, slot_type, restart_lsn IS NULL FROM pg_replication_slots";
        let state = cluster.psql(slots);
        cluster.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
        state
    }

    pub(super) fn essence(&self, text: String) -> String {
        let lines: Vec<&str> = text.lines().collect();
        let kept = match self.compared {
            Compared::All => return text,
            Compared::AllButVersion => lines
                .iter()
                .filter(|line| !line.starts_with("pg_receivewal (PostgreSQL)"))
                .copied()
                .collect::<Vec<_>>(),
            Compared::AllButLastLines => lines
                .iter()
                .filter(|line| !line.starts_with("Report bugs") && !line.starts_with("This is pgwake"))
                .copied()
                .collect(),
        };
        kept.join("\n")
    }
}

/// Every value of `-Z` that is compared; what only we can do is not here.
const COMPRESSIONS: [&str; 21] = [
    "0",
    "none",
    "EMPTY",
    "foo",
    "gzip:a",
    "gzip:",
    "gzip:level",
    "gzip:level=x",
    "gzip:0",
    "gzip:10",
    "10",
    "-2",
    "lz4:13",
    "lz4:-1",
    "lz4:long",
    "none:4",
    "none:level=0",
    "gzip:workers=3",
    "lz4:workers=3",
    "GZIP",
    ":",
];

pub(super) fn cases(cluster: &Cluster) -> Vec<Case> {
    let mut cases: Vec<Case> = LINES.iter().map(|line| Case::new(line)).collect();
    // checked before the directory is, which is not there
    cases.extend(COMPRESSIONS.iter().map(|text| Case::new(&format!("-D /nonexistent -Z {text}"))));
    for first in ["--help", "-?"] {
        let mut case = Case::new(first);
        case.compared = Compared::AllButLastLines;
        cases.push(case);
    }
    for first in ["--version", "-V"] {
        let mut case = Case::new(first);
        case.compared = Compared::AllButVersion;
        cases.push(case);
    }
    for line in
        ["--create-slot -S taken", "--create-slot -S taken --if-not-exists -v", "--drop-slot -S taken -v"]
    {
        cases.push(Case::new(line).with_slot("taken"));
    }
    // one segment behind, so that a position within it is passed
    let position = cluster.psql("SELECT pg_current_wal_lsn()");
    assert!(position.contains('/'), "{position}");
    cases
}

/// What the original of a major says otherwise, and why ours says what it says: the words of 19.
struct Difference {
    applies: fn(&Cluster) -> bool,
    args: &'static str,
    original: &'static str,
    ours: &'static str,
}

const DIFFERENCES: [Difference; 5] = [
    // long-distance mode came with 17, for zstd
    Difference {
        applies: |cluster| original_major(cluster) < 17 && has_lz4(cluster),
        args: "-D /nonexistent -Z lz4:long",
        original: "unrecognized compression option: \"long\"",
        ours: "compression algorithm \"lz4\" does not support long-distance mode",
    },
    // some builds have no LZ4, and say so before anything else; ours always has it
    Difference {
        applies: |cluster| !has_lz4(cluster),
        args: "-D /nonexistent -Z lz4:13",
        original: WITHOUT_LZ4,
        ours: "compression algorithm \"lz4\" expects a compression level between 1 and 12 (default at 0)",
    },
    Difference {
        applies: |cluster| !has_lz4(cluster),
        args: "-D /nonexistent -Z lz4:-1",
        original: WITHOUT_LZ4,
        ours: "compression algorithm \"lz4\" expects a compression level between 1 and 12 (default at 0)",
    },
    Difference {
        applies: |cluster| !has_lz4(cluster),
        args: "-D /nonexistent -Z lz4:long",
        original: WITHOUT_LZ4,
        ours: "compression algorithm \"lz4\" does not support long-distance mode",
    },
    Difference {
        applies: |cluster| !has_lz4(cluster),
        args: "-D /nonexistent -Z lz4:workers=3",
        original: WITHOUT_LZ4,
        ours: "compression algorithm \"lz4\" does not accept a worker count",
    },
];

/// What the two say of these arguments, where that is known to differ.
pub(super) fn known_difference(cluster: &Cluster, case: &Case) -> Option<(&'static str, &'static str)> {
    let line = case.args.join(" ");
    let of_case = DIFFERENCES.iter().filter(|difference| difference.args == line);
    let mut applying = of_case.filter(|difference| (difference.applies)(cluster));
    applying.next().map(|difference| (difference.original, difference.ours))
}

/// One command line each; `_` is a blank within a word, `~` an underscore.
const LINES: [&str; 62] = [
    "",
    "-D",
    "-x",
    "-nx",
    "--foo",
    "--foo=bar",
    "--d",
    "--no",
    "--no-s=1",
    "--no-loop=4",
    "--help=3",
    "--directory",
    "-D DIR --vers",
    "-D DIR -V",
    "-D DIR -?",
    "-D DIR --help",
    "a b",
    "-D DIR a",
    "-D DIR -- a",
    "-D DIR -s abc",
    "-D DIR -s -1",
    "-D DIR -s 2147484",
    "-D DIR -s 99999999999999999999",
    "-D DIR -s 5x",
    "-D DIR -E zz",
    "-D DIR -E 1/",
    "-D DIR -E /1",
    "-D DIR -E 1",
    "-D DIR -E EMPTY",
    "-D DIR --create-slot",
    "--create-slot",
    "--drop-slot",
    "-D DIR --drop-slot",
    "-S a --drop-slot --create-slot",
    "-D DIR --synchronous --no-sync",
    "--synchronous --no-sync",
    "-S a",
    "-D EMPTY",
    "-D /nonexistent",
    "-D /etc/passwd",
    "-D DIR -h /nonexistent",
    "-D DIR -n -h /nonexistent",
    "--host=/nonexistent --directory DIR",
    "-D DIR -h 127.0.0.1 -p 1",
    "-D DIR -p abc",
    "-D DIR -p 99999",
    "-D DIR -p 0",
    "-D DIR -U nosuch",
    "-D DIR -w -U nosuch",
    "-D DIR -d foo",
    "-D DIR -d foo=1",
    "-D DIR -d host=/nonexistent",
    "-D DIR -d port=1_user='x",
    "-D DIR -d sslmode=never",
    "-D DIR -d user=nosuch -U postgres -E 0/1 -v",
    "-D DIR -E 0/1",
    "-vDDIR -E 0/1rest",
    "-D DIR -E 0/1 --synchronous -s 0",
    "--create-slot -S a~1 -v",
    "--create --slot=a",
    "--create-slot -S Upper",
    "--drop-slot -S missing -v",
];

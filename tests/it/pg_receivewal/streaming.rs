//! The same WAL through both: exit code, what is said, names, modes, bytes.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::write::GzEncoder;

use super::compare::{Comparison, Run, assert_same};
use super::{has_lz4, position, segment_name};
use crate::require_server;
use crate::support::{Cluster, Running, Tool, wait_until};

const SEGMENT_LEN: u64 = 1 << 20;

const NEW_SLOT: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots; \
                        SELECT pg_create_physical_replication_slot('empty')";

/// A server with some finished segments, which writes nothing more by itself.
struct Primary {
    cluster: Cluster,
    /// The number of the first segment that is worth fetching.
    first: u64,
}

impl Primary {
    fn start() -> Primary {
        let cluster = Cluster::builder()
            .wal_segsize(1)
            .setting("wal_keep_size", "200MB")
            .setting("autovacuum", "off")
            .setting("checkpoint_timeout", "1h")
            .start();
        cluster.psql("SELECT txid_current(); SELECT pg_switch_wal()");
        let first = position(&cluster) / SEGMENT_LEN;
        cluster.psql("CREATE TABLE t AS SELECT repeat(md5(i::text), 4) FROM generate_series(1, 30000) i");
        Primary { cluster, first }
    }

    fn name(&self, segment: u64) -> String {
        segment_name(segment, 1)
    }

    fn bytes(&self, segment: u64) -> Vec<u8> {
        fs::read(self.cluster.data_dir().join("pg_wal").join(self.name(segment))).expect("the primary's")
    }

    /// Puts the finished segment `number` where it was received to.
    fn keep(&self, directory: &Path, number: u64) {
        write(&directory.join(self.name(number)), &self.bytes(number));
    }
}

fn write(path: &Path, contents: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, contents).expect("write a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("set a mode");
}

fn lsn(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position as u32)
}

/// `--endpos` ends ours exactly there, and the original with the message that goes beyond it: the position that is
/// told at the end is another one. And a slot that holds nothing beside a directory that holds WAL is warned of.
fn without_end(run: &Run) -> String {
    let told = |line: &str| match line.split_once("stopped log streaming at ") {
        Some((front, rest)) => {
            let (_, timeline) = rest.split_once(' ').expect("a timeline");
            format!("{front}stopped log streaming at END {timeline}\n")
        }
        None => format!("{line}\n"),
    };
    let warned = |line: &&str| line.contains("warning: slot holds no WAL");
    run.shown().lines().filter(|line| !warned(line)).map(told).collect()
}

/// Compares texts and bytes: of an unfinished segment as far as `end` goes, behind which ours has zeros.
#[track_caller]
fn assert_same_up_to(primary: &Primary, what: &str, runs: &[Run; 2], end: u64) {
    assert_same(what, &without_end(&runs[0]), &without_end(&runs[1]));
    let (its, our) = (runs[0].segments(), runs[1].segments());
    let fetched = (primary.first + 1..=end / SEGMENT_LEN).filter(|number| number * SEGMENT_LEN < end);
    for number in fetched {
        let name = primary.name(number);
        let find = |files: &std::collections::BTreeMap<String, Vec<u8>>| {
            let found =
                files.iter().filter(|(key, _)| key.starts_with(&name)).max_by_key(|(_, bytes)| bytes.len());
            found.unwrap_or_else(|| panic!("{what}: no {name}")).1.clone()
        };
        let (its, our, primarys) = (find(&its), find(&our), primary.bytes(number));
        let len = (end - number * SEGMENT_LEN).min(SEGMENT_LEN) as usize;
        assert!(our[..len] == primarys[..len], "{what}: {name} is not the primary's");
        assert!(our[..len] == its[..len], "{what}: {name} is not the original's");
        assert!(our[len..].iter().all(|byte| *byte == 0), "{what}: {name} has more than was asked for");
    }
}

#[test]
fn an_end_position_ends_it_with_the_same_files() {
    require_server!();
    let primary = Primary::start();
    let comparison = Comparison::new(&primary.cluster);
    let end = (primary.first + 2) * SEGMENT_LEN + 0x8_0000;
    let mut lines = vec![
        "",
        "-v",
        "-n",
        "--synchronous -v",
        "--no-sync",
        "--no-sync -v -s 1",
        "-s 0 -v",
        "-Z none -v",
        "-Z 0",
        "-Z gzip -v",
        "-Z gzip:9",
        "-Z 1",
        "--compress=gzip:level=3 --no-sync",
        "-Z gzip --synchronous -v",
        "-S empty -v",
        "-S empty --synchronous",
        "-S empty --no-sync -Z gzip",
    ];
    if has_lz4(&primary.cluster) {
        lines.extend(["-Z lz4 -v", "-Z lz4:1 --synchronous"]);
    }
    for line in lines {
        let runs = comparison.run(
            &format!("line{line}").replace(' ', ""),
            |tool, directory| tool.args(words(line)).args(["-E", &lsn(end), "-D"]).arg(directory),
            |directory| {
                primary.keep(directory, primary.first);
                if line.contains("-S") {
                    // what one has acknowledged is news to the other
                    primary.cluster.psql(NEW_SLOT);
                }
            },
            |_, _| {},
        );
        assert_eq!(runs[0].code, Some(0), "{line}: {}", runs[0].shown());
        assert_same_up_to(&primary, line, &runs, end);
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(' ').filter(|word| !word.is_empty())
}

/// What lies in the directory decides where it goes on, and what is said of it.
#[test]
fn what_is_in_the_directory_means_the_same() {
    require_server!();
    let primary = Primary::start();
    let comparison = Comparison::new(&primary.cluster);
    let end = (primary.first + 2) * SEGMENT_LEN + 0x1_2345;
    let next = primary.first + 1;
    let partial = |directory: &Path, contents: &[u8]| {
        write(&directory.join(primary.name(next) + ".partial"), contents);
    };
    let keep = |directory: &Path| primary.keep(directory, primary.first);
    type Prepare<'a> = Box<dyn Fn(&Path) + 'a>;
    let cases: Vec<(&str, Prepare<'_>)> = vec![
        ("an empty unfinished file", Box::new(|directory| partial(directory, b""))),
        ("a whole unfinished file", Box::new(|directory| partial(directory, &primary.bytes(next)))),
        (
            "an unfinished file of zeros",
            Box::new(|directory| partial(directory, &vec![0; SEGMENT_LEN as usize])),
        ),
        (
            "a finished file and an unfinished one",
            Box::new(|directory| {
                keep(directory);
                partial(directory, &primary.bytes(next)[..0]);
            }),
        ),
        (
            "a finished file beside its unfinished self",
            Box::new(|directory| {
                keep(directory);
                write(&directory.join(primary.name(primary.first) + ".partial"), b"");
            }),
        ),
        (
            "a finished file of the wrong length",
            Box::new(|directory| {
                keep(directory);
                write(&directory.join(primary.name(next)), &[0; 1000]);
            }),
        ),
        (
            "a finished compressed file of the wrong length",
            Box::new(|directory| {
                keep(directory);
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                // 0x0410: the original takes a byte of the length above 0x7f for a negative number
                encoder.write_all(&[0; 1040]).expect("compress");
                let damaged = encoder.finish().expect("compress");
                write(&directory.join(primary.name(next) + ".gz"), &damaged);
            }),
        ),
        (
            "a finished file of the wrong length that is not in the way",
            Box::new(|directory| {
                keep(directory);
                write(&directory.join(primary.name(primary.first + 4)), &[0; 1000]);
            }),
        ),
        (
            "junk",
            Box::new(|directory| {
                keep(directory);
                for name in [
                    "foo",
                    ".hidden",
                    "00000001000000000000000g",
                    "archive_status",
                    "0000000100000000000000FF.bak",
                ] {
                    write(&directory.join(name), b"junk");
                }
                fs::create_dir(directory.join("sub")).expect("make a directory");
            }),
        ),
        (
            "lower case is no segment",
            Box::new(|directory| {
                keep(directory);
                write(&directory.join("0000000100000000000000ff"), &vec![0; SEGMENT_LEN as usize]);
            }),
        ),
    ];
    for (name, prepare) in &cases {
        let runs = comparison.run(
            &name.replace(' ', "-"),
            |tool, directory| tool.args(["-v", "-E", &lsn(end), "-D"]).arg(directory),
            prepare,
            |_, _| {},
        );
        assert_eq!(runs[0].code, Some(0), "{name}: {}", runs[0].shown());
        assert_same_up_to(&primary, name, &runs, end);
    }
}

#[test]
fn an_end_position_that_is_passed_already_ends_it_at_once() {
    require_server!();
    let primary = Primary::start();
    let comparison = Comparison::new(&primary.cluster);
    for (name, end) in [("first byte", 1), ("in what is there", primary.first * SEGMENT_LEN + 1000)] {
        for line in ["", "-v"] {
            let runs = comparison.run(
                &format!("{name}{line}").replace(' ', ""),
                |tool, directory| tool.args(words(line)).args(["-E", &lsn(end), "-D"]).arg(directory),
                |directory| primary.keep(directory, primary.first),
                |_, _| {},
            );
            assert_same(name, &runs[0].shown(), &runs[1].shown());
            assert_eq!(runs[1].code, Some(0));
        }
    }
}

/// The original wants one byte more, which begins another segment. Ours has all that was asked for.
#[test]
fn an_end_position_on_a_boundary_begins_no_segment() {
    require_server!();
    let primary = Primary::start();
    let comparison = Comparison::new(&primary.cluster);
    let last = primary.first + 2;
    let end = (last + 1) * SEGMENT_LEN;
    let [its, our] = comparison.run(
        "boundary",
        |tool, directory| tool.args(["-E", &lsn(end), "-D"]).arg(directory),
        |directory| primary.keep(directory, primary.first),
        |_, _| {},
    );
    let begun = primary.name(last + 1) + ".partial";
    assert_eq!((its.code, our.code), (Some(0), Some(0)), "{}{}", its.shown(), our.shown());
    assert_eq!(its.stderr, format!("pg_receivewal: not renaming \"{begun}\", segment is not complete\n"));
    assert_eq!(our.stderr, "");
    let without_begun: String =
        its.listing.lines().filter(|line| !line.ends_with(&begun)).map(|line| format!("{line}\n")).collect();
    assert_ne!(without_begun, its.listing);
    assert_same("all but the segment that was begun", &without_begun, &our.listing);
    for number in primary.first..=last {
        let name = primary.name(number);
        assert!(our.segments()[&name] == its.segments()[&name], "{name}");
    }
}

/// An idle server, a switch, a checkpoint, a switch with nothing in between, a load.
#[test]
fn segments_are_told_as_they_are_finished() {
    require_server!();
    let primary = Primary::start();
    let cluster = &primary.cluster;
    let comparison = Comparison::new(cluster);
    let runs = comparison.run_together(
        "finished",
        |tool: Tool, directory| tool.args(["-v", "-D"]).arg(directory),
        |running, directories| {
            for tool in running.iter_mut() {
                tool.wait_for_stderr("starting log streaming");
            }
            cluster.wait_for("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "2");
            cluster.psql("SELECT txid_current(); SELECT pg_switch_wal(); SELECT pg_switch_wal(); CHECKPOINT");
            cluster.psql("CREATE TABLE u AS SELECT repeat(md5(i::text), 4) FROM generate_series(1, 12000) i");
            cluster.psql("SELECT pg_switch_wal()");
            let last = primary.name((position(cluster) - 1) / SEGMENT_LEN);
            for directory in directories {
                wait_until("the last segment is there", || directory.join(&last).exists());
            }
            cluster.psql("SELECT txid_current(); CHECKPOINT");
            let next = primary.name(position(cluster) / SEGMENT_LEN) + ".partial";
            for directory in directories {
                wait_until("the next segment is begun", || directory.join(&next).exists());
            }
            running.iter().for_each(Running::interrupt);
        },
    );
    assert_same("both streams and files", &runs[0].shown(), &runs[1].shown());
    assert!(runs[1].stderr.matches("finished segment").count() >= 3, "{}", runs[1].shown());
    assert!(runs[0].segments() == runs[1].segments(), "bytes differ");
}

/// What the original does in silence: a slot that has acknowledged more than the directory holds.
#[test]
fn what_ours_warns_of_is_told_in_the_tools_name() {
    crate::require_slot_positions!();
    let primary = Primary::start();
    primary.cluster.psql("SELECT pg_create_physical_replication_slot('ahead', true)");
    let dir = crate::support::TestDir::new();
    let conninfo = primary.cluster.conninfo();
    let end = (primary.first + 1) * SEGMENT_LEN + 1000;
    let outcome = [(); 2].map(|()| {
        let directory = dir.subdir(&format!("wal{}", fastrand::u32(..)), 0o700);
        primary.keep(&directory, primary.first);
        let tool =
            super::ours(&dir).args(["-S", "ahead", "--synchronous", "-d", &conninfo, "-E", &lsn(end), "-D"]);
        tool.arg(directory).run().exited(0)
    });
    assert!(!outcome[0].stderr.contains("warning"), "{}", outcome[0]);
    let told =
        "pg_receivewal: warning: slot has acknowledged WAL that is not in the directory; fetching it again (";
    assert!(outcome[1].stderr.starts_with(told), "{}", outcome[1]);
    assert_eq!(outcome[1].stderr.lines().count(), 2, "{}", outcome[1]);
}

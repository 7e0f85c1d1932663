//! `pgwake wal verify` agrees with `pg_waldump`: on what servers write, and on what became of it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::require_server;
use crate::support::servers::{majors, missing, program};
use crate::support::{Cluster, Outcome, Stop, Tool};

const SEGMENT_LEN: usize = 1 << 20;

/// A cluster that has written a dozen segments with all kinds of records, and is stopped.
fn written(major: u32) -> Cluster {
    let cluster = Cluster::builder().major(major).wal_segsize(1).setting("wal_keep_size", "1GB").start();
    cluster.psql(
        "CREATE TABLE t (i int PRIMARY KEY, x text); \
         INSERT INTO t SELECT g, repeat('x', g % 300) FROM generate_series(1, 8000) g; \
         SELECT pg_switch_wal(); UPDATE t SET x = x || 'y' WHERE i % 3 = 0; CHECKPOINT; \
         SELECT pg_logical_emit_message(true, 'long', repeat('abc', 1000000)); \
         DELETE FROM t WHERE i % 5 = 0; SELECT pg_switch_wal(); \
         SELECT pg_logical_emit_message(true, 'last', repeat('abc', 400000)); \
         SELECT pg_logical_emit_message(true, 'last', repeat('abc', 400000))",
    );
    cluster.stop(Stop::Fast);
    cluster
}

/// The segments that are full, copied to a directory of their own; the newest that is not is left out.
fn archive(cluster: &Cluster) -> (PathBuf, Vec<String>) {
    let directory = cluster.dir().subdir("archive", 0o755);
    let mut names: Vec<String> = fs::read_dir(cluster.data_dir().join("pg_wal"))
        .expect("list pg_wal")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.len() == 24)
        .collect();
    names.sort();
    let current = cluster.data_dir().join("pg_wal");
    // recycled segments have later names than their content
    names.retain(|name| {
        let bytes = fs::read(current.join(name)).expect("read a segment");
        let position = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
        format!("{:016X}", position / SEGMENT_LEN as u64 % 4096) == name[8..]
    });
    names.pop();
    for name in &names {
        fs::copy(current.join(name), directory.join(name)).expect("copy a segment");
    }
    assert!(names.len() > 6, "only {names:?}");
    (directory, names)
}

fn verify(directory: &Path) -> Outcome {
    Tool::pgwake().args(["wal", "verify"]).arg(directory).run()
}

fn waldump(program: &Path, directory: &Path, names: &[String]) -> Outcome {
    Tool::new(program)
        .args(["--quiet", "-p"])
        .arg(directory)
        .args([names.first().expect("segments"), names.last().expect("segments")])
        .run()
}

/// The last line that `pg_waldump` prints: the last record that it can read.
fn last_record(program: &Path, directory: &Path, names: &[String]) -> String {
    let tool = Tool::new(program).args(["-p"]).arg(directory);
    let outcome = tool.args([names.first().expect("segments"), names.last().expect("segments")]).run();
    outcome.stdout.lines().last().unwrap_or_default().to_owned()
}

/// All positions in a text, in whatever spelling.
fn positions(text: &str) -> Vec<u64> {
    let word = |word: &str| {
        let (high, low) = word.trim_matches(|c: char| !c.is_ascii_hexdigit()).split_once('/')?;
        let half = |half| u64::from_str_radix(half, 16).ok();
        Some(half(high)? << 32 | half(low)?)
    };
    text.split_whitespace().filter_map(word).collect()
}

#[test]
fn agrees_with_pg_waldump_on_real_and_damaged_wal() {
    for major in majors() {
        require_server!(major);
        let cluster = written(major);
        let (directory, names) = archive(&cluster);
        verify(&directory).succeeded().says("nothing is wrong");
        let Some(pg_waldump) = program(major, "pg_waldump") else {
            missing(&format!("pg_waldump{major}"), "the program", "this build has none");
            continue;
        };
        let whole = waldump(&pg_waldump, &directory, &names);
        assert!(!whole.stderr.contains("error in WAL record"), "{whole}");
        let last = last_record(&pg_waldump, &directory, &names);
        let mut random = fastrand::Rng::with_seed(u64::from(major));
        let mut both = 0;
        for round in 0..40 {
            let name = &names[random.usize(1..names.len() - 1)];
            let path = directory.join(name);
            let original = fs::read(&path).expect("read a segment");
            let mut bytes = original.clone();
            let at = random.usize(..SEGMENT_LEN);
            let page = at - at % 8192;
            match round % 8 {
                0..4 => bytes[at] ^= 1 << random.u32(..8),
                4 => bytes[page..page + 8192].fill(0),
                5 => bytes.truncate(page.max(8192)),
                6 => bytes[page + 20..page + 8192].fill(0x55),
                _ => bytes = fs::read(directory.join(&names[0])).expect("another segment"),
            }
            fs::write(&path, &bytes).expect("write a damaged segment");
            let (ours, theirs) = (verify(&directory), waldump(&pg_waldump, &directory, &names));
            let what = format!("{major}: round {round}, {name} at {at:X}\n{ours}\n{theirs}");
            // zeros in zeros, and flipped bits between records, are no damage to either. A page that is lost within a
            // record ends the other's output without an error.
            if theirs.code != Some(0) || last_record(&pg_waldump, &directory, &names) != last {
                assert_eq!(ours.code, Some(3), "{what}");
                both += 1;
            } else {
                let only_ours = ["ended the segment", "where a segment has"];
                let is_only_ours = only_ours.iter().any(|text| ours.stdout.contains(text));
                assert!(ours.code == Some(0) || is_only_ours, "{what}");
            }
            let told = "problem: ";
            if theirs.stderr.contains("data checksum in record") {
                let problem = ours.stdout.lines().find(|line| line.starts_with(told)).unwrap_or_default();
                let ours = positions(problem);
                assert!(positions(&theirs.stderr).iter().any(|lsn| ours.contains(lsn)), "{what}");
            }
            fs::write(&path, &original).expect("repair the segment");
        }
        assert!(both > 10, "{major}: only {both} damages were seen by both");
        verify(&directory).succeeded();
        gaps_and_compression(&directory, &names);
    }
}

fn gaps_and_compression(directory: &Path, names: &[String]) {
    let path = |index: usize| directory.join(&names[index]);
    // compressed, each in another way, and one that was damaged then
    let content: Vec<Vec<u8>> =
        (0..names.len()).map(|index| fs::read(path(index)).expect("read a segment")).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&content[1]).expect("compress in memory");
    let gzip = gzip.finish().expect("compress in memory");
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(&content[2]).expect("compress in memory");
    let lz4 = lz4.finish().expect("compress in memory");
    let zstd = zstd::encode_all(&content[3][..], 1).expect("compress in memory");
    for (index, suffix, bytes) in [(1, "gz", &gzip), (2, "lz4", &lz4), (3, "zst", &zstd)] {
        fs::remove_file(path(index)).expect("remove a segment");
        let compressed = path(index).with_extension(suffix);
        fs::write(&compressed, bytes).expect("write a compressed segment");
        verify(directory).succeeded().says("nothing is wrong");
        fs::write(&compressed, &bytes[..bytes.len() / 2]).expect("cut a compressed segment");
        verify(directory).exited(3).says(&format!("problem: {}.{suffix}: ", names[index]));
        fs::write(&compressed, bytes).expect("repair a compressed segment");
    }
    // a copy beside it that says something else
    let mut other = content[1].clone();
    other[5000] ^= 1;
    fs::write(path(1), other).expect("write a copy");
    verify(directory).exited(3).says("which has the same WAL");
    fs::remove_file(path(1)).expect("remove the copy");
    // a segment of another timeline, without and with the word of a history
    let stray = directory.join(format!("00000002{}", &names[4][8..]));
    fs::copy(path(4), &stray).expect("copy a segment");
    verify(directory).exited(3).says("WAL of timeline 2 is there, but not its history file");
    let switch =
        format!("1\t0/{:X}\treason\n", u64::from_le_bytes(content[4][8..16].try_into().expect("8 bytes")));
    fs::write(directory.join("00000002.history"), switch).expect("write a history");
    verify(directory).exited(3).says("page was written on timeline 1, where timeline 2 belongs");
    fs::write(directory.join("00000002.history"), "no history").expect("write a history");
    verify(directory).exited(3).says("syntax error in line 1 of timeline history file");
    fs::remove_file(stray).expect("remove the segment");
    fs::remove_file(directory.join("00000002.history")).expect("remove the history");
    // unfinished: at the end nothing is wrong with it, elsewhere it is
    let last = names.len() - 1;
    for (index, padded, code) in [(last, false, 0), (last, true, 0), (4, false, 3)] {
        let mut bytes = content[index][..300_001].to_vec();
        bytes.resize(if padded { SEGMENT_LEN } else { bytes.len() }, 0);
        fs::remove_file(path(index)).expect("remove a segment");
        fs::write(path(index).with_extension("partial"), bytes).expect("write an unfinished segment");
        verify(directory).exited(code);
        fs::remove_file(path(index).with_extension("partial")).expect("remove it again");
        fs::write(path(index), &content[index]).expect("repair the segment");
    }
    // missing
    fs::remove_file(path(4)).expect("remove a segment");
    let outcome = verify(directory).exited(3).says("is missing");
    let start = u64::from_le_bytes(content[4][8..16].try_into().expect("8 bytes"));
    let gap = outcome.stdout.lines().find(|line| line.contains("is missing")).unwrap_or_default();
    assert_eq!(positions(gap), [start, start + SEGMENT_LEN as u64], "{outcome}");
}

#[test]
fn says_when_there_is_nothing_to_verify() {
    let empty = crate::support::TestDir::new();
    verify(&empty.join("")).exited(1).complains("holds no WAL");
    verify(&empty.join("nowhere")).exited(1).complains("could not read directory");
}

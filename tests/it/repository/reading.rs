//! An archive's WAL, read by whoever has its documentation: `zstd`, a JSON reader and `pg_waldump`.

use std::fs;
use std::path::{Path, PathBuf};

use super::harness::{Archive, fill, json, text};
use crate::support::{Cluster, Stop, Tool, servers, wait_until};
use crate::{require_program, require_server};

/// A part of a segment, as its name says it.
struct Part {
    from: u64,
    to: u64,
    generation: u32,
    path: PathBuf,
}

fn shell(command: &str) {
    Tool::new("sh").args(["-c", command]).run().succeeded();
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn stem(path: &Path) -> String {
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    name.split('.').next().expect("a name").to_owned()
}

/// `docs/archive-format.md`, word for word: a timeline's segments into a directory. Says where the last one ends.
fn read_by_hand(root: &Path, timeline: &str, segment_len: u64, target: &Path) -> u64 {
    let hex = |digits: &str| u64::from_str_radix(digits, 16).expect("hexadecimal digits");
    let mut end = 0;
    let start_of = |name: &str| {
        let per_4g = (1 << 32) / segment_len;
        (hex(&name[8..16]) * per_4g + hex(&name[16..24])) * segment_len
    };
    for whole in entries(&root.join("wal").join(timeline)) {
        let name = stem(&whole);
        shell(&format!("zstd -dcq {} > {}", whole.display(), target.join(&name).display()));
        end = end.max(start_of(&name) + segment_len);
    }
    for directory in entries(&root.join("ranges").join(timeline)) {
        let name = directory.file_name().expect("a name").to_string_lossy().into_owned();
        let file = target.join(&name);
        // when a segment is whole, its parts do not matter any more
        if file.exists() {
            continue;
        }
        let parts: Vec<Part> = entries(&directory)
            .into_iter()
            .map(|path| {
                let words: Vec<u64> = stem(&path).split('-').map(hex).collect();
                Part { from: words[0], to: words[1], generation: words[2] as u32, path }
            })
            .collect();
        let first_of = |generation| {
            parts.iter().filter(|part| part.generation == generation).map(|part| part.from).min()
        };
        let is_passed_over = |part: &Part| {
            let later = parts.iter().filter(|other| other.generation > part.generation);
            later.filter_map(|other| first_of(other.generation)).any(|first| part.from >= first)
        };
        let mut counted: Vec<&Part> = parts.iter().filter(|part| !is_passed_over(part)).collect();
        counted.sort_by_key(|part| (part.from, part.to));
        let mut reached = start_of(&name);
        for part in counted {
            if part.from > reached {
                break;
            }
            let skip = reached - part.from + 1;
            shell(&format!("zstd -dcq {} | tail -c +{skip} >> {}", part.path.display(), file.display()));
            reached = reached.max(part.to);
        }
        shell(&format!("truncate -s {segment_len} {}", file.display()));
        end = end.max(reached);
    }
    end
}

/// Both timelines of a failover, and a receiver that was killed between two.
#[test]
fn the_wal_in_an_archive_can_be_read_without_pgwake() {
    require_program!("zstd");
    for major in servers::majors() {
        require_server!(major);
        let primary = Cluster::builder().major(major).wal_segsize(1).setting("wal_keep_size", "1GB").start();
        let archive = Archive::beside(&primary);
        let receiver = archive.receiver(&primary);
        fill(&primary, "t", 20_000);
        let is_archived = || {
            let end = primary.psql("SELECT pg_current_wal_flush_lsn()");
            let count = format!("SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= '{end}'");
            primary.wait_for(&count, "1");
        };
        is_archived();
        receiver.kill9();
        receiver.wait();
        fill(&primary, "t", 100);
        let receiver = archive.receiver(&primary);
        is_archived();
        primary.stop(Stop::Fast);
        let signal = primary.dir().file("socket_signal", 0o600, "");
        fs::rename(signal, primary.data_dir().join("standby.signal")).expect("make it a standby of nobody");
        primary.start();
        primary.promote();
        primary.wait_for("SELECT pg_is_in_recovery()", "f");
        primary.wait_for("SELECT count(*) FROM pg_stat_replication", "1");
        fill(&primary, "t", 5000);
        is_archived();
        receiver.terminate();
        receiver.wait().succeeded();
        primary.stop(Stop::Immediate);

        let cluster = fs::read(archive.root.join("cluster.json")).expect("an identity");
        let cluster: serde_json::Value = serde_json::from_slice(&cluster).expect("JSON");
        assert_eq!(cluster["postgresql_major"], major);
        let segment_len = cluster["wal_segment_size"].as_u64().expect("a size");
        let pg_wal = primary.data_dir().join("pg_wal");
        let history = archive.root.join("wal/00000002.history.zst");
        let target = primary.dir().subdir("by_hand", 0o755);
        shell(&format!("zstd -dcq {} > {}/00000002.history", history.display(), target.display()));
        assert_eq!(
            fs::read(target.join("00000002.history")).expect("read the history"),
            fs::read(pg_wal.join("00000002.history")).expect("read the server's")
        );
        let waldump = servers::program(major, "pg_waldump");
        for timeline in ["00000001", "00000002"] {
            let end = read_by_hand(&archive.root, timeline, segment_len, &target);
            let first = entries(&target).into_iter().map(|path| stem(&path));
            let first = first.filter(|name| name.len() == 24 && name.starts_with(timeline)).min();
            let first = first.expect("a segment");
            // some builds have the server's programs only
            let Some(waldump) = &waldump else { continue };
            let dump = |directory: &Path| {
                let to = format!("{:X}/{:X}", end >> 32, end & 0xffff_ffff);
                let from = u64::from_str_radix(&first[16..], 16).expect("digits") * segment_len;
                let from =
                    format!("{:X}/{:X}", u64::from_str_radix(&first[8..16], 16).expect("digits"), from);
                let tool = Tool::new(waldump).args(["-t", &timeline[7..], "-s", &from, "-e", &to, "-p"]);
                tool.arg(directory).run().succeeded().stdout
            };
            let found = dump(&target);
            assert!(found.lines().count() > 100, "{major} {timeline}: {found}");
            assert!(found == dump(&pg_wal), "{major} {timeline}");
        }
        for segment in entries(&archive.root.join("wal/00000001")) {
            let name = stem(&segment);
            let read = |directory: &Path| fs::read(directory.join(&name)).expect("a segment");
            assert!(read(&target) == read(&pg_wal), "{major} {name}");
        }
    }
}

/// What recovery along each of two timelines comes to, from a backup before the failover and from one behind it.
#[test]
fn after_a_failover_each_timeline_can_be_restored() {
    require_server!();
    let primary = Cluster::builder().wal_segsize(1).start();
    let archive = Archive::beside(&primary);
    let standby_directory = primary.dir().join("standby");
    crate::cloning::create(&primary, &standby_directory).run().succeeded();
    let standby = primary.adopt(&standby_directory);
    crate::cloning::catch_up(&primary, &standby);
    let hosts = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=postgres target_session_attrs=primary",
        primary.port(),
        standby.port()
    );
    let received = primary.dir().subdir("received", 0o700);
    let tool = Tool::pgwake().args(["receive", "-w", "--slot", "witness", "--create-slot", "-d", &hosts]);
    let tool = tool.args(["--archive", &archive.url, "--archive-delay", "0", "-D"]).arg(&received);
    let mut receiver = tool.by_server_user().timeout(std::time::Duration::from_secs(180)).spawn();
    receiver.wait_for_stderr("streaming started");
    let is_archived = |server: &Cluster| {
        let end = server.psql("SELECT pg_current_wal_flush_lsn()");
        let witnesses = "FROM pg_stat_replication WHERE application_name = 'pgwake'";
        server.wait_for(&format!("SELECT count(*) {witnesses} AND replay_lsn >= '{end}'"), "1");
    };
    let before = text(&archive.take(&primary, &[])["name"]);
    primary.psql("CREATE TABLE t (note text); INSERT INTO t VALUES ('before')");
    is_archived(&primary);
    let end = primary.psql("SELECT pg_current_wal_flush_lsn()");
    standby.wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t");
    primary.kill9();
    standby.promote();
    standby.psql("INSERT INTO t VALUES ('after')");
    receiver.wait_for_stderr("timeline switched to=2");
    is_archived(&standby);
    let after = text(&archive.take(&standby, &[])["name"]);
    standby.psql("INSERT INTO t VALUES ('at last')");
    is_archived(&standby);
    // as long as nobody has said that all is archived, somebody may have more
    let unsaid = || {
        let look = archive.tool("restore").args(["--dry-run", "-D"]).arg(primary.dir().join("looked"));
        look.run().succeeded().stderr.contains("has not said that it has archived all")
    };
    assert!(unsaid());
    receiver.terminate();
    receiver.wait().succeeded();
    assert!(!unsaid());
    standby.stop(Stop::Fast);
    archive.tool("verify").run().succeeded().says("nothing is wrong");

    for (name, args, rows) in [
        ("old", &["--target-timeline", "1"][..], "before"),
        ("new", &[], "before,after,at last"),
        ("old_backup", &["--backup", &before], "before,after,at last"),
        ("own", &["--backup", &before, "--target-timeline", "current"], "before"),
    ] {
        let directory = primary.dir().join(name);
        let tool = Tool::pgwake().args(["restore", "--archive", &archive.url, "--json", "-D"]);
        let restored = json(&tool.arg(&directory).args(args));
        let expected = if name == "new" { &after } else { &before };
        assert_eq!(restored["backups"], serde_json::json!([expected]), "{name}");
        let server = primary.adopt(&directory);
        server.start();
        wait_until("recovery has ended", || server.psql("SELECT pg_is_in_recovery()") == "f");
        assert_eq!(server.psql("SELECT string_agg(note, ',') FROM t"), rows, "{name}");
        server.stop(Stop::Fast);
    }
}

//! Compressed segments hold the primary's bytes, whatever happened on the way.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use super::{original, ours};
use crate::support::{Cluster, TestDir, wait_until};

fn decompressed(path: &Path) -> Vec<u8> {
    let file = File::open(path).expect("open a compressed segment");
    let mut plain = Vec::new();
    let result = match path.extension().and_then(|suffix| suffix.to_str()) {
        Some("gz") => flate2::read::GzDecoder::new(file).read_to_end(&mut plain),
        Some("lz4") => lz4_flex::frame::FrameDecoder::new(file).read_to_end(&mut plain),
        _ => zstd::stream::read::Decoder::new(file).and_then(|mut reader| reader.read_to_end(&mut plain)),
    };
    result.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    plain
}

/// Killed and interrupted in the middle of a segment, again and again: the original leaves old bytes behind a shorter
/// stream in its `.partial`, and cannot go on.
#[test]
fn segments_survive_kills_and_interrupts() {
    let cluster = Cluster::builder().setting("wal_keep_size", "64MB").wal_segsize(1).start();
    cluster.psql("CREATE TABLE t (a text)");
    let dir = TestDir::new();
    let conninfo = format!("host={} port={} user=postgres", cluster.socket_dir().display(), cluster.port());
    for (method, suffix) in [("gzip:6", "gz"), ("lz4", "lz4"), ("zstd:3", "zst")] {
        let directory = dir.subdir(suffix, 0o700);
        for round in 0..4 {
            let tool = ours(&dir).args(["-v", "--synchronous", "-Z", method, "-d", &conninfo, "-D"]);
            let mut running = tool.arg(&directory).spawn();
            running.wait_for_stderr("starting log streaming");
            cluster.psql("INSERT INTO t SELECT repeat(md5(i::text), 4) FROM generate_series(1, 1000) i");
            let acknowledged = || {
                let question =
                    "SELECT bool_and(flush_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication";
                cluster.psql(question) == "t"
            };
            let started_at = std::time::Instant::now();
            while !acknowledged() {
                assert!(
                    started_at.elapsed().as_secs() < 20,
                    "{method}, round {round}: not acknowledged\n{}\n{}\n{}",
                    cluster.psql("SELECT pg_current_wal_flush_lsn(), state, sent_lsn, write_lsn, flush_lsn FROM pg_stat_replication"),
                    running.stderr_so_far(),
                    crate::support::tree(&directory)
                );
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            if round % 2 == 0 {
                running.kill9();
                running.wait();
            } else {
                running.interrupt();
                running.wait().exited(0).complains(&format!(".{suffix}.partial\", segment is not complete"));
            }
        }
        let tool = ours(&dir).args(["-Z", method, "-d", &conninfo, "-D"]);
        let running = tool.arg(&directory).spawn();
        let last = cluster.psql("SELECT pg_walfile_name(pg_switch_wal())");
        cluster.psql("SELECT txid_current()");
        wait_until("the last segment is there", || directory.join(format!("{last}.{suffix}")).exists());
        running.interrupt();
        running.wait().exited(0);
        let mut compared = 0;
        for entry in fs::read_dir(&directory).expect("list") {
            let path = entry.expect("entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let Some(plain) = name.strip_suffix(&format!(".{suffix}")) else { continue };
            let primary = fs::read(cluster.data_dir().join("pg_wal").join(plain)).expect("the primary's");
            assert!(decompressed(&path) == primary, "{name}");
            compared += 1;
        }
        assert!(compared > 0, "nothing was compared");
        assert!(
            !fs::read_dir(&directory)
                .expect("list")
                .any(|entry| { entry.expect("entry").file_name().to_string_lossy().ends_with(".tmp") })
        );
        if suffix == "gz" {
            // the original goes on where we stopped, and takes our files for its own
            let tool = original(&cluster).args(["-v", "-Z", "gzip", "-E", "0/1", "-d", &conninfo, "-D"]);
            let outcome = tool.arg(&directory).run().exited(0);
            assert!(!outcome.stderr.contains("incorrect"), "{outcome}");
        }
    }
}

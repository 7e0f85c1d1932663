//! Backups in an encrypted archive: they show nothing, come back with every key that one of them was written with, and with no other.

use std::fs;

use super::harness::{Archive, fill, fingerprint, json, text};
use crate::require_server;
use crate::support::{Cluster, Stop, Tool, wait_until};

const FIRST: &str = "1f";
const SECOND: &str = "2e";

/// A line of a list of keys.
fn key(name: &str, digits: &str) -> String {
    format!("{name} {}\n", digits.repeat(32))
}

#[test]
fn backups_come_back_with_the_keys_that_they_were_written_with() {
    require_server!(17);
    let primary = Cluster::builder().major(17).wal_segsize(1).setting("summarize_wal", "on").start();
    let archive = Archive::beside(&primary);
    let keys = |lines: &str| {
        // the one who reads it owns it
        let name = format!("socket_keys_{}", fastrand::u32(..));
        primary.dir().file(&name, 0o600, lines).display().to_string()
    };
    let first = keys(&key("k1", FIRST));
    let both = keys(&(key("k2", SECOND) + &key("k1", FIRST)));
    let take =
        |keys: &str, args: &[&str]| archive.take(&primary, &[args, &["--encryption-keys", keys]].concat());
    fill(&primary, "t", 100_000);
    let full = take(&first, &[]);
    primary.psql("UPDATE t SET note = 'after the rotation' WHERE id % 1000 = 1");
    let upon = take(&both, &["--incremental"]);
    assert_eq!(upon["parent"], full["name"]);
    for object in archive.objects("") {
        let content = fs::read(&object).expect("read an object");
        let path = object.to_string_lossy();
        let expected =
            if path.contains(&text(&upon["name"])) { b"PGWKENC2\x02k2" } else { b"PGWKENC2\x02k1" };
        assert!(content.starts_with(expected), "{path}");
    }

    let verify = |keys: &str| archive.tool("verify").args(["--encryption-keys", keys]).run();
    verify(&both).succeeded().says("nothing is wrong").says("2 backups");
    archive.tool("list").args(["--encryption-keys", &both]).run().succeeded().says(&text(&upon["name"]));
    let restore = |directory: &str| {
        let tool = Tool::pgwake().args(["restore", "--archive", &archive.url, "-D"]);
        tool.arg(primary.dir().join(directory)).timeout(std::time::Duration::from_secs(180))
    };
    // the second key was lost, or never told; the first has its name and is another
    let wrong = keys(&(key("k2", SECOND) + &key("k1", "33")));
    for (keys, code, words) in [
        (&first, 1, "it is encrypted with key \"k2\""),
        (&wrong, 3, "it was changed, or is another object's"),
    ] {
        let refused = restore("refused").args(["--encryption-keys", keys]).run();
        refused.exited(code).complains(words).complains("hint: ");
        assert!(!primary.dir().join("refused").exists());
    }
    verify(&wrong).exited(3);
    restore("refused").run().exited(1).complains("it is encrypted, and no key was given");
    archive.tool("list").run().exited(1).complains("no key was given").complains("--encryption-keys");

    // bits, an object in another's place, one in the clear: each is told of, and nothing is restored
    let pieces: Vec<_> = archive.objects(&format!("backups/{}", text(&upon["name"])));
    let piece = pieces.iter().find(|path| path.to_string_lossy().contains("base.tar")).expect("a piece");
    let manifest =
        pieces.iter().find(|path| path.to_string_lossy().contains("manifest")).expect("a manifest");
    let content = fs::read(piece).expect("read an object");
    let mut altered = content.clone();
    altered[content.len() / 2] ^= 1;
    let other = fs::read(manifest).expect("read an object");
    for content in [altered, other, b"in the clear".to_vec()] {
        fs::write(piece, content).expect("change the object");
        let name = piece.file_name().expect("a name").to_string_lossy().into_owned();
        verify(&both).exited(3).says(&name);
        restore("refused").args(["--encryption-keys", &both]).run().exited(3).complains(&name);
        assert!(!primary.dir().join("refused").exists());
    }
    fs::write(piece, content).expect("mend the object");

    json(&restore("restored").args(["--encryption-keys", &both, "--json"]));
    let expected = fingerprint(&primary, "t");
    primary.stop(Stop::Fast);
    let server = primary.adopt(primary.dir().join("restored"));
    server.start();
    wait_until("recovery has ended", || server.psql("SELECT pg_is_in_recovery()") == "f");
    assert_eq!(fingerprint(&server, "t"), expected);
}

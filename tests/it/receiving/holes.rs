//! A hole between the directory's segments: it is filled as long as the server has the WAL, and nothing is received behind it
//! when it has not.

use std::fs;
use std::path::{Path, PathBuf};

use super::harness::{
    assert_same_as, caught_up, directory, keeping_wal, make_wal, receive, streaming, wal_files,
};
use super::refusing::assert_refused;
use crate::require_server;
use crate::support::servers::{default_major, majors};
use crate::support::{Cluster, Tool, tree};

/// A directory with some finished segments and an unfinished one, and the name of the last finished one.
#[track_caller]
fn received(primary: &Cluster) -> (PathBuf, String) {
    let received = directory(primary);
    // before 15 a slot's position cannot be read
    let receiver = streaming(&receive(&primary.conninfo(), &received).args(["--start", "current"]));
    make_wal(primary, 3);
    caught_up(primary);
    receiver.terminate();
    receiver.wait().succeeded();
    let names = wal_files(&received);
    assert!(names.last().is_some_and(|name| name.ends_with(".partial")), "{names:?}");
    let mut finished = names.into_iter().filter(|name| name.len() == 24);
    (received, finished.next_back().expect("a segment was finished"))
}

/// Starts the receiver, and stops it when it has caught up.
#[track_caller]
fn goes_on(primary: &Cluster, received: &Path) -> String {
    let receiver = streaming(&receive(&primary.conninfo(), received));
    make_wal(primary, 1);
    caught_up(primary);
    receiver.terminate();
    let outcome = receiver.wait().succeeded();
    assert_same_as(&[primary], received);
    outcome.stderr
}

#[test]
fn a_hole_is_filled_while_the_server_has_the_wal() {
    for major in majors() {
        require_server!(major);
        let primary = keeping_wal(1).major(major).start();
        let (received, last) = received(&primary);
        fs::remove_file(received.join(&last)).expect("make a hole");
        let told = goes_on(&primary, &received);
        assert!(
            told.contains("WARN WAL is missing between segments of the directory; fetching it"),
            "{told}"
        );
        assert!(received.join(&last).exists());
        let told = goes_on(&primary, &received);
        assert!(!told.contains("missing"), "{told}");
    }
}

#[test]
fn nothing_is_received_behind_a_hole_that_the_server_cannot_fill() {
    require_server!();
    let primary = Cluster::builder()
        .wal_segsize(1)
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "4MB")
        .start();
    let (received, last) = received(&primary);
    let kept = primary.dir().join("kept");
    fs::rename(received.join(&last), &kept).expect("make a hole");
    for _ in 0..3 {
        // the slot is what holds it, and moves on with somebody else
        primary.psql("SELECT pg_replication_slot_advance('witness', pg_current_wal_flush_lsn())");
        make_wal(&primary, 6);
        primary.psql("CHECKPOINT");
    }
    let before = tree(&received);
    let cause = "error: directory has no WAL between 0/";
    let outcome = assert_refused(
        &receive(&primary.conninfo(), &received),
        3,
        cause,
        "There is a hole in the directory",
    );
    let held = "replication slot \"witness\" holds it only from 0/";
    assert!(outcome.stderr.contains(held) || primary.major() < 15, "{outcome}");
    let renamed = Tool::pgwake().args(["pg_receivewal", "-S", "witness", "-d", &primary.conninfo(), "-D"]);
    let outcome = renamed.arg(&received).by_server_user().run().exited(1);
    let outcome = outcome.complains("pg_receivewal: warning: directory has no WAL between 0/");
    assert!(outcome.stderr.contains("pg_receivewal: hint: There is a hole"), "{outcome}");
    assert_eq!(tree(&received), before);
    // from another archive, say; and what comes then is missing in earnest
    fs::rename(&kept, received.join(&last)).expect("fill the hole");
    let cause = "error: directory goes on at 0/";
    assert_refused(&receive(&primary.conninfo(), &received), 3, cause, "There is a hole from there on");
}

/// A damaged segment is not passed over: the slot would move on, and the server remove what it may still have.
#[test]
fn nothing_is_received_behind_a_damaged_segment_until_it_is_set_aside() {
    for compression in ["none", "gzip"] {
        require_server!();
        let primary = keeping_wal(1).start();
        let (received, last) = received(&primary);
        damage(&received.join(&last), compression);
        let last = if compression == "none" { last } else { format!("{last}.gz") };
        let before = tree(&received);
        let tool = receive(&primary.conninfo(), &received);
        assert_refused(&tool, 3, &format!("{last}\" is not valid WAL"), "Add \".damaged\" to its name");
        assert_eq!(tree(&received), before);
        // where nothing else shows that there was a segment, that does
        for name in wal_files(&received).iter().filter(|name| **name < last) {
            fs::remove_file(received.join(name)).expect("move what is before it elsewhere");
        }
        let aside = received.join(format!("{last}.damaged"));
        fs::rename(received.join(&last), &aside).expect("set it aside");
        let receiver = streaming(&receive(&primary.conninfo(), &received));
        make_wal(&primary, 1);
        caught_up(&primary);
        receiver.terminate();
        receiver.wait().succeeded();
        fs::remove_file(&aside).expect("remove the damaged one");
        assert!(received.join(&last[..24]).exists(), "it was not received again");
        assert_same_as(&[&primary], &received);
    }
}

/// What a copy leaves that was not synced when the power went.
fn damage(path: &Path, compression: &str) {
    let mut content = fs::read(path).expect("read the segment");
    content[8192..65536].fill(0);
    fs::write(path, content).expect("damage the segment");
    if compression == "gzip" {
        Tool::new("gzip").arg(path).run().succeeded();
    }
}

/// The original goes on behind the hole without a word.
#[test]
fn under_the_originals_name_too_a_hole_is_filled() {
    require_server!();
    let primary = keeping_wal(1).major(default_major()).start();
    let (received, last) = received(&primary);
    fs::remove_file(received.join(&last)).expect("make a hole");
    let end = primary.psql("SELECT pg_current_wal_flush_lsn()");
    let renamed = Tool::pgwake().args(["pg_receivewal", "-d", &primary.conninfo(), "-E", &end, "-D"]);
    let outcome = renamed.arg(&received).by_server_user().run().exited(0);
    outcome.complains("pg_receivewal: warning: directory has no WAL between 0/");
    assert_same_as(&[&primary], &received);
}

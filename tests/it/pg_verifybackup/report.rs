//! `pgwake verify`: the same, to be read by people and by programs.

use std::fs;

use super::backups::{Backups, create, edit, some_file};
use super::{Form, damaged};
use crate::require_server;
use crate::support::servers::default_major;
use crate::support::{TestDir, Tool};

#[test]
fn a_report_says_what_is_wrong_and_what_to_do() {
    let major = default_major();
    require_server!(major);
    let dir = TestDir::in_memory();
    let backups = Backups::new(major);
    let verify = |backup: &std::path::Path| Tool::pgwake().arg("verify").arg(backup);
    for form in [Form::Plain, Form::Tar, Form::Gzip, Form::Fetch] {
        verify(&backups.path(form))
            .run()
            .succeeded()
            .says("nothing is wrong\n")
            .says("timeline 1: needs WAL from");
        let outcome = verify(&backups.path(form)).arg("--json").run().succeeded();
        let report: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("a line of JSON");
        assert_eq!(report["exit_code"], 0);
        assert_eq!(report["format"], if form == Form::Plain { "plain" } else { "tar" });
        assert_eq!(report["problems"], serde_json::json!([]));
        assert!(report["wal_bytes"].as_u64() > Some(0) && report["files"].as_u64() > Some(100), "{report}");
    }
    let backup = damaged(&backups, Form::Plain, &dir, |b| {
        create(&b.join("extra"), b"x");
        edit(&some_file(b), |bytes| bytes[99] ^= 1);
        fs::remove_dir_all(b.join("pg_wal")).expect("remove WAL");
    });
    let outcome = verify(&backup).run().exited(3);
    for text in [
        "problem: \"extra\" is present on disk but not in the manifest\n  hint: It was not part of the backup.",
        "problem: checksum mismatch for file \"base/1/1259\"\n  hint: The backup is damaged",
        "problem: WAL parsing failed for timeline 1: could not open \"",
        ": 3 problems\n",
    ] {
        assert!(outcome.stdout.contains(text), "{text}\n{outcome}");
    }
    let outcome = verify(&backup).args(["--json", "--ignore", "extra", "--no-wal"]).run().exited(3);
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("a line of JSON");
    assert_eq!(report["problem_count"], 1);
    assert_eq!(report["problems"][0]["file"], "base/1/1259");
    assert_eq!(report["problems"][0]["problem"], "checksum mismatch for file \"base/1/1259\"");
    verify(&backup).args(["--ignore", "extra", "--no-wal", "--no-checksums"]).run().succeeded();
    // nothing to look at, and nothing to believe
    verify(dir.path()).run().exited(1).complains("could not open file \"");
    edit(&backup.join("backup_manifest"), |bytes| bytes[60] ^= 1);
    verify(&backup).run().exited(3);
    Tool::pgwake().args(["verify"]).run().exited(2);
    Tool::pgwake().args(["verify", "--format", "x", "y"]).run().exited(2);
    // what is not ours to read says nothing of the backup
    if crate::support::servers::is_root() {
        use std::os::unix::fs::PermissionsExt as _;
        let backup = damaged(&backups, Form::Plain, &dir, |b| {
            edit(&some_file(b), |_| {});
            fs::set_permissions(some_file(b), fs::Permissions::from_mode(0o000)).expect("close it");
        });
        let outcome = verify(&backup).by_server_user().run().exited(1);
        assert!(outcome.stdout.contains("hint: Run this as the user who owns the backup."), "{outcome}");
    }
}

//! A run that fails, is interrupted or is killed leaves nothing that passes for a backup.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::chain::{Chain, NAMES};
use super::ours;
use crate::support::faults::{SmallDisk, injecting};
use crate::support::{TestDir, Tool, wait_until};

/// Ours, combining the whole chain.
fn combining(chain: &Chain, dir: &TestDir, output: &Path) -> Tool {
    let mut tool = ours(dir).arg("-o").arg(output).dir(chain.cluster.dir().path());
    for (name, old) in chain.tablespaces(3) {
        let new = output.with_file_name(format!("{name}.out"));
        tool = tool.arg("-T").arg(format!("{}={}", old.display(), new.display()));
    }
    tool.args(NAMES).timeout(Duration::from_secs(120))
}

/// What is below a directory, by name.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("list a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub(super) fn a_full_disk_leaves_nothing(chain: &Chain) {
    let dir = TestDir::new();
    let disk = SmallDisk::mount(&dir, "small", 20 << 20);
    let output = disk.path().join("out");
    for extra in [&["-N"][..], &["-N", "--copy-file-range"], &["-N", "--manifest-checksums=sha256"]] {
        let outcome = combining(chain, &dir, &output).args(extra).run().exited(1);
        // copy_file_range does not reach from one file system to another everywhere
        let is_full = outcome.stderr.contains("No space left on device");
        assert!(is_full || extra.contains(&"--copy-file-range"), "{outcome}");
        assert!(outcome.stderr.contains(&format!("removing output directory \"{}\"", output.display())));
        assert_eq!(names(disk.path()), Vec::<String>::new());
    }
}

pub(super) fn signals_take_everything_away(chain: &Chain) {
    let dir = TestDir::new();
    for (signal, existing) in [(Signal::INT, false), (Signal::TERM, true), (Signal::HUP, false)] {
        let place = dir.subdir(&format!("{signal:?}-{existing}"), 0o755);
        let output = place.join("out");
        if existing {
            fs::create_dir(&output).expect("make the output directory");
        }
        // every file takes a moment
        let slow = injecting(combining(chain, &dir, &output), &["fstat,statx:delay_enter=500"]);
        let running = slow.spawn();
        wait_until("files are being made", || output.join("base").exists());
        running.signal(signal);
        let outcome = running.wait().exited(1);
        let said =
            if existing { "removing contents of output directory" } else { "removing output directory" };
        assert!(outcome.stderr.contains(said), "{outcome}");
        assert!(outcome.stderr.contains("error: interrupted"), "{outcome}");
        assert_eq!(names(&place), if existing { vec!["out"] } else { vec![] }, "{outcome}");
        assert!(!existing || names(&output).is_empty());
    }
}

pub(super) fn what_a_killed_run_leaves_passes_for_no_backup(chain: &Chain) {
    let dir = TestDir::new();
    for (number, moment) in
        ["base/1", "pg_tblspc", "backup_manifest.tmp", "global/pg_control.pgwake.tmp"].iter().enumerate()
    {
        let place = dir.subdir(&format!("kill{number}"), 0o755);
        let output = place.join("out");
        let slow = injecting(combining(chain, &dir, &output), &["fstat,statx:delay_enter=500"]);
        let running = slow.spawn();
        wait_until("files are being made", || output.join(moment).exists());
        running.kill9();
        running.wait();
        assert!(!output.join("global/pg_control").exists() && !output.join("backup_manifest").exists());
        let again = combining(chain, &dir, &output).run().exited(1);
        again.complains(&format!("directory \"{}\" exists but is not empty", output.display()));
    }
}

/// A failing system call at any place ends in an error and an empty place, never in half a backup.
pub(super) fn failing_system_calls_leave_nothing(chain: &Chain) {
    let dir = TestDir::new();
    let faults = [
        ("fsync:error=EIO:when=1", "could not fsync"),
        ("fsync:error=EIO:when=60", "could not fsync"),
        ("renameat2,renameat,rename:error=EIO:when=1", "could not rename"),
        ("renameat2,renameat,rename:error=EIO:when=2", "could not rename"),
        ("symlinkat:error=EIO:when=1", "could not create symbolic link"),
        ("mkdirat:error=ENOSPC:when=9", "could not create directory"),
        ("pread64:error=EIO:when=100", "could not read file"),
        ("sendfile:error=EIO:when=50", "could not read from file"),
        ("sendfile:error=ENOSPC:when=50", "could not write to file"),
    ];
    for (number, (fault, complaint)) in faults.into_iter().enumerate() {
        let place = dir.subdir(&format!("fault{number}"), 0o755);
        let output = place.join("out");
        let tool = injecting(combining(chain, &dir, &output), &[fault]);
        let outcome = tool.run().exited(1).complains(complaint);
        assert_eq!(names(&place), Vec::<String>::new(), "{fault}\n{outcome}");
    }
}

//! A directory for one test, and the certainty that nothing of the test is left when it ends.
//!
//! A shell process beside the test holds the reading end of a pipe. When the pipe closes (the [`TestDir`] was
//! dropped, the test panicked, the test process was killed) it stops every PostgreSQL server whose data directory
//! lies below, unmounts what is mounted there and removes the directory. So servers that pgwake itself started are
//! cleaned up like the tests' own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::process::adopt_orphans;
use super::servers::server_user;

/// A directory with mode 0755, owned by the user the servers run as, removed with all that is in it.
#[derive(Debug)]
pub(crate) struct TestDir {
    path: PathBuf,
    sweeper: Child,
    /// Closing it tells the sweeper to begin.
    alive: Option<ChildStdin>,
}

impl TestDir {
    pub(crate) fn new() -> TestDir {
        TestDir::at(fresh_path(std::env::temp_dir()))
    }

    /// In memory, where there is plenty of it: for tests that make and remove many files, and are not about a disk.
    pub(crate) fn in_memory() -> TestDir {
        let memory = PathBuf::from("/dev/shm");
        let room = rustix::fs::statvfs(&memory).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        TestDir::at(fresh_path(if room >= PLENTY { memory } else { std::env::temp_dir() }))
    }

    fn at(path: PathBuf) -> TestDir {
        adopt_orphans();
        fs::create_dir(&path).expect("create a test directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("open the test directory");
        own(&path);
        // a process group of its own: ^C at a terminal must not stop the sweeper before it has swept
        let mut sweeper = Command::new("/bin/sh")
            .args(["-c", SWEEP, "sweeper"])
            .arg(&path)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("start the sweeper");
        let alive = sweeper.stdin.take();
        TestDir { path, sweeper, alive }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A directory below, created with `mode` and given to the servers' user.
    pub(crate) fn subdir(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.join(name);
        fs::create_dir(&path).expect("create a directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set a directory's mode");
        own(&path);
        path
    }

    /// A file below, written with `mode` and given to the servers' user.
    pub(crate) fn file(&self, name: &str, mode: u32, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, contents).expect("write a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set a file's mode");
        own(&path);
        path
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = self.sweeper.wait();
    }
}

/// Gives `path` to the user the servers run as. Nothing to do when that is ourselves.
pub(crate) fn own(path: &Path) {
    if let Some(user) = server_user() {
        chown(path, Some(user.uid), Some(user.gid)).expect("give a path to the servers' user");
    }
}

/// The same with all that is below it.
pub(crate) fn own_all(path: &Path) {
    own(path);
    if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        let entries = fs::read_dir(path).expect("list a directory");
        entries.for_each(|entry| own_all(&entry.expect("an entry").path()));
    }
}

/// More than all tests that run at once take, several times.
const PLENTY: u64 = 8 << 30;

/// Short, for a Unix socket's path has to fit 107 bytes.
fn fresh_path(mut base: PathBuf) -> PathBuf {
    if base.as_os_str().len() > 40 {
        base = PathBuf::from("/tmp");
    }
    base.join(format!("pgwake-{}-{:08x}", std::process::id(), fastrand::u32(..)))
}

/// A server is known by its working directory: the process named in a stale `postmaster.pid` may be anybody's.
const SWEEP: &str = r#"
dir=$1
cat >/dev/null
servers() {
    find "$dir" -name postmaster.pid 2>/dev/null | while read -r file; do
        pid=$(head -n 1 "$file")
        [ "$(readlink "/proc/$pid/cwd")" = "$(dirname "$file")" ] && echo "$pid"
    done
}
shared_memory=$(find "$dir" -name postmaster.pid -exec sed -n '7s/^ *[0-9]* *//p' {} + 2>/dev/null)
for pid in $(servers); do kill -QUIT "$pid"; done
for round in $(seq 1 100); do
    [ -n "$(servers)" ] || break
    sleep 0.05
done
for pid in $(servers); do kill -KILL "$pid"; done
for id in $shared_memory; do ipcrm -m "$id"; done
while mount=$(cut -d ' ' -f 2 /proc/mounts | grep "^$dir/" | tail -n 1) && [ -n "$mount" ]; do
    umount -l "$mount" || break
done
for round in $(seq 1 40); do
    rm -rf "$dir"
    [ -e "$dir" ] || exit 0
    sleep 0.05
done
"#;

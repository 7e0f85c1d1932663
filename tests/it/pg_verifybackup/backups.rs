//! The backups that are verified, taken once with the original `pg_basebackup`.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::support::dir::own;
use crate::support::{Cluster, Stop, TestDir, Tool};

/// How a backup is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    /// `base.tar`, a tablespace's, `pg_wal.tar`.
    Tar,
    /// The same, compressed by the client.
    Gzip,
    /// WAL in `base.tar`.
    Fetch,
}

/// A cluster's backups.
pub(super) struct Backups {
    dir: TestDir,
    pub(super) tablespace_oid: u32,
}

impl Backups {
    /// A small cluster with a tablespace, backed up in every form, and stopped.
    pub(super) fn new(major: u32) -> Backups {
        let cluster = Cluster::builder().major(major).wal_segsize(1).start();
        let dir = TestDir::in_memory();
        let tablespace = dir.subdir("tablespace", 0o700);
        cluster.psql(&format!("CREATE TABLESPACE ts LOCATION '{}'", tablespace.display()));
        cluster.psql(
            "CREATE TABLE t (i int, x text); CREATE TABLE u (i int, x text) TABLESPACE ts; \
             INSERT INTO t SELECT g, repeat('x', g % 100) FROM generate_series(1, 5000) g; \
             INSERT INTO u SELECT * FROM t; CHECKPOINT",
        );
        let backups = Backups {
            tablespace_oid: cluster
                .psql("SELECT oid FROM pg_tablespace WHERE spcname = 'ts'")
                .parse()
                .expect("an OID"),
            dir,
        };
        for form in [Form::Plain, Form::Tar, Form::Gzip, Form::Fetch] {
            let args: &[&str] = match form {
                Form::Plain => &["-X", "stream"],
                Form::Tar => &["-X", "stream", "-Ft"],
                Form::Gzip => &["-X", "stream", "-Ft", "-z"],
                Form::Fetch => &["-X", "fetch", "-Ft"],
            };
            let mapping = format!("{}={}", tablespace.display(), backups.dir.join("mapped").display());
            basebackup(&cluster, args)
                .arg("-D")
                .arg(backups.path(form))
                .args(["--tablespace-mapping", &mapping])
                .run()
                .succeeded();
        }
        cluster.stop(Stop::Immediate);
        backups
    }

    pub(super) fn path(&self, form: Form) -> PathBuf {
        self.dir.join(&format!("{form:?}"))
    }

    /// A copy below `dir`, whose files are the original's until they are [edited](edit).
    pub(super) fn copy(&self, form: Form, dir: &TestDir, name: &str) -> PathBuf {
        let copy = dir.join(name);
        Tool::new("/bin/cp").arg("-al").arg(self.path(form)).arg(&copy).run().succeeded();
        if form == Form::Plain {
            let link = copy.join(format!("pg_tblspc/{}", self.tablespace_oid));
            let mapped = dir.join(&format!("{name}-mapped"));
            Tool::new("/bin/cp").arg("-al").arg(self.dir.join("mapped")).arg(&mapped).run().succeeded();
            fs::remove_file(&link).expect("remove the tablespace's link");
            std::os::unix::fs::symlink(&mapped, &link).expect("link the tablespace");
        }
        copy
    }
}

/// The original `pg_basebackup` for this server.
pub(super) fn basebackup(cluster: &Cluster, args: &[&str]) -> Tool {
    Tool::client(cluster.major(), "pg_basebackup")
        .args(["-c", "fast", "-N", "-d", &cluster.conninfo()])
        .args(args)
        .by_server_user()
}

/// A copy is not needed any more.
pub(super) fn remove(copy: &Path) {
    let mapped = format!("{}-mapped", copy.display());
    Tool::new("/bin/chmod").args(["-R", "u+rwX"]).arg(copy).run();
    for path in [copy, Path::new(&mapped)] {
        if path.exists() {
            fs::remove_dir_all(path).expect("remove a copy");
        }
    }
}

/// Changes a file, which is then no longer the original's.
#[track_caller]
pub(super) fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    change(&mut bytes);
    fs::remove_file(path).expect("remove a file");
    fs::write(path, bytes).expect("write a file");
    own(path);
}

/// A new file.
#[track_caller]
pub(super) fn create(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    own(path);
}

/// Changes what the manifest says, and makes its checksum right again.
#[track_caller]
pub(super) fn edit_manifest(backup: &Path, change: impl FnOnce(String) -> String) {
    edit(&backup.join("backup_manifest"), |bytes| {
        let text = String::from_utf8(std::mem::take(bytes)).expect("a manifest in UTF-8");
        let (body, _) = text.rsplit_once("\"Manifest-Checksum\"").expect("a checksum");
        *bytes = seal(&change(body.to_owned())).into_bytes();
    });
}

/// A manifest with a right checksum, from what stands before its last line.
pub(super) fn seal(body: &str) -> String {
    let digest: String = Sha256::digest(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{body}\"Manifest-Checksum\": \"{digest}\"}}\n")
}

/// A relation's file that has something in it.
pub(super) fn some_file(backup: &Path) -> PathBuf {
    let path = backup.join("base/1/1259");
    assert!(path.exists(), "every cluster has pg_class in template1");
    path
}

/// The first segment of WAL.
pub(super) fn first_segment(directory: &Path) -> PathBuf {
    let names = fs::read_dir(directory).expect("list pg_wal").map(|entry| entry.expect("an entry").path());
    let mut names: Vec<PathBuf> =
        names.filter(|path| path.file_name().is_some_and(|name| name.len() == 24)).collect();
    names.sort();
    names.into_iter().next().expect("a segment")
}

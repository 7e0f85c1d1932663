//! A place in which both tools find the same backups under the same names, changed as a case wants it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::chain::{Chain, NAMES};

/// A directory in which a tool runs.
pub(super) struct Scene<'a> {
    pub(super) dir: PathBuf,
    pub(super) chain: &'a Chain,
}

impl<'a> Scene<'a> {
    /// The backups are there as links. What a case changes becomes a copy first.
    pub(super) fn set(chain: &'a Chain) -> Scene<'a> {
        let dir = chain.cluster.dir().subdir("scene", 0o755);
        for name in NAMES {
            symlink(chain.backup(name), dir.join(name)).expect("link a backup");
        }
        Scene { dir, chain }
    }

    pub(super) fn clear(self) {
        fs::remove_dir_all(&self.dir).expect("clear the scene");
    }

    /// Words of a command line: `TS2` is where the tablespaces of the third backup go.
    pub(super) fn words(&self, line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for word in line.split_whitespace() {
            match word.strip_prefix("TS").and_then(|number| number.parse::<usize>().ok()) {
                Some(number) => {
                    for (name, old) in self.chain.tablespaces(number) {
                        let new = self.dir.join(format!("{name}.out"));
                        words.extend(["-T".to_owned(), format!("{}={}", old.display(), new.display())]);
                    }
                }
                None => words.push(word.replace("SCENE", &self.dir.display().to_string()).replace('~', " ")),
            }
        }
        words
    }

    /// A path in the scene; in a backup that is a copy from now on.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        let backup = path.split('/').next().unwrap_or_default();
        let top = self.dir.join(backup);
        if top.is_symlink() {
            let original = fs::read_link(&top).expect("read a backup's link");
            fs::remove_file(&top).expect("remove a backup's link");
            let status = Command::new("cp").arg("-al").arg(original).arg(&top).status().expect("run cp");
            assert!(status.success(), "could not copy {backup}");
        }
        self.dir.join(path)
    }

    /// Puts a file in the place of what is there.
    pub(super) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.at(path);
        // the name only: the content is shared with the chain's backup
        let _ = fs::remove_file(&path);
        fs::write(&path, content).expect("write a file");
    }

    pub(super) fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.dir.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.at(path);
        fs::remove_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Changes a file's content.
    pub(super) fn change(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.read(path);
        change(&mut content);
        self.write(path, content);
    }

    /// Changes a text file.
    pub(super) fn replace(&self, path: &str, from: &str, to: &str) {
        let content = String::from_utf8(self.read(path)).expect("a text file");
        assert!(content.contains(from), "{path} has no {from:?}\n{content}");
        self.write(path, content.replace(from, to));
    }

    /// An incremental file of a relation, with blocks, in a database of the backup. The full backup has it whole.
    pub(super) fn incremental_file(&self, backup: &str) -> String {
        let is_wanted = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(bare) = name.strip_prefix("INCREMENTAL.") else { return false };
            let whole = self.dir.join("full/base/5").join(bare);
            let content = fs::read(path).unwrap_or_default();
            whole.exists()
                && content.len() > 8192
                && fs::metadata(whole).is_ok_and(|whole| whole.len() > 16384)
        };
        let entries = fs::read_dir(self.dir.join(backup).join("base/5")).expect("list a database");
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        found.retain(|path| is_wanted(path));
        found.sort();
        let first = found.first().unwrap_or_else(|| panic!("{backup} has no incremental file with blocks"));
        format!("{backup}/base/5/{}", first.file_name().expect("a name").to_string_lossy())
    }
}

/// The name of the whole file that belongs to an incremental one.
pub(super) fn whole_name(path: &str) -> String {
    path.replace("INCREMENTAL.", "")
}

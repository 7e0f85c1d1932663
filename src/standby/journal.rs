//! What a run has made so far, written down before it is made, so that a run after a crash can take it away again.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::pg::{Lsn, SlotName};

/// The journal of one run of `standby create`: a small JSON file in its workspace.
///
/// Every entry is durable before the thing that it names is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Journal {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// Random text that marks the filled directories as this run's.
    pub nonce: String,
    /// Which cluster is being copied, as text; empty until it is known.
    pub system_identifier: String,
    /// The slot that this run creates on the primary.
    pub slot: Option<String>,
    /// Where the server's WAL ended just before it was asked for that slot: a slot that holds WAL from there or before has
    /// not been used since.
    pub slot_before_lsn: Option<String>,
    /// Where that slot held WAL when it had been created: while it is there, nobody else has used it.
    pub slot_restart_lsn: Option<String>,
    /// Directories outside the workspace that did not exist before, outermost first.
    pub made_directories: Vec<PathBuf>,
    /// Directories outside the workspace that were empty before, and that this run fills.
    pub filled_directories: Vec<PathBuf>,
    /// Entries, byte for byte, that are moved from the workspace up into an existing target.
    pub moved_entries: Vec<Vec<u8>>,
    /// Set when all is whole and durable, before it is moved to its place: once it is there, nothing is taken away.
    pub committing: bool,
}

/// The version of the journal's fields; another one is not touched.
pub const FORMAT: u32 = 1;

impl Default for Journal {
    fn default() -> Self {
        Journal {
            format: FORMAT,
            nonce: String::new(),
            system_identifier: String::new(),
            slot: None,
            slot_before_lsn: None,
            slot_restart_lsn: None,
            made_directories: Vec::new(),
            filled_directories: Vec::new(),
            moved_entries: Vec::new(),
            committing: false,
        }
    }
}

/// The journal's file name.
pub(super) const FILE_NAME: &str = "journal.json";

/// What it is written as before it replaces the last one.
const TEMPORARY_NAME: &str = "journal.json.tmp";

/// The longest journal read, in bytes.
const MAX_LEN: u64 = 16 << 20;

impl Journal {
    /// Reads the journal of a workspace; `None` when there is none: then nothing had been made yet outside the workspace,
    /// because each version replaces the one before it as a whole. One that cannot be understood is an error.
    pub fn load(workspace: &Path) -> io::Result<Option<Journal>> {
        let path = workspace.join(FILE_NAME);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let invalid = |problem| io::Error::new(io::ErrorKind::InvalidData, problem);
        if !metadata.is_file() || metadata.len() > MAX_LEN {
            return Err(invalid("it is not a journal"));
        }
        let content: serde_json::Value =
            serde_json::from_slice(&fs::read(path)?).map_err(|_| invalid("it is damaged"))?;
        if content["format"] != FORMAT {
            return Err(invalid("another version of pgwake wrote it"));
        }
        serde_json::from_value(content).map(Some).map_err(|_| invalid("it is damaged"))
    }

    /// Replaces the workspace's journal durably: temporary file, fsync, rename, fsync of the directory.
    pub fn store(&self, workspace: &Path) -> io::Result<()> {
        let temporary = workspace.join(TEMPORARY_NAME);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::File::create_new(&temporary)?;
        serde_json::to_writer(&mut file, self)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(temporary, workspace.join(FILE_NAME))?;
        fs::File::open(workspace)?.sync_all()
    }

    /// The slot that this run creates, as a name again.
    pub fn slot_name(&self) -> Option<SlotName> {
        self.slot.as_deref()?.parse().ok()
    }

    /// Where the server's WAL ended just before that slot was asked for.
    pub fn slot_before_lsn(&self) -> Option<Lsn> {
        self.slot_before_lsn.as_deref()?.parse().ok()
    }

    /// Where that slot held WAL when it had been created.
    pub fn slot_restart_lsn(&self) -> Option<Lsn> {
        self.slot_restart_lsn.as_deref()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_as_a_whole_and_is_never_misread() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Journal::load(directory.path()).unwrap(), None);
        let journal = Journal {
            slot: Some("standby1".to_owned()),
            slot_restart_lsn: Some("0/3000028".to_owned()),
            made_directories: vec![PathBuf::from("/x")],
            ..Journal::default()
        };
        journal.store(directory.path()).unwrap();
        assert_eq!(Journal::load(directory.path()).unwrap(), Some(journal.clone()));
        assert_eq!(journal.slot_name().unwrap().as_str(), "standby1");
        assert_eq!(journal.slot_restart_lsn().unwrap(), "0/3000028".parse().unwrap());
        for content in ["{\"slot\": \"sta", "{\"format\": 2}", "[]"] {
            fs::write(directory.path().join(FILE_NAME), content).unwrap();
            assert!(Journal::load(directory.path()).is_err(), "{content}");
        }
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join(TEMPORARY_NAME)).unwrap();
        Journal::default().store(directory.path()).unwrap();
        assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    }
}

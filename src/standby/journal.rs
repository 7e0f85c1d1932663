//! What a run has made so far, written down before it is made, so that a run after a crash can take it away again.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::pg::SlotName;

/// The journal of one run of `standby create`: a small JSON file in its workspace.
///
/// Every entry is durable before the thing that it names is made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Journal {
    /// Random text that marks the filled directories as this run's.
    #[serde(default)]
    pub nonce: String,
    /// Which cluster is being copied, as text; empty until it is known.
    #[serde(default)]
    pub system_identifier: String,
    /// The slot that this run creates on the primary.
    #[serde(default)]
    pub slot: Option<String>,
    /// Directories outside the workspace that did not exist before, outermost first.
    #[serde(default)]
    pub made_directories: Vec<PathBuf>,
    /// Directories outside the workspace that were empty before, and that this run fills.
    #[serde(default)]
    pub filled_directories: Vec<PathBuf>,
    /// Set when all is whole and durable, before it is moved to its place: from here on nothing outside is taken away.
    #[serde(default)]
    pub committing: bool,
}

/// The journal's file name.
const FILE_NAME: &str = "journal.json";

/// The longest journal read, in bytes.
const MAX_LEN: u64 = 16 << 20;

impl Journal {
    /// Reads the journal of a workspace; `None` when there is none, or only a torn one: then nothing had been made yet
    /// outside the workspace, because each version replaces the one before it as a whole.
    pub fn load(workspace: &Path) -> io::Result<Option<Journal>> {
        let path = workspace.join(FILE_NAME);
        let len = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if len > MAX_LEN {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "journal is too long"));
        }
        Ok(serde_json::from_slice(&fs::read(path)?).ok())
    }

    /// Replaces the workspace's journal durably: temporary file, fsync, rename, fsync of the directory.
    pub fn store(&self, workspace: &Path) -> io::Result<()> {
        let temporary = workspace.join("journal.json.tmp");
        let mut file = fs::File::create(&temporary)?;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_as_a_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Journal::load(directory.path()).unwrap(), None);
        let journal = Journal {
            slot: Some("standby1".to_owned()),
            made_directories: vec![PathBuf::from("/x")],
            ..Journal::default()
        };
        journal.store(directory.path()).unwrap();
        assert_eq!(Journal::load(directory.path()).unwrap(), Some(journal.clone()));
        assert_eq!(journal.slot_name().unwrap().as_str(), "standby1");
        fs::write(directory.path().join(FILE_NAME), b"{\"slot\": \"sta").unwrap();
        assert_eq!(Journal::load(directory.path()).unwrap(), None);
    }
}

//! The object in which a backup that is being taken says where it began: from there on it needs WAL.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::RepositoryError;
use super::keys;
use super::name::BackupName;
use crate::archive::ArchiveStore;
use crate::pg::{Lsn, TimelineId};

#[derive(Serialize, Deserialize)]
struct Content {
    format: u32,
    timeline: u32,
    lsn: String,
}

const FORMAT: u32 = 1;
const MAX_LEN: u64 = 4096;

/// The object's content.
pub(super) fn encode(timeline: TimelineId, lsn: Lsn) -> Bytes {
    let content = Content { format: FORMAT, timeline: timeline.as_u32(), lsn: lsn.to_string() };
    let mut text = serde_json::to_vec(&content).expect("strings and numbers can be written as JSON");
    text.push(b'\n');
    text.into()
}

/// Where it began; `None` while nobody knows.
pub(super) async fn read(store: &ArchiveStore, name: &BackupName) -> Result<Option<Lsn>, RepositoryError> {
    let Some(content) = store.read(&keys::start_key(name), MAX_LEN).await? else { return Ok(None) };
    let content: Option<Content> = serde_json::from_slice(&content).ok();
    Ok(content.filter(|content| content.format == FORMAT).and_then(|content| content.lsn.parse().ok()))
}

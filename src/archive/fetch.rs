//! One file of the log out of an archive, for a server that recovers (`restore_command`).
//!
//! A segment of which only parts are there is given as far as they go without a gap, and zeros behind that: recovery
//! goes to the last byte that was archived, and ends there as it ends in a segment that a primary was writing. Answers to
//! what PostgreSQL's manual asks of a `restore_command`: a file that is not there is told apart from a fault, because a
//! server that takes the one for the other ends recovery too early.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::error::ArchiveError;
use super::identity::ClusterIdentity;
use super::layout::{self, SegmentRange};
use super::store::ArchiveStore;
use super::{catalog, wal_object};
use crate::pg::{Lsn, TimelineId, WalFileName};

/// What was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// A whole segment.
    Segment,
    /// A segment up to here.
    Partial {
        /// The first byte that the archive does not have.
        end_lsn: Lsn,
    },
    /// A timeline's history.
    History,
    /// There is no such file.
    Nothing,
}

/// A segment's parts may be folded into the segment while they are read; then it is there.
const ATTEMPTS: usize = 3;

/// Gets the file called `name` to `target`, durably; whatever was there is replaced when all of it has come.
pub async fn fetch(store: &ArchiveStore, name: &str, target: &Path) -> Result<Fetched, ArchiveError> {
    let identity = ClusterIdentity::of(store).await?;
    let (content, fetched) = if let Some(timeline) = history_of(name) {
        match catalog::read_history(store, timeline).await? {
            Some((_, content)) => (content.to_vec(), Fetched::History),
            None => return Ok(Fetched::Nothing),
        }
    } else if let Ok(file) = WalFileName::parse(name, identity.segment_size) {
        match read_segment(store, file).await? {
            Some((wal, end_lsn)) if end_lsn == file.segment.end_lsn() => (wal, Fetched::Segment),
            Some((wal, end_lsn)) => (wal, Fetched::Partial { end_lsn }),
            None => return Ok(Fetched::Nothing),
        }
    } else {
        return Ok(Fetched::Nothing);
    };
    write(target, &content)?;
    Ok(fetched)
}

fn history_of(name: &str) -> Option<TimelineId> {
    let is_history = name.ends_with(".history");
    is_history.then(|| layout::parse_timeline(&format!("{}{name}", layout::WAL_PREFIX)))?
}

/// A segment, full-length, and up to where the archive has it; `None` where it has nothing of it.
pub async fn read_segment(
    store: &ArchiveStore,
    file: WalFileName,
) -> Result<Option<(Vec<u8>, Lsn)>, ArchiveError> {
    let (segment, len) = (file.segment, file.segment.size().as_u64());
    for _ in 0..ATTEMPTS {
        let key = layout::segment_key(file);
        if let Some(content) = store.read(&key, wal_object::max_encoded_len(len)).await? {
            let wal = wal_object::decode(&content, len);
            let wal = wal.map_err(|source| ArchiveError::Damaged { key, source })?;
            return Ok(Some((wal, segment.end_lsn())));
        }
        let parts = store.list(&layout::segment_ranges_prefix(file)).await?;
        let parts = parts.iter().filter_map(|part| SegmentRange::parse(&part.key, segment.size())).collect();
        let parts = layout::counted(parts);
        if parts.is_empty() {
            return Ok(None);
        }
        let mut wal = Vec::with_capacity(len as usize);
        if read_parts(store, segment.start_lsn(), &parts, &mut wal).await? {
            let end_lsn = segment.start_lsn() + wal.len() as u64;
            wal.resize(len as usize, 0);
            return Ok(Some((wal, end_lsn)));
        }
    }
    let (timeline, from) = (file.timeline, segment.start_lsn());
    Err(ArchiveError::PartsGone { timeline, from })
}

/// Reads parts one behind the other, as far as there is no gap. `false`: one of them has just been removed.
async fn read_parts(
    store: &ArchiveStore,
    start_lsn: Lsn,
    parts: &[SegmentRange],
    wal: &mut Vec<u8>,
) -> Result<bool, ArchiveError> {
    for part in parts {
        let end_lsn = start_lsn + wal.len() as u64;
        if part.start_lsn > end_lsn {
            break;
        }
        if part.end_lsn <= end_lsn {
            continue;
        }
        let (key, part_len) = (part.key(), part.wal_len());
        let Some(content) = store.read(&key, wal_object::max_encoded_len(part_len)).await? else {
            return Ok(false);
        };
        let decoded = wal_object::decode(&content, part_len);
        let decoded = decoded.map_err(|source| ArchiveError::Damaged { key, source })?;
        wal.extend_from_slice(&decoded[(end_lsn - part.start_lsn) as usize..]);
    }
    Ok(true)
}

/// Under another name first: what a crash leaves under the final one would be taken for the whole file.
fn write(target: &Path, content: &[u8]) -> Result<(), ArchiveError> {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".pgwake.{}", std::process::id()));
    let temporary = target.with_file_name(name);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, target)?;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    });
    written.map_err(|source| {
        // what cannot be removed either is not the first problem
        let _ = std::fs::remove_file(&temporary);
        ArchiveError::file("write file", target, source)
    })
}

//! One file of the log out of an archive, for a server that recovers (`restore_command`).
//!
//! A segment of which only parts are there is given as far as they go without a gap, and zeros behind that: recovery
//! goes to the last byte that was archived, and ends there as it ends in a segment that a primary was writing. Answers to
//! what PostgreSQL's manual asks of a `restore_command`: a file that is not there is told apart from a fault, because a
//! server that takes the one for the other ends recovery too early.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::asking_server::AskingServer;
use super::buffers::Buffer;
use super::error::ArchiveError;
use super::gap;
use super::identity::ClusterIdentity;
use super::layout::{self, SegmentRange};
use super::store::ArchiveStore;
use super::{ancestry, catalog, wal_object};
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
    /// There is no such file, or the server has as much of it itself.
    Nothing,
}

/// What a gap is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AtGap {
    /// A fault: a server that recovers must not take it for the end of the log.
    #[default]
    Fail,
    /// The end of the log.
    End,
}

/// How many parts of a segment are read at once; one has at most 4 MB of WAL.
const PARTS_AT_ONCE: usize = 16;

/// A segment's parts may be folded into the segment while they are read; then it is there.
const ATTEMPTS: usize = 3;

/// Gets the file called `name` to `target`, durably; whatever was there is replaced when all of it has come.
///
/// A part of a segment is given only to a server that does not have as much of it itself. What is missing before later WAL is a
/// fault, unless the server is a standby, which asks its primary.
pub async fn fetch(
    store: &ArchiveStore,
    name: &str,
    target: &Path,
    at_gap: AtGap,
) -> Result<Fetched, ArchiveError> {
    let identity = ClusterIdentity::of(store).await?;
    if let Some(timeline) = history_of(name) {
        let content = match catalog::read_history(store, timeline).await? {
            Some((_, content)) => Some(content),
            None => ancestry::history(store, timeline).await?,
        };
        let Some(content) = content else { return Ok(Fetched::Nothing) };
        write_durably(target, &content)?;
        return Ok(Fetched::History);
    }
    let Ok(file) = WalFileName::parse(name, identity.segment_size) else { return Ok(Fetched::Nothing) };
    let server = AskingServer::beside(target);
    let mut attempts = 0;
    loop {
        attempts += 1;
        let found = match read_segment(store, file).await? {
            Some(found) => Some(with_ancestors(store, file, found).await?),
            None => None,
        };
        let start_lsn = file.segment.start_lsn();
        let end_lsn = found.as_ref().map_or(start_lsn, |(_, end_lsn)| *end_lsn);
        let archived = found.as_ref().map_or(&[][..], |(wal, _)| &wal[..(end_lsn - start_lsn) as usize]);
        if found.is_some() {
            identity.check_segment(file, archived)?;
        }
        let is_whole = end_lsn == file.segment.end_lsn();
        let has_itself = !is_whole && server.has(file, archived)?;
        // with the rest of the segment, or a primary to ask
        let goes_on = is_whole || server.is_standby() || (has_itself && server.has_whole(file, identity)?);
        if !goes_on && at_gap == AtGap::Fail {
            let reached = gap::refuse(store, file.timeline, end_lsn, identity.segment_size).await?;
            // what a receiver has put up meanwhile; an end of the log that moves on all the same is as good as any before it
            if reached > end_lsn && attempts < ATTEMPTS {
                continue;
            }
        }
        if has_itself {
            return Ok(Fetched::Nothing);
        }
        let Some((wal, _)) = found else { return Ok(Fetched::Nothing) };
        write_durably(target, &wal)?;
        return Ok(if is_whole { Fetched::Segment } else { Fetched::Partial { end_lsn } });
    }
}

fn history_of(name: &str) -> Option<TimelineId> {
    let is_history = name.ends_with(".history");
    is_history.then(|| layout::parse_timeline(&format!("{}{name}", layout::WAL_PREFIX)))?
}

/// A segment, full-length, and up to where the archive has it; `None` where it has nothing of it.
pub(crate) async fn read_segment(
    store: &ArchiveStore,
    file: WalFileName,
) -> Result<Option<(Buffer, Lsn)>, ArchiveError> {
    let (segment, len) = (file.segment, file.segment.size().as_u64());
    for _ in 0..ATTEMPTS {
        if let Some(wal) = read_whole(store, file).await? {
            return Ok(Some((wal, segment.end_lsn())));
        }
        let parts = store.list(&layout::segment_ranges_prefix(file)).await?;
        let parts = parts.iter().filter_map(|part| SegmentRange::parse(&part.key, segment.size()));
        let parts = layout::counted(parts.filter(|part| part.file == file).collect());
        let mut wal = Buffer::take(if parts.is_empty() { 0 } else { len as usize });
        let Some(read_len) = read_parts(store, segment.start_lsn(), &parts, &mut wal).await? else {
            continue;
        };
        let end_lsn = segment.start_lsn() + read_len as u64;
        // its parts may have been removed between the two looks; the whole was there before that
        if end_lsn < segment.end_lsn()
            && let Some(wal) = read_whole(store, file).await?
        {
            return Ok(Some((wal, segment.end_lsn())));
        }
        if parts.is_empty() {
            return Ok(None);
        }
        wal[read_len..].fill(0);
        return Ok(Some((wal, end_lsn)));
    }
    let (timeline, from) = (file.timeline, segment.start_lsn());
    Err(ArchiveError::PartsGone { timeline, from })
}

/// A timeline's first segment has again what its ancestors wrote in it. Where it is not up that far, theirs is: a server takes the
/// newest timeline's file and does not look for another.
async fn with_ancestors(
    store: &ArchiveStore,
    file: WalFileName,
    (mut wal, mut end_lsn): (Buffer, Lsn),
) -> Result<(Buffer, Lsn), ArchiveError> {
    let start_lsn = file.segment.start_lsn();
    if end_lsn == file.segment.end_lsn() {
        return Ok((wal, end_lsn));
    }
    let Some((history, _)) = catalog::read_history(store, file.timeline).await? else {
        return Ok((wal, end_lsn));
    };
    let ancestors = history.ancestors().iter().rev();
    for ancestor in ancestors.take_while(|ancestor| ancestor.end_lsn > start_lsn) {
        let older = WalFileName { timeline: ancestor.timeline, ..file };
        let Some((older_wal, older_end)) = read_segment(store, older).await? else { continue };
        let reached = older_end.min(ancestor.end_lsn);
        if reached <= end_lsn {
            continue;
        }
        let known_len = (end_lsn - start_lsn) as usize;
        if wal[..known_len] != older_wal[..known_len] {
            return Err(ArchiveError::Conflict { key: layout::segment_ranges_prefix(file) });
        }
        let reached_len = (reached - start_lsn) as usize;
        wal[known_len..reached_len].copy_from_slice(&older_wal[known_len..reached_len]);
        end_lsn = reached;
    }
    Ok((wal, end_lsn))
}

/// The segment's own object, if there is one.
async fn read_whole(store: &ArchiveStore, file: WalFileName) -> Result<Option<Buffer>, ArchiveError> {
    let content = read_whole_object(store, file).await?;
    content.map(|content| decode_whole(file, &content)).transpose()
}

pub(super) async fn read_whole_object(
    store: &ArchiveStore,
    file: WalFileName,
) -> Result<Option<Bytes>, ArchiveError> {
    let max_len = wal_object::max_encoded_len(file.segment.size().as_u64());
    store.read(&layout::segment_key(file), max_len).await
}

/// The WAL in it.
pub(super) fn decode_whole(file: WalFileName, content: &[u8]) -> Result<Buffer, ArchiveError> {
    let wal = wal_object::decode(content, file.segment.size().as_u64());
    wal.map_err(|source| ArchiveError::Damaged { key: layout::segment_key(file), source })
}

/// Reads parts one behind the other, as far as there is no gap, and says how long they are together; `None`: one of them has just
/// been removed.
async fn read_parts(
    store: &ArchiveStore,
    start_lsn: Lsn,
    parts: &[SegmentRange],
    wal: &mut [u8],
) -> Result<Option<usize>, ArchiveError> {
    let mut reached = start_lsn;
    let mut needed = Vec::new();
    for part in parts {
        if part.start_lsn > reached {
            break;
        }
        if part.end_lsn > reached {
            needed.push((part, (reached - part.start_lsn) as usize));
            reached = part.end_lsn;
        }
    }
    // a commit that waits for the archive makes a part: there may be thousands of a few bytes
    let read = |(part, known_len): (&SegmentRange, usize)| {
        let (key, part_len) = (part.key(), part.wal_len());
        async move {
            let content = store.read(&key, wal_object::max_encoded_len(part_len)).await?;
            Ok::<_, ArchiveError>(content.map(|content| (key, content, part_len, known_len)))
        }
    };
    let mut contents = stream::iter(needed.into_iter().map(read)).buffered(PARTS_AT_ONCE);
    let mut read_len = 0;
    while let Some(content) = contents.try_next().await? {
        let Some((key, content, part_len, known_len)) = content else { return Ok(None) };
        let decoded = wal_object::decode(&content, part_len);
        let decoded = decoded.map_err(|source| ArchiveError::Damaged { key, source })?;
        let new = &decoded[known_len..];
        wal[read_len..read_len + new.len()].copy_from_slice(new);
        read_len += new.len();
    }
    Ok(Some(read_len))
}

/// Under another name first: what a crash leaves under the final one would be taken for the whole file.
pub(super) fn write_durably(target: &Path, content: &[u8]) -> Result<(), ArchiveError> {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".pgwake.{}", std::process::id()));
    let temporary = target.with_file_name(name);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, target)?;
        sync_directory(target)
    });
    written.map_err(|source| {
        // what cannot be removed either is not the first problem
        let _ = std::fs::remove_file(&temporary);
        ArchiveError::file("write file", target, source)
    })
}

/// Makes a name durable.
pub(super) fn sync_directory(target: &Path) -> io::Result<()> {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use tokio::sync::OnceCell;

    use super::super::layout::Generation;
    use super::super::testing::{HookedStore, Verb, segment_beginning};
    use super::*;
    use crate::pg::wal_builder::WalBuilder;
    use crate::pg::{SystemIdentifier, WalSegmentSize};

    const MIB: u64 = 1 << 20;

    fn identity() -> ClusterIdentity {
        let segment_size = WalSegmentSize::from_bytes(MIB).unwrap();
        ClusterIdentity { system_identifier: SystemIdentifier::new(1), segment_size, major: 17 }
    }

    fn file(timeline: TimelineId) -> WalFileName {
        WalFileName { timeline, segment: identity().segment_size.segment_at(Lsn::new(5 * MIB)) }
    }

    fn segment(timeline: TimelineId) -> Vec<u8> {
        let mut wal: Vec<u8> = (0..MIB).map(|at| (at / 9) as u8 | 1).collect();
        segment_beginning(&mut wal, identity(), file(timeline));
        wal
    }

    /// A segment's parts become the segment just before the request of this number.
    async fn folded_before(request: usize) -> (Buffer, Vec<u8>) {
        let size = WalSegmentSize::from_bytes(MIB).unwrap();
        let file = WalFileName { timeline: TimelineId::FIRST, segment: size.segment_at(Lsn::new(5 * MIB)) };
        let wal: Vec<u8> = (0..MIB).map(|at| (at / 9) as u8 | 1).collect();
        let middle = file.segment.start_lsn() + 700_000;
        let parts = [(file.segment.start_lsn(), middle), (middle, file.segment.end_lsn())].map(
            |(start_lsn, end_lsn)| SegmentRange { file, start_lsn, end_lsn, generation: Generation::FIRST },
        );
        let (requests, plain) = (AtomicUsize::new(0), Arc::new(OnceCell::<ArchiveStore>::new()));
        let (inner, whole) = (Arc::clone(&plain), wal_object::encode(&wal).unwrap());
        let (store, direct) = HookedStore::archive(move |verb, _| {
            let number = requests.fetch_add(usize::from(verb != Verb::Create), Ordering::Relaxed);
            let (inner, whole) = (Arc::clone(&inner), whole.clone());
            async move {
                if number == request {
                    let inner = inner.get().unwrap();
                    inner.create(&layout::segment_key(file), whole).await.unwrap();
                    inner.remove(&parts[0].key()).await.unwrap();
                    inner.remove(&parts[1].key()).await.unwrap();
                }
                Ok(())
            }
            .boxed()
        });
        for part in parts {
            let from = (part.start_lsn - file.segment.start_lsn()) as usize;
            let content = wal_object::encode(&wal[from..from + part.wal_len() as usize]).unwrap();
            direct.create(&part.key(), content).await.unwrap();
        }
        plain.set(direct).unwrap();
        let (found, end_lsn) = read_segment(&store, file).await.unwrap().expect("the segment is there");
        assert_eq!(end_lsn, file.segment.end_lsn());
        (found, wal)
    }

    #[tokio::test]
    async fn a_segment_that_becomes_whole_meanwhile_is_neither_absent_nor_zeros() {
        for request in 0..5 {
            let (found, wal) = folded_before(request).await;
            assert!(found[..] == wal, "folded before request {request}");
        }
    }

    /// Lost when little of the new timeline was up: what was acknowledged on the old one is in its file alone.
    #[tokio::test]
    async fn a_timelines_first_segment_has_all_of_the_one_before_up_to_the_switch() {
        let store = ArchiveStore::over(Arc::new(object_store::memory::InMemory::new()), "db");
        identity().claim(&store).await.unwrap();
        let (size, wal) = (identity().segment_size, segment(TimelineId::FIRST));
        let start = Lsn::new(5 * MIB);
        let put = async |timeline: u32, len: usize| {
            let timeline = TimelineId::new(timeline).unwrap();
            let file = WalFileName { timeline, segment: size.segment_at(start) };
            let end_lsn = start + len as u64;
            let part = SegmentRange { file, start_lsn: start, end_lsn, generation: Generation::FIRST };
            let content = wal_object::encode(&wal[..len]).unwrap();
            store.create(&part.key(), content).await.unwrap();
        };
        let second = TimelineId::new(2).unwrap();
        let history = wal_object::encode(b"1\t0/500200\tno reason\n").unwrap();
        store.create(&layout::history_key(second), history).await.unwrap();
        put(1, 1000).await;
        put(2, 100).await;
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("RECOVERYXLOG");
        let found = fetch(&store, "000000020000000000000005", &target, AtGap::Fail).await.unwrap();
        assert_eq!(found, Fetched::Partial { end_lsn: start + 0x200 });
        let fetched = std::fs::read(&target).unwrap();
        assert!(fetched[..0x200] == wal[..0x200] && fetched[0x200..].iter().all(|byte| *byte == 0));
    }

    #[tokio::test]
    async fn a_part_is_not_given_to_a_server_that_has_as_much() {
        let store = ArchiveStore::over(Arc::new(object_store::memory::InMemory::new()), "db");
        identity().claim(&store).await.unwrap();
        let (file, wal) = (file(TimelineId::FIRST), segment(TimelineId::FIRST));
        let (start_lsn, len) = (file.segment.start_lsn(), 700_000);
        let end_lsn = start_lsn + len as u64;
        let part = SegmentRange { file, start_lsn, end_lsn, generation: Generation::FIRST };
        let content = wal_object::encode(&wal[..len]).unwrap();
        store.create(&part.key(), content).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (target, own) = (directory.path().join("RECOVERYXLOG"), directory.path().join(file.to_string()));
        let filled_up = |len: usize| {
            let mut content = wal[..len].to_vec();
            content.resize(MIB as usize, 0);
            content
        };
        let partial = Fetched::Partial { end_lsn };
        for (content, expected) in [
            (filled_up(len - 1), partial),
            (filled_up(len), Fetched::Nothing),
            (wal.clone(), Fetched::Nothing),
            // not yet as long as a segment, and of another one
            (wal[..len - 1].to_vec(), partial),
            (vec![7; MIB as usize], partial),
        ] {
            std::fs::write(&own, content).unwrap();
            let found = fetch(&store, &file.to_string(), &target, AtGap::Fail).await.unwrap();
            assert_eq!(found, expected);
            assert_eq!(std::fs::remove_file(&target).is_ok(), expected == partial);
        }
    }

    /// It would end recovery there, with later WAL in the archive; with the rest of the segment it goes on.
    #[tokio::test]
    async fn a_server_that_has_as_much_before_a_gap_must_have_the_rest() {
        let store = ArchiveStore::over(Arc::new(object_store::memory::InMemory::new()), "db");
        identity().claim(&store).await.unwrap();
        let file = file(TimelineId::FIRST);
        let (start_lsn, size, len) = (file.segment.start_lsn(), identity().segment_size, 700_000);
        let mut builder = WalBuilder::new(identity().system_identifier, size, file.timeline, start_lsn);
        while (builder.bytes().len() as u64) < MIB {
            builder.record(&[7; 5000]);
        }
        let wal = &builder.bytes()[..MIB as usize];
        let end_lsn = start_lsn + len as u64;
        let part = SegmentRange { file, start_lsn, end_lsn, generation: Generation::FIRST };
        store.create(&part.key(), wal_object::encode(&wal[..len]).unwrap()).await.unwrap();
        let far = WalFileName { segment: size.segment_at(Lsn::new(9 * MIB)), ..file };
        store.create(&layout::segment_key(far), Bytes::from_static(b"x")).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (target, own) = (directory.path().join("RECOVERYXLOG"), directory.path().join(file.to_string()));
        let mut as_much = wal[..len].to_vec();
        as_much.resize(MIB as usize, 0);
        std::fs::write(&own, as_much).unwrap();
        let refused = fetch(&store, &file.to_string(), &target, AtGap::Fail).await;
        assert!(matches!(refused, Err(ArchiveError::EndsInGap { .. })), "{refused:?}");
        let ended = fetch(&store, &file.to_string(), &target, AtGap::End).await.unwrap();
        assert_eq!(ended, Fetched::Nothing);
        std::fs::write(&own, wal).unwrap();
        let own_is_taken = fetch(&store, &file.to_string(), &target, AtGap::Fail).await.unwrap();
        assert_eq!((own_is_taken, target.exists()), (Fetched::Nothing, false));
    }

    #[tokio::test]
    async fn a_segment_says_itself_whose_and_which_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("RECOVERYXLOG");
        let file = file(TimelineId::FIRST);
        let (other_system, other_segment) = (
            ClusterIdentity { system_identifier: SystemIdentifier::new(2), ..identity() },
            WalFileName { segment: file.segment.next(), ..file },
        );
        for (identity_in_it, file_in_it, is_part) in
            [(other_system, file, false), (identity(), other_segment, false), (other_system, file, true)]
        {
            let store = ArchiveStore::over(Arc::new(object_store::memory::InMemory::new()), "db");
            identity().claim(&store).await.unwrap();
            let mut wal = segment(TimelineId::FIRST);
            segment_beginning(&mut wal, identity_in_it, file_in_it);
            let (start_lsn, end_lsn) = (file.segment.start_lsn(), file.segment.start_lsn() + 900);
            let (key, len) = match is_part {
                true => {
                    let part = SegmentRange { file, start_lsn, end_lsn, generation: Generation::FIRST };
                    (part.key(), 900)
                }
                false => (layout::segment_key(file), wal.len()),
            };
            let content = wal_object::encode(&wal[..len]).unwrap();
            store.create(&key, content).await.unwrap();
            let refused = fetch(&store, &file.to_string(), &target, AtGap::Fail).await;
            assert!(matches!(refused, Err(ArchiveError::OtherSegment { .. })), "{refused:?}");
            assert!(!target.exists());
        }
    }
}

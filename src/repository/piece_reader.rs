//! Objects become bytes again: fetched, checked and decompressed several at once, handed out in order.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::error::RepositoryError;
use super::keys;
use super::name::BackupName;
use super::piece_writer::{MAX_PIECES_IN_MEMORY, PIECE_LEN, max_encoded_len};
use super::record::{BackupRecord, StreamContent, StreamRecord};
use super::sums::{self, Sum};
use crate::archive::{ArchiveError, ArchiveStore, Buffer, wal_object};
use crate::backup::ArchiveEvent;

/// How many pieces are fetched at once: each may be there twice, as it is stored and as it was, and two more are on their way
/// to the files.
const MAX_IN_FLIGHT: usize = MAX_PIECES_IN_MEMORY - 2;

/// What is known of all pieces of a backup: its list of checksums, compared with the record and complete.
#[derive(Debug)]
pub(super) struct Pieces {
    sums: BTreeMap<String, Sum>,
}

/// Reads a backup's streams, the archives first.
pub(super) struct BackupReader {
    store: ArchiveStore,
    name: BackupName,
    /// What is to be read, the last first.
    streams: Vec<StreamRecord>,
    sums: BTreeMap<String, Sum>,
    current: Option<Current>,
}

/// A stream that is being read.
struct Current {
    content: StreamContent,
    stream_name: String,
    piece_count: u32,
    /// The next piece to be asked for.
    next: u32,
    left: u64,
    in_flight: VecDeque<InFlight>,
}

/// A piece that is being fetched. Given up, it is not fetched any further.
struct InFlight {
    key: String,
    task: JoinHandle<Result<Bytes, RepositoryError>>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pieces {
    /// Reads the list.
    pub(super) async fn of(store: &ArchiveStore, record: &BackupRecord) -> Result<Self, RepositoryError> {
        let (name, key) = (record.name.clone(), keys::sums_key(&record.name));
        let damaged = |problem| RepositoryError::Damaged { name: name.clone(), key: key.clone(), problem };
        let Some(content) = store.read(&key, sums::MAX_LEN).await? else {
            return Err(RepositoryError::Missing { name, key });
        };
        if sums::sum(&content) != record.sums {
            return Err(damaged("its checksum is not the record's"));
        }
        let sums = sums::parse(&content).ok_or_else(|| damaged("it is no list of checksums"))?;
        let mut count = 0u64;
        for stream in &record.streams {
            let stream_name = stream.content.stream_name();
            let listed = |number| sums.contains_key(&keys::piece_name(&stream_name, number));
            if !(1..=stream.piece_count).all(listed) {
                return Err(damaged("it does not list every piece"));
            }
            count += u64::from(stream.piece_count);
        }
        if count != sums.len() as u64 {
            return Err(damaged("it lists what is no piece"));
        }
        Ok(Pieces { sums })
    }
}

impl BackupReader {
    /// A reader of all of a backup.
    pub(super) fn new(store: ArchiveStore, record: &BackupRecord, pieces: Pieces) -> Self {
        Self::of_streams(store, record, pieces, |_| true)
    }

    /// A reader of some of a backup's streams.
    pub(super) fn of_streams(
        store: ArchiveStore,
        record: &BackupRecord,
        pieces: Pieces,
        wanted: impl Fn(&StreamContent) -> bool,
    ) -> Self {
        let wanted = record.streams.iter().filter(|stream| wanted(&stream.content));
        let streams = wanted.rev().cloned().collect();
        BackupReader { store, name: record.name.clone(), streams, sums: pieces.sums, current: None }
    }

    /// What comes next, as a server would have sent it; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<ArchiveEvent>, RepositoryError> {
        loop {
            let Some(current) = &mut self.current else {
                let Some(stream) = self.streams.pop() else { return Ok(None) };
                let event = match stream.content.archive_name() {
                    Some(name) => ArchiveEvent::ArchiveBegin(name),
                    None => ArchiveEvent::ManifestBegin,
                };
                self.current = Some(Current::new(stream));
                return Ok(Some(event));
            };
            while current.next <= current.piece_count && current.in_flight.len() < MAX_IN_FLIGHT {
                let piece = keys::piece_name(&current.stream_name, current.next);
                let key = format!("{}{piece}", keys::data_prefix(&self.name));
                let expected = self.sums.get(&piece).copied().unwrap_or_default();
                let fetched = fetch(self.store.clone(), self.name.clone(), key.clone(), expected);
                current.in_flight.push_back(InFlight { key, task: tokio::spawn(fetched) });
                current.next += 1;
            }
            let Some(mut first) = current.in_flight.pop_front() else {
                self.current = None;
                continue;
            };
            let plain = (&mut first.task).await.map_err(RepositoryError::Panicked)??;
            let is_last = current.in_flight.is_empty();
            let fits = match is_last {
                true => plain.len() as u64 == current.left,
                false => plain.len() as u64 <= current.left,
            };
            if !fits {
                let (name, key) = (self.name.clone(), first.key.clone());
                return Err(RepositoryError::Damaged { name, key, problem: "it is not as long as recorded" });
            }
            current.left -= plain.len() as u64;
            return Ok(Some(match current.content {
                StreamContent::Manifest => ArchiveEvent::ManifestData(plain),
                _ => ArchiveEvent::ArchiveData(plain),
            }));
        }
    }
}

impl Current {
    fn new(stream: StreamRecord) -> Self {
        Current {
            stream_name: stream.content.stream_name(),
            content: stream.content,
            piece_count: stream.piece_count,
            next: 1,
            left: stream.len,
            in_flight: VecDeque::new(),
        }
    }
}

/// One piece: read, compared with its checksum, decompressed.
async fn fetch(
    store: ArchiveStore,
    name: BackupName,
    key: String,
    expected: Sum,
) -> Result<Bytes, RepositoryError> {
    let damaged = |problem| RepositoryError::Damaged { name: name.clone(), key: key.clone(), problem };
    let content = match store.read(&key, max_encoded_len(PIECE_LEN)).await {
        Ok(Some(content)) => content,
        Ok(None) => return Err(RepositoryError::Missing { name, key }),
        Err(ArchiveError::TooLong { .. }) => return Err(damaged("it is too long")),
        Err(error) => return Err(error.into()),
    };
    let plain = tokio::task::spawn_blocking(move || {
        if sums::sum(&content) != expected {
            return Err("its checksum is wrong");
        }
        decompress(&content).ok_or("it cannot be decompressed")
    });
    plain.await.map_err(RepositoryError::Panicked)?.map(Buffer::into_bytes).map_err(damaged)
}

/// The bytes of a piece; `None` where it is none, or more than a piece may have.
pub(super) fn decompress(content: &[u8]) -> Option<Buffer> {
    wal_object::decode_up_to(content, PIECE_LEN as u64).ok()
}

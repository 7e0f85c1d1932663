//! Bytes become objects: cut into pieces, each compressed on a thread of its own and put up, several at once.
//!
//! A piece is one Zstandard frame with a checksum, so that the pieces of an archive, one behind the other, are what `zstd -d`
//! reads. Memory is bounded by the pieces that are on their way.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::error::RepositoryError;
use super::keys::{self, MAX_PIECES};
use super::name::BackupName;
use super::record::{StreamContent, StreamRecord};
use super::sums::{self, Sum};
use crate::ErrorClass;
use crate::archive::{ArchiveError, ArchiveStore, Creation};

/// How many bytes of an archive are in one object.
pub(super) const PIECE_LEN: usize = 16 << 20;

/// How many pieces are in memory at once, with what they become: below 200 MiB where nothing compresses.
pub(super) const MAX_PIECES_IN_MEMORY: usize = 5;

/// How long a store that is away is waited for.
const MAX_ABSENCE: Duration = Duration::from_secs(600);

/// How long between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The longest object that a piece can be.
pub(super) fn max_encoded_len(len: usize) -> u64 {
    zstd::zstd_safe::compress_bound(len) as u64 + 64
}

/// Puts up the pieces of one backup.
pub(super) struct PieceWriter {
    store: ArchiveStore,
    name: BackupName,
    level: i32,
    room: Arc<Semaphore>,
    tasks: JoinSet<Result<Stored, RepositoryError>>,
    streams: Vec<StreamRecord>,
    gathered: Vec<Bytes>,
    gathered_len: usize,
    stored: Vec<Stored>,
}

/// A piece that is there.
#[derive(Debug)]
struct Stored {
    stream: usize,
    number: u32,
    stored_len: u64,
    sum: Sum,
}

impl PieceWriter {
    pub(super) fn new(store: ArchiveStore, name: BackupName, level: i32) -> Self {
        PieceWriter {
            store,
            name,
            level,
            room: Arc::new(Semaphore::new(MAX_PIECES_IN_MEMORY)),
            tasks: JoinSet::new(),
            streams: Vec::new(),
            gathered: Vec::new(),
            gathered_len: 0,
            stored: Vec::new(),
        }
    }

    /// A stream begins; the one before it, if any, is over.
    pub(super) async fn begin(&mut self, content: StreamContent) -> Result<(), RepositoryError> {
        self.flush().await?;
        self.streams.push(StreamRecord { content, piece_count: 0, len: 0, stored_len: 0 });
        Ok(())
    }

    /// Bytes of the stream that was begun last. Waits while too many pieces are on their way.
    pub(super) async fn push(&mut self, mut data: Bytes) -> Result<(), RepositoryError> {
        while !data.is_empty() {
            let part = data.split_to(data.len().min(PIECE_LEN - self.gathered_len));
            self.gathered_len += part.len();
            self.gathered.push(part);
            if self.gathered_len == PIECE_LEN {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Everything is there: the streams, and the content of `SHA256SUMS`.
    pub(super) async fn finish(mut self) -> Result<(Vec<StreamRecord>, Bytes), RepositoryError> {
        self.flush().await?;
        while let Some(done) = self.tasks.join_next().await {
            self.stored.push(done.map_err(RepositoryError::Panicked)??);
        }
        self.stored.sort_unstable_by_key(|piece| (piece.stream, piece.number));
        let mut text = String::new();
        for piece in &self.stored {
            let stream = &mut self.streams[piece.stream];
            stream.stored_len += piece.stored_len;
            let name = keys::piece_name(&stream.content.stream_name(), piece.number);
            sums::push_line(&mut text, &name, &piece.sum);
        }
        Ok((self.streams, text.into()))
    }

    /// What was gathered goes on its way.
    async fn flush(&mut self) -> Result<(), RepositoryError> {
        // an error is noticed with the next piece, not with the last
        while let Some(done) = self.tasks.try_join_next() {
            self.stored.push(done.map_err(RepositoryError::Panicked)??);
        }
        if self.gathered_len == 0 {
            return Ok(());
        }
        let index = self.streams.len() - 1;
        let stream = &mut self.streams[index];
        stream.len += self.gathered_len as u64;
        stream.piece_count += 1;
        assert!(stream.piece_count <= MAX_PIECES, "no archive has so many pieces");
        let number = stream.piece_count;
        let piece = keys::piece_name(&stream.content.stream_name(), number);
        let key = format!("{}{piece}", keys::data_prefix(&self.name));
        let plain = Plain { parts: std::mem::take(&mut self.gathered), len: self.gathered_len };
        self.gathered_len = 0;
        let (store, level) = (self.store.clone(), self.level);
        let room = Arc::clone(&self.room).acquire_owned().await;
        self.tasks.spawn(async move {
            // as long as there is an error, nothing is closed
            let _room = room;
            let compressed = tokio::task::spawn_blocking(move || {
                let content = plain.compress(level)?;
                let sum = sums::sum(&content);
                Ok((Bytes::from(content), sum))
            });
            let compressed: Result<_, std::io::Error> =
                compressed.await.map_err(RepositoryError::Panicked)?;
            let (content, sum) =
                compressed.map_err(|source| RepositoryError::Compress { key: key.clone(), source })?;
            let stored_len = content.len() as u64;
            put(&store, &key, content).await?;
            Ok(Stored { stream: index, number, stored_len, sum })
        });
        Ok(())
    }
}

/// The bytes of a piece, as they came.
struct Plain {
    parts: Vec<Bytes>,
    len: usize,
}

impl Plain {
    fn compress(self, level: i32) -> std::io::Result<Vec<u8>> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::with_capacity(self.len / 4), level)?;
        encoder.include_checksum(true)?;
        encoder.include_contentsize(true)?;
        encoder.set_pledged_src_size(Some(self.len as u64))?;
        for part in self.parts {
            encoder.write_all(&part)?;
        }
        encoder.finish()
    }
}

/// Creates an object. One that is there already is fine when it has this content: an answer was lost.
pub(super) async fn put(store: &ArchiveStore, key: &str, content: Bytes) -> Result<(), RepositoryError> {
    let began = Instant::now();
    loop {
        let put = async {
            match store.create(key, content.clone()).await? {
                Creation::Created => Ok(()),
                Creation::Exists => match store.read(key, content.len() as u64 + 1).await? {
                    Some(found) if found == content => Ok(()),
                    Some(_) => Err(ArchiveError::Conflict { key: key.to_owned() }),
                    // some stores say so where two requests meet: the first one may still fail
                    None => Err(ArchiveError::Vanished { key: key.to_owned() }),
                },
            }
        };
        match put.await {
            Ok(()) => return Ok(()),
            Err(error) if error.class() == ErrorClass::Transient && began.elapsed() < MAX_ABSENCE => {
                tracing::warn!("could not put up \"{key}\", trying again: {error}");
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;

    use super::*;
    use crate::archive::testing::{HookedStore, Verb};

    /// As some stores answer where two requests for one object meet, of which neither is done.
    #[tokio::test(start_paused = true)]
    async fn what_exists_and_cannot_be_read_is_put_up_again() {
        let attempts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&attempts);
        let (store, direct) = HookedStore::archive(move |verb, key| {
            let is_first = verb == Verb::Create && counted.fetch_add(1, Ordering::Relaxed) == 0;
            let path = key.to_owned();
            let exists = object_store::Error::AlreadyExists { path, source: "409".into() };
            async move { if is_first { Err(exists) } else { Ok(()) } }.boxed()
        });
        put(&store, "a", Bytes::from_static(b"content")).await.unwrap();
        assert_eq!(direct.read("a", 100).await.unwrap().as_deref(), Some(&b"content"[..]));
        assert_eq!(attempts.load(Ordering::Relaxed), 2);
        let refused = put(&store, "a", Bytes::from_static(b"other")).await;
        assert!(matches!(refused, Err(RepositoryError::Archive(ArchiveError::Conflict { .. }))));
    }
}

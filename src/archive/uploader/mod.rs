//! From a directory that WAL is received into to an archive, beside the receiving: a thread that puts up what is durable.
//!
//! ```text
//! sink ─Flushed▶ ArchivingSink ─Feed▶ thread ─▶ store
//!                     ▲─────────Archived───┘
//! ```
//!
//! The directory is the queue: what is to be archived is read from the segments' files, so nothing is held in memory for
//! a store that is slow or away, and receiving never waits for it. What of the directory the archive has is found out
//! from the archive's listing, at every start anew.
//!
//! A store that fails is tried again for as long as it takes. What trying again cannot heal (the archive is another
//! cluster's, an object has other content) ends archiving, and the receiver with it.

mod begin;
mod continuity;
mod hold;
mod local;
mod plan;
mod put;
mod record;
mod sink;
mod spool;
mod stats;
mod tidy;
mod upload;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use super::error::ArchiveError;
use super::lease::Holder;
use super::store::ArchiveStore;
use crate::pg::{Lsn, TimelineId};
use crate::sink::ClusterStamp;
pub use sink::ArchivingSink;
use sink::Room;
pub use stats::ArchiveWatch;
use stats::Stats;

/// How WAL is archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadOptions {
    /// How old WAL may get here before it is on its way. Zero: as soon as it is durable.
    pub delay: Duration,
    /// How long the archive stays ours when nothing is heard of us.
    pub lease: Duration,
    /// Whether to take the archive from whoever has it.
    pub take_over: TakeOver,
    /// What to do when WAL is neither in the archive nor in the directory.
    pub gaps: Gaps,
    /// How much WAL may be in the directory and not in the archive, in bytes, before no more is received.
    pub spool_limit: Option<u64>,
    /// How much WAL that is in the archive may stay in the directory, in bytes; `None`: all of it.
    pub keep_len: Option<u64>,
}

/// What to do about another writer that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TakeOver {
    /// Leave the archive to it.
    #[default]
    Never,
    /// Take the archive from it.
    Now,
}

/// What to do about a gap between the end of the archive and the beginning of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gaps {
    /// End: what is put up behind it would be reported as archived, and no restore could get it.
    #[default]
    Refuse,
    /// Go on behind it, and note that in the archive.
    Accept,
}

/// How it stands with the right to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// The store has not answered yet, or it is being looked whether who has the archive lives.
    #[default]
    Looking,
    /// Who has it is silent: its time is waited for.
    Waiting,
    /// It is ours.
    Holding,
}

/// How far a timeline is archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archived {
    /// The timeline that is received.
    pub timeline: TimelineId,
    /// All before this, from where the directory begins, is durable in the archive; [`Lsn::INVALID`] as long as WAL of a
    /// timeline before it is not.
    pub lsn: Lsn,
}

/// What the thread is told.
#[derive(Debug, Default)]
struct Feed {
    stamp: Option<ClusterStamp>,
    /// The streams that there were, in order; the last one goes on.
    streams: Vec<FedStream>,
    /// Where the last one begins.
    started_lsn: Lsn,
    /// Bytes that have become durable in this run.
    flushed_len: u64,
    /// Nothing more comes.
    ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FedStream {
    timeline: TimelineId,
    flushed_lsn: Lsn,
}

/// What the thread tells.
#[derive(Debug, Default)]
struct Told {
    standing: Standing,
    /// The store has said something.
    answers: bool,
    archived: Option<Archived>,
    /// What ended it; taken by whoever reports it.
    error: Option<ArchiveError>,
}

/// The thread that archives a directory. Dropped, it is left to end by itself.
#[derive(Debug)]
pub struct Uploader {
    feed: Arc<watch::Sender<Feed>>,
    told: watch::Receiver<Told>,
    teller: Arc<watch::Sender<Told>>,
    watch: ArchiveWatch,
    spool_limit: Option<u64>,
    thread: Option<JoinHandle<()>>,
}

/// A thread that panics says at least that it is gone: nobody waits for what it will never report.
struct Ending<'a> {
    teller: &'a watch::Sender<Told>,
    known: bool,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if !self.known {
            self.teller.send_modify(|told| told.error = Some(ArchiveError::ThreadEnded));
        }
    }
}

impl Uploader {
    /// Starts the thread for a directory that WAL is about to be received into.
    pub fn start(
        store: ArchiveStore,
        directory: &Path,
        options: UploadOptions,
    ) -> Result<Self, ArchiveError> {
        let feed = Arc::new(watch::Sender::new(Feed::default()));
        let teller = Arc::new(watch::Sender::new(Told::default()));
        if let Some(name) = local::compressed_segment(directory)? {
            return Err(ArchiveError::Compressed { name, directory: directory.to_owned() });
        }
        let holder = Holder::of(directory)?;
        let directory_path: Arc<Path> = directory.into();
        let stats = Arc::new(Stats::new());
        let (spool_limit, thread_stats) = (options.spool_limit, Arc::clone(&stats));
        let watch = ArchiveWatch { stats, told: teller.subscribe(), store: store.clone() };
        let (fed, thread_teller) = (feed.subscribe(), Arc::clone(&teller));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|source| ArchiveError::file("start a thread for", directory, source))?;
        let thread = std::thread::Builder::new().name("wal-archive".into()).spawn(move || {
            let mut ending = Ending { teller: &thread_teller, known: false };
            let tellers = (&*thread_teller, &*thread_stats);
            let result = runtime.block_on(hold::run(&directory_path, &store, &holder, options, fed, tellers));
            ending.known = true;
            if let Err(error) = result {
                thread_teller.send_modify(|told| told.error = Some(error));
            }
            // a store that does not answer is not waited for
            runtime.shutdown_background();
        });
        let thread = thread.map_err(|source| ArchiveError::file("start a thread for", directory, source))?;
        let told = teller.subscribe();
        Ok(Uploader { feed, told, teller, watch, spool_limit, thread: Some(thread) })
    }

    /// A sink that lets this hear of what `inner` has made durable, and the driver of what is archived.
    pub fn beside<K>(&self, inner: K) -> ArchivingSink<K> {
        let (feed, teller) = (Arc::clone(&self.feed), Arc::clone(&self.teller));
        let room = Room { stats: Arc::clone(&self.watch.stats), limit: self.spool_limit };
        ArchivingSink::new(inner, feed, self.told.clone(), teller, room)
    }

    /// Waits until it is known whether the archive can be written to: no longer than `silence` for a store that does not answer,
    /// and no longer than `patience` for one that does.
    pub async fn settled(&mut self, silence: Duration, patience: Duration) -> Result<Standing, ArchiveError> {
        let known = |told: &Told| told.standing != Standing::Looking || told.error.is_some();
        let heard = |told: &Told| told.answers || known(told);
        if tokio::time::timeout(silence, self.told.wait_for(heard)).await.is_ok() {
            let _ = tokio::time::timeout(patience, self.told.wait_for(known)).await;
        }
        match self.take_error() {
            Some(error) => Err(error),
            None => Ok(self.told.borrow().standing),
        }
    }

    /// How it goes, for whoever asks later.
    pub fn watch(&self) -> ArchiveWatch {
        self.watch.clone()
    }

    fn take_error(&self) -> Option<ArchiveError> {
        let mut error = None;
        self.teller.send_if_modified(|told| {
            error = told.error.take();
            false
        });
        error
    }

    /// Nothing more comes: waits until all is archived, but no longer than `patience`. Says how many bytes are not; `None`:
    /// it never got to know.
    pub async fn finish(mut self, patience: Duration) -> Result<Option<u64>, ArchiveError> {
        self.feed.send_modify(|feed| feed.ended = true);
        let thread = self.thread.take();
        let ended = async {
            while thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(patience, ended).await;
        let anything = self.feed.borrow().streams.iter().any(|stream| stream.flushed_lsn.is_valid());
        let behind = match self.watch.archived() {
            None if !anything => Some(0),
            archived => archived.map(|_| self.watch.behind_len()),
        };
        self.take_error().map_or(Ok(behind), Err)
    }
}

#[cfg(test)]
mod tests;

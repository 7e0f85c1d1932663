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
mod local;
mod plan;
mod put;
mod record;
mod sink;
mod spool;
mod stats;
mod tidy;

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::buffers;
use super::error::ArchiveError;
use super::identity::ClusterIdentity;
use super::lease::{self, Holder, Lease, LeaseRecord, Patience, Reached};
use super::retry::retried;
use super::store::ArchiveStore;
use crate::ErrorClass;
use crate::pg::{Lsn, TimelineId, WalFileName};
use crate::sink::ClusterStamp;
use begin::Ends;
use local::LocalWal;
use plan::{Piece, Plan};
use put::Route;
pub use sink::ArchivingSink;
use sink::Room;
use spool::Spool;
pub use stats::ArchiveWatch;
use stats::Stats;
use tidy::{ReadBack, Seen, Tidy};

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
            let result = runtime.block_on(run(&directory_path, &store, &holder, options, fed, tellers));
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

/// What there is to do at a time.
enum Task {
    Piece(TimelineId, Piece),
    /// The segment that is there as a whole now.
    Fold(Option<WalFileName>),
}

/// Everything of one run.
struct Upload<'a> {
    route: &'a Route,
    options: UploadOptions,
    teller: &'a watch::Sender<Told>,
    /// What the lease says of it to whoever reads the archive.
    reached: &'a watch::Sender<Reached>,
    stats: &'a Stats,
    tidy: Tidy,
    /// Without it nothing is told.
    lease: Lease,
    started: Instant,
    /// Timelines with something to do, the oldest first; the last one is received.
    plans: VecDeque<Plan>,
    /// Timelines that have, or had, a plan; or of which there was nothing.
    begun: BTreeSet<TimelineId>,
    tasks: JoinSet<Result<Task, ArchiveError>>,
    /// Segments that are read back; given up when nothing more comes.
    readings: JoinSet<Result<(WalFileName, ReadBack), ArchiveError>>,
    /// Segments wait here for one that is being folded.
    folds: VecDeque<WalFileName>,
    folding: usize,
    /// How much had become durable in this run when that was looked at last.
    flushed_len: u64,
}

async fn run(
    directory: &Arc<Path>,
    store: &ArchiveStore,
    holder: &Holder,
    options: UploadOptions,
    fed: watch::Receiver<Feed>,
    (teller, stats): (&watch::Sender<Told>, &Stats),
) -> Result<(), ArchiveError> {
    tokio::select! {
        result = hold_and_archive(directory, store, holder, options, fed, (teller, stats)) => result,
        never = Spool::new(options.spool_limit).watch(directory, stats) => match never {},
        never = buffers::give_back() => match never {},
    }
}

async fn hold_and_archive(
    directory: &Arc<Path>,
    store: &ArchiveStore,
    holder: &Holder,
    options: UploadOptions,
    mut fed: watch::Receiver<Feed>,
    (teller, stats): (&watch::Sender<Told>, &Stats),
) -> Result<(), ArchiveError> {
    match store.check_conditions().await {
        // somebody has to change something: better now than when it is relied upon
        Err(error) if error.class() != ErrorClass::Transient => return Err(error),
        Err(_) => retried(|| store.check_conditions()).await?,
        Ok(()) => {}
    }
    teller.send_modify(|told| told.answers = true);
    let stand = |standing| teller.send_modify(|told| told.standing = standing);
    let identity = retried(|| ClusterIdentity::read(store)).await?;
    let stamp = ClusterStamp::of(directory);
    if let (Some(found), Some(stamp)) = (identity, stamp) {
        found.check_stamp(stamp)?;
    }
    // nobody is driven out of an archive that is not ours, or kept out of it
    let may_take = async || {
        let (Some(found), None) = (identity, stamp) else { return Ok(true) };
        stand(Standing::Waiting);
        let known = fed.wait_for(|feed| feed.stamp.is_some() || feed.ended).await;
        let Some(stamp) = known.ok().and_then(|feed| feed.stamp) else { return Ok(false) };
        found.check_stamp(stamp).map(|()| true)
    };
    let patience = match options.take_over {
        TakeOver::Never => Patience::UntilSilent,
        TakeOver::Now => Patience::TakeOver,
    };
    let waiting = |other: &LeaseRecord| {
        tracing::warn!("the archive was held by {other}; it is taken over when its time is up");
        stand(Standing::Waiting);
    };
    let taken = lease::acquire(store, holder, options.lease, patience, waiting, may_take).await?;
    let Some((keeper, lease)) = taken else { return Ok(()) };
    tracing::debug!(generation = %lease.generation(), "the archive is ours");
    stand(Standing::Holding);
    let (reached, archived) = watch::channel(None);
    let mut keeper = keeper.telling(archived);
    let gaps = options.gaps;
    let route = Route { directory: Arc::clone(directory), store: store.clone(), lease: lease.clone(), gaps };
    let result = tokio::select! {
        result = archive(&route, options, fed, (teller, &reached), stats) => result,
        () = keeper.keep() => lease.valid().await.map(|()| Extent::Unknown),
    };
    keeper.release(matches!(result, Ok(Extent::All))).await;
    result.map(drop)
}

/// How much of the directory is up when nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    All,
    /// Nothing has come in this run, and nobody has looked at what came before.
    Unknown,
}

async fn archive(
    route: &Route,
    options: UploadOptions,
    mut fed: watch::Receiver<Feed>,
    (teller, reached): (&watch::Sender<Told>, &watch::Sender<Reached>),
    stats: &Stats,
) -> Result<Extent, ArchiveError> {
    let mut upload = Upload {
        route,
        options,
        teller,
        reached,
        stats,
        tidy: Tidy::new(options.keep_len),
        lease: route.lease.clone(),
        started: Instant::now(),
        plans: VecDeque::new(),
        begun: BTreeSet::new(),
        tasks: JoinSet::new(),
        readings: JoinSet::new(),
        folds: VecDeque::new(),
        folding: 0,
        flushed_len: 0,
    };
    let Some((stamp, stream)) = upload.first_stream(&mut fed).await else { return Ok(Extent::Unknown) };
    upload.begin_all(stamp, stream.timeline).await?;
    loop {
        let ended = upload.take_feed(&mut fed, stamp).await?;
        upload.start_tasks();
        if !ended {
            upload.read_back();
        }
        upload.tell();
        if ended && upload.tasks.is_empty() && upload.plans.iter().all(Plan::is_finished) {
            return Ok(Extent::All);
        }
        upload.wait(&mut fed).await?;
    }
}

impl Upload<'_> {
    /// The stream that goes on, as soon as something is durable, of it or of one before; `None` when it all ended before.
    async fn first_stream(&self, fed: &mut watch::Receiver<Feed>) -> Option<(ClusterStamp, FedStream)> {
        let durable = |feed: &Feed| feed.streams.iter().any(|stream| stream.flushed_lsn.is_valid());
        let feed = fed.wait_for(|feed| feed.ended || durable(feed)).await.ok()?;
        let stream = feed.streams.last().filter(|_| durable(&feed))?;
        Some((feed.stamp?, *stream))
    }

    /// What is in the directory from before.
    async fn begin_all(&mut self, stamp: ClusterStamp, live: TimelineId) -> Result<(), ArchiveError> {
        let size = stamp.segment_size;
        let local = LocalWal::list(&self.route.directory, size)?;
        let store = &self.route.store;
        if let Some(address) = store.address()
            && record::is_known(&self.route.directory, address)?
            && retried(|| ClusterIdentity::read(store)).await?.is_none()
        {
            return Err(ArchiveError::Gone { address: address.to_owned() });
        }
        if let Some(first) = local.of(live).first().or(local.segments.first()) {
            retried(|| self.route.claim(stamp, first.file)).await?;
        }
        if let Some(address) = store.address() {
            record::note(&self.route.directory, address)?;
        }
        for timeline in &local.histories {
            retried(|| self.route.put_history(*timeline)).await?;
        }
        for timeline in local.timelines() {
            let ends = if timeline == live { Ends::Live } else { Ends::Left };
            let (route, delay) = (self.route, self.options.delay);
            let plan = retried(|| begin::begin(route, &local, timeline, stamp, ends, delay)).await?;
            self.plans.extend(plan);
            self.begun.insert(timeline);
        }
        // the one that is received comes last
        if let Some(index) = self.plans.iter().position(|plan| plan.timeline() == live)
            && let Some(plan) = self.plans.remove(index)
        {
            self.plans.push_back(plan);
        }
        Ok(())
    }

    /// Takes what has become durable. Says whether nothing more comes.
    async fn take_feed(
        &mut self,
        fed: &mut watch::Receiver<Feed>,
        stamp: ClusterStamp,
    ) -> Result<bool, ArchiveError> {
        let (streams, flushed_len, ended) = {
            let feed = fed.borrow_and_update();
            (feed.streams.clone(), feed.flushed_len, feed.ended)
        };
        let now = self.started.elapsed();
        for (index, stream) in streams.iter().enumerate() {
            let is_last = index + 1 == streams.len();
            if is_last && !stream.flushed_lsn.is_valid() {
                continue;
            }
            let has_plan = self.plans.iter().any(|plan| plan.timeline() == stream.timeline);
            if is_last && !has_plan {
                self.follow(stamp, stream.timeline, Ends::Live).await?;
            } else if !has_plan && !self.begun.contains(&stream.timeline) {
                // it came and went while a request was waited for
                self.follow(stamp, stream.timeline, Ends::Left).await?;
            }
            for plan in self.plans.iter_mut().filter(|plan| plan.timeline() == stream.timeline) {
                plan.handle_flushed(now, stream.flushed_lsn);
                if !is_last && !plan.has_ended() {
                    // not all that is durable was told of: a stream that is cut off says no more
                    let (timeline, flushed_lsn) = (stream.timeline, plan.flushed_lsn());
                    let local = LocalWal::list(&self.route.directory, stamp.segment_size)?;
                    plan.handle_flushed(now, local.end_of(&self.route.directory, timeline, flushed_lsn)?);
                }
                if !is_last || ended {
                    plan.handle_end();
                }
            }
        }
        self.flushed_len = flushed_len;
        Ok(ended)
    }

    /// The server went on on another timeline; its history comes before its WAL.
    async fn follow(
        &mut self,
        stamp: ClusterStamp,
        timeline: TimelineId,
        ends: Ends,
    ) -> Result<(), ArchiveError> {
        let local = LocalWal::list(&self.route.directory, stamp.segment_size)?;
        for history in local.histories.iter().filter(|history| **history <= timeline) {
            retried(|| self.route.put_history(*history)).await?;
        }
        let (route, delay) = (self.route, self.options.delay);
        let plan = retried(|| begin::begin(route, &local, timeline, stamp, ends, delay)).await?;
        self.plans.extend(plan);
        self.begun.insert(timeline);
        Ok(())
    }

    fn start_tasks(&mut self) {
        let now = self.started.elapsed();
        let active = self.active_count();
        for plan in self.plans.iter_mut().take(active) {
            while let Some(piece) = plan.poll_piece(now) {
                let (route, timeline) = (self.route.clone(), plan.timeline());
                self.tasks.spawn(async move {
                    retried(|| route.put(piece)).await?;
                    Ok(Task::Piece(timeline, piece))
                });
            }
            while let Some(file) = plan.poll_fold() {
                self.folds.push_back(file);
            }
        }
        if self.folding == 0
            && let Some(file) = self.folds.pop_front()
        {
            self.folding += 1;
            let route = self.route.clone();
            self.tasks.spawn(async move {
                let is_whole = retried(|| route.fold(file)).await?;
                Ok(Task::Fold(is_whole.then_some(file)))
            });
        }
        let is_live = |index: usize, count: usize| index + 1 == count;
        let count = self.plans.len();
        let mut index = 0;
        self.plans.retain(|plan| {
            index += 1;
            is_live(index - 1, count) || !plan.is_finished()
        });
    }

    /// Before segments are removed here.
    fn read_back(&mut self) {
        while let Some(file) = self.tidy.poll_reading() {
            let route = self.route.clone();
            self.readings
                .spawn(async move { retried(|| route.read_back(file)).await.map(|found| (file, found)) });
        }
    }

    /// So many plans have their turn: a timeline's WAL goes up when that of those before it is up, without which it is worth
    /// nothing. So what an archive has of a timeline says that it has all before.
    fn active_count(&self) -> usize {
        let first = self.plans.iter().position(|plan| plan.behind_len() > 0);
        first.map_or(self.plans.len(), |index| index + 1)
    }

    /// What was put up before this moment is counted by whoever comes after, because the archive is ours at this moment.
    fn tell(&mut self) {
        let behind_len = self.plans.iter().map(Plan::behind_len).sum();
        let oldest = self.plans.iter().filter_map(Plan::oldest_at).min();
        self.stats.count(behind_len, oldest.map(|at| self.started + at), self.flushed_len);
        if !self.lease.is_valid() {
            return;
        }
        self.tidy.tidy(&self.route.directory);
        let Some(live) = self.plans.back() else { return };
        // the WAL of a timeline is worth nothing without what came before it
        let all_before = self.plans.iter().rev().skip(1).all(|plan| plan.behind_len() == 0);
        let archived = Archived {
            timeline: live.timeline(),
            lsn: if all_before { live.archived_lsn() } else { Lsn::INVALID },
        };
        // where it began nobody has looked yet at what is up before that
        if archived.lsn.is_valid() && live.has_advanced() {
            self.reached.send_replace(Some((archived.timeline, archived.lsn)));
        }
        self.teller.send_if_modified(|told| told.archived.replace(archived) != Some(archived));
    }

    async fn wait(&mut self, fed: &mut watch::Receiver<Feed>) -> Result<(), ArchiveError> {
        let active = self.plans.iter().take(self.active_count());
        let deadline = active.filter_map(Plan::poll_timeout).min();
        let deadline = deadline.map(|at| self.started + at);
        let timeout = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let done = async {
            match self.tasks.join_next().await {
                Some(done) => done,
                None => std::future::pending().await,
            }
        };
        let read_back = async {
            match self.readings.join_next().await {
                Some(done) => done,
                None => std::future::pending().await,
            }
        };
        let changed = async {
            if fed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => Ok(()),
            () = timeout => Ok(()),
            renewed = self.lease.changed() => renewed,
            done = done => {
                match done.map_err(|_| ArchiveError::ThreadEnded)?? {
                    Task::Piece(timeline, piece) => {
                        if let Some(file) = piece.whole_segment() {
                            self.tidy.is_up(file, Seen::Told);
                        }
                        for plan in self.plans.iter_mut().filter(|plan| plan.timeline() == timeline) {
                            plan.handle_done(piece);
                            if piece.whole_segment().is_some() {
                                plan.take_found().into_iter().for_each(|file| self.tidy.is_up(file, Seen::Told));
                            }
                        }
                    }
                    Task::Fold(folded) => {
                        self.folding -= 1;
                        if let Some(file) = folded {
                            self.tidy.is_up(file, Seen::Compared);
                        }
                    }
                }
                Ok(())
            }
            done = read_back => {
                let (file, found) = done.map_err(|_| ArchiveError::ThreadEnded)??;
                self.tidy.was_read(file, found);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;

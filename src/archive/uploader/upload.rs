//! One run's work while the archive is its own: what becomes durable is planned, put up, folded, told of, and removed here when there
//! is too much of it.

use std::collections::{BTreeSet, VecDeque};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::error::ArchiveError;
use super::super::identity::ClusterIdentity;
use super::super::lease::{Lease, Reached};
use super::super::retry::retried;
use super::begin::{self, Ends};
use super::local::LocalWal;
use super::plan::{Piece, Plan};
use super::put::Route;
use super::record;
use super::stats::Stats;
use super::tidy::{ReadBack, Seen, Tidy};
use super::{Archived, FedStream, Feed, Told, UploadOptions};
use crate::pg::{Lsn, TimelineId, WalFileName};
use crate::sink::ClusterStamp;

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
/// How much of the directory is up when nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    All,
    /// Nothing has come in this run, and nobody has looked at what came before.
    Unknown,
}

pub(super) async fn archive(
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

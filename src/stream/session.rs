//! Following a server: one connection from its first question to its end, over as many timelines as it has.
//!
//! Answers to `StreamLog` and `ReceiveXlogStream` in PostgreSQL's `pg_receivewal.c` and `receivelog.c`. Departures:
//! * An answer without a stream (the start is exactly a switch point) is the end of a timeline, not an error.
//! * All history files up to the server's timeline are fetched, and each is durable before WAL of its timeline
//!   is asked for; the original fetches the streamed timeline's only, and goes on when that fails.
//! * The next timeline's history must tell the same switch point as the end of the last stream.
//! * A slot that does not exist is an error at once.

use std::time::Duration;

use tokio::sync::watch;

use super::driver::{Clock, Driver, Progress, StreamOutcome, Until, changed};
use super::error::ReceiveError;
use super::missing_slot::{MissingSlot, SlotUse};
use super::observer::Observer;
use super::receiver::{FlushMeaning, FlushPolicy, Receiver, ReceiverConfig};
use super::refusal::{Refusal, WalRemoved, Wanted};
use super::resume::{self, ResumeError, ServerState, SlotHold, SlotPosition, StartChoice};
use super::upstream::{StreamStart, Upstream};
use super::written_reports::WrittenReports;
use crate::client::{ClientError, NextTimeline, SystemIdentity};
use crate::pg::{Lsn, SlotName, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};
use crate::sink::{ClusterStamp, DiskEntry, RecordCheck, Sink};
use crate::wire::server_error::SqlState;

/// What is wanted of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamOptions {
    /// The slot that holds WAL back for us.
    pub slot: Option<SlotName>,
    /// What to do where that slot does not exist.
    pub missing_slot: MissingSlot,
    /// The longest silence of ours; zero: only answers and progress are sent.
    pub status_interval: Duration,
    /// The longest silence of the server's; zero: any.
    pub receive_timeout: Duration,
    /// Whether WAL is checked before it is written and acknowledged.
    pub record_check: RecordCheck,
    /// When WAL is made durable.
    pub flush_policy: FlushPolicy,
    /// What is reported as flushed.
    pub flush_meaning: FlushMeaning,
}

impl Default for StreamOptions {
    /// PostgreSQL's `wal_receiver_status_interval` and `wal_receiver_timeout`.
    fn default() -> Self {
        StreamOptions {
            slot: None,
            missing_slot: MissingSlot::Refuse,
            status_interval: Duration::from_secs(10),
            receive_timeout: Duration::from_secs(60),
            record_check: RecordCheck::On,
            flush_policy: FlushPolicy::default(),
            flush_meaning: FlushMeaning::default(),
        }
    }
}

/// What outlives a connection.
pub(super) struct Session<'a, K> {
    pub(super) options: &'a StreamOptions,
    pub(super) sink: &'a mut K,
    pub(super) until: watch::Receiver<Until>,
    pub(super) progress: &'a watch::Sender<Progress>,
    pub(super) observer: &'a mut dyn Observer,
    pub(super) clock: Clock,
    /// The cluster, once it is known.
    pub(super) system_identifier: Option<SystemIdentifier>,
    /// The last flush position reported.
    pub(super) acknowledged_lsn: Lsn,
    /// Where the slot was used last.
    pub(super) slot_used: Option<SlotUse>,
    /// How long the server streamed since this was last cleared, however little came.
    pub(super) streamed: Duration,
    /// Whether WAL came since this was last cleared.
    pub(super) made_progress: bool,
}

/// Where a stream is to begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamFrom {
    pub(super) timeline: TimelineId,
    pub(super) start_lsn: Lsn,
    pub(super) flush_floor: Lsn,
    pub(super) last_on_disk: Option<(TimelineId, Lsn)>,
    pub(super) wanted: Wanted,
    pub(super) slot: SlotHold,
}

impl StreamFrom {
    /// The floor of a stream that never reports a flush, whatever timelines it goes through.
    pub(super) const NO_FLUSH: Lsn = Lsn::MAX;

    /// The floor on the timeline that follows `ended`. What was acknowledged beyond the switch point belongs to a timeline
    /// that was left; but a slot that is on a later one already must not move back there, nor one that is where the files of a
    /// later one say, behind a hole.
    fn floor_beyond(&self, ended: TimelineId, acknowledged_lsn: Lsn, switch_lsn: Lsn) -> Lsn {
        if self.flush_floor == Self::NO_FLUSH {
            return Self::NO_FLUSH;
        }
        let floor = self.flush_floor.max(acknowledged_lsn).min(switch_lsn);
        match self.slot {
            SlotHold::From(slot) if slot.timeline > ended => floor.max(slot.restart_lsn),
            SlotHold::From(_) => floor,
            _ => self
                .last_on_disk
                .map_or(floor, |(last, lsn)| if last > ended { floor.max(lsn) } else { floor }),
        }
    }
}

/// What the server said of itself at the beginning of a connection.
pub(super) struct Server {
    pub(super) identity: SystemIdentity,
    pub(super) segment_size: WalSegmentSize,
    pub(super) written_reports: WrittenReports,
    pub(super) entries: Vec<DiskEntry>,
}

impl<K: Sink> Session<'_, K> {
    /// Follows the server from where the directory ends, until told to stop.
    pub(super) async fn follow<U: Upstream>(
        &mut self,
        upstream: &mut U,
        choice: StartChoice,
    ) -> Result<(), ReceiveError> {
        let mut until = self.until.clone();
        let prepared = unless_stopped(&mut until, async {
            let server = self.identify(upstream).await?;
            let from = self.find_start(upstream, &server, choice).await?;
            Ok::<_, ReceiveError>((server, from))
        });
        let Some(prepared) = prepared.await else { return Ok(()) };
        let (server, from) = prepared?;
        self.stream(upstream, &server, from).await
    }

    /// What the server's commits wait for, if it says.
    async fn written_reports<U: Upstream>(&self, upstream: &mut U) -> Result<WrittenReports, ReceiveError> {
        match self.answer("read the server's synchronous_commit", upstream.synchronous_commit()).await {
            Ok(value) => {
                Ok(value.as_deref().map_or_else(Default::default, WrittenReports::for_synchronous_commit))
            }
            // something that speaks for it, and does not know all of its words
            Err(ReceiveError::Client { source: ClientError::Server(error), .. }) if !error.is_fatal() => {
                Ok(WrittenReports::default())
            }
            Err(error) => Err(error),
        }
    }

    /// Learns which cluster this is, and makes sure that the directory is that cluster's.
    pub(super) async fn identify<U: Upstream>(&mut self, upstream: &mut U) -> Result<Server, ReceiveError> {
        let identity = self.answer("identify the server", upstream.identify_system()).await?;
        let segment_size =
            self.answer("read the server's wal_segment_size", upstream.wal_segment_size()).await?;
        let written_reports = self.written_reports(upstream).await?;
        let found = identity.system_identifier;
        let expected = *self.system_identifier.get_or_insert(found);
        if found != expected {
            return Err(ReceiveError::SystemChanged { expected, found });
        }
        let entries = self.sink.prepare(ClusterStamp { system_identifier: found, segment_size }).await?;
        Ok(Server { identity, segment_size, written_reports, entries })
    }

    async fn find_start<U: Upstream>(
        &mut self,
        upstream: &mut U,
        server: &Server,
        choice: StartChoice,
    ) -> Result<StreamFrom, ReceiveError> {
        let current = server.identity.timeline;
        let history = self.fetch_histories(upstream, current, &server.entries).await?;
        let state = ServerState {
            segment_size: server.segment_size,
            history: &history,
            flush_lsn: server.identity.flush_lsn,
            slot: self.read_slot(upstream, current).await?,
        };
        let point = resume::find_start(&server.entries, &state, choice);
        let begins = match &point {
            Ok(point) => point.wanted == Wanted::Beginning,
            Err(error) => *error == ResumeError::NoStart,
        };
        if let (SlotHold::Missing, true, Some(slot)) = (state.slot, begins, &self.options.slot) {
            return Err(ReceiveError::NoSlot(slot.clone()));
        }
        let point = point?;
        for stray in &point.strays {
            self.observer.stray_found(stray);
        }
        if let Wanted::Missing { end_lsn } = point.wanted {
            self.observer.wal_missing(point.timeline, point.start_lsn, end_lsn);
        }
        tell_of_slot(&state, &point);
        let used_before = server.entries.iter().any(|entry| entry.name == ClusterStamp::FILE_NAME);
        let held = matches!(state.slot, SlotHold::From(_));
        if used_before && !held && point.wanted == Wanted::Beginning {
            self.observer.beginning_anew(point.timeline, point.start_lsn);
        }
        let acknowledged_lsn = self.acknowledged_lsn.min(server.identity.flush_lsn);
        let flush_floor = point.flush_floor.max(acknowledged_lsn);
        let resume::ResumePoint { timeline, start_lsn, last_on_disk, wanted, .. } = point;
        Ok(StreamFrom { timeline, start_lsn, flush_floor, last_on_disk, wanted, slot: state.slot })
    }

    async fn read_slot<U: Upstream>(
        &self,
        upstream: &mut U,
        current: TimelineId,
    ) -> Result<SlotHold, ReceiveError> {
        let Some(slot) = &self.options.slot else { return Ok(SlotHold::Nothing) };
        if !upstream.can_read_slot() {
            return Ok(SlotHold::Unknown);
        }
        let state = self.answer("read the replication slot", upstream.read_slot(slot)).await;
        let state = state.map_err(|error| match &error {
            // the server reads physical slots only
            ReceiveError::Client { source, .. }
                if source.sqlstate() == Some(SqlState::FEATURE_NOT_SUPPORTED) =>
            {
                ReceiveError::Refused { refusal: Refusal::SlotLogical(slot.clone()), source: Box::new(error) }
            }
            _ => error,
        })?;
        let Some(state) = state else {
            return match self.may_replace_slot(upstream, current) {
                true => Ok(SlotHold::Missing),
                false => Err(ReceiveError::NoSlot(slot.clone())),
            };
        };
        let position = state.restart_lsn.zip(state.restart_timeline);
        Ok(position.map_or(SlotHold::Empty, |(restart_lsn, timeline)| {
            SlotHold::From(SlotPosition { restart_lsn, timeline })
        }))
    }

    /// Makes the history files of `timeline` and of its ancestors durable, and returns the history.
    ///
    /// The file of `timeline` is compared even when it is there: two servers that claim one timeline are told
    /// apart by it. An ancestor's file that the server does not have (it was restored from a backup of a later
    /// timeline) is passed over: its content is part of the later ones.
    pub(super) async fn fetch_histories<U: Upstream>(
        &mut self,
        upstream: &mut U,
        timeline: TimelineId,
        entries: &[DiskEntry],
    ) -> Result<TimelineHistory, ReceiveError> {
        if timeline == TimelineId::FIRST {
            return Ok(TimelineHistory::root(timeline));
        }
        const DURING: &str = "fetch a timeline history";
        let file = self.answer(DURING, upstream.timeline_history(timeline)).await?;
        let history = TimelineHistory::parse(timeline, &file.content)
            .map_err(|source| ReceiveError::History { timeline, source })?;
        for ancestor in history.ancestors().iter().map(|entry| entry.timeline) {
            let name = ancestor.history_file_name();
            if ancestor == TimelineId::FIRST || entries.iter().any(|entry| entry.name == name) {
                continue;
            }
            match self.answer(DURING, upstream.timeline_history(ancestor)).await {
                Ok(file) => self.sink.write_history(ancestor, file.content).await?,
                Err(ReceiveError::Client { source: ClientError::Server(error), .. }) if !error.is_fatal() => {
                    tracing::warn!(%error, "server does not have the history of timeline {ancestor}");
                }
                Err(error) => return Err(error),
            }
        }
        self.sink.write_history(timeline, file.content).await?;
        Ok(history)
    }

    /// Streams from a position on, from timeline to timeline.
    pub(super) async fn stream<U: Upstream>(
        &mut self,
        upstream: &mut U,
        server: &Server,
        mut from: StreamFrom,
    ) -> Result<(), ReceiveError> {
        let segment_size = server.segment_size;
        loop {
            let StreamFrom { timeline, start_lsn, .. } = from;
            if let (SlotHold::Missing, Some(slot)) = (from.slot, self.options.slot.clone()) {
                let mut until = self.until.clone();
                let replaced = unless_stopped(&mut until, self.replace_slot(upstream, &slot, &mut from));
                let Some(replaced) = replaced.await else { return Ok(()) };
                replaced?;
            }
            let place = upstream.place();
            // before 15 only a refusal shows that there is none
            let may_replace = from.slot == SlotHold::Unknown
                && from.wanted != Wanted::Beginning
                && self.may_replace_slot(upstream, server.identity.timeline);
            self.observer.stream_starting(timeline, start_lsn);
            let mut until = self.until.clone();
            let started = unless_stopped(&mut until, async {
                self.sink.begin(timeline, segment_size, start_lsn).await?;
                self.start(upstream, self.options.slot.as_ref(), &from).await
            });
            let Some(started) = started.await else { return Ok(()) };
            let started = started.map_err(|error| self.explain(error, &from, start_lsn));
            if matches!(started, Err(ReceiveError::NoSlot(_))) && may_replace {
                from.slot = SlotHold::Missing;
                continue;
            }
            let (next, received_lsn) = match started? {
                StreamStart::TimelineEnded(next) => (next, start_lsn),
                StreamStart::Streaming(stream) => {
                    self.slot_used = Some(SlotUse { place: place.clone(), timeline });
                    self.observer.stream_started();
                    let config = ReceiverConfig {
                        timeline,
                        start_lsn,
                        segment_size,
                        flush_floor: from.flush_floor,
                        status_interval: self.options.status_interval,
                        receive_timeout: self.options.receive_timeout,
                        flush_policy: self.options.flush_policy,
                        flush_meaning: self.options.flush_meaning,
                        written_reports: server.written_reports,
                    };
                    let mut receiver = Receiver::new(self.clock.now(), config);
                    let mut driver = Driver {
                        sink: &mut *self.sink,
                        until: &mut self.until,
                        progress: self.progress,
                        observer: &mut *self.observer,
                        segment_size,
                        finished_lsn: start_lsn,
                        clock: self.clock,
                    };
                    let began = self.clock.now().elapsed;
                    let outcome = driver.run(stream, &mut receiver).await;
                    self.streamed += self.clock.now().elapsed.saturating_sub(began);
                    let received_lsn = receiver.positions().received_lsn();
                    self.made_progress |= received_lsn > start_lsn;
                    self.acknowledged_lsn = self.acknowledged_lsn.max(receiver.reported_flush_lsn());
                    match outcome.map_err(|error| self.explain(error, &from, received_lsn))? {
                        StreamOutcome::Stopped => return Ok(()),
                        StreamOutcome::TimelineEnded(next) => (next, received_lsn),
                    }
                }
            };
            self.check_next(timeline, received_lsn, next)?;
            let mut until = self.until.clone();
            let history = unless_stopped(&mut until, self.fetch_histories(upstream, next.timeline, &[]));
            let Some(history) = history.await else { return Ok(()) };
            let (next_timeline, next_lsn) = (next.timeline, next.start_lsn);
            if history?.switch_point(timeline) != Some(next_lsn) {
                return Err(ReceiveError::HistoryMismatch { timeline, next: next_timeline, next_lsn });
            }
            self.observer.timeline_switched(next_timeline, next_lsn);
            from.timeline = next_timeline;
            from.wanted = Wanted::Continuation;
            from.start_lsn = segment_size.segment_at(next_lsn).start_lsn();
            from.flush_floor = from.floor_beyond(timeline, self.acknowledged_lsn, next_lsn);
        }
    }

    /// `START_REPLICATION`.
    pub(super) async fn start<'u, U: Upstream>(
        &self,
        upstream: &'u mut U,
        slot: Option<&SlotName>,
        from: &StreamFrom,
    ) -> Result<StreamStart<U::Stream<'u>>, ReceiveError> {
        let StreamFrom { timeline, start_lsn, .. } = *from;
        let start = upstream.start_replication(slot, start_lsn, timeline);
        let started = self.in_time("start streaming", start).await?;
        started.map_err(|source| ReceiveError::Start { start_lsn, timeline, source })
    }

    /// What a refusal means, where that is known. `lsn` is how far the directory goes.
    pub(super) fn explain(&self, error: ReceiveError, from: &StreamFrom, lsn: Lsn) -> ReceiveError {
        let source = match &error {
            ReceiveError::Start { source, .. } | ReceiveError::Client { source, .. } => source,
            _ => return error,
        };
        let slot = self.options.slot.clone();
        if let (Some(SqlState::UNDEFINED_OBJECT), Some(slot)) = (source.sqlstate(), &slot) {
            return ReceiveError::NoSlot(slot.clone());
        }
        let wanted = if lsn > from.start_lsn { Wanted::Continuation } else { from.wanted };
        let slot = slot.map(|slot| (slot, from.slot));
        let refusal = Refusal::of(source, WalRemoved { lsn, timeline: from.timeline, wanted, slot });
        let Some(mut refusal) = refusal else { return error };
        if let Refusal::WalRemoved(wal) = &mut refusal
            && lsn > from.start_lsn
        {
            // what the slot held at the beginning says nothing of now
            wal.slot = None;
        }
        ReceiveError::Refused { refusal, source: Box::new(error) }
    }

    /// The answer to a command, or what was being done when there was none.
    pub(super) async fn answer<T>(
        &self,
        during: &'static str,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ReceiveError> {
        self.in_time(during, answer).await?.map_err(|source| ReceiveError::Client { during, source })
    }

    /// A server may be silent between two commands for no longer than within a stream: where nothing is sent, no
    /// keepalive of TCP's notices a server, or something before it, that still has the connection and hangs.
    async fn in_time<T>(
        &self,
        during: &'static str,
        answer: impl Future<Output = T>,
    ) -> Result<T, ReceiveError> {
        let after = self.options.receive_timeout;
        if after.is_zero() {
            return Ok(answer.await);
        }
        tokio::time::timeout(after, answer).await.map_err(|_| ReceiveError::Silent { during, after })
    }

    fn check_next(
        &self,
        timeline: TimelineId,
        received_lsn: Lsn,
        next: NextTimeline,
    ) -> Result<(), ReceiveError> {
        let NextTimeline { timeline: next, start_lsn: next_lsn } = next;
        if next <= timeline {
            return Err(ReceiveError::TimelineOrder { timeline, next });
        }
        if next_lsn > received_lsn {
            return Err(ReceiveError::TimelineGap { timeline, received_lsn, next, next_lsn });
        }
        Ok(())
    }
}

/// A slot and a directory that do not go together: it may be a mistake, or the trace of one.
fn tell_of_slot(server: &ServerState<'_>, point: &resume::ResumePoint) {
    let start_lsn = point.start_lsn;
    if point.wanted == Wanted::Beginning {
        return;
    }
    match (server.slot, point.slot_ahead) {
        (_, Some(SlotPosition { restart_lsn, .. })) => {
            let told = "slot has acknowledged WAL that is not in the directory; fetching it again";
            tracing::warn!(%restart_lsn, %start_lsn, "{told}");
        }
        (SlotHold::From(SlotPosition { restart_lsn, .. }), None) if restart_lsn < start_lsn => {
            let told = "slot is behind the directory; it moves on with the first WAL that is durable";
            tracing::info!(%restart_lsn, %start_lsn, "{told}");
        }
        (SlotHold::Empty, None) => {
            let told =
                "slot holds no WAL: it was never used, or was invalidated; what comes next may be gone";
            tracing::warn!(%start_lsn, "{told}");
        }
        _ => {}
    }
}

/// `None` when the wish to stop comes first, or was there before.
pub(super) async fn unless_stopped<T>(
    until: &mut watch::Receiver<Until>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let stopped = async {
        while *until.borrow_and_update() != Until::Now {
            changed(until).await;
        }
    };
    tokio::select! {
        biased;
        () = stopped => None,
        output = work => Some(output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_be_acknowledged_is_not_after_a_switch_either() {
        let (one, two) = (TimelineId::FIRST, TimelineId::new(2).unwrap());
        let from = |slot| StreamFrom {
            timeline: one,
            start_lsn: Lsn::new(0x300_0000),
            flush_floor: Lsn::new(0x900_0000),
            last_on_disk: None,
            wanted: Wanted::Continuation,
            slot,
        };
        let at = |timeline| SlotHold::From(SlotPosition { restart_lsn: Lsn::new(0x900_0000), timeline });
        let (none, switch_lsn) = (Lsn::INVALID, Lsn::new(0x500_0000));
        // acknowledged on a timeline that nobody went on with
        assert_eq!(from(SlotHold::Unknown).floor_beyond(one, none, switch_lsn), switch_lsn);
        assert_eq!(from(at(one)).floor_beyond(one, none, switch_lsn), switch_lsn);
        // acknowledged by a receiver whose directory was lost, on the timeline that follows
        assert_eq!(from(at(two)).floor_beyond(one, none, switch_lsn), Lsn::new(0x900_0000));
        // where nobody knows the slot's position: received on the timeline that follows, behind a hole
        let behind_a_hole =
            StreamFrom { last_on_disk: Some((two, Lsn::new(0x800_0000))), ..from(SlotHold::Unknown) };
        assert_eq!(behind_a_hole.floor_beyond(one, none, switch_lsn), Lsn::new(0x800_0000));
        assert_eq!(behind_a_hole.floor_beyond(two, none, switch_lsn), switch_lsn);
        // beside a base backup of a standby that was promoted meanwhile: what comes then is committed on a primary
        let beside = StreamFrom { flush_floor: StreamFrom::NO_FLUSH, ..from(SlotHold::Unknown) };
        assert_eq!(beside.floor_beyond(one, none, switch_lsn), StreamFrom::NO_FLUSH);
        // and once that one is left too, it counts no more
        assert_eq!(from(at(two)).floor_beyond(two, none, Lsn::new(0x700_0000)), Lsn::new(0x700_0000));
    }
}

//! WAL as fast as a server sends it: counted, perhaps checked, and dropped.
//!
//! Answers to a walsender as `ReceiveXlogStream` in PostgreSQL's `receivelog.c` does, but keeps nothing. Invariant: what is
//! reported as flushed is never anything but "nothing". Then the server moves no slot, counts no commit as confirmed, and
//! when it shuts down it waits for what it has sent to be written, which is at once.

use std::pin::{Pin, pin};
use std::time::{Duration, Instant, SystemTime};

use super::cpu::HiddenCpu;
use super::error::MeasureError;
use super::meter::{Meter, Span};
use super::wal_start::{SourceServer, Starts};
use crate::client::{ClientError, Connection, NextTimeline, ReplicationStart, WalStream};
use crate::observe::progress::CopyProgress;
use crate::pg::{Lsn, TimelineId, WalChecker};
use crate::sink::RecordCheck;
use crate::wire::replication::{PgTimestamp, ReplicationMessage, StandbyStatusUpdate, WalData};
use crate::wire::server_error::SqlState;

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalRequest {
    /// Where to begin.
    pub starts: Starts,
    /// For how long.
    pub duration: Duration,
    /// Up to how many bytes; the message that reaches it is the last.
    pub max_bytes: Option<u64>,
    /// Whether pages and records are checked as a receiver checks them.
    pub record_check: RecordCheck,
}

/// What was measured.
#[derive(Debug)]
pub struct WalMeasured {
    /// Where it began.
    pub start_lsn: Lsn,
    /// Where it ended.
    pub end_lsn: Lsn,
    /// On which timeline it ended.
    pub timeline: TimelineId,
    /// What was there already: as fast as the server can.
    pub backlog: Span,
    /// What came after that, as it was written; `None` if the backlog never ended.
    pub live: Option<Span>,
    /// What the checks took, if they were wanted.
    pub check: Option<CheckCost>,
    /// Why the server's processor time is not known.
    pub hidden_cpu: Option<HiddenCpu>,
    /// Why it ended.
    pub ended: Ended,
}

/// What checking pages and records took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckCost {
    /// Time spent with that, within the spans.
    pub elapsed: Duration,
    /// The end of the last whole record, or the start if there was none.
    pub checked_lsn: Lsn,
}

/// Why measuring ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was complete: a base backup came to its end.
    Complete,
    /// Time was over.
    Duration,
    /// Enough came.
    MaxBytes,
    /// Somebody interrupted it.
    Interrupted(&'static str),
    /// The server shuts down.
    ShuttingDown,
    /// The server has removed WAL before it was sent: nothing held it.
    WalRemoved,
}

/// Streams WAL until one of the request's bounds is reached, or `interrupted` says which signal came.
pub async fn measure_wal(
    connection: &mut Connection,
    server: &SourceServer,
    request: &WalRequest,
    progress: &CopyProgress,
    interrupted: impl Future<Output = &'static str>,
) -> Result<WalMeasured, MeasureError> {
    connection.set_answer_timeout(None);
    let interrupted = pin!(interrupted);
    let mut measuring = Measuring {
        server,
        request,
        progress,
        interrupted,
        meter: Meter::start(connection.backend()),
        began: Instant::now(),
        received: 0,
        backlog: None,
        check_elapsed: Duration::ZERO,
        checker: None,
        reported_at: Instant::now(),
        next_lsn: Lsn::INVALID,
    };
    for &start_lsn in &request.starts.hoped_for {
        match measuring.follow(connection, start_lsn).await {
            Err(MeasureError::WalRemoved { .. }) => {}
            result => return result.map(|(timeline, ended)| measuring.measured(start_lsn, timeline, ended)),
        }
    }
    let start_lsn = request.starts.last;
    let (timeline, ended) = measuring.follow(connection, start_lsn).await?;
    Ok(measuring.measured(start_lsn, timeline, ended))
}

/// How long the server may be silent where it has nothing to wait for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the farewell may take. What is under way then has been sent for nothing.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the server hears of us while it sends.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

struct Measuring<'a, F> {
    server: &'a SourceServer,
    request: &'a WalRequest,
    progress: &'a CopyProgress,
    interrupted: Pin<&'a mut F>,
    meter: Meter,
    began: Instant,
    received: u64,
    /// Its end begins the live part.
    backlog: Option<Span>,
    check_elapsed: Duration,
    checker: Option<WalChecker>,
    reported_at: Instant,
    next_lsn: Lsn,
}

/// How a stream of one timeline ended.
enum StreamEnded {
    /// For good.
    Ended(Ended),
    /// The timeline did.
    Timeline,
}

impl<F: Future<Output = &'static str>> Measuring<'_, F> {
    /// Streams from timeline to timeline.
    async fn follow(
        &mut self,
        connection: &mut Connection,
        mut start_lsn: Lsn,
    ) -> Result<(TimelineId, Ended), MeasureError> {
        let mut timeline = self.server.history.timeline_at(start_lsn);
        loop {
            self.begin(timeline, start_lsn);
            let started = connection.start_replication(None, start_lsn, timeline);
            let started = tokio::select! {
                biased;
                signal = &mut self.interrupted => return Ok((timeline, Ended::Interrupted(signal))),
                started = in_time("start streaming", started) => started?,
            };
            let started = started.map_err(|source| refused(source, start_lsn, timeline))?;
            let next = match started {
                ReplicationStart::TimelineEnded(next) => next,
                ReplicationStart::Streaming(mut stream) => {
                    match self.stream(&mut stream, timeline).await? {
                        StreamEnded::Ended(ended) => {
                            // what was measured stands, however the farewell goes
                            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, stream.finish()).await;
                            return Ok((timeline, ended));
                        }
                        StreamEnded::Timeline => {
                            let finished = in_time("end the stream", stream.finish()).await?;
                            let finished = finished.map_err(receiving)?;
                            finished.next_timeline.ok_or(MeasureError::NoNextTimeline(timeline))?
                        }
                    }
                }
            };
            let NextTimeline { timeline: next_timeline, start_lsn: switch_lsn } = next;
            if next_timeline <= timeline || switch_lsn > self.next_lsn {
                return Err(MeasureError::NoNextTimeline(timeline));
            }
            timeline = next_timeline;
            start_lsn = self.server.segment_size.segment_at(switch_lsn).start_lsn();
        }
    }

    fn begin(&mut self, timeline: TimelineId, start_lsn: Lsn) {
        if self.received == 0 {
            self.began = Instant::now();
            self.progress.set_phase("receiving WAL");
            let there = self.server.identity.flush_lsn.saturating_since(start_lsn);
            self.progress.set_total(self.request.max_bytes.map_or(there, |max| max.min(there)));
            // the time before the stream is nobody's
            let _ = self.meter.lap();
        }
        self.next_lsn = start_lsn;
        self.checker = (self.request.record_check == RecordCheck::On).then(|| {
            let system = self.server.identity.system_identifier;
            WalChecker::new(system, self.server.segment_size, timeline, start_lsn)
        });
        if start_lsn >= self.server.identity.flush_lsn && self.backlog.is_none() {
            self.backlog = Some(self.meter.lap());
        }
    }

    /// One timeline's stream.
    async fn stream(
        &mut self,
        stream: &mut WalStream<'_>,
        timeline: TimelineId,
    ) -> Result<StreamEnded, MeasureError> {
        let left = self.request.duration.saturating_sub(self.began.elapsed());
        let mut time_is_over = pin!(tokio::time::sleep(left));
        loop {
            let message = tokio::select! {
                biased;
                signal = &mut self.interrupted => return Ok(StreamEnded::Ended(Ended::Interrupted(signal))),
                () = &mut time_is_over => return Ok(StreamEnded::Ended(Ended::Duration)),
                message = stream.next() => message,
            };
            match message {
                Ok(Some(ReplicationMessage::WalData(data))) => {
                    self.take(&data)?;
                    if self.request.max_bytes.is_some_and(|max| self.received >= max) {
                        return Ok(StreamEnded::Ended(Ended::MaxBytes));
                    }
                }
                Ok(Some(ReplicationMessage::PrimaryKeepalive(keepalive))) => {
                    if keepalive.reply_requested {
                        self.report(stream);
                    }
                }
                Ok(Some(ReplicationMessage::PrimaryStatus(_))) => {}
                Ok(None) => return Ok(StreamEnded::Timeline),
                Err(ClientError::ShuttingDown) => return Ok(StreamEnded::Ended(Ended::ShuttingDown)),
                Err(error) if is_removed(&error) && self.received > 0 => {
                    return Ok(StreamEnded::Ended(Ended::WalRemoved));
                }
                Err(error) => return Err(refused(error, self.next_lsn, timeline)),
            }
            // under a flood of messages no timer is looked at
            if self.began.elapsed() >= self.request.duration {
                return Ok(StreamEnded::Ended(Ended::Duration));
            }
            if self.reported_at.elapsed() >= STATUS_INTERVAL {
                self.report(stream);
            }
        }
    }

    fn take(&mut self, data: &WalData) -> Result<(), MeasureError> {
        if data.start_lsn != self.next_lsn {
            return Err(MeasureError::UnexpectedPosition { expected: self.next_lsn, found: data.start_lsn });
        }
        self.meter.count(data.data.len());
        self.received += data.data.len() as u64;
        self.next_lsn = data.end_lsn();
        if let Some(checker) = &mut self.checker {
            let began = Instant::now();
            checker.push(data.start_lsn, &data.data)?;
            self.check_elapsed += began.elapsed();
        }
        self.progress.set_done(self.received);
        self.progress.set_wal_lsn(self.next_lsn);
        if self.backlog.is_none() && self.next_lsn >= data.wal_end_lsn {
            self.backlog = Some(self.meter.lap());
            self.progress.set_phase("following the server");
        }
        Ok(())
    }

    /// Received is what the server wants to know before it stops; durable is nothing.
    fn report(&mut self, stream: &mut WalStream<'_>) {
        self.reported_at = Instant::now();
        stream.queue_status_update(&StandbyStatusUpdate {
            write_lsn: self.next_lsn,
            flush_lsn: Lsn::INVALID,
            apply_lsn: Lsn::INVALID,
            sent_at: PgTimestamp::from_system_time(SystemTime::now()),
            reply_requested: false,
        });
    }

    fn measured(mut self, start_lsn: Lsn, timeline: TimelineId, ended: Ended) -> WalMeasured {
        let last = self.meter.lap();
        let (backlog, live) = match self.backlog {
            Some(backlog) => (backlog, Some(last)),
            None => (last, None),
        };
        let check = self
            .checker
            .as_ref()
            .map(|checker| CheckCost { elapsed: self.check_elapsed, checked_lsn: checker.checked_lsn() });
        let hidden_cpu = self.meter.hidden_cpu();
        WalMeasured { start_lsn, end_lsn: self.next_lsn, timeline, backlog, live, check, hidden_cpu, ended }
    }
}

async fn in_time<T>(during: &'static str, answer: impl Future<Output = T>) -> Result<T, MeasureError> {
    let after = ANSWER_TIMEOUT;
    tokio::time::timeout(after, answer).await.map_err(|_| MeasureError::Silent { during, after })
}

fn is_removed(error: &ClientError) -> bool {
    error.sqlstate() == Some(SqlState::UNDEFINED_FILE)
}

fn refused(source: ClientError, lsn: Lsn, timeline: TimelineId) -> MeasureError {
    if is_removed(&source) { MeasureError::WalRemoved { lsn, timeline, source } } else { receiving(source) }
}

fn receiving(source: ClientError) -> MeasureError {
    MeasureError::Client { during: "receive WAL", source }
}

//! What to do with each message of a stream: the receiver without I/O and without a clock.
//!
//! A [`Receiver`] lives as long as one `START_REPLICATION`. Its methods are of four kinds:
//! * getters;
//! * inputs: `handle_*`, for what has happened outside;
//! * commands: [`Receiver::stop`] and [`Receiver::stop_at`];
//! * outputs: [`Receiver::poll_action`], to be asked after every input until it has nothing more to do, and
//!   [`Receiver::poll_timeout`], when to call [`Receiver::handle_timeout`] next.
//!
//! Answers to `HandleCopyStream` and `ProcessXLogDataMsg` in PostgreSQL's `receivelog.c`, and to
//! `XLogWalRcvSendReply` in `walreceiver.c`, whose habits it takes where they differ. Departures:
//! * A write that the server is told of with the flush that follows it: [`WrittenReports`].
//! * The first message never carries a flush position. `pg_receivewal` sends the rounded start, which moves the
//!   slot backwards; here flush stays 0 until something at or past [`ReceiverConfig::flush_floor`] is durable.
//! * Every position the server tells is compared with what was received, keepalives included: one that claims
//!   more was sent than has arrived shows a hole that would otherwise be noticed with the next data, or never.
//! * A server that shuts down pings again as soon as it is answered, until flush has caught up. While a flush is
//!   under way an answer that would say nothing new waits, at the most 100 ms since the last one.
//! * While the server is far ahead, positions are reported and flushes asked for in larger steps: each costs the
//!   receiver, the server and the disk as much as receiving does, and the server has nothing to wait for but the end.
//! * A stop position is exact: what lies beyond it is not written, and reaching it needs no further message.

mod config;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

pub use config::{Action, FlushMeaning, FlushPolicy, Moment, ReceiverConfig};

use super::error::ReceiverError;
use super::positions::Positions;
use super::shutdown::{self, Pause, ShutdownWatch};
use super::written_reports::WrittenReports;
use crate::pg::{Lsn, TimelineId};
use crate::sink::{ArchivedLsn, FlushedLsn};
use crate::wire::replication::{
    PgTimestamp, PrimaryKeepalive, ReplicationMessage, StandbyStatusUpdate, WalData,
};

/// How often a ping is answered with the same positions while a flush is under way. Far below every timeout of a
/// server's, and far above a network's round trip, which would be the pace otherwise.
const PING_ANSWER_INTERVAL: Duration = Duration::from_millis(100);

/// How often a server hears of us while its WAL is not read, because the disk is slow: its pings are not read either.
/// Below the smallest `wal_sender_timeout` that anybody sets.
const PAUSED_STATUS_INTERVAL: Duration = Duration::from_millis(300);

/// So far ahead, the server is being caught up with.
const FAR_AHEAD_LEN: u64 = 4 << 20;

/// The steps of catching up: as many bytes, or as much time, whichever comes first. A segment's usual length: its end
/// brings a flush anyhow.
const CATCH_UP_STEP_LEN: u64 = 16 << 20;
const CATCH_UP_STEP_TIME: Duration = Duration::from_millis(20);

/// How long WAL may stay without a flush when nobody waits for it.
const LAZY_FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// WAL is taken.
    Streaming,
    /// We have what we want: what still comes is passed over, and what was received becomes durable.
    Stopping,
    /// The server has sent CopyDone; what was received becomes durable.
    ServerDone,
    /// CopyDone is sent, or the stream is broken: nothing more happens.
    Ended,
}

/// The state of one stream. The module says how it is used.
#[derive(Debug)]
pub struct Receiver {
    config: ReceiverConfig,
    phase: Phase,
    positions: Positions,
    stop_lsn: Option<Lsn>,
    stopped_by_us: bool,
    actions: VecDeque<Action>,
    now: Moment,
    /// The last positions sent; a message that would repeat them waits for the status interval.
    reported: Option<Reported>,
    reply_due: bool,
    /// When a ping is answered that was not answered at once.
    answer_at: Option<Duration>,
    /// When a step of catching up ends, if nothing more comes before.
    step_ends_at: Option<Duration>,
    /// How far a flush has been asked for.
    flush_asked_lsn: Lsn,
    flush_asked_at: Duration,
    /// When the server was last heard, and whether it was asked for a sign of life since.
    heard_at: Duration,
    ping_sent: bool,
    pause: Pause,
    shutdown: ShutdownWatch,
    /// What was written is to be told of with the flush.
    write_untold: bool,
    server_wal_end_lsn: Lsn,
    server_sent_at: Option<PgTimestamp>,
}

#[derive(Debug, Clone, Copy)]
struct Reported {
    write_lsn: Lsn,
    flush_lsn: Lsn,
    apply_lsn: Lsn,
    at: Duration,
}

impl Receiver {
    /// A stream has just begun. The first action is a status update.
    pub fn new(now: Moment, config: ReceiverConfig) -> Self {
        Receiver {
            config,
            phase: Phase::Streaming,
            positions: Positions::starting_at(config.start_lsn),
            stop_lsn: None,
            stopped_by_us: false,
            actions: VecDeque::new(),
            now,
            reported: None,
            reply_due: true,
            answer_at: None,
            step_ends_at: None,
            flush_asked_lsn: config.start_lsn,
            flush_asked_at: now.elapsed,
            heard_at: now.elapsed,
            ping_sent: false,
            pause: Pause::default(),
            shutdown: ShutdownWatch::default(),
            write_untold: false,
            server_wal_end_lsn: Lsn::INVALID,
            server_sent_at: None,
        }
    }

    /// How far the stream has got.
    pub fn positions(&self) -> Positions {
        self.positions
    }

    /// The timeline of the stream.
    pub fn timeline(&self) -> TimelineId {
        self.config.timeline
    }

    /// The furthest position that the server has spoken of.
    pub fn server_wal_end_lsn(&self) -> Lsn {
        self.server_wal_end_lsn
    }

    /// When the server sent its last message, by its own clock.
    pub fn server_sent_at(&self) -> Option<PgTimestamp> {
        self.server_sent_at
    }

    /// The flush position as it may be reported: [`Lsn::INVALID`] below the floor.
    pub fn reported_flush_lsn(&self) -> Lsn {
        let flush_lsn = self.answered_lsn();
        let reported = self.config.flush_policy != FlushPolicy::Unreported;
        if reported && flush_lsn >= self.config.flush_floor { flush_lsn } else { Lsn::INVALID }
    }

    /// What counts as flushed.
    fn answered_lsn(&self) -> Lsn {
        match self.config.flush_meaning {
            FlushMeaning::Durable => self.positions.flush_lsn(),
            FlushMeaning::Archived => self.positions.apply_lsn(),
        }
    }

    /// Whether the stop position was reached, or [`Self::stop`] was called, before the server ended the stream.
    pub fn is_stopped_by_us(&self) -> bool {
        self.stopped_by_us
    }

    /// Whether the server has ended the stream, so that there is nothing more to wait for from it.
    pub fn is_server_done(&self) -> bool {
        self.phase == Phase::ServerDone
    }

    /// A message came.
    pub fn handle_message(&mut self, now: Moment, message: ReplicationMessage) -> Result<(), ReceiverError> {
        self.now = now;
        self.heard_at = now.elapsed;
        self.ping_sent = false;
        self.server_sent_at = Some(message.sent_at());
        match self.phase {
            Phase::Streaming | Phase::Stopping => {}
            Phase::ServerDone | Phase::Ended => {
                return self.break_off(ReceiverError::MessageAfterEnd);
            }
        }
        match message {
            ReplicationMessage::WalData(wal) => self.handle_wal(&wal),
            ReplicationMessage::PrimaryKeepalive(keepalive) => self.handle_keepalive(keepalive),
            ReplicationMessage::PrimaryStatus(_) => Ok(()),
        }
    }

    /// For now there are no more messages: a flush is asked for, and what is written is reported.
    ///
    /// To be called after every batch of messages, and the driver bounds batches by bytes and by time: the
    /// original looks after its status only when the socket is quiet, which under load it never is.
    pub fn handle_batch_end(&mut self, now: Moment) {
        self.now = now;
        self.step_ends_at = self.catching_up_until();
        if self.step_ends_at.is_none() {
            self.report_progress();
        }
    }

    /// Whether the next action is to write: then the last one's WAL need not be with the operating system yet.
    pub fn has_more_to_write(&self) -> bool {
        matches!(self.actions.front(), Some(Action::Write { .. }))
    }

    /// More was given to the operating system. While catching up that is reported in larger steps.
    pub fn handle_written(&mut self, lsn: Lsn) {
        if self.positions.advance_write(lsn) && self.step_ends_at.is_none() && self.reported.is_some() {
            self.report_written();
        }
    }

    /// No flush comes before anything else: what waits to be told of with it is told of now. Whether there is such.
    pub fn handle_no_flush(&mut self) -> bool {
        let untold = std::mem::take(&mut self.write_untold) && self.phase != Phase::Ended;
        self.reply_due |= untold;
        untold
    }

    /// More is durable.
    pub fn handle_flushed(&mut self, now: Moment, flushed: FlushedLsn) -> Result<(), ReceiverError> {
        self.now = now;
        // an answer to a stream before this one
        if flushed.timeline() != self.config.timeline || flushed.lsn() < self.config.start_lsn {
            return Ok(());
        }
        let received_lsn = self.positions.received_lsn();
        match self.positions.advance_flush(flushed.lsn()) {
            Some(advanced) => {
                if advanced {
                    self.pause.progressed(now.elapsed);
                }
                self.reply_due |= (advanced && self.write_untold)
                    || self.reported.is_some_and(|last| last.flush_lsn != self.reported_flush_lsn());
                Ok(())
            }
            None => self
                .break_off(ReceiverError::FlushedBeyondReceived { flush_lsn: flushed.lsn(), received_lsn }),
        }
    }

    /// More is in the archive, which is what this receiver calls applied.
    pub fn handle_archived(&mut self, now: Moment, archived: ArchivedLsn) {
        self.now = now;
        if archived.timeline == self.config.timeline && self.phase != Phase::Ended {
            self.positions.advance_archived(archived.lsn);
            self.reply_due |= self.reported.is_some_and(|last| last.apply_lsn != self.positions.apply_lsn());
        }
    }

    /// Time has passed; harmless when it is too early.
    pub fn handle_timeout(&mut self, now: Moment) -> Result<(), ReceiverError> {
        self.now = now;
        if self.phase == Phase::Ended {
            return Ok(());
        }
        if self.silence_deadline().is_some_and(|at| at <= now.elapsed) {
            return self.break_off(ReceiverError::Timeout { after: self.config.receive_timeout });
        }
        if let Some((at, after)) = self.pause_bound()
            && at <= now.elapsed
        {
            return self.break_off(ReceiverError::NoRoom { all_durable: self.is_all_durable(), after });
        }
        let due = |deadline: Option<Duration>| deadline.is_some_and(|at| at <= now.elapsed);
        if due(self.step_ends_at) {
            self.step_ends_at = None;
            self.report_progress();
        }
        if due(self.status_deadline()) || due(self.lazy_flush_deadline()) {
            self.ask_flush_if_due();
        }
        if due(self.status_deadline()) || due(self.ping_deadline()) || due(self.answer_at) {
            self.reply_due = true;
        }
        Ok(())
    }

    /// The driver has stopped reading because the sink's queue is full: the server's silence is our own doing.
    pub fn pause_reading(&mut self, now: Moment) {
        self.now = now;
        self.pause.begin(now.elapsed);
    }

    /// The driver reads again.
    pub fn resume_reading(&mut self, now: Moment) {
        self.now = now;
        self.pause.end();
        self.heard_at = now.elapsed;
        self.ping_sent = false;
    }

    /// The server has sent CopyDone: the timeline ends here.
    pub fn handle_server_end(&mut self, now: Moment) {
        self.now = now;
        if matches!(self.phase, Phase::Streaming | Phase::Stopping) {
            self.phase = Phase::ServerDone;
            self.ask_flush();
        }
    }

    /// Ends the stream as soon as what was received is durable and reported.
    pub fn stop(&mut self, now: Moment) {
        self.now = now;
        if self.phase == Phase::Streaming {
            self.phase = Phase::Stopping;
            self.stopped_by_us = true;
            self.ask_flush();
        }
    }

    /// Ends the stream as soon as everything before `lsn` is received, and takes nothing beyond it.
    pub fn stop_at(&mut self, now: Moment, lsn: Lsn) {
        self.stop_lsn = Some(lsn);
        if self.positions.received_lsn() >= lsn {
            self.stop(now);
        }
    }

    /// The next thing to do; `None` until the next input.
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if self.phase == Phase::Ended {
            return None;
        }
        if self.reply_due {
            return Some(Action::SendStatus(self.status_update()));
        }
        if self.phase != Phase::Streaming && self.is_all_durable() {
            self.phase = Phase::Ended;
            return Some(Action::SendCopyDone);
        }
        None
    }

    /// When [`Self::handle_timeout`] shall be called; `None` when time changes nothing.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.phase == Phase::Ended {
            return None;
        }
        let deadlines = [
            self.status_deadline(),
            self.ping_deadline(),
            self.silence_deadline(),
            self.answer_at,
            self.step_ends_at,
            self.lazy_flush_deadline(),
            self.pause_bound().map(|(at, _)| at),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn handle_wal(&mut self, wal: &WalData) -> Result<(), ReceiverError> {
        if self.phase == Phase::Stopping {
            return Ok(());
        }
        let (expected, found) = (self.positions.received_lsn(), wal.start_lsn);
        if found != expected {
            return self.break_off(ReceiverError::UnexpectedPosition { expected, found });
        }
        let end_lsn = wal.end_lsn();
        if wal.wal_end_lsn < end_lsn {
            let wal_end_lsn = wal.wal_end_lsn;
            return self.break_off(ReceiverError::WalEndBeforeData { end_lsn, wal_end_lsn });
        }
        self.server_wal_end_lsn = self.server_wal_end_lsn.max(wal.wal_end_lsn);
        let wanted_end_lsn = self.stop_lsn.map_or(end_lsn, |stop_lsn| end_lsn.min(stop_lsn));
        self.take(found, wal.data.slice(..(wanted_end_lsn - found) as usize));
        self.positions.advance_received(wanted_end_lsn);
        if self.stop_lsn == Some(wanted_end_lsn) {
            self.stop(self.now);
        }
        Ok(())
    }

    /// Cuts WAL at the ends of segments, which a message may cross.
    fn take(&mut self, mut lsn: Lsn, mut data: Bytes) {
        while !data.is_empty() {
            let segment = self.config.segment_size.segment_at(lsn);
            let rest = segment.end_lsn() - lsn;
            let piece = data.split_to(data.len().min(usize::try_from(rest).unwrap_or(usize::MAX)));
            let end_lsn = lsn + piece.len() as u64;
            self.actions.push_back(Action::Write { lsn, data: piece });
            if end_lsn == segment.end_lsn() {
                self.actions.push_back(Action::Seal);
                self.flush_asked_lsn = end_lsn;
            }
            lsn = end_lsn;
        }
    }

    fn handle_keepalive(&mut self, keepalive: PrimaryKeepalive) -> Result<(), ReceiverError> {
        let received_lsn = self.positions.received_lsn();
        // walEnd of a keepalive is what the walsender has sent, and messages do not overtake each other
        if self.phase == Phase::Streaming && keepalive.wal_end_lsn > received_lsn {
            let sent_lsn = keepalive.wal_end_lsn;
            return self.break_off(ReceiverError::SentButNotReceived { sent_lsn, received_lsn });
        }
        self.server_wal_end_lsn = self.server_wal_end_lsn.max(keepalive.wal_end_lsn);
        if keepalive.reply_requested {
            // a server that shuts down pings until flush has caught up: let it, within bounds
            let flush_lsn = self.answered_lsn().max(self.config.start_lsn);
            if flush_lsn < received_lsn && self.shutdown.has_waited(self.now.elapsed, flush_lsn) {
                let after = shutdown::LONGEST_WAIT;
                return self.break_off(ReceiverError::ShutdownHeldUp { flush_lsn, received_lsn, after });
            }
            self.ask_flush();
            self.answer_ping();
        }
        Ok(())
    }

    fn answer_ping(&mut self) {
        let same = self.reported.filter(|last| {
            last.write_lsn == self.positions.write_lsn() && last.flush_lsn == self.reported_flush_lsn()
        });
        let answered_lsn = self.answered_lsn();
        let flushing = self.flush_asked_lsn > answered_lsn.max(self.config.start_lsn);
        let wait_until = same.filter(|_| flushing).map(|last| last.at.saturating_add(PING_ANSWER_INTERVAL));
        match wait_until {
            Some(at) if at > self.now.elapsed => self.answer_at = Some(at),
            _ => self.reply_due = true,
        }
    }

    /// Until when progress need not be reported, while that is too little to speak of.
    fn catching_up_until(&self) -> Option<Duration> {
        let last = self.reported?;
        let received_lsn = self.positions.received_lsn();
        let far_ahead = self.server_wal_end_lsn.saturating_since(received_lsn) >= FAR_AHEAD_LEN;
        let little = received_lsn.saturating_since(last.write_lsn) < CATCH_UP_STEP_LEN;
        let until = last.at.saturating_add(CATCH_UP_STEP_TIME);
        (far_ahead && little && until > self.now.elapsed).then_some(until)
    }

    fn report_progress(&mut self) {
        self.ask_flush_if_due();
        match self.reported {
            None => self.reply_due = true,
            Some(last) if last.write_lsn != self.positions.write_lsn() => self.report_written(),
            Some(_) => {}
        }
    }

    /// What is written is news for the server.
    fn report_written(&mut self) {
        match self.config.written_reports {
            WrittenReports::AtOnce => self.reply_due = true,
            WrittenReports::WithFlush => self.write_untold = true,
        }
    }

    fn ask_flush_if_due(&mut self) {
        let wait = match self.config.flush_policy {
            FlushPolicy::Prompt => Duration::ZERO,
            FlushPolicy::Lazy | FlushPolicy::Unreported => LAZY_FLUSH_INTERVAL,
        };
        if self.now.elapsed.saturating_sub(self.flush_asked_at) >= wait {
            self.ask_flush();
        }
    }

    fn ask_flush(&mut self) {
        let received_lsn = self.positions.received_lsn();
        if self.flush_asked_lsn < received_lsn {
            self.flush_asked_lsn = received_lsn;
            self.flush_asked_at = self.now.elapsed;
            self.actions.push_back(Action::Flush);
        }
    }

    fn status_update(&mut self) -> StandbyStatusUpdate {
        let elapsed = self.now.elapsed;
        let reply_requested = self.ping_deadline().is_some_and(|at| at <= elapsed);
        self.ping_sent |= reply_requested;
        self.reply_due = false;
        self.answer_at = None;
        self.write_untold = false;
        let (write_lsn, flush_lsn) = (self.positions.write_lsn(), self.reported_flush_lsn());
        let apply_lsn = self.positions.apply_lsn();
        self.reported = Some(Reported { write_lsn, flush_lsn, apply_lsn, at: elapsed });
        StandbyStatusUpdate { write_lsn, flush_lsn, apply_lsn, sent_at: self.now.wall_clock, reply_requested }
    }

    /// Nothing may be reported, or taken, after a lie.
    fn break_off(&mut self, error: ReceiverError) -> Result<(), ReceiverError> {
        self.phase = Phase::Ended;
        self.reply_due = false;
        Err(error)
    }

    fn status_deadline(&self) -> Option<Duration> {
        let last = self.reported?;
        let interval = match (self.pause.is_on(), self.config.status_interval) {
            (true, Duration::ZERO) => PAUSED_STATUS_INTERVAL,
            (true, interval) => interval.min(PAUSED_STATUS_INTERVAL),
            (false, Duration::ZERO) => return None,
            (false, interval) => interval,
        };
        Some(last.at.saturating_add(interval))
    }

    /// Of what has come, and is not flushed because nobody waits for it.
    fn lazy_flush_deadline(&self) -> Option<Duration> {
        let lazy = self.config.flush_policy != FlushPolicy::Prompt;
        let waits = lazy && self.flush_asked_lsn < self.positions.received_lsn();
        waits.then(|| self.flush_asked_at.saturating_add(LAZY_FLUSH_INTERVAL))
    }

    fn ping_deadline(&self) -> Option<Duration> {
        let wanted = self.is_silence_bounded() && !self.ping_sent;
        wanted.then(|| self.heard_at.saturating_add(self.config.receive_timeout / 2))
    }

    fn silence_deadline(&self) -> Option<Duration> {
        self.is_silence_bounded().then(|| self.heard_at.saturating_add(self.config.receive_timeout))
    }

    fn is_all_durable(&self) -> bool {
        let received_lsn = self.positions.received_lsn();
        received_lsn == self.config.start_lsn || self.positions.flush_lsn() == received_lsn
    }

    /// When the server has been left alone for too long, and after how long that is.
    fn pause_bound(&self) -> Option<(Duration, Duration)> {
        let bound = self.pause.bound(self.is_all_durable());
        bound.filter(|_| self.phase == Phase::Streaming)
    }

    fn is_silence_bounded(&self) -> bool {
        let listening = matches!(self.phase, Phase::Streaming | Phase::Stopping);
        listening && !self.pause.is_on() && !self.config.receive_timeout.is_zero()
    }
}

#[cfg(test)]
mod tests;

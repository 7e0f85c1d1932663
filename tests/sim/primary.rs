//! A primary that grows, is promoted, shuts down, breaks off, falls silent, removes WAL and lies.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use pgwake::ErrorClass;
use pgwake::client::{ClientError, NextTimeline, SlotState, StreamEnd, SystemIdentity, TimelineHistoryFile};
use pgwake::pg::{Lsn, SlotName, SystemIdentifier, TimelineId, WalSegmentSize};
use pgwake::stream::{ConnectFailure, Connector, ReplicationStream, StreamStart, Upstream};
use pgwake::wire::replication::{
    PgTimestamp, PrimaryKeepalive, ReplicationMessage, StandbyStatusUpdate, WalData,
};
use pgwake::wire::server_error::{ServerError, SqlState};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::checker::Checker;
use crate::disk::{Canary, SimDisk};
use crate::log::Log;
use crate::wal::{SEGMENT_LEN, Wal, segment_size};

/// A promise of the protocol that the primary breaks once, when it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    JumpAhead,
    JumpSegment,
    JumpBack,
    WalEndTooSmall,
    KeepaliveAhead,
    NextTimelineNotLater,
    NextTimelineAhead,
    HistoryMismatch,
    OtherSystem,
}

pub const LIES: [Lie; 9] = [
    Lie::JumpAhead,
    Lie::JumpSegment,
    Lie::JumpBack,
    Lie::WalEndTooSmall,
    Lie::KeepaliveAhead,
    Lie::NextTimelineNotLater,
    Lie::NextTimelineAhead,
    Lie::HistoryMismatch,
    Lie::OtherSystem,
];

/// How often things happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub connections: u64,
    pub disconnects: u64,
    pub silences: u64,
    pub switches: u64,
    pub forks_behind: u64,
    pub shutdowns: u64,
    pub lies: u64,
    pub acknowledgements: u64,
    pub removals: u64,
}

pub struct State {
    pub wal: Wal,
    pub flush_lsn: Lsn,
    /// The log grows up to here.
    pub limit_lsn: Lsn,
    pub base_lsn: Lsn,
    pub can_read_slot: bool,
    /// `None`: it cannot be asked.
    synchronous_commit: Option<&'static str>,
    /// Segments before this one are gone: no slot holds them.
    pub removed_lsn: Lsn,
    pub sides: Vec<Side>,
    pub random: fastrand::Rng,
    /// What decides about removing, apart from all else.
    reaper: fastrand::Rng,
    pub log: Log,
    /// The last life: nothing goes wrong any more.
    pub honest: bool,
    pub counts: Counts,
    shutting_down: bool,
    /// Connections of an earlier generation are broken.
    generation: u64,
}

/// What concerns one receiver: its slot is in its checker.
pub struct Side {
    pub checker: Checker,
    pub disk: SimDisk,
    pub lie: Option<Lie>,
    pub lied: bool,
    /// How far it was ever sent WAL that is still on the history.
    sent_lsn: Lsn,
}

/// The primary, as one receiver sees it.
#[derive(Clone)]
pub struct Primary {
    pub state: Rc<RefCell<State>>,
    pub side: usize,
}

impl Primary {
    /// For as many receivers as there are disks.
    pub fn new(log: Log, disks: &[SimDisk], mut random: fastrand::Rng) -> Vec<Self> {
        let base_lsn = Lsn::new(random.u64(1..5) * SEGMENT_LEN);
        let can_read_slot = random.bool();
        // where a slot's position cannot be read, nobody but this receiver may have moved it
        let ahead = if can_read_slot { [0, 40, random.u64(0..SEGMENT_LEN)][random.usize(..3)] } else { 0 };
        let slot_lsn = base_lsn + ahead;
        let flush_lsn = slot_lsn + [0, random.u64(0..300_000)][random.usize(..2)];
        let side = |disk: &SimDisk| Side {
            checker: Checker::new(base_lsn, slot_lsn),
            disk: disk.clone(),
            lie: None,
            lied: false,
            sent_lsn: Lsn::INVALID,
        };
        let reaper = fastrand::Rng::with_seed(random.get_seed());
        let synchronous_commit = [Some("on"), Some("remote_write"), None][random.get_seed() as usize % 3];
        let state = Rc::new(RefCell::new(State {
            wal: Wal::new(),
            flush_lsn,
            limit_lsn: flush_lsn + random.u64(1..5 * SEGMENT_LEN / 2),
            base_lsn,
            can_read_slot,
            synchronous_commit,
            removed_lsn: Lsn::INVALID,
            sides: disks.iter().map(side).collect(),
            random,
            reaper,
            log,
            honest: false,
            counts: Counts::default(),
            shutting_down: false,
            generation: 0,
        }));
        (0..disks.len()).map(|side| Primary { state: Rc::clone(&state), side }).collect()
    }
}

impl State {
    /// One chance in `n`, as long as things may go wrong.
    fn mishap(&mut self, n: u32) -> bool {
        !self.honest && self.random.u32(..n) == 0
    }

    /// The lie that is planned, if `wanted` is it; from now on it is told.
    fn tell(&mut self, side: usize, wanted: Lie) -> bool {
        let tells = self.sides[side].lie.take_if(|lie| *lie == wanted).is_some();
        if tells {
            self.sides[side].lied = true;
            self.counts.lies += 1;
            self.log.add(|| format!("primary lies: {wanted:?}"));
        }
        tells
    }

    fn grow(&mut self) {
        let to_boundary = segment_size().segment_at(self.flush_lsn).end_lsn() - self.flush_lsn;
        let len = match self.random.u8(..10) {
            0 => to_boundary,
            1 => self.random.u64(1..400_000),
            2..5 => self.random.u64(1..60_000),
            _ => self.random.u64(1..4_000),
        };
        self.flush_lsn = (self.flush_lsn + len).min(self.limit_lsn.max(self.flush_lsn));
    }

    /// A checkpoint now and then removes what no slot holds.
    fn remove_wal(&mut self) {
        let held_lsn = self.held_lsn();
        if !self.honest && held_lsn > self.removed_lsn && self.reaper.u8(..20) == 0 {
            self.removed_lsn = held_lsn;
            self.counts.removals += 1;
            self.log.add(|| format!("primary removes WAL up to {held_lsn}"));
        }
    }

    /// The start of the first segment that a slot holds.
    fn held_lsn(&self) -> Lsn {
        let held_lsn = self.sides.iter().map(|side| side.checker.slot_lsn).min().unwrap_or_default();
        segment_size().segment_at(held_lsn).start_lsn()
    }

    /// A standby of this server takes over: `lowest_lsn` is what it certainly has.
    fn promote(&mut self, lowest_lsn: Lsn) {
        // a server is promoted beyond the beginning of its timeline
        let lowest_lsn = lowest_lsn.max(self.wal.begin_lsn(self.wal.current()));
        let lowest = lowest_lsn.as_u64().min(self.flush_lsn.as_u64());
        let mut switch = self.random.u64(lowest..=self.flush_lsn.as_u64());
        let boundary = switch - switch % SEGMENT_LEN;
        if self.random.u8(..3) == 0 && boundary >= lowest && boundary > self.base_lsn.as_u64() {
            switch = boundary;
        }
        let times = [1, 1, 1, 2, 3][self.random.usize(..5)];
        for _ in 0..times {
            let parent = self.wal.current();
            self.wal.promote(parent, Lsn::new(switch));
            self.counts.switches += 1;
            self.log.add(|| format!("primary promoted to {} at {}", parent + 2, Lsn::new(switch)));
            switch += [0, 8, self.random.u64(..50_000)][self.random.usize(..3)];
        }
        // what the new primary does not have, its slot cannot have seen acknowledged
        self.flush_lsn = Lsn::new(switch);
        self.limit_lsn = self.limit_lsn.max(self.flush_lsn);
        let left_lsn = self.wal.begin_lsn(self.wal.current() + 1 - times);
        for side in &mut self.sides {
            side.sent_lsn = side.sent_lsn.min(left_lsn);
            if side.checker.slot_lsn > left_lsn {
                self.counts.forks_behind += 1;
                // a slot of the new primary's own, which nobody has moved yet
                side.checker.slot_lsn = if self.can_read_slot { left_lsn } else { self.base_lsn };
            }
        }
        self.removed_lsn = self.removed_lsn.min(self.held_lsn());
    }
}

impl Connector for Primary {
    type Upstream = SimUpstream;

    async fn connect(&mut self) -> Result<SimUpstream, ConnectFailure> {
        let wait = Duration::from_micros(self.state.borrow_mut().random.u64(..5_000));
        tokio::time::sleep(wait).await;
        let mut state = self.state.borrow_mut();
        state.counts.connections += 1;
        if state.mishap(10) {
            let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into();
            return Err(ConnectFailure { class: ErrorClass::Transient, source });
        }
        state.log.add(|| "connected".into());
        Ok(SimUpstream { state: Rc::clone(&self.state), side: self.side, generation: state.generation })
    }
}

pub struct SimUpstream {
    state: Rc<RefCell<State>>,
    side: usize,
    generation: u64,
}

impl SimUpstream {
    fn check_connection(&self) -> Result<(), ClientError> {
        let mut state = self.state.borrow_mut();
        if state.mishap(60) || state.generation != self.generation {
            state.counts.disconnects += 1;
            return Err(ClientError::Closed);
        }
        Ok(())
    }
}

fn server_error(sqlstate: SqlState, message: String) -> ClientError {
    let severity = "ERROR".into();
    ClientError::Server(Box::new(ServerError { severity, sqlstate, message, ..Default::default() }))
}

impl Upstream for SimUpstream {
    type Stream<'a> = SimStream;

    async fn identify_system(&mut self) -> Result<SystemIdentity, ClientError> {
        self.check_connection()?;
        let mut state = self.state.borrow_mut();
        let other =
            state.sides[self.side].checker.has_acknowledgements() && state.tell(self.side, Lie::OtherSystem);
        Ok(SystemIdentity {
            system_identifier: SystemIdentifier::new(if other { 666 } else { 42 }),
            timeline: state.wal.id(state.wal.current()),
            flush_lsn: state.flush_lsn,
            database: None,
        })
    }

    async fn wal_segment_size(&mut self) -> Result<WalSegmentSize, ClientError> {
        self.check_connection()?;
        Ok(segment_size())
    }

    async fn synchronous_commit(&mut self) -> Result<Option<String>, ClientError> {
        self.check_connection()?;
        Ok(self.state.borrow().synchronous_commit.map(Into::into))
    }

    async fn timeline_history(&mut self, timeline: TimelineId) -> Result<TimelineHistoryFile, ClientError> {
        self.check_connection()?;
        let state = self.state.borrow();
        let index = state.wal.index(timeline).expect("only timelines that exist are asked for");
        assert!(index > 0, "timeline 1 has no history");
        Ok(TimelineHistoryFile { timeline, content: state.wal.history_file(index) })
    }

    fn can_read_slot(&self) -> bool {
        self.state.borrow().can_read_slot
    }

    async fn read_slot(&mut self, _: &SlotName) -> Result<Option<SlotState>, ClientError> {
        self.check_connection()?;
        let state = self.state.borrow();
        let restart_lsn = state.sides[self.side].checker.slot_lsn;
        let timeline = state.wal.history(state.wal.current()).timeline_at(restart_lsn);
        Ok(Some(SlotState { restart_lsn: Some(restart_lsn), restart_timeline: Some(timeline) }))
    }

    async fn create_slot(&mut self, _: &SlotName) -> Result<(), ClientError> {
        unreachable!("the slot is always there")
    }

    async fn start_replication(
        &mut self,
        _: Option<&SlotName>,
        start_lsn: Lsn,
        timeline: TimelineId,
    ) -> Result<StreamStart<SimStream>, ClientError> {
        self.check_connection()?;
        let state = self.state.borrow();
        state.log.add(|| format!("START_REPLICATION {start_lsn} TIMELINE {timeline}"));
        let refused = |message| Err(server_error(SqlState::default(), message));
        let current = state.wal.current();
        let Some(index) = state.wal.index(timeline).filter(|i| state.wal.lineage(current).contains(i)) else {
            return refused(format!("requested timeline {timeline} is not in this server's history"));
        };
        if let Some((next, switch_lsn)) = state.wal.successor(index) {
            if start_lsn > switch_lsn {
                return refused(format!("requested starting point {start_lsn} is not in this history"));
            }
            if start_lsn == switch_lsn {
                let timeline = state.wal.id(next);
                return Ok(StreamStart::TimelineEnded(NextTimeline { timeline, start_lsn: switch_lsn }));
            }
        } else if start_lsn > state.flush_lsn {
            return refused(format!(
                "requested starting point {start_lsn} is ahead of the WAL flush position"
            ));
        }
        if start_lsn < state.removed_lsn {
            let message = format!("requested WAL segment of {start_lsn} has already been removed");
            return Err(server_error(SqlState::UNDEFINED_FILE, message));
        }
        Ok(StreamStart::Streaming(SimStream {
            state: Rc::clone(&self.state),
            side: self.side,
            generation: self.generation,
            index,
            sent_lsn: start_lsn,
            start_lsn,
            planned: None,
            ended: false,
            pong_due: false,
            ping_open: false,
            acknowledged_lsn: Lsn::INVALID,
            pings: 0,
            spoken: Rc::default(),
        }))
    }
}

pub struct SimStream {
    state: Rc<RefCell<State>>,
    side: usize,
    generation: u64,
    index: usize,
    start_lsn: Lsn,
    sent_lsn: Lsn,
    planned: Option<(Instant, Step)>,
    ended: bool,
    /// The receiver has asked for a sign of life.
    pong_due: bool,
    /// We have asked for one, and it has not come.
    ping_open: bool,
    /// What counts when the server shuts down: flush, or write as long as flush is 0.
    acknowledged_lsn: Lsn,
    pings: u64,
    /// The receiver has said something.
    spoken: Rc<Notify>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Data {
        len: u64,
    },
    Keepalive {
        reply_requested: bool,
    },
    CopyDone,
    Close,
    ShutDown,
    /// Nothing is said until the receiver says something, or this time has come.
    Listen,
}

const FOR_EVER: Duration = Duration::from_secs(1_000_000);
/// Far more pings than an honest shutdown takes when each is answered and flush moves.
const MOST_PINGS: u64 = 2_000;

impl SimStream {
    fn plan(&mut self) -> (Duration, Step) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let soon = |random: &mut fastrand::Rng| match random.u8(..10) {
            0..7 => Duration::ZERO,
            7..9 => Duration::from_micros(random.u64(..3_000)),
            _ => Duration::from_millis(random.u64(..4_000)),
        };
        if state.generation != self.generation {
            return (Duration::ZERO, Step::Close);
        }
        state.remove_wal();
        if state.mishap(250) {
            return (soon(&mut state.random), Step::Close);
        }
        if state.mishap(500) {
            state.counts.silences += 1;
            state.log.add(|| "primary falls silent".into());
            return (FOR_EVER, Step::Close);
        }
        if state.mishap(200) {
            state.shutting_down = true;
            state.counts.shutdowns += 1;
            state.log.add(|| "primary shuts down".into());
        }
        if !state.shutting_down && self.index == state.wal.current() && state.mishap(80) {
            if state.random.bool() {
                // the server we are connected to is the standby that takes over: it has what it sent
                let sent_lsn = state.sides.iter().map(|side| side.sent_lsn).fold(self.sent_lsn, Lsn::max);
                state.promote(sent_lsn);
            } else {
                let lowest = state.base_lsn.max(Lsn::new(state.flush_lsn.as_u64().saturating_sub(700_000)));
                state.promote(lowest);
                state.generation += 1;
                return (Duration::ZERO, Step::Close);
            }
        }
        let current = self.index == state.wal.current();
        if current && !state.shutting_down && state.random.bool() {
            state.grow();
        }
        if std::mem::take(&mut self.pong_due) {
            return (Duration::ZERO, Step::Keepalive { reply_requested: false });
        }
        let end_lsn = state.wal.successor(self.index).map_or(state.flush_lsn, |(_, switch_lsn)| switch_lsn);
        let left = end_lsn.saturating_since(self.sent_lsn);
        if left > 0 {
            let most = [100, 8_192, 131_072, 131_072, 131_072][state.random.usize(..5)];
            let len = state.random.u64(1..=most).max(most / 2).min(left);
            return (soon(&mut state.random), Step::Data { len });
        }
        if !current {
            return (soon(&mut state.random), Step::CopyDone);
        }
        if state.shutting_down {
            if self.acknowledged_lsn == self.sent_lsn {
                return (Duration::ZERO, Step::ShutDown);
            }
            if !std::mem::replace(&mut self.ping_open, true) {
                self.pings += 1;
                if self.pings > MOST_PINGS {
                    state.sides[self.side].checker.violate("P7: the server cannot shut down".into());
                }
                return (Duration::from_micros(200), Step::Keepalive { reply_requested: true });
            }
            return (Duration::from_secs(30), Step::Listen);
        }
        match state.random.u8(..4) {
            0 if state.mishap(2) => (Duration::ZERO, Step::Keepalive { reply_requested: true }),
            1 => (Duration::from_secs(state.random.u64(1..35)), Step::Listen),
            _ if state.flush_lsn < state.limit_lsn => {
                (Duration::from_micros(state.random.u64(..100_000)), Step::Listen)
            }
            _ => (Duration::from_secs(30), Step::Keepalive { reply_requested: true }),
        }
    }

    fn perform(&mut self, step: Step) -> Result<Option<ReplicationMessage>, ClientError> {
        let shared = Rc::clone(&self.state);
        let state = &mut *shared.borrow_mut();
        match step {
            Step::Data { len } => {
                let message = self.sent(state, len);
                Ok(Some(message))
            }
            Step::Keepalive { reply_requested } => {
                let mut wal_end_lsn = self.sent_lsn;
                if state.tell(self.side, Lie::KeepaliveAhead) {
                    wal_end_lsn = wal_end_lsn + state.random.u64(1..100_000);
                }
                state.log.add(|| format!("keepalive {wal_end_lsn} reply {reply_requested}"));
                let keepalive = PrimaryKeepalive { wal_end_lsn, sent_at: PgTimestamp(0), reply_requested };
                Ok(Some(ReplicationMessage::PrimaryKeepalive(keepalive)))
            }
            Step::CopyDone => {
                state.log.add(|| format!("CopyDone at {}", self.sent_lsn));
                self.ended = true;
                Ok(None)
            }
            Step::Close => {
                state.counts.disconnects += 1;
                state.log.add(|| "connection closed".into());
                Err(ClientError::Closed)
            }
            Step::ShutDown => {
                state.shutting_down = false;
                state.generation += 1;
                state.log.add(|| "primary has shut down".into());
                Err(ClientError::ShuttingDown)
            }
            Step::Listen => unreachable!("listening brings no message"),
        }
    }

    fn sent(&mut self, state: &mut State, len: u64) -> ReplicationMessage {
        let at = self.sent_lsn;
        let mut start_lsn = at;
        // a lie needs a place to point at, and not at the very beginning, where it would be no lie
        if at > self.start_lsn {
            if state.tell(self.side, Lie::JumpAhead) {
                start_lsn = at + state.random.u64(1..5_000);
            } else if state.tell(self.side, Lie::JumpSegment) {
                start_lsn = segment_size().segment_at(at).end_lsn();
            } else if state.tell(self.side, Lie::JumpBack) {
                start_lsn = Lsn::new(at.as_u64() - state.random.u64(1..=at - self.start_lsn));
            }
        }
        let jumped = start_lsn != at;
        let data = Bytes::from(state.wal.bytes(self.index, start_lsn, len));
        let mut wal_end_lsn = state.flush_lsn.max(start_lsn + len);
        if !jumped && state.tell(self.side, Lie::WalEndTooSmall) {
            wal_end_lsn = Lsn::new((at + len).as_u64() - state.random.u64(1..=len));
        }
        if jumped && state.sides[self.side].disk.0.borrow().canary == Some(Canary::HideJumps) {
            start_lsn = at;
            wal_end_lsn = wal_end_lsn.max(at + len);
        }
        state.log.add(|| format!("WAL {start_lsn}+{len} of {wal_end_lsn}"));
        self.sent_lsn = at + len;
        let side = &mut state.sides[self.side];
        side.sent_lsn = side.sent_lsn.max(self.sent_lsn);
        ReplicationMessage::WalData(WalData { start_lsn, wal_end_lsn, sent_at: PgTimestamp(0), data })
    }
}

impl ReplicationStream for SimStream {
    async fn next(&mut self) -> Result<Option<ReplicationMessage>, ClientError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            let Some((at, step)) = self.planned else {
                let (wait, step) = self.plan();
                self.planned = Some((Instant::now() + wait, step));
                continue;
            };
            let spoken = Rc::clone(&self.spoken);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(at) => {
                    self.planned = None;
                    if step != Step::Listen {
                        return self.perform(step);
                    }
                }
                () = spoken.notified() => {
                    // words change what is said next, but not what is under way, and nothing ends silence
                    if matches!(step, Step::Listen | Step::Keepalive { reply_requested: true }) {
                        self.planned = None;
                    }
                }
            }
        }
    }

    fn queue_status_update(&mut self, update: &StandbyStatusUpdate) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.sides[self.side].disk.0.borrow().crashed || state.generation != self.generation {
            return;
        }
        state.log.add(|| {
            let StandbyStatusUpdate { write_lsn, flush_lsn, reply_requested, .. } = update;
            format!("status write {write_lsn} flush {flush_lsn} reply {reply_requested}")
        });
        state.counts.acknowledgements += u64::from(update.flush_lsn.is_valid());
        let side = &mut state.sides[self.side];
        side.checker.check_status(update, self.index, self.sent_lsn, &state.wal, &side.disk);
        self.acknowledged_lsn = if update.flush_lsn.is_valid() { update.flush_lsn } else { update.write_lsn };
        self.pong_due |= update.reply_requested;
        self.ping_open = false;
        self.spoken.notify_one();
    }

    async fn send(&mut self) -> Result<(), ClientError> {
        Ok(())
    }

    async fn finish(self) -> Result<StreamEnd, ClientError> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.log.add(|| "CopyDone from the receiver".into());
        if !self.ended {
            return Ok(StreamEnd { next_timeline: None });
        }
        let (next, mut start_lsn) = state.wal.successor(self.index).expect("a timeline ended");
        let mut timeline = state.wal.id(next);
        if state.tell(self.side, Lie::NextTimelineNotLater) {
            timeline = state.wal.id(self.index);
        } else if state.tell(self.side, Lie::NextTimelineAhead) {
            start_lsn = self.sent_lsn + state.random.u64(1..2 * SEGMENT_LEN);
        } else if start_lsn > self.start_lsn && state.tell(self.side, Lie::HistoryMismatch) {
            start_lsn = Lsn::new(start_lsn.as_u64() - 1);
        }
        Ok(StreamEnd { next_timeline: Some(NextTimeline { timeline, start_lsn }) })
    }
}

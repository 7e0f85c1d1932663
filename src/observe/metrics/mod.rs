//! How a receiver is, in numbers, for whoever scrapes them.
//!
//! [`MeteringObserver`] hears what the receiver hears of itself, and keeps [`ReceiverMetrics`]: atomics that are stored to
//! where the stream is handled, and read by a thread that answers HTTP ([`MetricsServer`]). On the way of the WAL there is
//! no lock, no allocation and no system call more than without (the clock is read without one). What is computed from
//! several of them (lags, [health](Health)) is computed when somebody asks.

mod exposition;
mod health;
mod histogram;
mod http;
mod metering;
mod snapshot;

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use health::{Health, HealthLimits};
pub use http::{ListenAddr, ListenError, MetricsServer, ParseListenAddrError};
pub use metering::MeteringObserver;

use histogram::Histogram;

use crate::ErrorClass;
use crate::pg::Lsn;
use crate::sink::{SyncObserver, Synced};

/// Where a receiver is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// No server streams: it looks for one.
    Connecting,
    /// A server streams, or has nothing to send.
    Streaming,
    /// It was told to stop.
    Stopping,
    /// It ends, because going on would not be right.
    Failed,
}

impl Phase {
    const ALL: [Phase; 4] = [Phase::Connecting, Phase::Streaming, Phase::Stopping, Phase::Failed];
}

/// What is known of a receiver. Times are since it was made.
#[derive(Debug)]
pub struct ReceiverMetrics {
    limits: HealthLimits,
    origin: Instant,
    started_at: SystemTime,
    phase: AtomicU8,
    /// Since when no server streams.
    away_since: AtomicTime,
    heard_at: AtomicTime,
    /// Since when the oldest WAL that is not durable is here.
    unflushed_since: AtomicTime,
    /// Since when the server is known to have WAL that is not durable here.
    behind_since: AtomicTime,
    timeline: AtomicU32,
    /// Positions; 0 as long as none is known.
    from_lsn: AtomicU64,
    received_lsn: AtomicU64,
    written_lsn: AtomicU64,
    flushed_lsn: AtomicU64,
    server_lsn: AtomicU64,
    /// Between the server's clock when it sent, and ours when that came; [`i64::MIN`] before the first message.
    transit_micros: AtomicI64,
    wal_len: AtomicU64,
    message_count: AtomicU64,
    segment_count: AtomicU64,
    stream_count: AtomicU64,
    disconnect_count: AtomicU64,
    switch_count: AtomicU64,
    /// By class, in the order of [`ERROR_CLASSES`].
    error_counts: [AtomicU64; ERROR_CLASSES.len()],
    /// Microseconds since 1970; 0 for never.
    last_error_at: AtomicU64,
    acknowledgement: Histogram,
    data_syncs: Histogram,
    directory_syncs: Histogram,
    /// Asked and answered on the thread that answers HTTP.
    slot: Mutex<Option<SlotReading>>,
    /// Asked on the thread that moves it.
    archive_slot: Mutex<Option<SlotReading>>,
    archive: OnceLock<ArchiveProbe>,
}

const ERROR_CLASSES: [(ErrorClass, &str); 4] = [
    (ErrorClass::Transient, "transient"),
    (ErrorClass::Operator, "operator"),
    (ErrorClass::Integrity, "integrity"),
    (ErrorClass::Bug, "bug"),
];

/// How it stands with a slot of the receiver's on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotReading {
    /// The WAL that it holds back, in bytes.
    pub held_bytes: Option<u64>,
    /// How much may still be written before it may be lost; `None` when nothing bounds it.
    pub safe_wal_size: Option<i64>,
    /// Whether it is lost already.
    pub lost: bool,
}

/// How it stands with the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArchiveReading {
    /// All before this is in it.
    pub archived_lsn: Option<Lsn>,
    /// WAL that is durable here and not there, in bytes.
    pub behind_bytes: u64,
    /// How long the oldest of that has been durable here.
    pub oldest_age: Option<Duration>,
    /// Requests that the store failed.
    pub failure_count: u64,
    /// Whether this receiver is the one that writes there.
    pub is_writer: bool,
}

/// Who is asked for it, on the thread that answers HTTP.
struct ArchiveProbe(Box<dyn Fn() -> ArchiveReading + Send + Sync>);

impl std::fmt::Debug for ArchiveProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ArchiveProbe")
    }
}

/// A time that may not be set.
#[derive(Debug)]
struct AtomicTime(AtomicU64);

impl AtomicTime {
    const NONE: u64 = u64::MAX;

    fn new(time: Option<Duration>) -> Self {
        let new = AtomicTime(AtomicU64::new(Self::NONE));
        new.set(time);
        new
    }

    fn set(&self, time: Option<Duration>) {
        let nanos = time.map_or(Self::NONE, |time| u64::try_from(time.as_nanos()).unwrap_or(Self::NONE));
        self.0.store(nanos, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        Some(self.0.load(Ordering::Relaxed)).filter(|nanos| *nanos != Self::NONE).map(Duration::from_nanos)
    }
}

impl ReceiverMetrics {
    /// A receiver that begins now, and counts as well within these limits.
    pub fn new(limits: HealthLimits) -> Self {
        ReceiverMetrics {
            limits,
            origin: Instant::now(),
            started_at: SystemTime::now(),
            phase: AtomicU8::new(Phase::Connecting as u8),
            away_since: AtomicTime::new(Some(Duration::ZERO)),
            heard_at: AtomicTime::new(None),
            unflushed_since: AtomicTime::new(None),
            behind_since: AtomicTime::new(None),
            timeline: AtomicU32::new(0),
            from_lsn: AtomicU64::new(0),
            received_lsn: AtomicU64::new(0),
            written_lsn: AtomicU64::new(0),
            flushed_lsn: AtomicU64::new(0),
            server_lsn: AtomicU64::new(0),
            transit_micros: AtomicI64::new(i64::MIN),
            wal_len: AtomicU64::new(0),
            message_count: AtomicU64::new(0),
            segment_count: AtomicU64::new(0),
            stream_count: AtomicU64::new(0),
            disconnect_count: AtomicU64::new(0),
            switch_count: AtomicU64::new(0),
            error_counts: std::array::from_fn(|_| AtomicU64::new(0)),
            last_error_at: AtomicU64::new(0),
            acknowledgement: Histogram::default(),
            data_syncs: Histogram::default(),
            directory_syncs: Histogram::default(),
            slot: Mutex::new(None),
            archive_slot: Mutex::new(None),
            archive: OnceLock::new(),
        }
    }

    /// It was told to stop, and makes durable what it has.
    pub fn stopping(&self) {
        self.set_phase(Phase::Stopping);
    }

    /// Receiving has ended with an error.
    pub fn failed(&self, class: ErrorClass) {
        self.count_error(class);
        self.set_phase(Phase::Failed);
    }

    /// An error that is no reason to end.
    pub fn count_error(&self, class: ErrorClass) {
        if let Some(index) = ERROR_CLASSES.iter().position(|(known, _)| *known == class) {
            self.error_counts[index].fetch_add(1, Ordering::Relaxed);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_error_at.store(u64::try_from(now.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The slot was looked at; `None`: it cannot be.
    pub fn set_slot(&self, reading: Option<SlotReading>) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = reading;
    }

    /// The slot that follows the archive was looked at; `None`: it cannot be.
    pub fn set_archive_slot(&self, reading: Option<SlotReading>) {
        *self.archive_slot.lock().unwrap_or_else(PoisonError::into_inner) = reading;
    }

    /// From now on there is an archive, and `probe` knows how it stands with it. There is only ever one.
    pub fn set_archive(&self, probe: impl Fn() -> ArchiveReading + Send + Sync + 'static) {
        let _ = self.archive.set(ArchiveProbe(Box::new(probe)));
    }

    /// What is measured, as Prometheus reads it.
    pub fn exposition(&self) -> String {
        exposition::write(&self.snapshot())
    }

    /// Whether it does what it is there for.
    pub fn health(&self) -> Health {
        health::judge(&self.snapshot(), self.limits)
    }

    /// Whether a server streams right now.
    pub fn is_streaming(&self) -> bool {
        self.phase() == Phase::Streaming
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::Relaxed)).min(Phase::ALL.len() - 1)]
    }

    /// Whoever ends does not begin again.
    fn set_phase(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::Relaxed);
    }

    fn streaming(&self) {
        self.away_since.set(None);
        let (from, to) = (Phase::Connecting as u8, Phase::Streaming as u8);
        let _ = self.phase.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn away(&self) {
        let (from, to) = (Phase::Streaming as u8, Phase::Connecting as u8);
        if self.phase.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.away_since.set(Some(self.now()));
        }
    }
}

impl SyncObserver for ReceiverMetrics {
    fn synced(&self, what: Synced, took: Duration) {
        match what {
            Synced::Data => self.data_syncs.observe(took),
            Synced::Directory => self.directory_syncs.observe(took),
        }
    }
}

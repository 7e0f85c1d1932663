//! Why a stream, or the following of a server, ended otherwise than wanted.

use std::time::Duration;

use super::refusal::Refusal;
use super::resume::ResumeError;
use crate::ErrorClass;
use crate::client::ClientError;
use crate::pg::{Lsn, TimelineHistoryError, TimelineId};
use crate::sink::SinkError;

/// What the server must not do within a stream, or must do and did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiverError {
    /// The bytes belong elsewhere than where the last ones ended.
    #[error("server sent WAL for {found}, but {expected} comes next")]
    UnexpectedPosition {
        /// The next byte's place.
        expected: Lsn,
        /// The place that the server named.
        found: Lsn,
    },
    /// The server says that its WAL ends before what it has just sent.
    #[error("server sent WAL up to {end_lsn}, but says that its WAL ends at {wal_end_lsn}")]
    WalEndBeforeData {
        /// Where the data ends.
        end_lsn: Lsn,
        /// Where the server says that its WAL ends.
        wal_end_lsn: Lsn,
    },
    /// The server says that it has sent more than what has come.
    #[error("server says that it sent WAL up to {sent_lsn}, but only {received_lsn} was reached")]
    SentButNotReceived {
        /// What the server says.
        sent_lsn: Lsn,
        /// What has come.
        received_lsn: Lsn,
    },
    /// Something came after the end.
    #[error("server sent a message after the end of the stream")]
    MessageAfterEnd,
    /// No sign of life, though one was asked for.
    #[error("server was silent for {} s", .after.as_secs_f32())]
    Timeout {
        /// The bound.
        after: Duration,
    },
    /// The server shuts down and waits for the disk, which hangs.
    #[error(
        "server is shutting down and has waited for {} s: WAL is received up to {received_lsn}, but durable only up to {flush_lsn}",
        .after.as_secs_f32()
    )]
    ShutdownHeldUp {
        /// What is durable.
        flush_lsn: Lsn,
        /// What the server waits for.
        received_lsn: Lsn,
        /// The bound.
        after: Duration,
    },
    /// Nothing was read for long, because there is no room for more.
    #[error("{} for {} s", if *.all_durable { "there was no room for more WAL" } else { "the disk took nothing more" }, .after.as_secs_f32())]
    NoRoom {
        /// It is not the disk that is waited for: all that was received is durable.
        all_durable: bool,
        /// The bound.
        after: Duration,
    },
    /// The sink says that it made durable what it was never given.
    #[error("position {flush_lsn} was reported durable, but only {received_lsn} was received")]
    FlushedBeyondReceived {
        /// What the sink says.
        flush_lsn: Lsn,
        /// What it can have.
        received_lsn: Lsn,
    },
}

/// Why receiving ended.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// A connection could not be opened.
    #[error("could not connect to server")]
    Connect {
        /// What to do about it.
        class: ErrorClass,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A command failed, or the connection did.
    #[error("could not {during}")]
    Client {
        /// What was being done.
        during: &'static str,
        /// Why it failed.
        source: ClientError,
    },
    /// The server does not answer.
    #[error("could not {during}: server was silent for {} s", .after.as_secs_f32())]
    Silent {
        /// What was being done.
        during: &'static str,
        /// The bound.
        after: Duration,
    },
    /// The server cannot be asked to begin there.
    #[error("could not start streaming at {start_lsn} on timeline {timeline}")]
    Start {
        /// The start.
        start_lsn: Lsn,
        /// Its timeline.
        timeline: TimelineId,
        /// Why it failed.
        source: ClientError,
    },
    /// The server does not stream, for a reason that is known.
    #[error("{refusal}")]
    Refused {
        /// The reason.
        refusal: Refusal,
        /// What was being done, and the server's own words.
        source: Box<ReceiveError>,
    },
    /// The stream is not to be trusted, or has gone silent.
    #[error("replication stream of timeline {timeline} was broken off")]
    Stream {
        /// The timeline.
        timeline: TimelineId,
        /// Why.
        source: ReceiverError,
    },
    /// WAL cannot be made durable.
    #[error("could not store WAL")]
    Sink(#[from] SinkError),
    /// There is no place to begin at.
    #[error("could not find where to start")]
    Resume(#[from] ResumeError),
    /// The slot does not exist.
    #[error("replication slot \"{0}\" does not exist")]
    NoSlot(crate::pg::SlotName),
    /// A history file cannot be read.
    #[error("invalid history of timeline {timeline}")]
    History {
        /// The timeline.
        timeline: TimelineId,
        /// What is wrong with it.
        source: TimelineHistoryError,
    },
    /// The server goes on with a timeline that is not a later one.
    #[error("server ended timeline {timeline} to go on with timeline {next}, which is not later")]
    TimelineOrder {
        /// The timeline that ended.
        timeline: TimelineId,
        /// What the server named.
        next: TimelineId,
    },
    /// The server goes on further ahead than what was received.
    #[error(
        "server goes on at {next_lsn} on timeline {next}, but timeline {timeline} was received up to {received_lsn}"
    )]
    TimelineGap {
        /// The timeline that ended.
        timeline: TimelineId,
        /// How far it was received.
        received_lsn: Lsn,
        /// The next timeline.
        next: TimelineId,
        /// Where it begins.
        next_lsn: Lsn,
    },
    /// The history of the next timeline tells another story than the end of the last one.
    #[error("history of timeline {next} does not say that timeline {timeline} ended at {next_lsn}")]
    HistoryMismatch {
        /// The timeline that ended.
        timeline: TimelineId,
        /// The next timeline.
        next: TimelineId,
        /// Where it begins.
        next_lsn: Lsn,
    },
    /// The server ended the stream of its newest timeline and named no other one.
    #[error("server ended timeline {timeline} and named none to go on with")]
    NoNextTimeline {
        /// The timeline.
        timeline: TimelineId,
    },
    /// Another cluster answers.
    #[error("server is system {found} now, but was system {expected} before")]
    SystemChanged {
        /// The first one's identifier.
        expected: crate::pg::SystemIdentifier,
        /// This one's.
        found: crate::pg::SystemIdentifier,
    },
}

/// Why a connection could not be opened, and whether trying again may help.
#[derive(Debug)]
pub struct ConnectFailure {
    /// What to do about it.
    pub class: ErrorClass,
    /// The reason.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl From<ConnectFailure> for ReceiveError {
    fn from(ConnectFailure { class, source }: ConnectFailure) -> Self {
        ReceiveError::Connect { class, source }
    }
}

impl ReceiveError {
    /// Whether WAL could not be stored because it did not fit.
    pub fn is_out_of_room(&self) -> bool {
        matches!(self, ReceiveError::Sink(error) if error.is_out_of_room())
    }

    /// Whether it was broken off because there was no room for more.
    pub(super) fn is_pause(&self) -> bool {
        matches!(self, ReceiveError::Stream { source: ReceiverError::NoRoom { .. }, .. })
    }

    /// What to do about it. [`ErrorClass::Transient`] is retried while receiving, with growing waits.
    pub fn class(&self) -> ErrorClass {
        match self {
            ReceiveError::Connect { class, .. } => *class,
            ReceiveError::Client { source, .. } | ReceiveError::Start { source, .. } => source.class(),
            ReceiveError::Refused { refusal, .. } => refusal.class(),
            ReceiveError::Silent { .. } => ErrorClass::Transient,
            ReceiveError::Stream { source, .. } => match source {
                ReceiverError::Timeout { .. }
                | ReceiverError::ShutdownHeldUp { .. }
                | ReceiverError::NoRoom { .. } => ErrorClass::Transient,
                ReceiverError::FlushedBeyondReceived { .. } => ErrorClass::Bug,
                _ => ErrorClass::Integrity,
            },
            ReceiveError::Sink(error) => error.class(),
            ReceiveError::Resume(error) => error.class(),
            ReceiveError::NoSlot(_) => ErrorClass::Operator,
            ReceiveError::History { .. }
            | ReceiveError::TimelineOrder { .. }
            | ReceiveError::TimelineGap { .. }
            | ReceiveError::HistoryMismatch { .. }
            | ReceiveError::NoNextTimeline { .. }
            | ReceiveError::SystemChanged { .. } => ErrorClass::Integrity,
        }
    }
}

//! Why a standby was not pointed elsewhere.

use std::path::PathBuf;

use super::configuration::ConfigurationError;
use super::directories::WorkspaceError;
use super::fork::Diverged;
use super::state::StateError;
use crate::ErrorClass;
use crate::client::{ClientError, OpenError};
use crate::inspect::InspectError;
use crate::pg::{Lsn, ServerVersion, SlotName, SystemIdentifier, TimelineHistoryError, TimelineId};

/// What a run of `standby follow` failed at.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A connection could not be made.
    #[error("could not connect to the new primary")]
    Connect(#[from] OpenError),
    /// The new primary did not say who it is.
    #[error("could not ask the new primary who it is")]
    Identify(#[source] ClientError),
    /// The new primary's history makes no sense.
    #[error("the new primary's timeline history is damaged")]
    History(#[source] TimelineHistoryError),
    /// The standby was not asked.
    #[error(transparent)]
    Ask(#[from] InspectError),
    /// The standby's directory cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The standby's directory cannot be written to.
    #[error("could not use the data directory")]
    Directory(#[from] WorkspaceError),
    /// Another cluster.
    #[error("the new primary is of system {found}, and the standby of system {own}")]
    OtherCluster {
        /// The standby's.
        own: SystemIdentifier,
        /// The new primary's.
        found: SystemIdentifier,
    },
    /// Another major version.
    #[error("the new primary is of version {upstream}, and the standby of version {standby}")]
    OtherVersion {
        /// The standby's major.
        standby: u16,
        /// The new primary's.
        upstream: ServerVersion,
    },
    /// The connection string leads to the standby.
    #[error("the connection string leads to the standby itself")]
    Itself,
    /// A primary.
    #[error("\"{}\" is not a standby's", .0.display())]
    NotAStandby(PathBuf),
    /// Replay does not go on, so the standby would not connect anew.
    #[error("replay is paused at {0}, and a standby that is paused connects to nobody")]
    Paused(Lsn),
    /// This role may not know it.
    #[error("the standby did not say on which timeline it is")]
    UnknownTimeline,
    /// The standby has what the new primary has not.
    #[error("the standby cannot follow this server")]
    Diverged(#[source] Diverged),
    /// The new primary has not what the standby needs.
    #[error(
        "the new primary does not have the WAL from {start_lsn} on timeline {timeline}, which the standby needs"
    )]
    NoWal {
        /// Where it begins.
        start_lsn: Lsn,
        /// The timeline that it is asked for on.
        timeline: TimelineId,
        /// What it said.
        #[source]
        source: ClientError,
    },
    /// The slot was not made.
    #[error("could not create replication slot \"{slot}\" on the new primary")]
    CreateSlot {
        /// Its name.
        slot: SlotName,
        /// Why not.
        #[source]
        source: ClientError,
    },
    /// The slot is there already.
    #[error("replication slot \"{0}\" already exists on the new primary")]
    SlotExists(SlotName),
    /// Somebody streams from it.
    #[error("replication slot \"{0}\" is in use on the new primary")]
    SlotActive(SlotName),
    /// The configuration was not written.
    #[error("could not write the standby's configuration")]
    Configuration(#[from] ConfigurationError),
    /// The configuration was not taken.
    #[error("could not change the standby's configuration")]
    AlterSystem(#[source] ClientError),
    /// A part of the configuration was taken, and could not be taken back.
    #[error(
        "could not change the standby's configuration, and could not put back {name}, which is changed in \
         postgresql.auto.conf: {restore}"
    )]
    HalfAltered {
        /// The setting.
        name: String,
        /// Why it was not put back.
        restore: Box<ClientError>,
        /// Why not all of it was changed.
        #[source]
        source: ClientError,
    },
    /// The passfile's path cannot stand in a connection string.
    #[error("the path of the data directory is not valid UTF-8, and the standby needs a password file in it")]
    UnprintablePath,
    /// A certificate, key or list that only we may read.
    #[error("the standby would connect with \"{}\", which its user (uid {uid}) may not read", .file.display())]
    UnreadableFile {
        /// The file.
        file: PathBuf,
        /// The standby's user.
        uid: u32,
    },
    /// Nobody could be asked whether it streams.
    #[error("the standby was pointed at the new primary, which could not be asked whether it streams")]
    AskWhetherStreaming(#[source] ClientError),
    /// Nobody may be asked whether it streams.
    #[error("the standby was pointed at the new primary; this role may not see there whether it streams")]
    CannotSee,
    /// The new primary does not see it.
    #[error(
        "the standby was pointed at the new primary, which did not show it streaming within {seconds} s \
         (the standby is at {replayed_lsn}, the new primary on timeline {timeline})"
    )]
    NotStreaming {
        /// How long was waited.
        seconds: u64,
        /// How far the standby is.
        replayed_lsn: Lsn,
        /// The new primary's timeline.
        timeline: TimelineId,
    },
}

impl FollowError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Connect(source) => source.class(),
            Self::Identify(source)
            | Self::CreateSlot { source, .. }
            | Self::AlterSystem(source)
            | Self::HalfAltered { source, .. }
            | Self::AskWhetherStreaming(source) => source.class(),
            Self::Ask(source) => source.class(),
            Self::State(source) => source.class(),
            Self::History(_) | Self::OtherCluster { .. } | Self::Diverged(_) => ErrorClass::Integrity,
            _ => ErrorClass::Operator,
        }
    }
}

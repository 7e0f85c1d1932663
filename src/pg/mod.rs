//! PostgreSQL's vocabulary: positions, timelines, segments, names and versions.
//!
//! Nothing here touches a socket, a file or a clock. Every type is right by construction: a [`SlotName`] is a
//! name the server will take, a [`WalSegmentSize`] is a power of two between 1 MB and 1 GB. What one server
//! version does differently from another is data in [`version`], so that no other module compares versions.

mod canonical_path;
mod checksum_algorithm;
pub mod control_file;
#[doc(hidden)]
pub mod fuzzing;
mod identifier;
mod lsn;
mod marks;
mod record_crc;
mod segment;
mod slot_name;
mod timeline;
mod timestamp;
pub mod version;
#[doc(hidden)]
pub mod wal_builder;
mod wal_checker;
pub mod wal_page;
pub mod wal_record;
mod wal_scanner;

pub use canonical_path::canonical_path;
pub use checksum_algorithm::{ChecksumAlgorithm, ParseChecksumAlgorithmError};
pub use control_file::{ClusterLayout, ClusterState, ControlFile};
pub use identifier::{ParseSystemIdentifierError, SystemIdentifier};
pub use lsn::{Lsn, ParseLsnError};
pub use marks::Marks;
pub use segment::{
    ParseWalFileNameError, ParseWalSegmentSizeError, WalFileName, WalSegment, WalSegmentSize,
    WalSegmentSizeError,
};
pub use slot_name::{SlotName, SlotNameError};
pub use timeline::{
    ParseTimelineIdError, TimelineHistory, TimelineHistoryEntry, TimelineHistoryError, TimelineId,
};
pub use timestamp::{ParseTimestampError, Timestamp};
pub use version::ServerVersion;
pub use wal_checker::WalChecker;
pub use wal_record::{WalError, WalErrorKind};
pub use wal_scanner::{WalEvent, WalScanner};

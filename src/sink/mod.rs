//! Bytes become durable here, and nowhere else: only this module can say how far.
//!
//! A [`SegmentWriter`] cuts the stream into segment files on a [`Disk`]; a [`SinkThread`] runs it beside the
//! socket. Whoever acknowledges WAL needs a [`FlushedLsn`], and only [`SegmentWriter::flush`] and
//! [`SegmentWriter::seal`] make one, after every `fdatasync` and directory `fsync` that it stands for.
//!
//! What holds, whatever happens in between (design: P1, P3, P4):
//! * every byte of a segment file is either zero or the primary's byte of that position and timeline;
//! * a file under its final name is complete, was durable before it got the name, and is never written again;
//! * bytes that are written again after a restart are written in place, never behind a truncation;
//! * after one failed write or fsync nothing is acknowledged any more.

mod begun_segment;
mod completed_segment;
mod compressed_segment;
mod continuation;
mod disk;
mod error;
mod flushed;
mod history_file;
mod interface;
mod listing;
#[doc(hidden)]
pub mod memory_disk;
mod queue;
mod ready_file;
mod real_disk;
mod room;
mod segment_writer;
mod stamp;
mod sync_observer;
mod thread;
mod unverified_segment;

pub use disk::{Disk, DiskEntry, DiskFile, OpenMode};
pub use error::{Operation, SinkError};
pub use flushed::{ArchivedLsn, FlushedLsn};
pub use interface::{Sink, SinkEvent};
pub use listing::SegmentFile;
pub use queue::{Batch, SinkCommand, SinkLimits};
pub use real_disk::{RealDisk, RealFile};
pub use room::{FullDisk, free_len};
pub use segment_writer::{Layout, PendingFlush, RecordCheck, SegmentWriter};
pub use stamp::{ClusterDifference, ClusterStamp};
pub use sync_observer::{SyncObserver, Synced};
pub use thread::SinkThread;
pub use unverified_segment::Verification;

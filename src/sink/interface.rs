//! A sink as whoever drives it sees it.

use bytes::Bytes;

use super::disk::DiskEntry;
use super::error::SinkError;
use super::flushed::{ArchivedLsn, FlushedLsn};
use super::queue::SinkCommand;
use super::stamp::ClusterStamp;
use crate::pg::{Lsn, TimelineId, WalSegmentSize};

/// What the sink has to say to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkEvent {
    /// More is durable.
    Flushed(FlushedLsn),
    /// More is with the operating system: see [`Sink::written_lsn`].
    Written,
    /// The queue was full and has room again.
    Room,
    /// The flush that was to be done [here](Sink::flushes_here) is not done yet, and the task goes on.
    FlushTakesLong,
    /// More is in the archive. Only sinks that archive say so.
    Archived(ArchivedLsn),
}

/// A sink as the driver sees it: never blocking, with events that can be awaited.
///
/// The driver is written against this, so that a simulated sink in virtual time can stand in for the thread.
pub trait Sink {
    /// Queues a command. What is to be written may be kept until the next question or other command, so that it is written in one.
    fn push(&mut self, command: SinkCommand);
    /// How far the stream is with the operating system, when what was pushed has been handed to it as far as that takes no time.
    fn written_lsn(&mut self) -> Lsn;
    /// Whether more WAL should be read from the socket.
    fn has_room(&self) -> bool;
    /// Whether a flush that was asked for is done by the thread that polls this task as soon as the task waits. Its event
    /// comes before any other, or [`SinkEvent::FlushTakesLong`] does.
    fn flushes_here(&self) -> bool {
        false
    }
    /// The next event. Cancel-safe. After an error there are no more.
    fn event(&mut self) -> impl Future<Output = Result<SinkEvent, SinkError>>;
    /// Checks the directory's cluster and lists the directory, after all that was queued.
    fn prepare(&mut self, stamp: ClusterStamp) -> impl Future<Output = Result<Vec<DiskEntry>, SinkError>>;
    /// Begins a stream, after all that was queued. Events of the stream before it do not come any more: on the
    /// same timeline they would speak of positions that this one has not reached again.
    fn begin(
        &mut self,
        timeline: TimelineId,
        segment_size: WalSegmentSize,
        start_lsn: Lsn,
    ) -> impl Future<Output = Result<(), SinkError>>;
    /// Makes a history file durable, after all that was queued.
    fn write_history(
        &mut self,
        timeline: TimelineId,
        content: Bytes,
    ) -> impl Future<Output = Result<(), SinkError>>;
    /// Waits until all that was queued is done, and durable.
    fn settle(&mut self) -> impl Future<Output = Result<(), SinkError>>;
}

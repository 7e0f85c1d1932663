//! What the receiver hands to the sink, and how the sink works through what has gathered.

use bytes::Bytes;

use super::disk::Disk;
use super::error::SinkError;
use super::flushed::FlushedLsn;
use super::segment_writer::SegmentWriter;
use crate::pg::Lsn;

/// One thing to do, in the order of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkCommand {
    /// Write bytes that do not cross a segment's end.
    Write {
        /// Where the first byte belongs.
        lsn: Lsn,
        /// The bytes.
        data: Bytes,
    },
    /// Complete the segment whose last byte came before.
    Seal,
    /// Make durable what came before, soon.
    Flush,
}

impl SinkCommand {
    /// What it takes of the queue: its WAL, and itself, for WAL may come byte by byte.
    pub fn weight(&self) -> usize {
        if let SinkCommand::Write { data, .. } = self { weight(data) } else { 0 }
    }

    /// The bytes of WAL in it.
    pub fn len(&self) -> usize {
        if let SinkCommand::Write { data, .. } = self { data.len() } else { 0 }
    }

    /// Whether it brings no WAL.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkLimits {
    /// The weight of the queue, in bytes, from which on the socket is not read any more. What arrives is
    /// accounted for afterwards, so the queue can exceed this by what one wake-up of the receiver brings.
    pub queued_bytes: usize,
}

impl Default for SinkLimits {
    fn default() -> Self {
        SinkLimits { queued_bytes: 8 << 20 }
    }
}

/// As much is written at once: more would leave the processor's cache between being checked and being written.
const MAX_PIECE_LEN: u64 = 2 << 20;

/// All that had gathered when the sink came to look: written in pieces as large as segments allow, to be made durable by one
/// flush at its end, however many were asked for.
#[derive(Debug, Default)]
pub struct Batch {
    chunks: Vec<Bytes>,
    chunks_lsn: Lsn,
    chunks_end_lsn: Lsn,
    flush_wanted: bool,
}

impl Batch {
    /// Works through `commands`; `publish` hears of every segment that is complete, `wrote` of the
    /// [weight](SinkCommand::weight) that left the queue, and how far the stream is written then. A flush is left to be
    /// done: see [`Self::take_flush_wanted`].
    pub fn run<D: Disk>(
        &mut self,
        writer: &mut SegmentWriter<D>,
        commands: impl IntoIterator<Item = SinkCommand>,
        mut publish: impl FnMut(FlushedLsn),
        mut wrote: impl FnMut(usize, Lsn),
    ) -> Result<(), SinkError> {
        let mut write_out = |batch: &mut Self, writer: &mut SegmentWriter<D>| {
            let weight = batch.write_out(writer)?;
            if weight > 0 {
                wrote(weight, writer.written_lsn());
            }
            Ok::<_, SinkError>(())
        };
        for command in commands {
            match command {
                SinkCommand::Write { lsn, data } => {
                    if !self.chunks.is_empty() && lsn != self.chunks_end_lsn {
                        write_out(self, writer)?;
                    }
                    if self.chunks.is_empty() {
                        self.chunks_lsn = lsn;
                    }
                    self.chunks_end_lsn = lsn + data.len() as u64;
                    self.chunks.push(data);
                    if self.chunks_end_lsn - self.chunks_lsn >= MAX_PIECE_LEN {
                        write_out(self, writer)?;
                    }
                }
                SinkCommand::Seal => {
                    write_out(self, writer)?;
                    publish(writer.seal()?);
                    self.flush_wanted = false;
                }
                SinkCommand::Flush => self.flush_wanted = true,
            }
        }
        write_out(self, writer)
    }

    /// Whether a flush was asked for since the last one.
    pub fn take_flush_wanted(&mut self) -> bool {
        std::mem::take(&mut self.flush_wanted)
    }

    fn write_out<D: Disk>(&mut self, writer: &mut SegmentWriter<D>) -> Result<usize, SinkError> {
        let written = self.chunks.iter().map(weight).sum();
        if written > 0 {
            writer.write(self.chunks_lsn, &self.chunks)?;
            self.chunks.clear();
        }
        Ok(written)
    }
}

/// What a command takes beside its bytes.
const COMMAND_WEIGHT: usize = 128;

fn weight(data: &Bytes) -> usize {
    data.len() + COMMAND_WEIGHT
}

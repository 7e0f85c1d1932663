//! Whether a stream goes on where the directory ends.
//!
//! A stream begins at a segment's start, and finished segments are not fetched again. So a server that has lost WAL and
//! written other WAL on the same timeline (it was restored from a snapshot, say) would be taken up where the directory
//! ends, and the two halves would never fit. They are tied together by what crosses the boundary: each record names the
//! one before it, and a record that is not finished says how much is to come. So a checker reads the finished segment
//! before the stream's first.

use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::error::SinkError;
use super::segment_writer::SegmentWriter;
use crate::compression::CompressionMethod;
use crate::pg::{Lsn, SystemIdentifier, TimelineId, WalChecker, WalFileName, WalSegmentSize};

/// A checker for a stream, and the file whose end it knows.
#[derive(Debug)]
pub(super) struct StreamChecker {
    checker: WalChecker,
    start_lsn: Lsn,
    /// The finished segment before the stream.
    continues: Option<PathBuf>,
}

impl StreamChecker {
    /// Checks the bytes from `lsn` on, which must be where those before ended. What fails once fails for ever.
    pub(super) fn check(&mut self, lsn: Lsn, data: &[u8]) -> Result<(), SinkError> {
        self.checker.push(lsn, data).map_err(|error| match self.doubted_file() {
            Some(path) => SinkError::NoContinuation { path: path.to_owned(), source: error },
            None => SinkError::InvalidWal(error),
        })
    }

    /// The file that the stream was to continue, as long as nothing shows that it does.
    fn doubted_file(&self) -> Option<&Path> {
        let joined = self.checker.last_record_lsn().is_some_and(|lsn| lsn >= self.start_lsn);
        self.continues.as_deref().filter(|_| !joined)
    }
}

impl<D: Disk> SegmentWriter<D> {
    /// A checker for a stream of `timeline` from `start_lsn` on.
    pub(super) fn stream_checker(
        &mut self,
        system: SystemIdentifier,
        segment_size: WalSegmentSize,
        timeline: TimelineId,
        start_lsn: Lsn,
    ) -> Result<StreamChecker, SinkError> {
        if self.layout().is_archive() && start_lsn.as_u64() > 0 {
            let before = segment_size.segment_at(Lsn::new(start_lsn.as_u64() - 1));
            let name = WalFileName { timeline, segment: before }.to_string();
            for method in CompressionMethod::ALL {
                let name = format!("{name}{}", method.suffix());
                let checker = WalChecker::new(system, segment_size, timeline, before.start_lsn());
                if let Some(checker) = self.checker_behind(checker, method, &name, segment_size)? {
                    let continues = Some(self.disk.path(&name));
                    return Ok(StreamChecker { checker, start_lsn, continues });
                }
            }
        }
        let checker = WalChecker::new(system, segment_size, timeline, start_lsn);
        Ok(StreamChecker { checker, start_lsn, continues: None })
    }

    /// `checker`, when it has read a whole segment; `None` when there is none, or none that is whole.
    fn checker_behind(
        &mut self,
        mut checker: WalChecker,
        method: CompressionMethod,
        name: &str,
        segment_size: WalSegmentSize,
    ) -> Result<Option<WalChecker>, SinkError> {
        if self.open_existing(name)?.is_none() {
            return Ok(None);
        }
        let mut verdict = Ok(());
        let take = |piece: &[u8]| {
            verdict = checker.push(checker.next_lsn(), piece);
            verdict.is_ok()
        };
        let len = self.read_pieces(method, name, segment_size.as_u64(), take)?;
        if let Err(error) = verdict {
            let told = "last finished segment is not valid WAL; the stream cannot be compared with it";
            tracing::warn!(file = name, %error, "{told}");
            return Ok(None);
        }
        Ok(len.filter(|len| *len == segment_size.as_u64()).map(|_| checker))
    }
}

//! The file that is being received: bytes go from the receive buffer to the kernel, and to nowhere else.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::bulk::{self, BulkQueue, BusyDevice, LongFile};
use super::checksum::{Checksum, RunningChecksum};
use super::confined::FileError;
use super::syncer::start_writeback;
use crate::direct::BLOCK_LEN;

/// How many bytes are gathered for one write.
const GATHER_LEN: usize = 128 << 10;

/// How many pieces are gathered for one write.
const GATHER_COUNT: usize = 32;

/// After how many bytes of a long file writeback begins, so that the `fsync` behind it finds little to do.
const WRITEBACK_LEN: u64 = 8 << 20;

/// A file that is being written.
#[derive(Debug)]
pub(super) struct OpenFile {
    place: Place,
    checksum: RunningChecksum,
    gathered: Vec<Bytes>,
    gathered_len: usize,
    written: u64,
    captured: Option<Vec<u8>>,
}

/// How it is written.
#[derive(Debug)]
enum Place {
    /// Here, through the page cache or into a pipe.
    Cached { file: File, path: PathBuf, writeback: Writeback },
    /// Past the page cache, elsewhere.
    Bulk { file: Arc<LongFile>, queue: BulkQueue, busy: BusyDevice },
}

/// Whether long files are pushed to disk while they are written, and how far one has been.
#[derive(Debug, Clone, Copy)]
pub(super) enum Writeback {
    /// The kernel decides.
    Lazy,
    /// Everything before this offset has been pushed.
    From(u64),
}

/// A file that has been written.
#[derive(Debug)]
pub(super) struct WrittenFile {
    pub(super) content: WrittenContent,
    pub(super) len: u64,
    pub(super) checksum: Checksum,
    pub(super) captured: Option<Vec<u8>>,
}

/// Where its content is.
#[derive(Debug)]
pub(super) enum WrittenContent {
    /// With the operating system.
    Written { file: File, path: PathBuf },
    /// On its way: whoever [ends](BulkQueue::end) the file learns that it is there.
    Queued { file: Arc<LongFile>, queue: BulkQueue },
}

impl OpenFile {
    /// A file that is written here, as it comes.
    pub(super) fn new(file: File, path: PathBuf, checksum: RunningChecksum, writeback: Writeback) -> Self {
        Self::at(Place::Cached { file, path, writeback }, checksum)
    }

    /// A long file, which is written elsewhere if its file system knows how.
    pub(super) fn long(
        file: File,
        path: PathBuf,
        checksum: RunningChecksum,
        writeback: Writeback,
        queue: BulkQueue,
    ) -> Self {
        let place = match LongFile::open(file, path) {
            Ok(file) => {
                let busy = match writeback {
                    Writeback::Lazy => BusyDevice::UseCache,
                    Writeback::From(_) => BusyDevice::Wait,
                };
                Place::Bulk { file, queue, busy }
            }
            Err((file, path)) => Place::Cached { file, path, writeback },
        };
        Self::at(place, checksum)
    }

    fn at(place: Place, checksum: RunningChecksum) -> Self {
        OpenFile { place, checksum, gathered: Vec::new(), gathered_len: 0, written: 0, captured: None }
    }

    /// Keeps the content, for a file short enough to be kept.
    pub(super) fn capture(&mut self) {
        self.captured = Some(Vec::new());
    }

    pub(super) fn write(&mut self, data: Bytes) -> Result<(), FileError> {
        self.checksum.update(&data);
        if let Some(captured) = &mut self.captured {
            captured.extend_from_slice(&data);
        }
        self.gathered_len += data.len();
        self.gathered.push(data);
        let (most_len, most) = match self.place {
            Place::Cached { .. } => (GATHER_LEN, GATHER_COUNT),
            Place::Bulk { .. } => (bulk::GATHER_LEN, bulk::GATHER_COUNT),
        };
        if self.gathered_len < most_len && self.gathered.len() < most {
            return Ok(());
        }
        // what goes past the page cache goes in whole blocks: the rest of the last one waits
        let held = match self.place {
            Place::Cached { .. } => None,
            Place::Bulk { .. } => self.hold_back(),
        };
        self.flush()?;
        self.gathered_len = held.as_ref().map_or(0, Bytes::len);
        self.gathered.extend(held);
        Ok(())
    }

    /// How many bytes it has been given.
    pub(super) fn len(&self) -> u64 {
        self.written + self.gathered_len as u64
    }

    pub(super) fn finish(mut self) -> Result<WrittenFile, FileError> {
        self.flush()?;
        let OpenFile { place, checksum, written, captured, .. } = self;
        let content = match place {
            Place::Cached { file, path, .. } => WrittenContent::Written { file, path },
            Place::Bulk { file, queue, .. } => WrittenContent::Queued { file, queue },
        };
        Ok(WrittenFile { content, len: written, checksum: checksum.finish(), captured })
    }

    /// Takes what is behind the last whole block off the last piece, if there is as much in it.
    fn hold_back(&mut self) -> Option<Bytes> {
        let end = self.written + self.gathered_len as u64;
        let held_len = (end % BLOCK_LEN) as usize;
        let last = self.gathered.last_mut().filter(|last| held_len > 0 && last.len() > held_len)?;
        self.gathered_len -= held_len;
        Some(last.split_off(last.len() - held_len))
    }

    fn flush(&mut self) -> Result<(), FileError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let start = self.written;
        self.written += std::mem::take(&mut self.gathered_len) as u64;
        match &mut self.place {
            Place::Cached { file, path, writeback } => {
                let mut slices = [IoSlice::new(&[]); GATHER_COUNT];
                for (slice, data) in slices.iter_mut().zip(&self.gathered) {
                    *slice = IoSlice::new(data);
                }
                write_all_vectored(file, &mut slices[..self.gathered.len()])
                    .map_err(|source| FileError::new("write to file", &*path, source))?;
                self.gathered.clear();
                if let Writeback::From(start) = *writeback
                    && self.written - start >= WRITEBACK_LEN
                {
                    start_writeback(file, start, NonZeroU64::new(self.written - start));
                    *writeback = Writeback::From(self.written);
                }
                Ok(())
            }
            Place::Bulk { file, queue, busy } => {
                queue.write(file, start, std::mem::take(&mut self.gathered), *busy)
            }
        }
    }
}

fn write_all_vectored(mut file: &File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => IoSlice::advance_slices(&mut slices, len),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::bulk::BulkWriter;
    use super::super::checksum::ChecksumAlgorithm;
    use super::*;

    #[test]
    fn gathers_and_loses_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        let checksum = ChecksumAlgorithm::Crc32c.start();
        let file = File::create(&path).unwrap();
        let mut open = OpenFile::new(file, path.clone(), checksum, Writeback::From(0));
        let mut expected = Vec::new();
        for round in 0..2000u32 {
            let data = vec![round as u8; (round % 97) as usize * 101];
            expected.extend_from_slice(&data);
            open.write(data.into()).unwrap();
        }
        open.write(vec![1; WRITEBACK_LEN as usize].into()).unwrap();
        expected.extend(vec![1; WRITEBACK_LEN as usize]);
        let written = open.finish().unwrap();
        assert_eq!(written.len, expected.len() as u64);
        assert_eq!(written.checksum.as_bytes(), crc32c::crc32c(&expected).to_ne_bytes());
        assert!(std::fs::read(&path).unwrap() == expected);
    }

    #[test]
    fn a_long_file_is_the_same_whatever_pieces_it_comes_in() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        for writeback in [Writeback::Lazy, Writeback::From(0)] {
            let writer = BulkWriter::start(None).unwrap();
            let checksum = ChecksumAlgorithm::Crc32c.start();
            let file = File::create(&path).unwrap();
            let mut open = OpenFile::long(file, path.clone(), checksum, writeback, writer.queue().unwrap());
            let mut expected = Vec::new();
            for round in 0..3000u32 {
                // as an archive comes: headers, messages of 32 KiB, shorter ones, many tiny ones
                let len = [512, 32_768, 32_768, 1 + round as usize % 5000][round as usize % 4];
                let len = if round > 2000 { 3 } else { len };
                let data = vec![round as u8; len];
                expected.extend_from_slice(&data);
                open.write(data.into()).unwrap();
            }
            let written = open.finish().unwrap();
            assert_eq!(written.len, expected.len() as u64);
            assert_eq!(written.checksum.as_bytes(), crc32c::crc32c(&expected).to_ne_bytes());
            if let WrittenContent::Queued { file, queue } = written.content {
                queue.end(file).unwrap();
            }
            writer.finish().unwrap();
            assert!(std::fs::read(&path).unwrap() == expected);
        }
    }

    #[test]
    fn a_full_disk_is_named() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut open = OpenFile::new(full, "a/b".into(), ChecksumAlgorithm::None.start(), Writeback::Lazy);
        open.write(Bytes::from_static(b"x")).unwrap();
        let error = open.finish().unwrap_err();
        assert_eq!(error.to_string(), "could not write to file \"a/b\"");
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
    }
}

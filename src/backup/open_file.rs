//! The file that is being received: bytes go from the receive buffer to the kernel, and to nowhere else.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::num::NonZeroU64;
use std::path::PathBuf;

use bytes::Bytes;

use super::checksum::{Checksum, RunningChecksum};
use super::confined::FileError;
use super::syncer::start_writeback;

/// How many bytes are gathered for one write.
const GATHER_LEN: usize = 128 << 10;

/// How many pieces are gathered for one write.
const GATHER_COUNT: usize = 32;

/// After how many bytes of a long file writeback begins, so that the `fsync` behind it finds little to do.
const WRITEBACK_LEN: u64 = 8 << 20;

/// A file that is being written.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    path: PathBuf,
    checksum: RunningChecksum,
    gathered: Vec<Bytes>,
    gathered_len: usize,
    written: u64,
    writeback: Writeback,
    captured: Option<Vec<u8>>,
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
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) len: u64,
    pub(super) checksum: Checksum,
    pub(super) captured: Option<Vec<u8>>,
}

impl OpenFile {
    pub(super) fn new(file: File, path: PathBuf, checksum: RunningChecksum, writeback: Writeback) -> Self {
        OpenFile {
            file,
            path,
            checksum,
            gathered: Vec::with_capacity(GATHER_COUNT),
            gathered_len: 0,
            written: 0,
            writeback,
            captured: None,
        }
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
        if self.gathered_len >= GATHER_LEN || self.gathered.len() >= GATHER_COUNT {
            self.flush()
        } else {
            Ok(())
        }
    }

    pub(super) fn finish(mut self) -> Result<WrittenFile, FileError> {
        self.flush()?;
        let OpenFile { file, path, checksum, written, captured, .. } = self;
        Ok(WrittenFile { file, path, len: written, checksum: checksum.finish(), captured })
    }

    fn flush(&mut self) -> Result<(), FileError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let mut slices = [IoSlice::new(&[]); GATHER_COUNT];
        for (slice, data) in slices.iter_mut().zip(&self.gathered) {
            *slice = IoSlice::new(data);
        }
        write_all_vectored(&self.file, &mut slices[..self.gathered.len()])
            .map_err(|source| FileError::new("write to file", &self.path, source))?;
        self.written += self.gathered_len as u64;
        self.gathered.clear();
        self.gathered_len = 0;
        if let Writeback::From(start) = self.writeback
            && self.written - start >= WRITEBACK_LEN
        {
            start_writeback(&self.file, start, NonZeroU64::new(self.written - start));
            self.writeback = Writeback::From(self.written);
        }
        Ok(())
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
    fn a_full_disk_is_named() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut open = OpenFile::new(full, "a/b".into(), ChecksumAlgorithm::None.start(), Writeback::Lazy);
        open.write(Bytes::from_static(b"x")).unwrap();
        let error = open.finish().unwrap_err();
        assert_eq!(error.to_string(), "could not write to file \"a/b\"");
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
    }
}

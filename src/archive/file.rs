//! The files of an archive: their names, and their content whatever it is compressed with.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::compression::CompressionMethod;
use crate::pg::{Lsn, TimelineId, WalFileName, WalSegment, WalSegmentSize};

/// A segment's file: the segment, its timeline, and how the file's name goes on behind that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArchivedFile {
    /// The timeline and the segment.
    pub wal: WalFileName,
    /// Whether the name ends in `.partial`.
    pub is_partial: bool,
    /// What it is compressed with.
    pub compression: CompressionMethod,
    /// The whole name.
    pub name: String,
}

/// A file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenFileError {
    /// The operating system refused.
    #[error("could not read file \"{}\"", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What is in it cannot be decompressed.
    #[error("could not decompress file \"{}\"", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The decompressor's reason.
        source: io::Error,
    },
}

impl ArchivedFile {
    /// The segment's digits, and what follows them, if that is how names of segments go.
    pub(super) fn split_name(name: &str) -> Option<(&str, CompressionMethod, bool)> {
        let (digits, suffix) = name.split_at_checked(24)?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
        if !digits.bytes().all(is_digit) {
            return None;
        }
        let (suffix, is_partial) = match suffix.strip_suffix(".partial") {
            Some(suffix) => (suffix, true),
            None => (suffix, false),
        };
        let compression = CompressionMethod::ALL.into_iter().find(|method| method.suffix() == suffix)?;
        Some((digits, compression, is_partial))
    }

    /// `None`: not the name of a segment of this size.
    pub fn parse(name: &str, size: WalSegmentSize) -> Option<Self> {
        let (digits, compression, is_partial) = Self::split_name(name)?;
        let wal = WalFileName::parse(digits, size).ok()?;
        Some(ArchivedFile { wal, is_partial, compression, name: name.to_owned() })
    }

    /// The timeline.
    pub fn timeline(&self) -> TimelineId {
        self.wal.timeline
    }

    /// The segment.
    pub fn segment(&self) -> WalSegment {
        self.wal.segment
    }

    /// Where the segment begins.
    pub fn start_lsn(&self) -> Lsn {
        self.wal.segment.start_lsn()
    }

    /// Opens it for [`WalContent::next_piece`].
    pub(super) fn open(&self, directory: &Path) -> Result<WalContent, OpenFileError> {
        WalContent::open(directory.join(&self.name), self.compression, self.is_partial)
    }
}

/// The decompressed content of a file, piece by piece.
pub(super) struct WalContent {
    path: PathBuf,
    source: Box<dyn Read + Send>,
    may_be_cut: bool,
    buffer: Vec<u8>,
}

impl WalContent {
    /// All pieces but the last have this length.
    pub(super) const PIECE_LEN: usize = 128 << 10;

    /// `may_be_cut`: compressed content that ends too early has only not been finished.
    ///
    /// An unfinished file that a receiver has finished since is found under its new name.
    pub(super) fn open(
        path: PathBuf,
        compression: CompressionMethod,
        may_be_cut: bool,
    ) -> Result<Self, OpenFileError> {
        let opened = match (File::open(&path), path.extension()) {
            (Err(error), Some(extension))
                if error.kind() == io::ErrorKind::NotFound && extension == "partial" =>
            {
                File::open(path.with_extension(""))
            }
            (opened, _) => opened,
        };
        let opened = opened.and_then(|file| compression.reader(file));
        let source = opened.map_err(|source| OpenFileError::Io { path: path.clone(), source })?;
        Ok(WalContent { path, source, may_be_cut, buffer: vec![0; Self::PIECE_LEN] })
    }

    /// The next bytes; none at the end.
    pub(super) fn next_piece(&mut self) -> Result<&[u8], OpenFileError> {
        let mut len = 0;
        while len < self.buffer.len() {
            match self.source.read(&mut self.buffer[len..]) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.may_be_cut && error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(source) => {
                    let path = self.path.clone();
                    // the decompressors' own errors have no number of the operating system's
                    return Err(match source.raw_os_error() {
                        Some(_) => OpenFileError::Io { path, source },
                        None => OpenFileError::Damaged { path, source },
                    });
                }
            }
        }
        Ok(&self.buffer[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory is verified while it is received into.
    #[test]
    fn what_was_finished_meanwhile_is_found() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["000000010000000000000003", "000000010000000000000004.gz"] {
            let partial = format!("{name}.partial");
            let file = ArchivedFile::parse(&partial, WalSegmentSize::DEFAULT).unwrap();
            assert!(matches!(file.open(directory.path()), Err(OpenFileError::Io { .. })));
            std::fs::write(directory.path().join(&partial), "").unwrap();
            assert!(file.open(directory.path()).is_ok());
            std::fs::rename(directory.path().join(&partial), directory.path().join(name)).unwrap();
            assert!(file.open(directory.path()).is_ok(), "{name}");
            let finished = ArchivedFile::parse(name, WalSegmentSize::DEFAULT).unwrap();
            std::fs::remove_file(directory.path().join(name)).unwrap();
            assert!(finished.open(directory.path()).is_err());
        }
    }

    #[test]
    fn knows_segments_by_their_names() {
        let size = WalSegmentSize::DEFAULT;
        for (name, compression, is_partial) in [
            ("000000020000000100000003", CompressionMethod::None, false),
            ("000000020000000100000003.partial", CompressionMethod::None, true),
            ("000000020000000100000003.gz", CompressionMethod::Gzip, false),
            ("000000020000000100000003.lz4.partial", CompressionMethod::Lz4, true),
            ("000000020000000100000003.zst", CompressionMethod::Zstd, false),
        ] {
            let file = ArchivedFile::parse(name, size).unwrap();
            assert_eq!((file.compression, file.is_partial), (compression, is_partial), "{name}");
            assert_eq!((file.timeline().as_u32(), file.start_lsn()), (2, Lsn::new(0x1_0300_0000)));
        }
        for name in ["", "00000002.history", "000000020000000100000003.00000028.backup", ".pgwake.stamp"] {
            assert_eq!(ArchivedFile::parse(name, size), None, "{name}");
        }
    }
}

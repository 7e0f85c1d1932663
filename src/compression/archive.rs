//! Whole archives: compressed as their bytes come, with what the command line can ask of a method.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};

use super::CompressionMethod;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveCompression {
    /// The method.
    pub method: CompressionMethod,
    /// `None`: the method's own, 6 for gzip, 3 for Zstandard. LZ4 has only one.
    pub level: Option<i32>,
    /// How many threads Zstandard may use besides the one that writes.
    pub workers: u32,
    /// Whether Zstandard looks for repetitions far back.
    pub window: Window,
}

/// How far back Zstandard looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Window {
    /// As far as the level says.
    #[default]
    OfLevel,
    /// Far: `long`.
    Long,
}

/// One archive on its way.
pub(crate) enum ArchiveEncoder<W: Write> {
    Gzip(GzEncoder<W>),
    Lz4(Box<FrameEncoder<W>>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> ArchiveEncoder<W> {
    /// An encoder in front of `out`; an error for what is stored as it is, and for a level that does not exist.
    pub(crate) fn new(compression: ArchiveCompression, out: W) -> io::Result<Self> {
        let ArchiveCompression { method, level, workers, window } = compression;
        Ok(match method {
            CompressionMethod::None => return Err(io::ErrorKind::Unsupported.into()),
            CompressionMethod::Gzip => {
                let level = level.and_then(|level| u32::try_from(level).ok());
                let level = level.map_or(flate2::Compression::default(), flate2::Compression::new);
                ArchiveEncoder::Gzip(GzEncoder::new(out, level))
            }
            CompressionMethod::Lz4 => {
                // as the original has it, without a checksum: computing one takes a quarter of the time of compressing,
                // and whoever restores compares the files themselves with the manifest
                let info = FrameInfo::new().block_size(BlockSize::Max256KB);
                ArchiveEncoder::Lz4(Box::new(FrameEncoder::with_frame_info(info, out)))
            }
            CompressionMethod::Zstd => {
                let mut stream = zstd::Encoder::new(out, level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL))?;
                stream.include_checksum(true)?;
                if workers > 0 {
                    stream.multithread(workers)?;
                }
                if window == Window::Long {
                    stream.long_distance_matching(true)?;
                }
                ArchiveEncoder::Zstd(stream)
            }
        })
    }

    /// Takes plain bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            ArchiveEncoder::Gzip(stream) => stream.write_all(bytes),
            ArchiveEncoder::Lz4(stream) => stream.write_all(bytes),
            ArchiveEncoder::Zstd(stream) => stream.write_all(bytes),
        }
    }

    /// Writes the format's end.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            ArchiveEncoder::Gzip(stream) => stream.finish(),
            ArchiveEncoder::Lz4(stream) => stream.finish().map_err(io::Error::other),
            ArchiveEncoder::Zstd(stream) => stream.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use super::*;
    use std::io::Read as _;

    #[test]
    fn what_is_compressed_can_be_read_back() {
        let plain: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for (method, level, workers, window) in [
            (CompressionMethod::Gzip, None, 0, Window::OfLevel),
            (CompressionMethod::Gzip, Some(9), 0, Window::OfLevel),
            (CompressionMethod::Lz4, None, 0, Window::OfLevel),
            (CompressionMethod::Zstd, Some(-5), 0, Window::Long),
            (CompressionMethod::Zstd, None, 2, Window::OfLevel),
        ] {
            let compression = ArchiveCompression { method, level, workers, window };
            let mut encoder = ArchiveEncoder::new(compression, Vec::new()).unwrap();
            plain.chunks(777).for_each(|chunk| encoder.write(chunk).unwrap());
            let compressed = encoder.finish().unwrap();
            assert!(compressed.len() < plain.len() / 2, "{method}");
            let mut read = Vec::new();
            Decoder::new(method, &compressed[..]).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == plain, "{method}");
        }
    }
}

//! Plain bytes in, compressed bytes out, with points up to which what is out can be read back.

use std::io::{self, Write as _};

use flate2::write::GzEncoder;
use lz4_flex::frame::{FrameEncoder, FrameInfo};
use zstd::stream::write::Encoder as ZstdEncoder;

use super::Compression;

/// One segment on its way.
pub(in crate::sink) struct Encoder {
    stream: Stream,
    plain_len: u64,
    checksum: u32,
}

enum Stream {
    Gzip(GzEncoder<Vec<u8>>),
    Lz4(Box<FrameEncoder<Vec<u8>>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("plain_len", &self.plain_len).finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder, unless segments are stored as they are.
    pub(in crate::sink) fn new(compression: Compression) -> Option<Self> {
        let stream = match compression {
            Compression::None => return None,
            Compression::Gzip { level } => {
                let level = level.map_or(flate2::Compression::default(), flate2::Compression::new);
                Stream::Gzip(GzEncoder::new(Vec::new(), level))
            }
            Compression::Lz4 => {
                // a checksum for each block tells where a crash tore the file
                let info = FrameInfo::new().block_checksums(true).content_checksum(true);
                Stream::Lz4(Box::new(FrameEncoder::with_frame_info(info, Vec::new())))
            }
            Compression::Zstd { level } => {
                let mut stream = ZstdEncoder::new(Vec::new(), level).ok()?;
                stream.include_checksum(true).ok()?;
                Stream::Zstd(stream)
            }
        };
        Some(Encoder { stream, plain_len: 0, checksum: 0 })
    }

    /// How many plain bytes went in.
    pub(in crate::sink) fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// CRC-32C of the plain bytes.
    pub(in crate::sink) fn checksum(&self) -> u32 {
        self.checksum
    }

    pub(in crate::sink) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.plain_len += bytes.len() as u64;
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        match &mut self.stream {
            Stream::Gzip(stream) => stream.write_all(bytes),
            Stream::Lz4(stream) => stream.write_all(bytes),
            Stream::Zstd(stream) => stream.write_all(bytes),
        }
    }

    /// What is out so far; not all that went in can be read back from it.
    pub(in crate::sink) fn take(&mut self) -> Vec<u8> {
        std::mem::take(match &mut self.stream {
            Stream::Gzip(stream) => stream.get_mut(),
            Stream::Lz4(stream) => stream.get_mut(),
            Stream::Zstd(stream) => stream.get_mut(),
        })
    }

    /// What is out, with which all that went in can be read back.
    pub(in crate::sink) fn flush(&mut self) -> io::Result<Vec<u8>> {
        match &mut self.stream {
            Stream::Gzip(stream) => stream.flush()?,
            Stream::Lz4(stream) => stream.flush()?,
            Stream::Zstd(stream) => stream.flush()?,
        }
        Ok(self.take())
    }

    /// The rest, with the format's end. Nothing goes in after this.
    pub(in crate::sink) fn finish(self) -> io::Result<Vec<u8>> {
        match self.stream {
            Stream::Gzip(stream) => stream.finish(),
            Stream::Lz4(stream) => stream.finish().map_err(io::Error::other),
            Stream::Zstd(stream) => stream.finish(),
        }
    }
}

//! Compressed bytes in, plain bytes out, piece by piece.

use std::io::{self, Chain, Cursor, Read};

use lz4_flex::frame::FrameDecoder;

use super::CompressionMethod;
use super::inflate::Inflate;
use super::zstd_frames::ZstdFrames;

/// A compressed file on its way. [`Read`] gives 0 bytes behind the format's own end, and where frames or blocks could
/// go on and do not: a file that stops elsewhere, or goes on with something else, is an error.
pub(crate) struct Decoder<R: Read> {
    stream: Stream<R>,
    plain_len: u64,
    trusted_len: u64,
    is_marked: bool,
}

enum Stream<R: Read> {
    Gzip(Box<Inflate<R>>),
    Lz4(Box<FrameDecoder<Chain<Cursor<Vec<u8>>, R>>>),
    Zstd(Box<ZstdFrames<R>>),
}

impl<R: Read> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("plain_len", &self.plain_len).finish_non_exhaustive()
    }
}

impl<R: Read> Decoder<R> {
    /// A decoder; an error for what is stored as it is.
    pub(crate) fn new(method: CompressionMethod, mut source: R) -> io::Result<Self> {
        let mut is_marked = false;
        let stream = match method {
            CompressionMethod::None => return Err(io::ErrorKind::Unsupported.into()),
            CompressionMethod::Gzip => Stream::Gzip(Box::new(Inflate::new(source))),
            CompressionMethod::Lz4 => {
                let mut header = Vec::new();
                source.by_ref().take(LZ4_FLAGS_AT + 1).read_to_end(&mut header)?;
                is_marked =
                    header.get(LZ4_FLAGS_AT as usize).is_some_and(|flags| flags & LZ4_BLOCK_CHECKSUMS != 0);
                Stream::Lz4(Box::new(FrameDecoder::new(Cursor::new(header).chain(source))))
            }
            CompressionMethod::Zstd => Stream::Zstd(Box::new(ZstdFrames::new(source)?)),
        };
        Ok(Decoder { stream, plain_len: 0, trusted_len: 0, is_marked })
    }

    /// How many plain bytes came out.
    pub(crate) fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// How many of them are certainly what was written: a checksum that was read says so.
    pub(crate) fn trusted_len(&self) -> u64 {
        self.trusted_len
    }

    /// Whether the file has such checksums at all. One that has none was written by somebody else, or never flushed.
    pub(crate) fn is_marked(&self) -> bool {
        self.is_marked
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.stream {
            Stream::Gzip(stream) => stream.read(buffer),
            Stream::Lz4(stream) => stream.read(buffer),
            Stream::Zstd(stream) => stream.read(buffer),
        };
        self.plain_len += *result.as_ref().unwrap_or(&0) as u64;
        match &self.stream {
            // a block comes out when its checksum is right
            Stream::Lz4(_) if self.is_marked => self.trusted_len = self.plain_len,
            Stream::Lz4(_) => {}
            Stream::Gzip(stream) => {
                (self.trusted_len, self.is_marked) = (stream.trusted_len(), stream.is_marked());
            }
            Stream::Zstd(stream) => {
                (self.trusted_len, self.is_marked) = (stream.trusted_len(), stream.is_marked());
            }
        }
        result
    }
}

/// Behind the magic number.
const LZ4_FLAGS_AT: u64 = 4;
const LZ4_BLOCK_CHECKSUMS: u8 = 1 << 4;

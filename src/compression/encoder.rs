//! Plain bytes in, compressed bytes out, with points up to which what is out can be read back and believed.

use std::io;

use flate2::{Compress, FlushCompress, Status};
use lz4_flex::frame::{FrameEncoder, FrameInfo};
use std::io::Write as _;
use zstd::stream::raw::{CParameter, Encoder as ZstdEncoder, InBuffer, Operation, OutBuffer};

use super::mark::mark;
use super::{Compression, CompressionMethod};

const DEFAULT_ZSTD_LEVEL: i32 = 1;
/// The largest window; every gzip file fits into it.
pub(super) const GZIP_WINDOW_BITS: u8 = 15;
/// How much room a compressor is given at least.
const ROOM: usize = 32 << 10;

/// One segment on its way.
pub(crate) struct Encoder {
    stream: Stream,
    out: Vec<u8>,
    plain_len: u64,
    checksum: u32,
    /// Up to here what is out can be read back and believed.
    flushed_len: u64,
}

enum Stream {
    Gzip(Box<Compress>),
    Lz4(Box<FrameEncoder<Vec<u8>>>),
    Zstd(ZstdEncoder<'static>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("plain_len", &self.plain_len).finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder; an error for what is stored as it is, and for a level that does not exist.
    pub(crate) fn new(compression: Compression) -> io::Result<Self> {
        // what is there before anything else says that the file is one of ours, with checksums to look for
        let mut out = Vec::new();
        let stream = match compression.method {
            CompressionMethod::None => return Err(io::ErrorKind::Unsupported.into()),
            CompressionMethod::Gzip => {
                let level = compression.level.and_then(|level| u32::try_from(level).ok());
                let level = level.map_or(flate2::Compression::default(), flate2::Compression::new);
                let mut stream = Compress::new_gzip(level, GZIP_WINDOW_BITS);
                deflate(&mut stream, &[], &mut out, FlushCompress::Sync)?;
                out.extend_from_slice(&mark(0));
                Stream::Gzip(Box::new(stream))
            }
            CompressionMethod::Lz4 => {
                let info = FrameInfo::new().block_checksums(true).content_checksum(true);
                Stream::Lz4(Box::new(FrameEncoder::with_frame_info(info, Vec::new())))
            }
            CompressionMethod::Zstd => {
                let mut stream = ZstdEncoder::new(compression.level.unwrap_or(DEFAULT_ZSTD_LEVEL))?;
                stream.set_parameter(CParameter::ChecksumFlag(true))?;
                end_frame(&mut stream, &mut out)?;
                Stream::Zstd(stream)
            }
        };
        Ok(Encoder { stream, out, plain_len: 0, checksum: 0, flushed_len: 0 })
    }

    /// How many plain bytes went in.
    pub(crate) fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// CRC-32C of the plain bytes.
    pub(crate) fn checksum(&self) -> u32 {
        self.checksum
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.plain_len += bytes.len() as u64;
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        match &mut self.stream {
            Stream::Gzip(stream) => deflate(stream, bytes, &mut self.out, FlushCompress::None),
            Stream::Lz4(stream) => stream.write_all(bytes),
            Stream::Zstd(stream) => {
                let mut input = InBuffer::around(bytes);
                while input.pos() < bytes.len() {
                    with_room(&mut self.out, |out| stream.run(&mut input, out))?;
                }
                Ok(())
            }
        }
    }

    /// What is out so far; not all that went in can be read back from it.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        if let Stream::Lz4(stream) = &mut self.stream {
            self.out.append(stream.get_mut());
        }
        std::mem::take(&mut self.out)
    }

    /// What is out, with which all that went in can be read back and believed.
    pub(crate) fn flush(&mut self) -> io::Result<Vec<u8>> {
        if self.plain_len > self.flushed_len {
            match &mut self.stream {
                Stream::Gzip(stream) => {
                    deflate(stream, &[], &mut self.out, FlushCompress::Sync)?;
                    self.out.extend_from_slice(&mark(self.checksum));
                }
                Stream::Lz4(stream) => stream.flush()?,
                Stream::Zstd(stream) => end_frame(stream, &mut self.out)?,
            }
            self.flushed_len = self.plain_len;
        }
        Ok(self.take())
    }

    /// The rest, with the format's end. Nothing goes in after this.
    pub(crate) fn finish(mut self) -> io::Result<Vec<u8>> {
        match &mut self.stream {
            Stream::Gzip(stream) => deflate(stream, &[], &mut self.out, FlushCompress::Finish)?,
            Stream::Lz4(stream) => stream.try_finish().map_err(io::Error::other)?,
            Stream::Zstd(stream) if self.plain_len > self.flushed_len => end_frame(stream, &mut self.out)?,
            Stream::Zstd(_) => {}
        }
        Ok(self.take())
    }
}

fn deflate(
    stream: &mut Compress,
    mut input: &[u8],
    out: &mut Vec<u8>,
    flush: FlushCompress,
) -> io::Result<()> {
    loop {
        out.reserve(ROOM);
        let before = stream.total_in();
        let status = stream.compress_vec(input, out, flush).map_err(io::Error::other)?;
        input = &input[(stream.total_in() - before) as usize..];
        // zlib has no more to say when it leaves room
        let said_all = input.is_empty() && out.len() < out.capacity();
        if status == Status::StreamEnd || (said_all && !matches!(flush, FlushCompress::Finish)) {
            return Ok(());
        }
    }
}

fn end_frame(stream: &mut ZstdEncoder<'static>, out: &mut Vec<u8>) -> io::Result<()> {
    while with_room(out, |out| stream.finish(out, true))? > 0 {}
    stream.reinit()
}

fn with_room<T>(
    out: &mut Vec<u8>,
    step: impl FnOnce(&mut OutBuffer<'_, Vec<u8>>) -> io::Result<T>,
) -> io::Result<T> {
    out.reserve(ROOM);
    let len = out.len();
    step(&mut OutBuffer::around_pos(out, len))
}

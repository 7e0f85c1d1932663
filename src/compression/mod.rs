//! Compressed segments: what the methods are called, how segments are written with them, and how far a file can be
//! believed that a crash has cut off.
//!
//! A file in progress is only ever appended to, so what a loss of power leaves of it is what was durable, and behind
//! that a tail of which any sector may be zeros. Such a tail can decompress to bytes that nobody ever wrote. So what
//! a flush ends carries a checksum, and [`Decoder::trusted_len`] says how far checksums agree:
//! * LZ4: every block has one, which is part of the format.
//! * Zstandard: every flush ends a frame, whose checksum is part of the format. A file of many frames is as good as
//!   one of a single frame to everybody's tools. It costs what the frames could have learned from those before them:
//!   little where much is flushed at once, more the less each flush brings.
//! * gzip: it has a checksum only at its end, and a file of several members would not do, for PostgreSQL's
//!   `pg_receivewal` looks for a segment's length in the last bytes of the file. So each flush is followed by a
//!   [mark](mark): empty blocks, which every decompressor passes over, with a checksum of all that came before in
//!   the bits that pad them.

pub(crate) mod archive;
mod decoder;
mod encoder;
mod inflate;
mod mark;
#[cfg(test)]
mod tests;
mod zstd_frames;

pub use archive::{ArchiveCompression, Window};
use std::io::Read;

pub(crate) use decoder::Decoder;
pub(crate) use encoder::Encoder;

/// What a file is compressed with. Timeline histories are always plain: a server's `restore_command` asks for them so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum CompressionMethod {
    /// Nothing.
    #[default]
    None,
    /// gzip, one member a segment.
    Gzip,
    /// The LZ4 frame format.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// How new segments are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compression {
    /// The method.
    pub method: CompressionMethod,
    /// `None`: 6 for gzip, 1 for Zstandard. gzip has 1 to 9, Zstandard −131072 to 22, LZ4 only one.
    pub level: Option<i32>,
}

impl Compression {
    /// As they are.
    pub const NONE: Compression = Compression { method: CompressionMethod::None, level: None };
}

impl CompressionMethod {
    /// All of them.
    pub const ALL: [CompressionMethod; 4] =
        [CompressionMethod::None, CompressionMethod::Gzip, CompressionMethod::Lz4, CompressionMethod::Zstd];

    /// What segments have behind their name.
    pub fn suffix(self) -> &'static str {
        match self {
            CompressionMethod::None => "",
            CompressionMethod::Gzip => ".gz",
            CompressionMethod::Lz4 => ".lz4",
            CompressionMethod::Zstd => ".zst",
        }
    }

    /// Takes a file's name apart: what is left of it, and what the file is compressed with.
    pub fn split_name(name: &str) -> (&str, CompressionMethod) {
        let known = CompressionMethod::ALL.into_iter().filter(|method| *method != CompressionMethod::None);
        let found = known.into_iter().find_map(|method| Some((name.strip_suffix(method.suffix())?, method)));
        found.unwrap_or((name, CompressionMethod::None))
    }

    /// The plain content of a file, whoever has written it. An error without a number of the operating system's is the
    /// format's own.
    pub(crate) fn reader<'a>(
        self,
        file: impl Read + Send + 'a,
    ) -> std::io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            CompressionMethod::None => Box::new(file),
            CompressionMethod::Gzip => Box::new(flate2::read::MultiGzDecoder::new(file)),
            CompressionMethod::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(file)),
            CompressionMethod::Zstd => Box::new(zstd::stream::read::Decoder::new(file)?),
        })
    }
}

impl std::fmt::Display for CompressionMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CompressionMethod::None => "none",
            CompressionMethod::Gzip => "gzip",
            CompressionMethod::Lz4 => "lz4",
            CompressionMethod::Zstd => "zstd",
        })
    }
}

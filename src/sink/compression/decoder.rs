//! Compressed bytes in, plain bytes out, never more than a segment has.

use std::io::{self, Read};

use flate2::read::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use lz4_flex::frame::FrameDecoder;

use super::Compression;

fn reader<'a>(compression: Compression, source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip { .. } => Box::new(GzDecoder::new(source)),
        Compression::Lz4 => Box::new(FrameDecoder::new(source)),
        Compression::Zstd { .. } => Box::new(zstd::stream::read::Decoder::new(source)?),
    })
}

/// As much as can be read before the end, or before something that is no longer the format; at most `max_len` and
/// one byte.
///
/// The libraries forget what they had got out of a piece when they meet an error in it. So what comes behind the
/// last piece that was read whole is read again, byte by byte: it may have been acknowledged.
pub(in crate::sink) fn decode_prefix(compression: Compression, source: impl Read, max_len: u64) -> Vec<u8> {
    let mut compressed = Vec::new();
    // nothing that was written here is ever that much longer than what it holds
    let limit = max_len.saturating_mul(2).saturating_add(1 << 20);
    // what cannot be read any more is as good as not there
    let _ = source.take(limit).read_to_end(&mut compressed);
    if let Compression::Gzip { .. } = compression {
        return inflate_prefix(&compressed, max_len);
    }
    let mut plain = Vec::new();
    let whole = reader(compression, &compressed[..])
        .and_then(|mut reader| read_all(&mut reader, &mut plain, max_len, PIECE_LEN));
    if whole.is_err()
        && let Ok(mut again) = reader(compression, &compressed[..])
    {
        let known_len = plain.len() as u64;
        plain.clear();
        let _ = read_all(&mut (&mut again).take(known_len), &mut plain, max_len, PIECE_LEN)
            .and_then(|()| read_all(&mut again, &mut plain, max_len, 1));
    }
    plain
}

/// zlib counts what it got out even when it meets an error behind it.
fn inflate_prefix(mut compressed: &[u8], max_len: u64) -> Vec<u8> {
    let mut inflate = Decompress::new_gzip(GZIP_WINDOW_BITS);
    let mut plain = Vec::new();
    let mut piece = vec![0; PIECE_LEN];
    while plain.len() as u64 <= max_len {
        let (in_before, out_before) = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(compressed, &mut piece, FlushDecompress::None);
        let (read, written) = (inflate.total_in() - in_before, inflate.total_out() - out_before);
        plain.extend_from_slice(&piece[..written as usize]);
        compressed = &compressed[read as usize..];
        let ended = !matches!(status, Ok(Status::Ok | Status::BufError));
        if ended || (read == 0 && written == 0) {
            break;
        }
    }
    plain.truncate(usize::try_from(max_len).map_or(usize::MAX, |len| len.saturating_add(1)));
    plain
}

/// The largest window; every gzip file fits into it.
const GZIP_WINDOW_BITS: u8 = 15;

/// All of a complete file. More than `max_len` bytes are an error.
pub(in crate::sink) fn decode_all(
    compression: Compression,
    source: impl Read,
    max_len: u64,
) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    read_all(&mut reader(compression, source)?, &mut plain, max_len, PIECE_LEN)?;
    if plain.len() as u64 > max_len {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more than one segment"));
    }
    Ok(plain)
}

/// How much is read at a time.
const PIECE_LEN: usize = 64 << 10;

fn read_all(reader: &mut dyn Read, plain: &mut Vec<u8>, max_len: u64, piece_len: usize) -> io::Result<()> {
    let mut piece = vec![0; piece_len];
    while plain.len() as u64 <= max_len {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(len) => plain.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    plain.truncate(max_len as usize + 1);
    Ok(())
}

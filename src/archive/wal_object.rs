//! The content of an object that holds WAL: Zstandard with a checksum, so that `zstd -d` reads it.
//!
//! How many bytes of WAL there must be is said by the object's name; more or fewer is damage, and more is noticed
//! before it is kept.

use std::io::{self, Read as _};

use bytes::Bytes;

use super::buffers::Buffer;

/// A level that a core does at the speed of a busy primary. The negative ones leave out what makes most of WAL's text smaller.
const LEVEL: i32 = 1;

/// The content is not what the object's name says.
#[derive(Debug, thiserror::Error)]
pub enum WalObjectError {
    /// It cannot be decompressed, or its checksum is wrong.
    #[error("could not decompress it")]
    Decompress(#[source] io::Error),
    /// There is too little, or too much.
    #[error("it holds {found} bytes of WAL, not {expected}")]
    Length {
        /// What there is; one more than expected means that there are more.
        found: u64,
        /// What the name says.
        expected: u64,
    },
}

/// The object's content for these bytes of WAL.
pub fn encode(wal: &[u8]) -> io::Result<Bytes> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    compressor.include_contentsize(true)?;
    let mut content = Buffer::take(zstd::zstd_safe::compress_bound(wal.len()));
    let len = compressor.compress_to_buffer(wal, &mut content[..])?;
    content.truncate(len);
    Ok(content.into_bytes())
}

/// The longest content that [`encode`] makes of so many bytes, with room for other writers' ways.
pub fn max_encoded_len(wal_len: u64) -> u64 {
    wal_len + (wal_len >> 7) + (64 << 10)
}

/// The bytes of WAL, of which there are `expected`.
pub(crate) fn decode(content: &[u8], expected: u64) -> Result<Buffer, WalObjectError> {
    let wal = decode_up_to(content, expected)?;
    let found = wal.len() as u64;
    if found != expected {
        return Err(WalObjectError::Length { found, expected });
    }
    Ok(wal)
}

/// The content of an object whose name does not say how long it is.
pub(crate) fn decode_up_to(content: &[u8], max_len: u64) -> Result<Buffer, WalObjectError> {
    // nothing at all would be no frame, and no error
    if content.is_empty() {
        return Err(WalObjectError::Decompress(io::ErrorKind::UnexpectedEof.into()));
    }
    // one frame that says how long it is, as all of ours do, is decompressed in one; of everything else what is wrong with it is
    // found out below
    let claimed = zstd::zstd_safe::get_frame_content_size(content).ok().flatten();
    if let Some(len) = claimed.filter(|len| *len <= max_len).and_then(|len| usize::try_from(len).ok()) {
        let mut wal = Buffer::take(len);
        let mut decompressor = zstd::bulk::Decompressor::new().map_err(WalObjectError::Decompress)?;
        if decompressor.decompress_to_buffer(content, &mut wal[..]).is_ok_and(|found| found == len) {
            return Ok(wal);
        }
    }
    let mut decoder =
        zstd::stream::read::Decoder::with_buffer(content).map_err(WalObjectError::Decompress)?;
    // one more than there may be; memory is taken for what is there, not for what a name claims
    let mut wal = Buffer::take(usize::try_from(max_len).map_or(usize::MAX, |len| len.saturating_add(1)));
    let mut found = 0;
    while found < wal.len() {
        match decoder.read(&mut wal[found..]).map_err(WalObjectError::Decompress)? {
            0 => break,
            count => found += count,
        }
    }
    if found as u64 > max_len {
        return Err(WalObjectError::Length { found: found as u64, expected: max_len });
    }
    wal.truncate(found);
    Ok(wal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn damage_shows() {
        let wal: Vec<u8> = (0..100_000u32).map(|i| (i / 100) as u8).collect();
        let content = encode(&wal).unwrap();
        assert!(content.len() < wal.len() / 10);
        assert_eq!(decode(&content, wal.len() as u64).unwrap()[..], wal);
        for expected in [0, 1, wal.len() as u64 - 1, wal.len() as u64 + 1] {
            assert!(matches!(decode(&content, expected), Err(WalObjectError::Length { .. })));
        }
        for index in 0..content.len() {
            let mut damaged = content.to_vec();
            damaged[index] ^= 0x20;
            // a few bits of the compressed form mean nothing
            let harm = decode(&damaged, wal.len() as u64).is_ok_and(|found| found[..] != wal);
            assert!(!harm, "byte {index}");
            assert!(decode(&content[..index], wal.len() as u64).is_err(), "cut at {index}");
        }
    }

    /// Other writers may put several frames one behind the other, or not say how long they are.
    #[test]
    fn what_zstd_takes_is_taken() {
        let wal: Vec<u8> = (0..100_000u32).map(|i| (i / 100) as u8).collect();
        let (first, second) = wal.split_at(40_000);
        let streamed = zstd::stream::encode_all(&wal[..], 3).unwrap();
        assert!(matches!(zstd::zstd_safe::get_frame_content_size(&streamed), Ok(None)));
        for content in [[encode(first).unwrap(), encode(second).unwrap()].concat(), streamed] {
            assert_eq!(decode(&content, wal.len() as u64).unwrap()[..], wal);
            let short = decode(&content, wal.len() as u64 - 1);
            assert!(matches!(short, Err(WalObjectError::Length { .. })), "{short:?}");
        }
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(wal in proptest::collection::vec(any::<u8>(), 0..20_000)) {
            let content = encode(&wal).unwrap();
            prop_assert!(content.len() as u64 <= max_encoded_len(wal.len() as u64));
            prop_assert_eq!(&decode(&content, wal.len() as u64).unwrap()[..], &wal[..]);
        }

        #[test]
        fn anything_is_taken_without_harm(content in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = decode(&content, 1000);
        }
    }
}

//! Checksums in the middle of a gzip file that no decompressor minds.
//!
//! DEFLATE has stored blocks (RFC 1951, 3.2.4): three bits of header, padding to the next byte, a length and its
//! complement. The padding means nothing. After a flush the stream is at a byte's boundary, so an empty stored block
//! is five bytes with five bits to spare; eight of them hold a sign and a CRC-32C. zlib pads with zeros, so its own
//! empty block, with which a flush ends, is never taken for the sign.

const EMPTY_BLOCK: [u8; 4] = [0, 0, 0xFF, 0xFF];
const BLOCK_LEN: usize = 5;
const SIGN: u8 = 0b1_0110;
/// A sign, and 32 bits in pieces of 5.
const BLOCK_COUNT: usize = 8;

pub(super) const MARK_LEN: usize = BLOCK_COUNT * BLOCK_LEN;

/// The blocks that say: what came before has this checksum.
pub(super) fn mark(checksum: u32) -> [u8; MARK_LEN] {
    let mut mark = [0; MARK_LEN];
    for (index, block) in mark.chunks_exact_mut(BLOCK_LEN).enumerate() {
        let bits = if index == 0 { SIGN } else { (u64::from(checksum) >> (5 * (index - 1))) as u8 & 0x1F };
        block[0] = bits << 3;
        block[1..].copy_from_slice(&EMPTY_BLOCK);
    }
    mark
}

/// The first place from `from` on where something looks like a mark.
pub(super) fn find_mark(bytes: &[u8], from: usize) -> Option<usize> {
    let starts = from..(bytes.len() + 1).saturating_sub(MARK_LEN);
    starts.into_iter().find(|at| {
        bytes[*at] == SIGN << 3 && bytes[*at..*at + MARK_LEN].chunks_exact(BLOCK_LEN).all(is_empty_block)
    })
}

fn is_empty_block(block: &[u8]) -> bool {
    block[0] & 0b111 == 0 && block[1..] == EMPTY_BLOCK
}

/// The checksum in a mark that was found.
pub(super) fn marked_checksum(mark: &[u8]) -> Option<u32> {
    let pieces = mark.chunks_exact(BLOCK_LEN).skip(1).enumerate();
    let bits = pieces.fold(0, |bits, (index, block)| bits | u64::from(block[0] >> 3) << (5 * index));
    u32::try_from(bits).ok()
}

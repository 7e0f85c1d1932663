//! The checksum of a WAL record (`xl_crc`), which most of what it costs to check WAL goes into.
//!
//! Answers to `ValidXLogRecord` in PostgreSQL's `xlogreader.c`: a CRC-32C of what follows the header, then of the header up to the
//! checksum itself.
//!
//! Most records are shorter than 200 bytes, and a general CRC-32C, made for long buffers, spends more on such a one's odd
//! bytes than on the others. Here a short record is taken in words of eight bytes throughout, which is three to four times as
//! fast (`cargo bench --bench decode`). The odd bytes are moved to the front: some zeros are taken before the first byte,
//! from a state that becomes the usual first one by just these zeros.

use super::wal_record::{CHECKED_HEADER_LEN, RECORD_HEADER_LEN};

/// The checksum of a whole record, without the padding behind it.
///
/// # Panics
/// When `record` is shorter than a record's header.
pub(super) fn record_crc(record: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if short::SHORT_RECORD_LEN.contains(&record.len()) && std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: all that is asked of the caller is a processor that has SSE 4.2, and this one was asked.
        #[expect(
            unsafe_code,
            reason = "a function for certain processors is called behind the question for them"
        )]
        return unsafe { short::record_crc(record) };
    }
    let (header, body) = record.split_at(RECORD_HEADER_LEN);
    record_crc_from_body(crc32c::crc32c(body), header)
}

/// The checksum of a record with this header, from that of all that follows the header.
pub(super) fn record_crc_from_body(body_crc: u32, header: &[u8]) -> u32 {
    crc32c::crc32c_append(body_crc, &header[..CHECKED_HEADER_LEN])
}

#[cfg(target_arch = "x86_64")]
mod short {
    use std::arch::x86_64::_mm_crc32_u64;
    use std::ops::Range;

    use super::super::wal_page::take;
    use super::RECORD_HEADER_LEN;

    /// Shorter than that there is not a word to begin with; longer records gain from three checksums at once, as the
    /// general one has them.
    pub(super) const SHORT_RECORD_LEN: Range<usize> = RECORD_HEADER_LEN + HALF_WORD_LEN..1024;

    const WORD_LEN: usize = 8;
    const HALF_WORD_LEN: usize = 4;

    /// For each number of zero bytes the state from which they lead to the usual first one, all ones.
    const STATE_BEFORE_ZEROS: [u32; WORD_LEN] = states_before_zeros();

    /// CRC-32C's polynomial, the lowest bit for the highest power.
    const POLYNOMIAL: u32 = 0x82F6_3B78;

    const fn states_before_zeros() -> [u32; WORD_LEN] {
        let mut states = [u32::MAX; WORD_LEN];
        let mut zeros = 1;
        while zeros < WORD_LEN {
            let mut state = states[zeros - 1];
            let mut bit = 0;
            while bit < 8 {
                // a step shifts right, and adds the polynomial, whose top bit is set, where a one fell out: so the top bit tells
                state = if state >> 31 == 1 { ((state ^ POLYNOMIAL) << 1) | 1 } else { state << 1 };
                bit += 1;
            }
            states[zeros] = state;
            zeros += 1;
        }
        states
    }

    /// As in the parent, of a record of [`SHORT_RECORD_LEN`].
    #[target_feature(enable = "sse4.2")]
    pub(super) fn record_crc(record: &[u8]) -> u32 {
        // The header's twenty bytes are two words and a half; the other half is the body's end, and before that come words.
        let last_half = record.len() - HALF_WORD_LEN;
        let words_len = last_half - RECORD_HEADER_LEN;
        let zeros = words_len.wrapping_neg() % WORD_LEN;
        let mut state = u64::from(STATE_BEFORE_ZEROS[zeros]);
        if words_len > 0 {
            // the word reaches back into the header, by as much as is made zero in it
            let first = RECORD_HEADER_LEN - zeros;
            state = _mm_crc32_u64(state, word(record, first) & (u64::MAX << (8 * zeros)));
            for word in record[first + WORD_LEN..last_half].chunks_exact(WORD_LEN) {
                state = _mm_crc32_u64(state, u64::from_le_bytes(take(word, 0)));
            }
        }
        let across = u64::from(half_word(record, last_half)) | (u64::from(half_word(record, 0)) << 32);
        state = _mm_crc32_u64(state, across);
        state = _mm_crc32_u64(state, word(record, HALF_WORD_LEN));
        state = _mm_crc32_u64(state, word(record, HALF_WORD_LEN + WORD_LEN));
        !(state as u32)
    }

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(take(bytes, at))
    }

    fn half_word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(take(bytes, at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expected(record: &[u8]) -> u32 {
        let checked = [&record[RECORD_HEADER_LEN..], &record[..CHECKED_HEADER_LEN]].concat();
        crc32c::crc32c(&checked)
    }

    #[test]
    fn records_of_every_length_have_their_checksum() {
        let bytes: Vec<u8> = (0..2000_u32).map(|number| ((number * 167) >> 3) as u8).collect();
        for len in RECORD_HEADER_LEN..bytes.len() - 8 {
            for offset in 0..8 {
                let record = &bytes[offset..][..len];
                assert_eq!(record_crc(record), expected(record), "{len} bytes at {offset}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_record_has_its_checksum(record in proptest::collection::vec(any::<u8>(), RECORD_HEADER_LEN..1100)) {
            prop_assert_eq!(record_crc(&record), expected(&record));
            let (header, body) = record.split_at(RECORD_HEADER_LEN);
            prop_assert_eq!(record_crc_from_body(crc32c::crc32c(body), header), expected(&record));
        }
    }
}

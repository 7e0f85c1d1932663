//! The header of an incremental file: which blocks follow, and how long the file is without them. No I/O.
//!
//! Answers to `make_incremental_rfile` in PostgreSQL's `pg_combinebackup/reconstruct.c`; the server writes it in
//! `sendFile` of `basebackup.c`. All numbers are in the machine's byte order:
//!
//! ```text
//! magic, block count, truncation block length, block numbers …, zeros up to a whole block, blocks …
//! ```
//!
//! Stricter than the original, which takes block numbers as they are: one that no file of a relation can hold, or one
//! that is named twice, is an error. The zeros are there only if there are blocks, so that an unchanged file is 12 bytes.

/// The length of a block: `BLCKSZ`.
pub const BLOCK_LEN: u32 = 8192;

/// How many blocks a file of a relation can hold: `RELSEG_SIZE`. Nothing in a header may exceed it.
pub const SEGMENT_BLOCK_COUNT: u32 = 131_072;

/// `INCREMENTAL_MAGIC`.
pub const MAGIC: u32 = 0xd3ae_1f0d;

/// Magic, block count and truncation block length.
const FIXED_LEN: usize = 12;

/// The header of an incremental file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncrementalHeader {
    truncation_block_length: u32,
    block_numbers: Vec<u32>,
}

/// Why the bytes are no header of an incremental file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IncrementalHeaderError {
    /// It does not begin as incremental files do.
    #[error("has bad incremental magic number (0x{found:x}, expected 0x{MAGIC:x})")]
    Magic {
        /// What it begins with.
        found: u32,
    },
    /// More blocks than a file can hold.
    #[error("has block count {0} in excess of segment size {SEGMENT_BLOCK_COUNT}")]
    BlockCount(u32),
    /// A length that no file can have.
    #[error("has truncation block length {0} in excess of segment size {SEGMENT_BLOCK_COUNT}")]
    TruncationBlockLength(u32),
    /// A block that no file can hold.
    #[error("has block number {0}, which is not less than segment size {SEGMENT_BLOCK_COUNT}")]
    BlockNumber(u32),
    /// A block for the second time.
    #[error("has block {0} twice")]
    DuplicateBlock(u32),
    /// It ends too early: of a field of `wanted` bytes there are `read`.
    #[error("ends within its header: read {read} of {wanted}")]
    Truncated {
        /// What is there.
        read: u32,
        /// What should be.
        wanted: u32,
    },
}

impl IncrementalHeader {
    /// How long the file would be, in blocks, without those that follow.
    pub fn truncation_block_length(&self) -> u32 {
        self.truncation_block_length
    }

    /// The blocks that follow, in the order in which they do: less than [`SEGMENT_BLOCK_COUNT`], none twice.
    pub fn block_numbers(&self) -> &[u32] {
        &self.block_numbers
    }

    /// Where the first block begins.
    pub fn header_len(&self) -> u64 {
        let len = FIXED_LEN as u64 + 4 * self.block_numbers.len() as u64;
        if self.block_numbers.is_empty() { len } else { len.next_multiple_of(u64::from(BLOCK_LEN)) }
    }

    /// How long the file is with all its blocks.
    pub fn file_len(&self) -> u64 {
        self.header_len() + self.block_numbers.len() as u64 * u64::from(BLOCK_LEN)
    }

    /// Where the block that is named at `index` begins.
    pub fn offset_of(&self, index: usize) -> u64 {
        self.header_len() + index as u64 * u64::from(BLOCK_LEN)
    }

    /// How long the rebuilt file is, in blocks.
    pub fn rebuilt_block_length(&self) -> u32 {
        let highest = self.block_numbers.iter().max().map_or(0, |highest| highest + 1);
        self.truncation_block_length.max(highest)
    }
}

/// Reads a header as it arrives.
#[derive(Debug, Default)]
pub struct IncrementalHeaderParser {
    fixed: Vec<u8>,
    header: Option<IncrementalHeader>,
    block_count: u32,
    partial: Vec<u8>,
    /// A bit for each block that was named.
    seen: Vec<u64>,
}

impl IncrementalHeaderParser {
    /// A parser at a file's start.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes; those behind the block numbers are passed over.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), IncrementalHeaderError> {
        if self.header.is_none() {
            let (head, rest) = bytes.split_at(bytes.len().min(FIXED_LEN - self.fixed.len()));
            self.fixed.extend_from_slice(head);
            bytes = rest;
            self.check_fixed()?;
        }
        while !bytes.is_empty() && self.missing_count() > 0 {
            let (head, rest) = bytes.split_at(bytes.len().min(4 - self.partial.len()));
            self.partial.extend_from_slice(head);
            bytes = rest;
            if let Some(number) = word(&self.partial, 0) {
                self.partial.clear();
                self.take_block_number(number)?;
            }
        }
        Ok(())
    }

    /// How many more bytes the header has at least; 0 when it is whole.
    pub fn wanted_len(&self) -> usize {
        FIXED_LEN - self.fixed.len() + 4 * self.missing_count() as usize - self.partial.len()
    }

    /// The file is over, or the header is whole.
    pub fn finish(self) -> Result<IncrementalHeader, IncrementalHeaderError> {
        let missing = 4 * self.missing_count();
        match self.header {
            Some(header) if missing == 0 => Ok(header),
            Some(_) => {
                let wanted = 4 * self.block_count;
                Err(IncrementalHeaderError::Truncated {
                    read: wanted - missing + self.partial.len() as u32,
                    wanted,
                })
            }
            None => Err(IncrementalHeaderError::Truncated { read: self.fixed.len() as u32 % 4, wanted: 4 }),
        }
    }

    /// Checks each number as soon as it is there.
    fn check_fixed(&mut self) -> Result<(), IncrementalHeaderError> {
        if let Some(found) = word(&self.fixed, 0)
            && found != MAGIC
        {
            return Err(IncrementalHeaderError::Magic { found });
        }
        if let Some(count) = word(&self.fixed, 1) {
            if count > SEGMENT_BLOCK_COUNT {
                return Err(IncrementalHeaderError::BlockCount(count));
            }
            self.block_count = count;
        }
        if let Some(length) = word(&self.fixed, 2) {
            if length > SEGMENT_BLOCK_COUNT {
                return Err(IncrementalHeaderError::TruncationBlockLength(length));
            }
            self.seen = vec![0; if self.block_count == 0 { 0 } else { SEGMENT_BLOCK_COUNT as usize / 64 }];
            let block_numbers = Vec::with_capacity(self.block_count as usize);
            self.header = Some(IncrementalHeader { truncation_block_length: length, block_numbers });
        }
        Ok(())
    }

    fn take_block_number(&mut self, number: u32) -> Result<(), IncrementalHeaderError> {
        if number >= SEGMENT_BLOCK_COUNT {
            return Err(IncrementalHeaderError::BlockNumber(number));
        }
        let (place, bit) = (number as usize / 64, 1 << (number % 64));
        if self.seen[place] & bit != 0 {
            return Err(IncrementalHeaderError::DuplicateBlock(number));
        }
        self.seen[place] |= bit;
        if let Some(header) = &mut self.header {
            header.block_numbers.push(number);
        }
        Ok(())
    }

    /// How many block numbers have not come yet.
    fn missing_count(&self) -> u32 {
        let here = self.header.as_ref().map_or(0, |header| header.block_numbers.len() as u32);
        if self.header.is_some() { self.block_count - here } else { 0 }
    }
}

/// The word at `index`, if it is there.
fn word(bytes: &[u8], index: usize) -> Option<u32> {
    let bytes = bytes.get(4 * index..4 * index + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::IncrementalHeaderError as E;
    use super::*;
    use proptest::prelude::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<IncrementalHeader, E> {
        let mut parser = IncrementalHeaderParser::new();
        for piece in pieces {
            parser.push(piece)?;
        }
        parser.finish()
    }

    #[test]
    fn reads_what_the_server_writes() {
        let header = parse([&bytes(&[MAGIC, 3, 100, 7, 0, 120, 0, 0])[..]]).unwrap();
        assert_eq!((header.truncation_block_length(), header.block_numbers()), (100, &[7, 0, 120][..]));
        assert_eq!((header.header_len(), header.file_len(), header.offset_of(2)), (8192, 4 * 8192, 3 * 8192));
        assert_eq!(header.rebuilt_block_length(), 121);
        let stub = parse([&bytes(&[MAGIC, 0, 5])[..]]).unwrap();
        assert_eq!((stub.header_len(), stub.file_len(), stub.rebuilt_block_length()), (12, 12, 5));
        let numbers: Vec<u32> = (0..2046).collect();
        let header = parse([&bytes(&[&[MAGIC, 2046, 0], &numbers[..]].concat())[..]]).unwrap();
        assert_eq!(
            (header.header_len(), header.rebuilt_block_length()),
            (16384, 2046),
            "one more than fits a block"
        );
    }

    #[test]
    fn refuses_what_no_server_writes() {
        const N: u32 = SEGMENT_BLOCK_COUNT;
        for (words, expected) in [
            (&[7, 0, 0][..], E::Magic { found: 7 }),
            (&[MAGIC.swap_bytes(), 0, 0], E::Magic { found: MAGIC.swap_bytes() }),
            (&[MAGIC, N + 1, 0], E::BlockCount(N + 1)),
            (&[MAGIC, u32::MAX, 0], E::BlockCount(u32::MAX)),
            (&[MAGIC, 0, N + 1], E::TruncationBlockLength(N + 1)),
            (&[MAGIC, 1, N, N], E::BlockNumber(N)),
            (&[MAGIC, 1, N, u32::MAX], E::BlockNumber(u32::MAX)),
            (&[MAGIC, 3, N, 4, 5, 4], E::DuplicateBlock(4)),
            (&[], E::Truncated { read: 0, wanted: 4 }),
            (&[MAGIC, 1], E::Truncated { read: 0, wanted: 4 }),
            (&[MAGIC, 3, 9, 1, 2], E::Truncated { read: 8, wanted: 12 }),
        ] {
            assert_eq!(parse([&bytes(words)[..]]), Err(expected), "{words:x?}");
        }
        assert_eq!(parse([&bytes(&[MAGIC])[..3]]), Err(E::Truncated { read: 3, wanted: 4 }));
        assert_eq!(parse([&bytes(&[MAGIC, 1, 0, 5])[..15]]), Err(E::Truncated { read: 3, wanted: 4 }));
        assert!(parse([&bytes(&[MAGIC, 1, N, N - 1])[..]]).is_ok());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            mut words in proptest::collection::vec(prop_oneof![0u32..9, any::<u32>()], 0..12),
            sound in any::<bool>(),
            cuts in proptest::collection::vec(0usize..50, 0..8),
        ) {
            if sound {
                words.splice(..0, [MAGIC, words.len() as u32, 9]);
            }
            let bytes = bytes(&words);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(parse(pieces), parse([&bytes[..]]));
        }

        #[test]
        fn the_wanted_length_leads_to_the_end(numbers in proptest::collection::hash_set(0..SEGMENT_BLOCK_COUNT, 0..30)) {
            let numbers: Vec<u32> = numbers.into_iter().collect();
            let bytes = bytes(&[&[MAGIC, numbers.len() as u32, 1], &numbers[..]].concat());
            let mut parser = IncrementalHeaderParser::new();
            let mut rest = &bytes[..];
            while parser.wanted_len() > 0 {
                let (head, tail) = rest.split_at(parser.wanted_len());
                parser.push(head).unwrap();
                rest = tail;
            }
            prop_assert!(rest.is_empty());
            let header = parser.finish().unwrap();
            prop_assert_eq!(header.block_numbers(), &numbers[..]);
        }
    }
}

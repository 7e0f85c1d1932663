//! From which file each block of a rebuilt file comes. No I/O.
//!
//! Answers to the first half of `reconstruct_from_incremental_file` in PostgreSQL's `reconstruct.c`: the newest file
//! that has a block provides it, the walk through the chain ends at the first full copy, and what nobody has is zeros,
//! because the relation was extended there without a word in the WAL. The newest file alone says how long the result
//! is: a block that an older file has beyond that was truncated away since.

use super::incremental_file::{BLOCK_LEN, IncrementalHeader};

/// The place of a file in the chain: 0 is the oldest backup's.
pub type SourceIndex = usize;

/// Where a block comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSource {
    /// From nowhere: it is zeros.
    Zeros,
    /// From a file of the chain.
    File {
        /// Which.
        source: SourceIndex,
        /// Where in it.
        offset: u64,
    },
}

/// Blocks that lie one behind the other, in the result and where they come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first one.
    pub first_block: u32,
    /// How many there are.
    pub block_count: u32,
    /// Where the first one comes from.
    pub source: BlockSource,
}

/// How a file is rebuilt.
#[derive(Debug)]
pub struct ReconstructionPlan {
    blocks: Vec<Packed>,
    truncation_block_length: u32,
    /// Whether nothing but a full copy has provided a block.
    is_full_copy_possible: bool,
    copy_of: Option<SourceIndex>,
}

/// A [`BlockSource`] in eight bytes: there may be [`SEGMENT_BLOCK_COUNT`](super::incremental_file::SEGMENT_BLOCK_COUNT).
#[derive(Debug, Clone, Copy)]
struct Packed {
    /// One more than the index; 0 is zeros.
    source: u32,
    /// In blocks: what blocks lie behind is a whole number of them long.
    offset: u32,
}

const ZEROS: Packed = Packed { source: 0, offset: 0 };

impl Packed {
    fn new(source: SourceIndex, offset: u64) -> Packed {
        Packed { source: source as u32 + 1, offset: (offset / u64::from(BLOCK_LEN)) as u32 }
    }

    fn unpack(self) -> BlockSource {
        match self.source.checked_sub(1) {
            None => BlockSource::Zeros,
            Some(source) => {
                let offset = u64::from(self.offset) * u64::from(BLOCK_LEN);
                BlockSource::File { source: source as usize, offset }
            }
        }
    }
}

impl ReconstructionPlan {
    /// Begins with the newest file of the chain.
    pub fn new(source: SourceIndex, newest: &IncrementalHeader) -> Self {
        let mut blocks = vec![ZEROS; newest.rebuilt_block_length() as usize];
        for (index, &number) in newest.block_numbers().iter().enumerate() {
            blocks[number as usize] = Packed::new(source, newest.offset_of(index));
        }
        ReconstructionPlan {
            blocks,
            truncation_block_length: newest.truncation_block_length(),
            is_full_copy_possible: newest.block_numbers().is_empty(),
            copy_of: None,
        }
    }

    /// Goes on with an older incremental file.
    pub fn add_incremental(&mut self, source: SourceIndex, header: &IncrementalHeader) {
        for (index, &number) in header.block_numbers().iter().enumerate() {
            if number < self.truncation_block_length && self.blocks[number as usize].source == 0 {
                self.blocks[number as usize] = Packed::new(source, header.offset_of(index));
                self.is_full_copy_possible = false;
            }
        }
    }

    /// Ends with a full copy of `len` bytes.
    pub fn add_full(&mut self, source: SourceIndex, len: u64) {
        let block_len = u64::from(BLOCK_LEN);
        let whole_count = (len / block_len).min(u64::from(self.truncation_block_length));
        for (number, block) in (0..whole_count).zip(&mut self.blocks) {
            if block.source == 0 {
                *block = Packed::new(source, number * block_len);
            }
        }
        if self.is_full_copy_possible && u64::from(self.truncation_block_length) * block_len == len {
            self.copy_of = Some(source);
        }
    }

    /// The file that is the result already, if there is one.
    pub fn copy_of(&self) -> Option<SourceIndex> {
        self.copy_of
    }

    /// How long the result is, in blocks.
    pub fn block_length(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Where a block comes from.
    pub fn source_of(&self, block: u32) -> BlockSource {
        self.blocks.get(block as usize).map_or(BlockSource::Zeros, |packed| packed.unpack())
    }

    /// The whole result, in runs as long as they can be.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = *self.blocks.get(next)?;
            let follows = |(distance, block): &(usize, &Packed)| {
                let expected = if first.source == 0 { 0 } else { first.offset as usize + distance };
                block.source == first.source && block.offset as usize == expected
            };
            let block_count = self.blocks[next..].iter().enumerate().take_while(follows).count();
            let run =
                Run { first_block: next as u32, block_count: block_count as u32, source: first.unpack() };
            next += block_count;
            Some(run)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::incremental_file::{IncrementalHeaderParser, MAGIC};
    use super::*;
    use proptest::prelude::*;

    fn header(truncation: u32, numbers: &[u32]) -> IncrementalHeader {
        let words = [&[MAGIC, numbers.len() as u32, truncation], numbers].concat();
        let mut parser = IncrementalHeaderParser::new();
        words.iter().for_each(|word| parser.push(&word.to_ne_bytes()).unwrap());
        parser.finish().unwrap()
    }

    fn run(first_block: u32, block_count: u32, from: Option<(SourceIndex, u64)>) -> Run {
        let source = from.map_or(BlockSource::Zeros, |(source, block)| BlockSource::File {
            source,
            offset: block * u64::from(BLOCK_LEN),
        });
        Run { first_block, block_count, source }
    }

    #[test]
    fn the_newest_file_that_has_a_block_provides_it() {
        let mut plan = ReconstructionPlan::new(2, &header(8, &[1, 9]));
        plan.add_incremental(1, &header(20, &[1, 2, 3, 15]));
        plan.add_full(0, 6 * 8192 + 100);
        let runs: Vec<Run> = plan.runs().collect();
        assert_eq!(
            runs,
            [
                run(0, 1, Some((0, 0))),
                run(1, 1, Some((2, 1))),
                run(2, 2, Some((1, 2))),
                run(4, 2, Some((0, 4))),
                run(6, 3, None),
                run(9, 1, Some((2, 2))),
            ]
        );
        assert_eq!((plan.block_length(), plan.copy_of()), (10, None));
    }

    #[test]
    fn an_untouched_file_is_copied() {
        let stub = header(5, &[]);
        let plan = |len: u64| {
            let mut plan = ReconstructionPlan::new(2, &stub);
            plan.add_incremental(1, &header(9, &[7]));
            plan.add_full(0, len);
            plan.copy_of()
        };
        assert_eq!((plan(5 * 8192), plan(6 * 8192), plan(5 * 8192 + 1)), (Some(0), None, None));
        let mut touched = ReconstructionPlan::new(2, &stub);
        touched.add_incremental(1, &header(5, &[4]));
        touched.add_full(0, 5 * 8192);
        assert_eq!(touched.copy_of(), None);
    }

    /// The same, block by block, as one would say it.
    fn naive(newest: &IncrementalHeader, older: &[IncrementalHeader], full: u64) -> Vec<BlockSource> {
        let chain: Vec<_> =
            older.iter().chain([newest]).enumerate().map(|(index, header)| (index + 1, header)).collect();
        let block = |number: u32| {
            for &(source, header) in chain.iter().rev() {
                let is_newest = source == chain.len();
                let place = header.block_numbers().iter().position(|&have| have == number);
                if let Some(index) = place.filter(|_| is_newest || number < newest.truncation_block_length())
                {
                    return BlockSource::File { source, offset: header.offset_of(index) };
                }
            }
            let in_full = number < newest.truncation_block_length() && u64::from(number) < full / 8192;
            let offset = u64::from(number) * 8192;
            if in_full { BlockSource::File { source: 0, offset } } else { BlockSource::Zeros }
        };
        (0..newest.rebuilt_block_length()).map(block).collect()
    }

    fn headers() -> impl Strategy<Value = IncrementalHeader> {
        (0u32..30, proptest::collection::hash_set(0u32..30, 0..12))
            .prop_map(|(truncation, numbers)| header(truncation, &numbers.into_iter().collect::<Vec<_>>()))
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_way(newest in headers(), older in proptest::collection::vec(headers(), 0..4), full in 0u64..300_000) {
            let mut plan = ReconstructionPlan::new(older.len() + 1, &newest);
            for (index, header) in older.iter().enumerate().rev() {
                plan.add_incremental(index + 1, header);
            }
            plan.add_full(0, full);
            let expected = naive(&newest, &older, full);
            let blocks: Vec<_> = (0..plan.block_length()).map(|block| plan.source_of(block)).collect();
            prop_assert_eq!(&blocks, &expected);
            let mut from_runs = Vec::new();
            for run in plan.runs() {
                prop_assert_eq!(run.first_block as usize, from_runs.len());
                for distance in 0..u64::from(run.block_count) {
                    from_runs.push(match run.source {
                        BlockSource::Zeros => BlockSource::Zeros,
                        BlockSource::File { source, offset } => BlockSource::File { source, offset: offset + distance * 8192 },
                    });
                }
            }
            prop_assert_eq!(from_runs, expected);
            if plan.copy_of().is_some() {
                let of_full = |number: usize| BlockSource::File { source: 0, offset: number as u64 * 8192 };
                let copied = blocks.iter().enumerate().all(|(number, block)| *block == of_full(number));
                prop_assert!(copied);
            }
        }
    }
}

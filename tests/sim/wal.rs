//! The primary's write-ahead log: every byte of every timeline, computed and not stored.

use std::sync::OnceLock;

use bytes::Bytes;
use pgwake::pg::{Lsn, TimelineHistory, TimelineId, WalFileName, WalSegmentSize};

/// The smallest size there is: a run should cross many ends of segments.
pub const SEGMENT_LEN: u64 = 1 << 20;

const WAL_PAGE_LEN: u32 = 8192;

pub fn segment_size() -> WalSegmentSize {
    WalSegmentSize::from_bytes(SEGMENT_LEN).expect("1 MB is a segment size")
}

/// All timelines there ever were; a timeline is known by its index, and its number is one more.
#[derive(Debug, Clone)]
pub struct Wal {
    timelines: Vec<Timeline>,
}

#[derive(Debug, Clone, Copy)]
struct Timeline {
    parent: Option<usize>,
    begin_lsn: Lsn,
}

impl Wal {
    pub fn new() -> Self {
        Wal { timelines: vec![Timeline { parent: None, begin_lsn: Lsn::INVALID }] }
    }

    /// The current timeline.
    pub fn current(&self) -> usize {
        self.timelines.len() - 1
    }

    pub fn id(&self, index: usize) -> TimelineId {
        TimelineId::new(index as u32 + 1).expect("indexes are small")
    }

    pub fn index(&self, id: TimelineId) -> Option<usize> {
        let index = id.as_u32() as usize - 1;
        (index < self.timelines.len()).then_some(index)
    }

    /// The timeline `parent` is left at `switch_lsn`.
    pub fn promote(&mut self, parent: usize, switch_lsn: Lsn) -> usize {
        self.timelines.push(Timeline { parent: Some(parent), begin_lsn: switch_lsn });
        self.current()
    }

    pub fn begin_lsn(&self, index: usize) -> Lsn {
        self.timelines[index].begin_lsn
    }

    /// `index` and its ancestors, newest first.
    pub fn lineage(&self, index: usize) -> Vec<usize> {
        std::iter::successors(Some(index), |index| self.timelines[*index].parent).collect()
    }

    /// The timeline after `index` on the way to the current one, and where it begins.
    pub fn successor(&self, index: usize) -> Option<(usize, Lsn)> {
        let lineage = self.lineage(self.current());
        let at = lineage.iter().position(|other| *other == index)?;
        let next = *lineage.get(at.checked_sub(1)?)?;
        Some((next, self.timelines[next].begin_lsn))
    }

    pub fn history_file(&self, index: usize) -> Bytes {
        let mut lines: Vec<String> = Vec::new();
        for child in self.lineage(index) {
            if let Timeline { parent: Some(parent), begin_lsn } = self.timelines[child] {
                lines.push(format!("{}\t{begin_lsn}\tno recovery target specified\n", self.id(parent)));
            }
        }
        lines.reverse();
        Bytes::from(lines.concat())
    }

    pub fn history(&self, index: usize) -> TimelineHistory {
        TimelineHistory::parse(self.id(index), &self.history_file(index)).expect("our own history")
    }

    /// The bytes from `lsn` on, as a server on timeline `index` has them.
    pub fn bytes(&self, index: usize, lsn: Lsn, len: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len as usize);
        let mut at = lsn;
        let end = lsn + len;
        while at < end {
            let lineage = self.lineage(index);
            let writer =
                *lineage.iter().find(|i| self.timelines[**i].begin_lsn <= at).expect("the first begins at 0");
            let newer = lineage.iter().rev().map(|i| self.timelines[*i].begin_lsn);
            let until = newer.filter(|begin| *begin > at).min().map_or(end, |begin| begin.min(end));
            append(&mut bytes, writer, at, until - at);
            at = until;
        }
        begin_pages(&mut bytes, lsn);
        bytes
    }

    /// The names under which bytes of a segment may be found by a server on timeline `index`.
    pub fn names(&self, index: usize, lsn: Lsn) -> Vec<String> {
        let segment = segment_size().segment_at(lsn);
        let name = |index: &usize| WalFileName { timeline: self.id(*index), segment }.to_string();
        let both = |name: String| [format!("{name}.partial"), name];
        let names = self.lineage(index).into_iter().map(|index| name(&index));
        let stored =
            names.flat_map(|name| ["", ".gz", ".lz4", ".zst"].map(|suffix| format!("{name}{suffix}")));
        stored.flat_map(both).collect()
    }
}

/// A pool of noise with zeros in it, of a length that is no multiple of anything.
fn pool() -> &'static [u8] {
    static POOL: OnceLock<Vec<u8>> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut random = fastrand::Rng::with_seed(1);
        let mut noise: Vec<u8> = (0..1_300_021).map(|_| random.u8(..)).collect();
        for _ in 0..300 {
            let (start, len) = (random.usize(..noise.len() - 4000), random.usize(..4000));
            noise[start..start + len].fill(0);
        }
        noise
    })
}

/// A page begins with a number that is not zero, and so does a segment: of a file without it nothing was ever acknowledged.
fn begin_pages(bytes: &mut [u8], lsn: Lsn) {
    let page_len = u64::from(WAL_PAGE_LEN);
    let first = (lsn.as_u64().next_multiple_of(page_len) - lsn.as_u64()) as usize;
    for byte in bytes.iter_mut().skip(first).step_by(WAL_PAGE_LEN as usize) {
        *byte = 0xd1;
    }
}

fn append(bytes: &mut Vec<u8>, writer: usize, lsn: Lsn, len: u64) {
    let pool = pool();
    let mut at = (lsn.as_u64() as usize + writer * 77_777) % pool.len();
    let mut left = len as usize;
    while left > 0 {
        let piece = left.min(pool.len() - at);
        bytes.extend_from_slice(&pool[at..at + piece]);
        (at, left) = (0, left - piece);
    }
}

//! Whether the promises hold.
//!
//! What is reported as written is with the operating system: the end of the process does not lose it. P1 is checked twice: at each acknowledgement, against what would survive the worst loss of power at that very
//! moment; and for all acknowledgements ever made, against what a crash has really left. P2 follows: a byte that
//! was taken for another position's is not the one that the acknowledged range must have. P3 is checked on every
//! image and at every write, P4 at every status update.

use std::collections::BTreeMap;

use pgwake::pg::{Lsn, WalFileName, WalSegment};
use pgwake::wire::replication::StandbyStatusUpdate;

use crate::disk::{Image, SimDisk, is_final};
use crate::plain::Plain;
use crate::wal::{SEGMENT_LEN, Wal, segment_size};

#[derive(Debug)]
pub struct Checker {
    /// Where the directory began: before it nothing is promised.
    base_lsn: Lsn,
    /// How far each timeline was reported as written, by a process that still lives.
    written: BTreeMap<usize, Lsn>,
    /// How far each timeline was acknowledged.
    acknowledged: BTreeMap<usize, Lsn>,
    /// The slot's position, as the reports moved it.
    pub slot_lsn: Lsn,
    /// The last flush reported in this life, and in this connection.
    life_flush_lsn: Lsn,
    /// A segment that somebody has taken out of the directory: what was acknowledged of it is not missed.
    pub taken: Option<WalSegment>,
    durable: Plain,
    seen: Plain,
    pub violation: Option<String>,
}

impl Checker {
    pub fn new(base_lsn: Lsn, slot_lsn: Lsn) -> Self {
        Checker {
            base_lsn,
            written: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            slot_lsn,
            life_flush_lsn: Lsn::INVALID,
            taken: None,
            durable: Plain::default(),
            seen: Plain::default(),
            violation: None,
        }
    }

    pub fn begin_life(&mut self) {
        self.life_flush_lsn = Lsn::INVALID;
        self.written.clear();
    }

    pub fn has_acknowledgements(&self) -> bool {
        !self.acknowledged.is_empty()
    }

    pub fn violate(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    /// A status update of a stream of timeline `index` that was sent up to `sent_lsn`.
    pub fn check_status(
        &mut self,
        update: &StandbyStatusUpdate,
        index: usize,
        sent_lsn: Lsn,
        wal: &Wal,
        disk: &SimDisk,
    ) {
        let StandbyStatusUpdate { write_lsn, flush_lsn, apply_lsn, .. } = *update;
        if flush_lsn > write_lsn || apply_lsn > flush_lsn || write_lsn > sent_lsn {
            self.violate(format!("positions {apply_lsn} {flush_lsn} {write_lsn} of {sent_lsn} sent"));
        }
        let known_lsn = self.written.get(&index).or(self.acknowledged.get(&index)).copied();
        let known_lsn = known_lsn.unwrap_or(self.base_lsn);
        self.written.insert(index, write_lsn.max(known_lsn));
        for (lsn, len) in pieces(known_lsn, write_lsn) {
            let offset = segment_size().offset_of(lsn) as usize;
            if !self.is_seen(disk, &wal.names(index, lsn), offset, &wal.bytes(index, lsn, len)) {
                self.violate(format!("{write_lsn} was reported as written, but {lsn}+{len} is not"));
                return;
            }
        }
        if !flush_lsn.is_valid() {
            return;
        }
        if disk.0.borrow().failed && flush_lsn > self.life_flush_lsn {
            self.violate(format!("P4: {flush_lsn} was acknowledged after a failure"));
        }
        self.life_flush_lsn = flush_lsn;
        if flush_lsn < self.slot_lsn {
            self.violate(format!("the slot went back from {} to {flush_lsn}", self.slot_lsn));
        }
        // what an ended timeline had beyond the switch is nothing to the server that took it over there
        let switch_lsn = wal.history(wal.current()).switch_point(wal.id(index));
        self.slot_lsn = switch_lsn.map_or(flush_lsn, |switch_lsn| flush_lsn.min(switch_lsn));
        let verified_lsn = self.acknowledged.get(&index).copied().unwrap_or(self.base_lsn);
        if flush_lsn <= verified_lsn {
            return;
        }
        self.acknowledged.insert(index, flush_lsn);
        for (lsn, len) in pieces(verified_lsn, flush_lsn) {
            let offset = segment_size().offset_of(lsn) as usize;
            if !self.is_durable(disk, &wal.names(index, lsn), offset, &wal.bytes(index, lsn, len)) {
                let end = lsn + len;
                self.violate(format!("P1: {flush_lsn} was acknowledged, but {lsn} to {end} is not durable"));
                return;
            }
        }
    }

    /// Whether one of `names` has `bytes` at `offset` as long as the machine lives.
    fn is_seen(&self, disk: &SimDisk, names: &[String], offset: usize, bytes: &[u8]) -> bool {
        let has =
            |content: &[u8]| content.get(offset..offset + bytes.len()).is_some_and(|found| found == bytes);
        names.iter().any(|name| {
            let look = |content: &[u8]| has(content) || has(&self.seen.of(name, content));
            disk.with_seen(name, look).unwrap_or(false)
        })
    }

    /// Whether one of `names` has `bytes` at `offset` whatever happens.
    fn is_durable(&self, disk: &SimDisk, names: &[String], offset: usize, bytes: &[u8]) -> bool {
        let has =
            |content: &[u8]| content.get(offset..offset + bytes.len()).is_some_and(|found| found == bytes);
        names.iter().any(|name| {
            let look = |content: &[u8]| has(content) || has(&self.durable.of(name, content));
            disk.with_durable(name, look).unwrap_or(false)
        })
    }

    /// What a crash, or an orderly end, has left.
    pub fn check_image(&mut self, image: &Image, wal: &Wal) {
        for (index, flush_lsn) in self.acknowledged.clone() {
            for (lsn, len) in pieces(self.base_lsn, flush_lsn) {
                if self.taken == Some(segment_size().segment_at(lsn)) {
                    continue;
                }
                let expected = wal.bytes(index, lsn, len);
                let names = wal.names(index, lsn);
                let found = names.iter().filter_map(|name| Some((name, image.get(name)?)));
                let has = |(name, content): (&String, &Vec<u8>)| {
                    content.starts_with(&expected) || self.seen.of(name, content).starts_with(&expected)
                };
                if !found.into_iter().any(has) {
                    let (id, end) = (wal.id(index), lsn + len);
                    self.violate(format!("P1: {lsn} to {end} of timeline {id} was acknowledged and is lost"));
                }
            }
        }
        for (name, content) in image {
            if is_final(name)
                && let Ok(file) = WalFileName::parse(&name[..24], segment_size())
            {
                let index = wal.index(file.timeline).expect("files are of timelines that exist");
                if *self.seen.of(name, content) != wal.bytes(index, file.segment.start_lsn(), SEGMENT_LEN) {
                    self.violate(format!("P3: {name} is not the primary's, {} bytes", content.len()));
                }
            }
            if let Some(number) = name.strip_suffix(".history") {
                let index = u32::from_str_radix(number, 16).expect("history files are ours") as usize - 1;
                if *content != wal.history_file(index) {
                    self.violate(format!("P3: {name} is not the primary's"));
                }
            }
        }
    }
}

/// A range, cut at the ends of segments, each piece with its length.
fn pieces(mut start: Lsn, end: Lsn) -> Vec<(Lsn, u64)> {
    let mut pieces = Vec::new();
    while start < end {
        let next = segment_size().segment_at(start).end_lsn().min(end);
        pieces.push((start, next - start));
        start = next;
    }
    pieces
}

//! Whether a server could recover from an archive: every object read, every record checked, gaps and histories told.
//!
//! What [`verify`](super::verify()) says of a directory, said of an archive in the same words. One object is in memory at a
//! time. A receiver may write to the archive meanwhile, and WAL be pruned: what was there when it was listed is what is looked at.

use std::collections::BTreeMap;

use super::buffers::Buffer;
use super::catalog::{self, Catalog, Gap, TimelineContent};
use super::envelope::EnvelopeError;
use super::error::ArchiveError;
use super::identity::ClusterIdentity;
use super::layout::{self, SegmentRange};
use super::problem::{Problem, ProblemKind};
use super::store::ArchiveStore;
use super::timelines::check_histories;
use super::verify::{TimelineReport, VerifyReport, WalRange};
use super::wal_object::{self, WalObjectError};
use crate::pg::{Lsn, TimelineHistory, TimelineId, WalChecker, WalFileName};

/// Reads all objects of an archive.
pub async fn audit(store: &ArchiveStore) -> Result<VerifyReport, ArchiveError> {
    let catalog = Catalog::read(store).await?;
    let mut report = VerifyReport {
        system_identifier: catalog.identity.system_identifier,
        segment_size: catalog.identity.segment_size,
        timelines: Vec::new(),
        problems: Vec::new(),
        file_count: 0,
        byte_count: 0,
    };
    let mut histories = BTreeMap::new();
    for content in &catalog.timelines {
        let history = check_history(store, content, &mut report).await?;
        histories.extend(history.clone().map(|history| (content.timeline, history)));
        let mut timeline = TimelineReport {
            timeline: content.timeline,
            ranges: Vec::new(),
            finished_count: content.segments.len(),
            partial_count: content
                .ranges
                .iter()
                .map(|range| range.file)
                .collect::<std::collections::BTreeSet<_>>()
                .len(),
        };
        let mut walk =
            Walk { store, identity: &catalog.identity, content, first: None, history, report: &mut report };
        walk.run(&mut timeline).await?;
        report.timelines.push(timeline);
    }
    for history in histories.values() {
        report.problems.extend(check_beginning(&catalog, history));
    }
    report.problems.extend(check_histories(&histories));
    report.problems.sort_by_key(|problem| (problem.timeline, problem.lsn));
    Ok(report)
}

/// The timelines that one grew out of must reach to where it begins.
fn check_beginning(catalog: &Catalog, history: &TimelineHistory) -> Option<Problem> {
    let Gap { timeline, start_lsn, end_lsn, .. } = catalog.gap_at_beginning(history)?;
    let kind = ProblemKind::Gap { timeline, start_lsn, end_lsn };
    Some(Problem { timeline, lsn: start_lsn, file: None, kind })
}

async fn check_history(
    store: &ArchiveStore,
    content: &TimelineContent,
    report: &mut VerifyReport,
) -> Result<Option<TimelineHistory>, ArchiveError> {
    let timeline = content.timeline;
    let problem = |kind| Problem { timeline, lsn: Lsn::INVALID, file: None, kind };
    match catalog::read_history(store, timeline).await {
        Ok(Some((history, _))) => return Ok(Some(history)),
        Ok(None) if timeline == TimelineId::FIRST => {}
        Ok(None) => report.problems.push(problem(ProblemKind::HistoryMissing(timeline))),
        Err(ArchiveError::History { key, source }) => {
            report.problems.push(Problem { file: Some(key), ..problem(ProblemKind::History(source)) });
        }
        Err(ArchiveError::Damaged { key, source }) => {
            report.problems.push(Problem { file: Some(key), ..problem(damage(source)) });
        }
        Err(ArchiveError::Envelope { key, source }) if is_damage(&source) => {
            let kind = ProblemKind::Compression { reason: source.to_string() };
            report.problems.push(Problem { file: Some(key), ..problem(kind) });
        }
        Err(error) => return Err(error),
    }
    Ok(None)
}

/// In an archive whose first object was opened with these keys.
fn is_damage(error: &EnvelopeError) -> bool {
    matches!(error, EnvelopeError::Altered | EnvelopeError::NotEncrypted)
}

fn damage(error: WalObjectError) -> ProblemKind {
    match error {
        WalObjectError::Decompress(source) => ProblemKind::Compression { reason: source.to_string() },
        WalObjectError::Length { found, expected } => {
            ProblemKind::WrongLength { len: found, segment_len: expected }
        }
    }
}

/// An object with WAL.
#[derive(Debug, Clone, Copy)]
struct Object {
    file: WalFileName,
    start_lsn: Lsn,
    end_lsn: Lsn,
    /// Where it is only a part.
    part: Option<SegmentRange>,
}

impl Object {
    fn whole(file: WalFileName) -> Self {
        Object { file, start_lsn: file.segment.start_lsn(), end_lsn: file.segment.end_lsn(), part: None }
    }

    fn key(&self) -> String {
        self.part.map_or_else(|| layout::segment_key(self.file), |part| part.key())
    }

    fn is_whole(&self) -> bool {
        self.end_lsn - self.start_lsn == self.file.segment.size().as_u64()
    }
}

/// What has come of an object since it was listed.
enum Found {
    /// It is there.
    Wal(Buffer),
    /// It is there, and is not what it must be: that was told.
    Damaged,
    /// Not any more: pruned, with all before it.
    Pruned,
    /// Not any more, and what is before it is: somebody has removed it.
    Removed,
}

/// One timeline, from its first object to its last.
struct Walk<'a> {
    store: &'a ArchiveStore,
    identity: &'a ClusterIdentity,
    content: &'a TimelineContent,
    /// The first object that was there.
    first: Option<Object>,
    history: Option<TimelineHistory>,
    report: &'a mut VerifyReport,
}

impl Walk<'_> {
    async fn run(&mut self, timeline: &mut TimelineReport) -> Result<(), ArchiveError> {
        let mut checker: Option<WalChecker> = None;
        let (mut reached, mut listed_end) = (Lsn::INVALID, Lsn::INVALID);
        let mut folded = None;
        for listed in self.objects() {
            if folded == Some(listed.file) {
                continue;
            }
            listed_end = listed_end.max(listed.end_lsn);
            let (object, found) = self.read(listed).await?;
            match found {
                Found::Removed => continue,
                Found::Pruned => {
                    // what was seen before is gone as well
                    (checker, reached, listed_end, self.first) = (None, Lsn::INVALID, Lsn::INVALID, None);
                    self.forget(timeline);
                    continue;
                }
                Found::Wal(_) | Found::Damaged => {}
            }
            self.first.get_or_insert(object);
            let mut known_lsn = reached.max(object.start_lsn);
            if object.start_lsn > reached {
                if reached.is_valid() {
                    self.tell_gap(reached, object.start_lsn);
                }
                self.end_range(checker.take(), timeline);
                checker = self.begin(object.start_lsn, timeline);
            } else if checker.is_none() && self.begins_segment(object.start_lsn) {
                // what is behind damage is told of as well
                checker = self.begin(object.start_lsn, timeline);
                if object.is_whole() {
                    known_lsn = object.start_lsn;
                }
            }
            folded = Some(object.file).filter(|_| object.is_whole());
            reached = reached.max(object.end_lsn);
            let Found::Wal(wal) = found else {
                self.end_range(checker.take(), timeline);
                continue;
            };
            let new = wal.get((known_lsn - object.start_lsn) as usize..).unwrap_or_default();
            if let Some(open) = &mut checker
                && let Err(error) = open.push(known_lsn, new)
            {
                let kind = ProblemKind::InvalidWal(error);
                self.problem(error.lsn, Some(object.key()), kind);
                self.end_range(checker.take(), timeline);
            }
        }
        self.end_range(checker, timeline);
        if reached < listed_end {
            self.tell_gap(reached, listed_end);
        }
        Ok(())
    }

    /// In the order of positions; of two that begin together the longer one first.
    fn objects(&self) -> Vec<Object> {
        let whole = self.content.segments.iter().map(|file| Object::whole(*file));
        let parts = self.content.ranges.iter().map(|range| Object {
            file: range.file,
            start_lsn: range.start_lsn,
            end_lsn: range.end_lsn,
            part: Some(*range),
        });
        let mut objects: Vec<Object> = whole.chain(parts).collect();
        objects.sort_by_key(|object| (object.start_lsn, std::cmp::Reverse(object.end_lsn)));
        objects
    }

    fn begins_segment(&self, lsn: Lsn) -> bool {
        self.identity.segment_size.segment_at(lsn).start_lsn() == lsn
    }

    /// A stretch is read from a segment's start; one that begins elsewhere lacks what comes before.
    fn begin(&mut self, lsn: Lsn, timeline: &mut TimelineReport) -> Option<WalChecker> {
        let size = self.identity.segment_size;
        let segment = size.segment_at(lsn);
        if segment.start_lsn() != lsn {
            self.tell_gap(segment.start_lsn(), lsn);
            return None;
        }
        timeline.ranges.push(WalRange { start_lsn: lsn, end_lsn: lsn });
        let checker = WalChecker::new(self.identity.system_identifier, size, self.content.timeline, lsn);
        Some(match &self.history {
            Some(history) => checker.with_history(history.clone()),
            None => checker,
        })
    }

    fn end_range(&self, checker: Option<WalChecker>, timeline: &mut TimelineReport) {
        if let (Some(checker), Some(range)) = (checker, timeline.ranges.last_mut()) {
            range.end_lsn = range.end_lsn.max(checker.checked_lsn());
        }
    }

    /// Reads an object; in place of a part that is gone, the segment that it has become one with.
    async fn read(&mut self, listed: Object) -> Result<(Object, Found), ArchiveError> {
        if let Some(found) = self.read_one(&listed).await? {
            return Ok((listed, found));
        }
        if listed.part.is_some() {
            let whole = Object::whole(listed.file);
            if let Some(found) = self.read_one(&whole).await? {
                return Ok((whole, found));
            }
        }
        let gone = match &self.first {
            Some(first) => {
                let is_there = self.store.exists(&first.key()).await?
                    || self.store.exists(&layout::segment_key(first.file)).await?;
                if is_there { Found::Removed } else { Found::Pruned }
            }
            None => Found::Pruned,
        };
        Ok((listed, gone))
    }

    async fn read_one(&mut self, object: &Object) -> Result<Option<Found>, ArchiveError> {
        let len = object.end_lsn - object.start_lsn;
        let content = match self.store.read(&object.key(), wal_object::max_encoded_len(len)).await {
            Ok(Some(content)) => content,
            Ok(None) => return Ok(None),
            Err(ArchiveError::TooLong { len: found, .. }) => {
                let kind = ProblemKind::WrongLength { len: found, segment_len: len };
                self.problem(object.start_lsn, Some(object.key()), kind);
                return Ok(Some(Found::Damaged));
            }
            Err(ArchiveError::Envelope { source, .. }) if is_damage(&source) => {
                let kind = ProblemKind::Compression { reason: source.to_string() };
                self.problem(object.start_lsn, Some(object.key()), kind);
                return Ok(Some(Found::Damaged));
            }
            Err(error) => return Err(error),
        };
        self.report.file_count += 1;
        match wal_object::decode(&content, len) {
            Ok(wal) => {
                self.report.byte_count += wal.len() as u64;
                Ok(Some(Found::Wal(wal)))
            }
            Err(error) => {
                self.problem(object.start_lsn, Some(object.key()), damage(error));
                Ok(Some(Found::Damaged))
            }
        }
    }

    /// Takes back what was told of this timeline's WAL.
    fn forget(&mut self, timeline: &mut TimelineReport) {
        timeline.ranges.clear();
        let of_another = |problem: &Problem| problem.timeline != timeline.timeline || !problem.lsn.is_valid();
        self.report.problems.retain(of_another);
    }

    fn tell_gap(&mut self, start_lsn: Lsn, end_lsn: Lsn) {
        let timeline = self.content.timeline;
        self.problem(start_lsn, None, ProblemKind::Gap { timeline, start_lsn, end_lsn });
    }

    fn problem(&mut self, lsn: Lsn, file: Option<String>, kind: ProblemKind) {
        self.report.problems.push(Problem { timeline: self.content.timeline, lsn, file, kind });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use object_store::memory::InMemory;
    use tokio::sync::OnceCell;

    use super::super::layout::Generation;
    use super::super::testing::{HookedStore, Verb};
    use super::*;
    use crate::pg::wal_builder::WalBuilder;
    use crate::pg::{SystemIdentifier, WalSegmentSize};

    const MIB: u64 = 1 << 20;

    /// An archive of three segments: two whole, the last in two parts.
    async fn archive(remove: Option<usize>, damage: Option<usize>) -> VerifyReport {
        let store = ArchiveStore::over(Arc::new(InMemory::new()), "");
        fill(&store, remove, damage).await;
        audit(&store).await.unwrap()
    }

    /// Returns the objects' keys, and the last segment as it is when it is whole, under its key.
    async fn fill(
        store: &ArchiveStore,
        remove: Option<usize>,
        damage: Option<usize>,
    ) -> (Vec<String>, (String, Bytes)) {
        let (size, system) = (WalSegmentSize::from_bytes(MIB).unwrap(), SystemIdentifier::new(77));
        let start_lsn = Lsn::new(4 * MIB);
        let mut wal = WalBuilder::new(system, size, TimelineId::FIRST, start_lsn);
        while wal.end_lsn() < Lsn::new(6 * MIB + 100_000) {
            wal.record(&[7; 3000]);
        }
        let identity = ClusterIdentity { system_identifier: system, segment_size: size, major: 19 };
        identity.claim(store).await.unwrap();
        let file = |number: u64| WalFileName {
            timeline: TimelineId::FIRST,
            segment: size.segment_at(Lsn::new(number * MIB)),
        };
        let generation = Generation::FIRST;
        let part =
            |from: Lsn, to: Lsn| SegmentRange { file: file(6), start_lsn: from, end_lsn: to, generation };
        let (middle, end) = (Lsn::new(6 * MIB + 50_001), wal.end_lsn());
        let objects = [
            (layout::segment_key(file(4)), start_lsn, Lsn::new(5 * MIB)),
            (layout::segment_key(file(5)), Lsn::new(5 * MIB), Lsn::new(6 * MIB)),
            (part(Lsn::new(6 * MIB), middle).key(), Lsn::new(6 * MIB), middle),
            (part(middle, end).key(), middle, end),
        ];
        let keys = objects.iter().map(|(key, ..)| key.clone()).collect();
        for (index, (key, from, to)) in objects.into_iter().enumerate() {
            let mut bytes = wal.bytes()[(from - start_lsn) as usize..(to - start_lsn) as usize].to_vec();
            if damage == Some(index) {
                bytes[20_000] ^= 1;
            }
            if remove != Some(index) {
                store.create(&key, wal_object::encode(&bytes).unwrap()).await.unwrap();
            }
        }
        while wal.end_lsn() < Lsn::new(7 * MIB) {
            wal.record(&[7; 3000]);
        }
        let last = &wal.bytes()[2 * MIB as usize..3 * MIB as usize];
        (keys, (layout::segment_key(file(6)), wal_object::encode(last).unwrap()))
    }

    /// Before which object is read some are removed, after the last segment became whole if that is one of them.
    async fn changing(before: usize, removed: &'static [usize]) -> VerifyReport {
        let changed = Arc::new(OnceCell::<(ArchiveStore, Vec<String>, (String, Bytes))>::new());
        let inner = Arc::clone(&changed);
        let (store, direct) = HookedStore::archive(move |verb, key| {
            let (inner, key) = (Arc::clone(&inner), key.to_owned());
            async move {
                let (direct, keys, (whole_key, whole)) = inner.get().unwrap();
                if verb == Verb::Read && key == format!("db/{}", keys[before]) {
                    if removed.contains(&3) {
                        direct.create(whole_key, whole.clone()).await.unwrap();
                    }
                    for index in removed {
                        direct.remove(&keys[*index]).await.unwrap();
                    }
                }
                Ok(())
            }
            .boxed()
        });
        let (keys, whole) = fill(&direct, None, None).await;
        assert!(changed.set((direct, keys, whole)).is_ok());
        audit(&store).await.unwrap()
    }

    #[tokio::test]
    async fn parts_that_become_a_segment_meanwhile_are_read_there() {
        for before in 0..4 {
            let report = changing(before, &[2, 3]).await;
            assert!(report.problems.is_empty(), "{before}: {:?}", report.problems);
            let [timeline] = &report.timelines[..] else { panic!("{report:?}") };
            let [range] = &timeline.ranges[..] else { panic!("{before}: {timeline:?}") };
            assert_eq!(range.start_lsn, Lsn::new(4 * MIB));
            assert!(range.end_lsn > Lsn::new(7 * MIB - 3100), "{before}: {range:?}");
        }
    }

    #[tokio::test]
    async fn what_is_pruned_meanwhile_is_no_problem_and_what_is_removed_is() {
        for (before, removed) in [(0, &[0][..]), (0, &[0, 1]), (1, &[0, 1])] {
            let report = changing(before, removed).await;
            assert!(report.problems.is_empty(), "{before} {removed:?}: {:?}", report.problems);
            let first = report.timelines[0].ranges[0].start_lsn;
            assert_eq!(first, Lsn::new((4 + removed.len() as u64) * MIB), "{before} {removed:?}");
        }
        let report = changing(1, &[1]).await;
        let [problem] = &report.problems[..] else { panic!("{:?}", report.problems) };
        let (timeline, start_lsn, end_lsn) = (TimelineId::FIRST, Lsn::new(5 * MIB), Lsn::new(6 * MIB));
        assert_eq!(problem.kind, ProblemKind::Gap { timeline, start_lsn, end_lsn });
    }

    #[tokio::test]
    async fn what_is_whole_is_without_a_problem() {
        let report = archive(None, None).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        let [timeline] = &report.timelines[..] else { panic!("{report:?}") };
        assert_eq!((timeline.finished_count, timeline.partial_count, report.file_count), (2, 1, 4));
        assert_eq!(timeline.ranges.len(), 1);
        assert!(timeline.ranges[0].end_lsn >= Lsn::new(6 * MIB + 100_000));
    }

    #[tokio::test(start_paused = true)]
    async fn gaps_and_damage_are_found_where_they_are() {
        for index in 1..3 {
            let report = archive(Some(index), None).await;
            let gap = report.problems.iter().any(|problem| matches!(problem.kind, ProblemKind::Gap { .. }));
            assert!(gap, "{index}: {:?}", report.problems);
        }
        for index in 0..4 {
            let report = archive(None, Some(index)).await;
            let [problem] = &report.problems[..] else { panic!("{index}: {:?}", report.problems) };
            assert!(matches!(problem.kind, ProblemKind::InvalidWal(_)), "{index}: {problem}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeline_that_begins_behind_the_end_of_the_one_before_it_is_a_gap() {
        let size = WalSegmentSize::from_bytes(MIB).unwrap();
        let two = TimelineId::new(2).unwrap();
        // what the first timeline has, the switch point, what the second has
        for (first, switch, second, gap) in [
            (&[3u64, 4][..], "0/500100", &[5u64][..], None),
            (&[3], "0/500100", &[5], Some((4, 5))),
            (&[3, 4, 5], "0/600000", &[6], None),
            (&[3, 4, 5], "0/500100", &[6], Some((5, 6))),
            (&[], "0/500100", &[6], None),
            // it has just begun: what is missing is on its way, and nothing is behind it
            (&[3], "0/500100", &[], None),
        ] {
            let store = ArchiveStore::over(Arc::new(InMemory::new()), "");
            let system_identifier = SystemIdentifier::new(77);
            let identity = ClusterIdentity { system_identifier, segment_size: size, major: 19 };
            identity.claim(&store).await.unwrap();
            let all = first.iter().map(|number| (TimelineId::FIRST, number));
            for (timeline, number) in all.chain(second.iter().map(|number| (two, number))) {
                let file = WalFileName { timeline, segment: size.segment_at(Lsn::new(number * MIB)) };
                store.create(&layout::segment_key(file), Bytes::from_static(b"x")).await.unwrap();
            }
            store.create(&layout::history_key(two), Bytes::from_static(b"x")).await.unwrap();
            let catalog = Catalog::read(&store).await.unwrap();
            let history = format!("1\t{switch}\tno reason\n");
            let history = TimelineHistory::parse(two, history.as_bytes()).unwrap();
            let found = check_beginning(&catalog, &history).map(|problem| match problem.kind {
                ProblemKind::Gap { start_lsn, end_lsn, .. } => {
                    (start_lsn.as_u64() / MIB, end_lsn.as_u64() / MIB)
                }
                other => panic!("{other:?}"),
            });
            assert_eq!(found, gap, "{first:?} {switch} {second:?}");
        }
    }
}

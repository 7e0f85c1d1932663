//! How far recovery comes from a backup: the recovery windows of an archive.

use std::collections::BTreeMap;

use super::listing::BackupListing;
use super::name::BackupName;
use super::record::{BackupRecord, WalPlace};
use crate::archive::{ArchiveError, ArchiveStore, Catalog, Stretch, catalog};
use crate::pg::{Lsn, TimelineHistory, TimelineId, Timestamp, WalSegmentSize};

/// What an archive's WAL can do for its backups.
#[derive(Debug, Clone)]
pub struct WalMap {
    segment_size: WalSegmentSize,
    stretches: BTreeMap<TimelineId, Vec<Stretch>>,
    histories: BTreeMap<TimelineId, TimelineHistory>,
}

/// A stretch of time to any moment of which the cluster can be restored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RecoveryWindow {
    /// The timeline that recovery ends on.
    pub timeline: TimelineId,
    /// The oldest backup that leads into it.
    pub backup: BackupName,
    /// Where that is consistent.
    pub from_lsn: Lsn,
    /// When.
    pub from_time: Timestamp,
    /// The first byte that the archive does not have.
    pub to_lsn: Lsn,
}

impl WalMap {
    /// From an archive's listing, and its histories.
    pub async fn read(store: &ArchiveStore, catalog: &Catalog) -> Result<Self, ArchiveError> {
        let (mut stretches, mut histories) = (BTreeMap::new(), BTreeMap::new());
        for content in &catalog.timelines {
            let timeline = content.timeline;
            stretches.insert(timeline, content.stretches());
            let history =
                if content.has_history { catalog::read_history(store, timeline).await? } else { None };
            match history {
                Some((history, _)) => drop(histories.insert(timeline, history)),
                None if timeline == TimelineId::FIRST => {
                    histories.insert(timeline, TimelineHistory::root(timeline));
                }
                // without its history nobody knows where it comes from; recovery could not either
                None => {}
            }
        }
        Ok(WalMap { segment_size: catalog.identity.segment_size, stretches, histories })
    }

    /// The timelines to which recovery can go, the oldest first.
    pub fn timelines(&self) -> impl DoubleEndedIterator<Item = TimelineId> {
        self.histories.keys().copied()
    }

    /// A timeline's history. That of a backup's own timeline may be missing: then nothing is before it.
    pub fn history(&self, timeline: TimelineId) -> Option<&TimelineHistory> {
        self.histories.get(&timeline)
    }

    /// Whether recovery from a backup can get to a timeline at all: it is that, or an ancestor that was left behind the
    /// backup's end.
    pub fn leads_to(&self, record: &BackupRecord, history: &TimelineHistory) -> bool {
        let timeline = record.stop.timeline;
        history.contains(timeline)
            && history.switch_point(timeline).is_none_or(|switched| record.stop.lsn <= switched)
    }

    /// How far recovery from a backup comes along a history: the first byte that is missing. Before the backup's end: it
    /// cannot be restored.
    pub fn reach(&self, record: &BackupRecord, history: &TimelineHistory) -> Lsn {
        let segment_start = |lsn| self.segment_size.segment_at(lsn).start_lsn();
        match record.wal {
            WalPlace::Archive => self.walk(history, segment_start(record.start.lsn)),
            // what it carries serves where the archive has less
            WalPlace::Included => self.walk(history, segment_start(record.stop.lsn)).max(record.stop.lsn),
        }
    }

    /// From the beginning of a segment, as far as there is no gap. As recovery does, each segment is taken from the newest
    /// timeline that has it.
    fn walk(&self, history: &TimelineHistory, from: Lsn) -> Lsn {
        let mut reached = from;
        loop {
            let ends = self.steps(history).filter_map(|(timeline, begin, end)| {
                let begins = self.segment_size.segment_at(begin).start_lsn();
                let stretch = self.stretches.get(&timeline)?.iter();
                let stretch =
                    { stretch }.find(|piece| piece.start_lsn <= reached && reached < piece.end_lsn)?;
                (begins <= reached).then(|| end.map_or(stretch.end_lsn, |end| stretch.end_lsn.min(end)))
            });
            match ends.max() {
                Some(end_lsn) if end_lsn > reached => reached = end_lsn,
                _ => return reached,
            }
        }
    }

    /// The timelines of a history, where each began and where it was left.
    fn steps<'a>(
        &self,
        history: &'a TimelineHistory,
    ) -> impl Iterator<Item = (TimelineId, Lsn, Option<Lsn>)> + use<'a> {
        let ancestors = history.ancestors().iter().map(|entry| (entry.timeline, Some(entry.end_lsn)));
        let begins =
            std::iter::once(Lsn::INVALID).chain(history.ancestors().iter().map(|entry| entry.end_lsn));
        let all = ancestors.chain(std::iter::once((history.timeline(), None)));
        begins.zip(all).map(|(begin, (timeline, end))| (timeline, begin, end))
    }
}

/// The windows, by timeline and position, and the backups that lead into none.
pub fn windows(listing: &BackupListing, map: &WalMap) -> (Vec<RecoveryWindow>, Vec<BackupName>) {
    let mut windows: Vec<RecoveryWindow> = Vec::new();
    let mut useless: Vec<BackupName> = Vec::new();
    for record in &listing.backups {
        let mut leads = false;
        let own = TimelineHistory::root(record.stop.timeline);
        let known = map.timelines().filter_map(|timeline| map.history(timeline));
        let orphan = map.history(record.stop.timeline).is_none();
        let histories = known.chain(orphan.then_some(&own));
        for history in histories.filter(|_| listing.chain_of(record).is_ok()) {
            let reached = map.reach(record, history);
            if !map.leads_to(record, history) || reached < record.stop.lsn {
                continue;
            }
            leads = true;
            let timeline = history.timeline();
            // what ends on the way to a timeline is an older one's window
            let on_the_way = timeline != record.stop.timeline
                && history.ancestors().last().is_some_and(|left| reached <= left.end_lsn);
            let same = |window: &&mut RecoveryWindow| window.timeline == timeline && window.to_lsn == reached;
            match windows.iter_mut().find(same) {
                _ if on_the_way => {}
                Some(window) if window.from_lsn <= record.stop.lsn => {}
                found => {
                    let window = RecoveryWindow {
                        timeline,
                        backup: record.name.clone(),
                        from_lsn: record.stop.lsn,
                        from_time: record.stop.at,
                        to_lsn: reached,
                    };
                    match found {
                        Some(earlier) => *earlier = window,
                        None => windows.push(window),
                    }
                }
            }
        }
        if !leads {
            useless.push(record.name.clone());
        }
    }
    windows.sort_unstable_by_key(|window| (window.timeline, window.from_lsn));
    (windows, useless)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::record::tests::example;
    use super::*;

    const MIB: u64 = 1 << 20;

    pub(in crate::repository) fn map(stretches: &[(u32, u64, u64)], histories: &[(u32, &str)]) -> WalMap {
        let timeline = |number| TimelineId::new(number).unwrap();
        let mut map = WalMap {
            segment_size: WalSegmentSize::from_bytes(MIB).unwrap(),
            stretches: BTreeMap::new(),
            histories: BTreeMap::from([(TimelineId::FIRST, TimelineHistory::root(TimelineId::FIRST))]),
        };
        for &(number, from, to) in stretches {
            let stretch = Stretch { start_lsn: Lsn::new(from), end_lsn: Lsn::new(to) };
            map.stretches.entry(timeline(number)).or_default().push(stretch);
        }
        for &(number, text) in histories {
            let history = TimelineHistory::parse(timeline(number), text.as_bytes()).unwrap();
            map.histories.insert(timeline(number), history);
        }
        map
    }

    fn listing(lsns: &[u64]) -> BackupListing {
        let name = |index: usize| format!("20261126T13450{index}Z-00000001");
        let backups = lsns.iter().enumerate().map(|(index, &lsn)| example(&name(index), None, lsn));
        BackupListing { backups: backups.collect(), ..BackupListing::default() }
    }

    #[test]
    fn a_gap_divides_windows() {
        let map = map(&[(1, 2 * MIB, 5 * MIB), (1, 6 * MIB, 8 * MIB + 77)], &[]);
        let listing = listing(&[2 * MIB + 40, 3 * MIB, 5 * MIB + 9, 6 * MIB + 9]);
        let (found, useless) = windows(&listing, &map);
        let shown: Vec<_> = found.iter().map(|w| (w.from_lsn.as_u64(), w.to_lsn.as_u64())).collect();
        assert_eq!(shown, [(2 * MIB + 40 + 256, 5 * MIB), (6 * MIB + 9 + 256, 8 * MIB + 77)]);
        assert_eq!(useless, [listing.backups[2].name.clone()]);
    }

    #[test]
    fn recovery_goes_on_where_a_timeline_was_left() {
        let switch = 4 * MIB + 500;
        let map = map(
            &[(1, 2 * MIB, 5 * MIB), (2, 4 * MIB, 9 * MIB)],
            &[(2, &format!("1\t{}\tpromoted\n", Lsn::new(switch)))],
        );
        // the second one lies behind the switch, on the timeline that was left
        let listing = listing(&[3 * MIB, 4 * MIB + 600]);
        let (found, useless) = windows(&listing, &map);
        let shown: Vec<_> =
            found.iter().map(|w| (w.timeline.as_u32(), w.from_lsn.as_u64(), w.to_lsn.as_u64())).collect();
        assert_eq!(shown, [(1, 3 * MIB + 256, 5 * MIB), (2, 3 * MIB + 256, 9 * MIB)]);
        assert!(useless.is_empty());
        let history = map.history(TimelineId::new(2).unwrap()).unwrap();
        assert!(map.leads_to(&listing.backups[0], history));
        assert!(!map.leads_to(&listing.backups[1], history));
    }

    #[test]
    fn what_a_backup_carries_is_enough_for_itself() {
        let mut listing = listing(&[3 * MIB + 40]);
        assert_eq!(windows(&listing, &map(&[], &[])).1.len(), 1);
        listing.backups[0].wal = WalPlace::Included;
        let (found, _) = windows(&listing, &map(&[], &[]));
        assert_eq!(found[0].to_lsn, listing.backups[0].stop.lsn);
        let (found, _) = windows(&listing, &map(&[(1, 3 * MIB, 6 * MIB)], &[]));
        assert_eq!(found[0].to_lsn, Lsn::new(6 * MIB));
        // what begins in a later segment leaves a gap
        let (found, _) = windows(&listing, &map(&[(1, 4 * MIB, 6 * MIB)], &[]));
        assert_eq!(found[0].to_lsn, listing.backups[0].stop.lsn);
    }
}

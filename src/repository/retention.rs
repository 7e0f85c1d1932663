//! Which backups stay, for how many or how long is asked for.
//!
//! What counts is what a cluster can be restored from: a backup counts on each timeline that it leads to, when recovery reaches
//! its end. On the newest timeline what was asked for is kept. On others, which a failover or a restore has left, or which
//! live beside it, no more than is as recent as that: nobody knows which of them somebody still wants.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use super::listing::BackupListing;
use super::name::BackupName;
use super::reach::WalMap;
use super::record::BackupRecord;
use crate::pg::{TimelineHistory, TimelineId, Timestamp};

/// What to keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// As many of the newest full backups, with all that builds upon them.
    pub count: Option<u32>,
    /// What it takes to restore any moment from so long ago until now.
    pub window: Option<Duration>,
    /// For how long nothing must have been put into a backup without a record for it to be taken for broken off.
    pub leftover_age: Duration,
}

/// The backups that stay, and all that they build upon. `needed` stay, whatever was said.
pub(super) fn keep(
    listing: &BackupListing,
    map: &WalMap,
    retention: Retention,
    now: Timestamp,
    needed: &BTreeSet<BackupName>,
) -> BTreeSet<BackupName> {
    let mut whole: Vec<&BackupRecord> =
        listing.backups.iter().filter(|record| listing.chain_of(record).is_ok()).collect();
    whole.sort_unstable_by_key(|record| Reverse((record.stop.at, record.stop.lsn)));
    let mut kept = needed.clone();
    // as far back as what stays of the newest timeline
    let mut oldest: Option<Timestamp> = None;
    for (index, history) in lines(&whole, map).iter().enumerate() {
        let leading: Vec<&BackupRecord> =
            whole.iter().copied().filter(|record| leads(map, record, history)).collect();
        let chosen = choose(listing, retention, now, &leading);
        if index == 0 {
            oldest = chosen.iter().map(|record| record.stop.at).min();
        }
        let chosen = chosen.into_iter().filter(|record| is_recent(record, oldest));
        kept.extend(chosen.map(|record| record.name.clone()));
    }
    // what leads nowhere does not count, and may only wait for its WAL
    let leads_somewhere =
        |record: &BackupRecord| lines(&[record], map).iter().any(|history| leads(map, record, history));
    let useless = whole.iter().filter(|record| is_recent(record, oldest) && !leads_somewhere(record));
    kept.extend(useless.map(|record| record.name.clone()));
    // whatever was said: something to restore from stays
    if !whole.iter().any(|record| kept.contains(&record.name)) {
        kept.extend(whole.first().map(|record| record.name.clone()));
    }
    let chains: Vec<&BackupRecord> = listing
        .backups
        .iter()
        .filter(|record| kept.contains(&record.name))
        .filter_map(|record| listing.chain_of(record).ok())
        .flatten()
        .collect();
    kept.extend(chains.into_iter().map(|record| record.name.clone()));
    kept
}

fn is_recent(record: &BackupRecord, oldest: Option<Timestamp>) -> bool {
    oldest.is_none_or(|oldest| record.stop.at >= oldest)
}

/// The timelines that recovery can end on, the newest first.
fn lines(backups: &[&BackupRecord], map: &WalMap) -> Vec<TimelineHistory> {
    let own = backups.iter().map(|record| record.stop.timeline);
    let all: BTreeSet<TimelineId> = map.timelines().chain(own).collect();
    let history = |timeline: TimelineId| {
        map.history(timeline).cloned().unwrap_or_else(|| TimelineHistory::root(timeline))
    };
    all.into_iter().rev().map(history).collect()
}

fn leads(map: &WalMap, record: &BackupRecord, history: &TimelineHistory) -> bool {
    map.leads_to(record, history) && map.reach(record, history) >= record.stop.lsn
}

/// Of the backups that lead to one timeline, the newest first, those that were asked for.
fn choose<'a>(
    listing: &'a BackupListing,
    retention: Retention,
    now: Timestamp,
    leading: &[&'a BackupRecord],
) -> Vec<&'a BackupRecord> {
    let mut chosen = Vec::new();
    if let Some(count) = retention.count {
        let full = |record: &'a BackupRecord| listing.chain_of(record).ok().map(|chain| chain[0]);
        let mut bases: Vec<&BackupRecord> = leading.iter().filter_map(|record| full(record)).collect();
        bases.sort_unstable_by_key(|record| Reverse((record.stop.at, record.stop.lsn)));
        bases.dedup_by_key(|record| record.name.clone());
        bases.truncate(count as usize);
        let upon_them = |record: &&'a BackupRecord| {
            full(record).is_some_and(|base| bases.iter().any(|other| other.name == base.name))
        };
        chosen.extend(leading.iter().copied().filter(upon_them));
    }
    if let Some(window) = retention.window {
        let micros = i64::try_from(window.as_micros()).unwrap_or(i64::MAX);
        let begin = Timestamp::from_unix_micros(now.unix_micros().saturating_sub(micros));
        // the first that was consistent when the window began leads to all of it
        let within =
            leading.iter().position(|record| record.stop.at <= begin).map_or(leading.len(), |at| at + 1);
        chosen.extend(&leading[..within]);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::super::reach::tests::map;
    use super::super::record::tests::example;
    use super::*;
    use crate::pg::Lsn;

    const MIB: u64 = 1 << 20;

    /// A full backup on a day of November, in the segment of that number.
    fn backup(day: u64, timeline: u32) -> BackupRecord {
        let mut record = example(&format!("202611{day:02}T000000Z-00000001"), None, day * MIB + 40);
        let timeline = TimelineId::new(timeline).unwrap();
        (record.start.timeline, record.stop.timeline) = (timeline, timeline);
        record
    }

    fn kept(listing: &BackupListing, map: &WalMap, count: Option<u32>, window: Option<u64>) -> Vec<u32> {
        let window = window.map(|days| Duration::from_secs(days * 86_400));
        let retention = Retention { count, window, leftover_age: Duration::ZERO };
        let now: Timestamp = "2026-11-20 12:00:00Z".parse().unwrap();
        let kept = keep(listing, map, retention, now, &BTreeSet::new());
        kept.iter().map(|name| name.as_str()[6..8].parse().unwrap()).collect()
    }

    fn listing(backups: Vec<BackupRecord>) -> BackupListing {
        BackupListing { backups, ..BackupListing::default() }
    }

    #[test]
    fn what_the_living_timeline_can_be_restored_from_stays() {
        // restored to a moment between the 8th and the 10th, and gone on from there
        let switch = format!("1\t{}\trestored\n", Lsn::new(8 * MIB + 900));
        let map = map(&[(1, MIB, 12 * MIB), (2, 8 * MIB, 9 * MIB)], &[(2, &switch)]);
        let mut backups = vec![backup(6, 1), backup(8, 1), backup(10, 1), backup(11, 1)];
        let before = listing(backups.clone());
        assert_eq!(kept(&before, &map, Some(1), None), [8, 11]);
        assert_eq!(kept(&before, &map, Some(2), None), [6, 8, 10, 11]);
        assert_eq!(kept(&before, &map, None, Some(9)), [8, 11]);
        assert_eq!(kept(&before, &map, None, Some(10)), [8, 10, 11]);
        // what the new timeline has of its own is enough, when there is that
        backups.extend([backup(15, 2), backup(16, 2)]);
        for record in &mut backups[4..] {
            record.start.lsn = Lsn::new(8 * MIB + 2000);
            record.stop.lsn = Lsn::new(8 * MIB + 3000);
        }
        let after = listing(backups);
        assert_eq!(kept(&after, &map, Some(1), None), [16]);
        assert_eq!(kept(&after, &map, Some(3), None), [8, 10, 11, 15, 16]);
        assert_eq!(kept(&after, &map, None, Some(2)), [16]);
    }

    #[test]
    fn what_leads_nowhere_does_not_count() {
        let map = map(&[(1, MIB, 7 * MIB)], &[]);
        // the WAL of the last two is lost, or not there yet
        let backups = listing(vec![backup(4, 1), backup(6, 1), backup(8, 1), backup(9, 1)]);
        assert_eq!(kept(&backups, &map, Some(1), None), [6, 8, 9]);
        assert_eq!(kept(&backups, &map, None, Some(12)), [6, 8, 9]);
        let useless = listing(vec![backup(8, 1), backup(9, 1)]);
        assert_eq!(kept(&useless, &map, Some(1), None), [8, 9]);
    }
}

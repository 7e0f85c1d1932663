//! Which backup leads to what is wanted, or why none does.

use super::super::listing::BackupListing;
use super::super::name::BackupName;
use super::super::reach::WalMap;
use super::super::record::{BackupRecord, WalPlace};
use super::error::TargetError;
use crate::pg::{Lsn, TimelineHistory, TimelineId, Timestamp};

/// Up to where the log is replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// As far as it goes.
    Latest,
    /// `recovery_target_lsn`.
    Lsn(Lsn),
    /// `recovery_target_time`.
    Time(Timestamp),
    /// `recovery_target_name`.
    Name(String),
}

/// Along which timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimelineTarget {
    /// The newest in the archive.
    Latest,
    /// The backup's own.
    Current,
    /// This one.
    Id(TimelineId),
}

/// What to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The backups, the full one first.
    pub chain: Vec<BackupRecord>,
    /// The timeline that recovery goes along.
    pub history: TimelineHistory,
    /// Whether the archive knows that timeline's history, or it needs none.
    pub is_known: bool,
    /// The first byte that the archive does not have.
    pub reached_lsn: Lsn,
}

impl Selection {
    /// The newest of the backups.
    pub fn record(&self) -> &BackupRecord {
        self.chain.last().expect("a chain has at least one backup")
    }
}

/// A backup, and how far recovery from it comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) record: &'a BackupRecord,
    pub(super) reached_lsn: Lsn,
}

/// The backups from which recovery along a timeline is possible, the latest first.
#[derive(Debug)]
pub(super) struct Candidates<'a> {
    listing: &'a BackupListing,
    history: TimelineHistory,
    is_known: bool,
    pub(super) list: Vec<Candidate<'a>>,
}

impl<'a> Candidates<'a> {
    /// Those that there are, or only the one that was named.
    pub(super) fn find(
        listing: &'a BackupListing,
        map: &WalMap,
        backup: Option<&BackupName>,
        timeline: TimelineTarget,
    ) -> Result<Self, TargetError> {
        let named = backup.map(|name| listing.find(name).ok_or_else(|| TargetError::NoBackup(name.clone())));
        let named = named.transpose()?;
        let latest = named.or_else(|| listing.latest()).ok_or(TargetError::NoBackups)?;
        let (history, is_known) = history(map, latest, timeline)?;
        let wanted = history.timeline();
        if let Some(record) = named {
            listing.chain_of(record)?;
            if !map.leads_to(record, &history) {
                let (name, timeline) = (record.name.clone(), record.stop.timeline);
                return Err(TargetError::NotOnTimeline { name, timeline, wanted });
            }
        }
        let usable = listing.backups.iter().filter(|record| {
            named.is_none_or(|named| named.name == record.name)
                && listing.chain_of(record).is_ok()
                && map.leads_to(record, &history)
        });
        let mut list: Vec<Candidate<'_>> =
            usable.map(|record| Candidate { record, reached_lsn: map.reach(record, &history) }).collect();
        if list.is_empty() {
            return Err(TargetError::NoneOnTimeline(wanted));
        }
        list.sort_unstable_by_key(|candidate| std::cmp::Reverse(candidate.record.stop.lsn));
        // what is not consistent cannot be used; the latest says why
        let first = list[0];
        list.retain(|candidate| candidate.reached_lsn >= candidate.record.stop.lsn);
        if list.is_empty() {
            return Err(TargetError::WalMissing {
                name: first.record.name.clone(),
                from_lsn: first.reached_lsn,
                to_lsn: first.record.stop.lsn,
            });
        }
        Ok(Candidates { listing, history, is_known, list })
    }

    /// The timeline that is gone along.
    pub(super) fn history(&self) -> &TimelineHistory {
        &self.history
    }

    /// The latest, or the latest that is consistent at a position before a gap.
    pub(super) fn for_lsn(&self, target: Lsn) -> Result<Candidate<'a>, TargetError> {
        let before = self.before(|record| record.stop.lsn <= target);
        let candidate = before.map_err(|first| TargetError::LsnBeforeBackups {
            target,
            name: first.name.clone(),
            first_lsn: first.stop.lsn,
        })?;
        let reached_lsn = candidate.reached_lsn;
        if target >= reached_lsn {
            return Err(TargetError::LsnAfterEnd { target, reached_lsn });
        }
        Ok(candidate)
    }

    /// The latest that was consistent at a moment. How far the log goes is another question.
    pub(super) fn for_time(&self, target: Timestamp) -> Result<Candidate<'a>, TargetError> {
        let before = self.before(|record| record.stop.at <= target);
        before.map_err(|first| TargetError::TimeBeforeBackups {
            target,
            name: first.name.clone(),
            first_time: first.stop.at,
        })
    }

    fn before(&self, fits: impl Fn(&BackupRecord) -> bool) -> Result<Candidate<'a>, &'a BackupRecord> {
        let earliest = self.list.last().expect("there is one").record;
        self.list.iter().copied().find(|candidate| fits(candidate.record)).ok_or(earliest)
    }

    /// What is to be done for a backup.
    pub(super) fn select(&self, candidate: Candidate<'_>) -> Result<Selection, TargetError> {
        let chain = self.listing.chain_of(candidate.record)?;
        Ok(Selection {
            chain: chain.into_iter().cloned().collect(),
            history: self.history.clone(),
            is_known: self.is_known,
            reached_lsn: candidate.reached_lsn,
        })
    }
}

/// Where the log is looked through for a backup: from where it is consistent.
pub(super) fn search_start(record: &BackupRecord) -> Lsn {
    match record.wal {
        WalPlace::Archive => record.start.lsn,
        WalPlace::Included => record.stop.lsn,
    }
}

fn history(
    map: &WalMap,
    latest: &BackupRecord,
    timeline: TimelineTarget,
) -> Result<(TimelineHistory, bool), TargetError> {
    let own = latest.stop.timeline;
    let wanted = match timeline {
        TimelineTarget::Id(timeline) => timeline,
        TimelineTarget::Current => own,
        // a backup may be newer than all WAL
        TimelineTarget::Latest => map.timelines().next_back().map_or(own, |newest| newest.max(own)),
    };
    match map.history(wanted) {
        Some(history) => Ok((history.clone(), true)),
        None if wanted == own || wanted == TimelineId::FIRST => {
            Ok((TimelineHistory::root(wanted), wanted == TimelineId::FIRST))
        }
        None => Err(TargetError::UnknownTimeline(wanted)),
    }
}

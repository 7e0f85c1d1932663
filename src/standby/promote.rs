//! A standby becomes the primary, unless there is one already.
//!
//! All WAL that was received is replayed before the promotion ends: nothing of it is lost. What can go wrong is that two
//! servers take writes, so the old primary is looked for first.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::outlook::SynchronousOutlook;
use super::upstream::{self, Sighting, Verdict};
use crate::ErrorClass;
use crate::client::{ClientError, OpenError, Sql};
use crate::inspect::recovery::{Recovery, ReplayPause, is_in_recovery, recovery};
use crate::inspect::{InspectError, ask_one};
use crate::pg::{Lsn, TimelineId};

/// How to promote.
#[derive(Debug, Clone, Copy)]
pub struct PromoteRequest {
    /// What to do where something speaks against it.
    pub objections: Objections,
    /// How long it may take until the server takes writes.
    pub timeout: Duration,
}

/// What to do where something speaks against a promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objections {
    /// Refuse.
    Heed,
    /// Warn, and promote all the same.
    Override,
}

/// A standby that was promoted.
#[derive(Debug, Clone, Serialize)]
pub struct Promoted {
    /// The timeline that it writes.
    pub timeline: Option<TimelineId>,
    /// The one that it followed.
    pub old_timeline: Option<TimelineId>,
    /// Where the one ends and the other begins.
    pub switch_lsn: Option<Lsn>,
    /// What was received and not replayed when the promotion began; it was replayed on the way.
    pub unreplayed_bytes: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Whom commits wait for now, as it was when the promotion began; `None` where that was not told.
    pub synchronous: Option<SynchronousOutlook>,
}

/// Why a standby was not promoted.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// A question was not answered.
    #[error(transparent)]
    Ask(#[from] InspectError),
    /// It is a primary.
    #[error("this server is no standby: it is a primary, on timeline {}", .0.map_or("unknown".to_owned(), |it| it.to_string()))]
    NotAStandby(Option<TimelineId>),
    /// Something speaks against it.
    #[error("the standby was not promoted")]
    Refused(#[source] Box<Objection>),
    /// The server would not.
    #[error("could not promote the standby")]
    Promote(#[source] ClientError),
    /// It did not begin.
    #[error("the server could not signal its postmaster to promote it")]
    NotSignalled,
    /// It is not over.
    #[error("the promotion was begun, and was not over within {} s", .0.as_secs_f64())]
    Timeout(Duration),
}

/// What speaks against a promotion.
#[derive(Debug, thiserror::Error)]
pub enum Objection {
    /// There would be two primaries.
    #[error("the primary at {place} is alive and writable at {flush_lsn}; {}", Missing(*.flush_lsn, *.received_lsn))]
    PrimaryLives {
        /// Where.
        place: String,
        /// How far it has flushed.
        flush_lsn: Lsn,
        /// How far the standby has received.
        received_lsn: Lsn,
    },
    /// There may be two primaries.
    #[error("its upstream at {place} is alive, and a standby itself: the primary behind it may be alive too")]
    StandbyLives {
        /// Where.
        place: String,
    },
    /// There may be two primaries.
    #[error("the server at {place} is alive, and did not say whether it is writable")]
    Answers {
        /// Where.
        place: String,
        /// What it said.
        #[source]
        source: OpenError,
    },
    /// There may be two primaries.
    #[error("the server at {place} is alive, and did not say whether it is writable")]
    Broken {
        /// Where.
        place: String,
        /// What it said.
        #[source]
        source: ClientError,
    },
    /// The standby hears of somebody that cannot be reached from here.
    #[error("the standby's WAL receiver is connected, so its upstream seems to be alive")]
    Connected,
    /// Somebody wanted it to stay where it is.
    #[error(
        "replay is paused at {replayed_lsn}: promotion would end that, and replay {unreplayed_bytes} bytes more"
    )]
    Paused {
        /// Where.
        replayed_lsn: Lsn,
        /// What was received and not replayed.
        unreplayed_bytes: u64,
    },
}

/// What the standby has not got, as the end of a sentence.
struct Missing(Lsn, Lsn);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.saturating_since(self.1) {
            0 => write!(f, "the standby has received all of it"),
            missing => write!(f, "the standby lacks {missing} bytes of that"),
        }
    }
}

impl PromoteError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            PromoteError::Ask(error) => error.class(),
            PromoteError::Promote(error) => error.class(),
            PromoteError::Timeout(_) => ErrorClass::Transient,
            _ => ErrorClass::Operator,
        }
    }
}

/// How long a WAL receiver may take to notice that its upstream is gone.
const RECEIVER_PATIENCE: Duration = Duration::from_secs(3);

/// How often is asked whether it is over.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Promotes the standby that `sql` leads to, and waits until it takes writes.
pub async fn promote(sql: &Sql, request: PromoteRequest) -> Result<Promoted, PromoteError> {
    let found = recovery(sql).await?;
    if !found.in_recovery {
        return Err(PromoteError::NotAStandby(found.timeline));
    }
    for objection in objections(sql, &found).await? {
        match request.objections {
            Objections::Heed => return Err(PromoteError::Refused(Box::new(objection))),
            Objections::Override => tracing::warn!("promoting all the same: {objection}"),
        }
    }
    let synchronous = outlook(sql).await;
    let found = recovery(sql).await?;
    let started_at = Instant::now();
    let rows = sql.rows("SELECT pg_promote(false)", &[]).await.map_err(PromoteError::Promote)?;
    let signalled = rows.first().map(|row| row.get::<bool>(0)).transpose().map_err(PromoteError::Promote)?;
    if signalled != Some(true) {
        return Err(PromoteError::NotSignalled);
    }
    tracing::info!("promotion begun at {}", found.replayed_lsn.unwrap_or(Lsn::INVALID));
    while is_in_recovery(sql).await? {
        if started_at.elapsed() > request.timeout {
            return Err(PromoteError::Timeout(request.timeout));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let seconds = started_at.elapsed().as_secs_f64();
    let timeline = recovery(sql).await?.timeline;
    let question = "SELECT pg_last_wal_replay_lsn()";
    let switch_lsn = ask_one(sql, "where its timeline began", question, |row| row.get(0)).await?;
    Ok(Promoted {
        timeline,
        old_timeline: found.timeline,
        switch_lsn,
        unreplayed_bytes: found.unreplayed_bytes(),
        seconds,
        synchronous,
    })
}

/// No reason to refuse: who is named may come only once this is the primary. But a primary whose commits hang looks dead.
async fn outlook(sql: &Sql) -> Option<SynchronousOutlook> {
    match SynchronousOutlook::ask(sql).await {
        Ok(outlook) => {
            if outlook.stops_commits() {
                tracing::warn!("once this is the primary, {outlook}");
            }
            Some(outlook)
        }
        Err(error) => {
            tracing::debug!("whom commits will wait for is not known: {error}");
            None
        }
    }
}

/// Everything that speaks against it, the weightiest first.
async fn objections(sql: &Sql, found: &Recovery) -> Result<Vec<Objection>, InspectError> {
    let mut objections = Vec::new();
    let received_lsn = found.received_lsn.unwrap_or(Lsn::INVALID);
    for Sighting { place, verdict } in sightings(found).await {
        objections.extend(match verdict {
            Verdict::Primary { flush_lsn } => {
                Some(Objection::PrimaryLives { place, flush_lsn, received_lsn })
            }
            Verdict::Standby => Some(Objection::StandbyLives { place }),
            Verdict::Answers(source) => Some(Objection::Answers { place, source }),
            Verdict::Broken(source) => Some(Objection::Broken { place, source }),
            Verdict::Silent(error) => {
                tracing::info!("nothing answers at {place}");
                tracing::debug!("the reason: {error}");
                None
            }
            Verdict::OtherCluster(system) => {
                tracing::warn!("at {place}, as seen from here, another cluster answers (system {system})");
                None
            }
        });
    }
    if objections.is_empty() && is_still_connected(sql).await? {
        objections.push(Objection::Connected);
    }
    if matches!(found.pause, Some(ReplayPause::Paused | ReplayPause::Requested)) {
        let replayed_lsn = found.replayed_lsn.unwrap_or(Lsn::INVALID);
        objections.push(Objection::Paused { replayed_lsn, unreplayed_bytes: found.unreplayed_bytes() });
    }
    Ok(objections)
}

async fn sightings(found: &Recovery) -> Vec<Sighting> {
    let Some(conninfo) = &found.primary_conninfo else {
        tracing::warn!(
            "the old primary was not asked whether it lives: no primary_conninfo, or this role may not see it"
        );
        return Vec::new();
    };
    match upstream::look(conninfo, found.system_identifier).await {
        Ok(sightings) => sightings,
        Err(error) => {
            tracing::warn!("the old primary was not asked whether it lives: {error}");
            Vec::new()
        }
    }
}

/// Whether the standby has a WAL receiver that streams, or that this role may not look at, and that stays.
async fn is_still_connected(sql: &Sql) -> Result<bool, InspectError> {
    let deadline = Instant::now() + RECEIVER_PATIENCE;
    loop {
        let found = recovery(sql).await?;
        let status = found.receiver.as_ref().map(|receiver| receiver.status.as_deref());
        if !matches!(status, Some(None | Some("streaming"))) {
            return Ok(false);
        }
        if Instant::now() > deadline {
            return Ok(true);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

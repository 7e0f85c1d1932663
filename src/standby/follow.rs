//! A standby is pointed at another server, after a failover most often.
//!
//! ```text
//! same cluster? ─▶ its WAL a part of that history? ─▶ WAL still there? ─▶ slot ─▶ configuration ─▶ reload ─▶ streaming
//! ```
//!
//! Everything that can be known is asked before anything is changed. What fails after that leaves the standby as it was,
//! and takes the slot back; once the configuration is in its place nothing is taken back any more.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::alter_system::alter_system;
use super::configuration::{
    ConfigurationError, PASSFILE_NAME, is_passfile_unnameable, render_passfile, unpinned, unreadable_file,
    write_auto_conf, write_passfile,
};
use super::directories::wanted_owner;
use super::follow_error::FollowError;
use super::fork::{self, Diverged};
use super::needed_wal::NeededWal;
use super::preflight::ExistingSlot;
use super::state::{StoppedState, read_control_file, read_major};
use super::streaming::{self, StreamingEvidence, wait_until_streaming};
use super::workspace::Owner;
use crate::backup::standby_files::{Setting, read_to_replace};
use crate::client::conninfo::{PrimaryConninfoOptions, Settings, SystemEnvironment};
use crate::client::{Connection, Purpose, Sql, SystemIdentity, open};
use crate::inspect::recovery::{Recovery, ReplayPause, is_replay_idle, recovery};
use crate::pg::{Lsn, SlotName, TimelineHistory, TimelineId};
use crate::wire::command::{DropWhenActive, SlotPersistence, WalReservation};
use crate::wire::server_error::SqlState;

/// Whom to follow, and how.
#[derive(Debug, Clone)]
pub struct FollowRequest {
    /// The standby's data directory, absolute.
    pub directory: PathBuf,
    /// The new primary, and how to connect to it.
    pub settings: Settings,
    /// The slot to use there; `None`: without.
    pub slot: Option<SlotName>,
    /// Whether that slot may be there already.
    pub existing_slot: ExistingSlot,
    /// The name by which the standby is known there.
    pub application_name: String,
    /// How long it may take until it streams.
    pub timeout: Duration,
}

/// The connections of a run.
pub struct FollowConnections {
    /// To the new primary.
    pub replication: Connection,
    /// To the new primary, where the role may have it.
    pub sql: Option<Sql>,
    /// The standby itself.
    pub standby: StandbyAccess,
}

/// The standby, as it was found.
pub enum StandbyAccess {
    /// It runs.
    Running {
        /// An ordinary connection to it.
        sql: Box<Sql>,
        /// How to connect to it.
        settings: Box<Settings>,
    },
    /// It does not.
    Stopped(Box<StoppedState>),
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Followed {
    /// Where the standby connects to now.
    pub upstream: Vec<String>,
    /// The new primary's timeline.
    pub timeline: TimelineId,
    /// The standby's timeline.
    pub old_timeline: TimelineId,
    /// The slot in use there.
    pub slot: Option<SlotName>,
    /// Whether it was made by this run.
    pub slot_created: bool,
    /// Whether the standby runs.
    pub running: bool,
    /// What the new primary sees of it; `None` if it does not run.
    pub streaming: Option<StreamingEvidence>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// How long a standby may take to replay what it has received, so that it is known where it ends.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Points the standby at the new primary.
pub async fn follow(
    request: &FollowRequest,
    connections: FollowConnections,
) -> Result<Followed, FollowError> {
    let FollowConnections { replication, sql, standby } = connections;
    let started_at = Instant::now();
    let mut run = Run { request, replication, sql, standby };
    let owner = wanted_owner(&request.directory)?;
    let configuration = run.configuration(owner)?;
    let upstream = run.replication.identify_system().await.map_err(FollowError::Identify)?;
    let old_timeline = run.check(&upstream).await?;
    let slot_created = run.make_slot().await?;
    if let Err(error) = run.configure(&configuration, owner).await {
        run.take_slot_back(slot_created).await;
        return Err(error);
    }
    let streaming = run.wait(&upstream).await?;
    Ok(Followed {
        upstream: request.settings.hosts.iter().map(crate::client::conninfo::HostSpec::place).collect(),
        timeline: upstream.timeline,
        old_timeline,
        slot: request.slot.clone(),
        slot_created,
        running: streaming.is_some(),
        streaming,
        seconds: started_at.elapsed().as_secs_f64(),
    })
}

/// What the standby will be told.
struct Configuration {
    settings: Vec<Setting>,
    passfile: Option<Vec<u8>>,
}

struct Run<'a> {
    request: &'a FollowRequest,
    replication: Connection,
    sql: Option<Sql>,
    standby: StandbyAccess,
}

impl Run<'_> {
    fn configuration(&self, owner: Option<Owner>) -> Result<Configuration, FollowError> {
        let FollowRequest { directory, settings, .. } = self.request;
        if is_passfile_unnameable(settings, directory) {
            return Err(FollowError::UnprintablePath);
        }
        let major = read_major(directory)?;
        if major != self.replication.version().major() {
            return Err(FollowError::OtherVersion { standby: major, upstream: self.replication.version() });
        }
        let passfile = render_passfile(settings)?;
        let passfile_path = passfile.is_some().then(|| directory.join(PASSFILE_NAME));
        let own = PrimaryConninfoOptions {
            major,
            passfile: passfile_path.as_deref(),
            application_name: Some(&self.request.application_name),
            dbname: None,
        };
        let line =
            settings.to_primary_conninfo(&own, &SystemEnvironment).map_err(ConfigurationError::from)?;
        if let Some(owner) = owner
            && let Some(file) = unreadable_file(&line.files(), owner)
        {
            return Err(FollowError::UnreadableFile { file, uid: owner.uid });
        }
        for keyword in &line.omitted {
            tracing::warn!(
                "connection option {keyword} is unknown to PostgreSQL {major} and was left out of primary_conninfo"
            );
        }
        let slot = self.request.slot.as_ref().map_or("", SlotName::as_str);
        let setting = |name, value: &str| Setting::new(name, value).map_err(ConfigurationError::from);
        let mut settings =
            vec![setting("primary_conninfo", &line.conninfo)?, setting("primary_slot_name", slot)?];
        let unpinned = unpinned(directory)?;
        if !unpinned.is_empty() && matches!(self.standby, StandbyAccess::Running { .. }) {
            tracing::warn!(
                "the standby was told to recover to a timeline or a target of its own; that is taken back, but only a restart makes \
                 it follow"
            );
        }
        settings.extend(unpinned);
        Ok(Configuration { settings, passfile })
    }

    /// Whether the standby can go on from there; answers its timeline.
    async fn check(&mut self, upstream: &SystemIdentity) -> Result<TimelineId, FollowError> {
        let own = read_control_file(&self.request.directory)?.system_identifier;
        if own != upstream.system_identifier {
            return Err(FollowError::OtherCluster { own, found: upstream.system_identifier });
        }
        let history = match upstream.timeline {
            TimelineId::FIRST => TimelineHistory::root(TimelineId::FIRST),
            timeline => {
                let file =
                    self.replication.timeline_history(timeline).await.map_err(FollowError::Identify)?;
                TimelineHistory::parse(timeline, &file.content).map_err(FollowError::History)?
            }
        };
        let end = match &mut self.standby {
            StandbyAccess::Stopped(state) if !state.is_standby => {
                return Err(FollowError::NotAStandby(self.request.directory.clone()));
            }
            StandbyAccess::Stopped(state) => {
                let end = state.wal_end;
                let limit = fork::limit(&history, end.timeline, upstream.flush_lsn)?;
                if end.lsn > limit {
                    return Err(fork::beyond(&history, end.timeline, end.lsn, limit).into());
                }
                Position { timeline: end.timeline, lsn: end.lsn }
            }
            StandbyAccess::Running { sql, settings } => {
                let found = recovery(sql).await?;
                if !found.in_recovery {
                    return Err(FollowError::NotAStandby(self.request.directory.clone()));
                }
                if let Some(other) = &mut self.sql {
                    match recovery(other).await {
                        Ok(other) if other.started_at == found.started_at => return Err(FollowError::Itself),
                        Ok(_) => {}
                        // it is not waited for again
                        Err(error) => {
                            tracing::debug!("the new primary does not say how it is: {error}");
                            self.sql = None;
                        }
                    }
                }
                if found.pause != Some(ReplayPause::None) {
                    return Err(FollowError::Paused(found.replayed_lsn.unwrap_or(Lsn::INVALID)));
                }
                let timeline = timeline_of(settings, &found).await.ok_or(FollowError::UnknownTimeline)?;
                let mut asked = (&mut self.replication, upstream.flush_lsn);
                settle(sql, &history, timeline, &mut asked).await?
            }
        };
        let size = self.replication.wal_segment_size().await.map_err(FollowError::Identify)?;
        let needed = NeededWal::after(end.lsn, &history, size);
        needed.probe(&self.request.settings, &self.replication).await?;
        Ok(end.timeline)
    }

    /// Makes the slot, and says whether it was made.
    async fn make_slot(&mut self) -> Result<bool, FollowError> {
        let Some(slot) = &self.request.slot else { return Ok(false) };
        let (persistence, reserve) = (SlotPersistence::Permanent, WalReservation::Immediate);
        match self.replication.create_physical_slot(slot, persistence, reserve).await {
            Ok(()) => {
                tracing::info!("created replication slot \"{slot}\" on the new primary");
                return Ok(true);
            }
            Err(error) if error.sqlstate() == Some(SqlState::DUPLICATE_OBJECT) => {}
            Err(source) => return Err(FollowError::CreateSlot { slot: slot.clone(), source }),
        }
        if self.request.existing_slot == ExistingSlot::Refuse {
            return Err(FollowError::SlotExists(slot.clone()));
        }
        let seen = wait_until_streaming(&mut self.replication, self.sql.as_ref(), slot, Duration::ZERO).await;
        match seen.map_err(FollowError::AskWhetherStreaming)? {
            Some(_) => Err(FollowError::SlotActive(slot.clone())),
            None => Ok(false),
        }
    }

    async fn take_slot_back(&mut self, slot_created: bool) {
        let Some(slot) = self.request.slot.as_ref().filter(|_| slot_created) else { return };
        match self.replication.drop_slot(slot, DropWhenActive::Fail).await {
            Ok(()) => tracing::info!("dropped replication slot \"{slot}\""),
            Err(error) => tracing::warn!("replication slot \"{slot}\" is left on the new primary: {error}"),
        }
    }

    /// Writes the configuration and has it read. The passfile comes first, for the settings name it.
    async fn configure(
        &mut self,
        configuration: &Configuration,
        owner: Option<Owner>,
    ) -> Result<(), FollowError> {
        let directory = &self.request.directory;
        let old_passfile =
            read_to_replace(&directory.join(PASSFILE_NAME)).map_err(ConfigurationError::from)?;
        if let Some(passfile) = &configuration.passfile {
            write_passfile(directory, Some(passfile), owner)?;
        }
        let written = match &mut self.standby {
            StandbyAccess::Stopped(_) => {
                write_auto_conf(directory, &configuration.settings, owner).map_err(FollowError::from)
            }
            StandbyAccess::Running { sql, .. } => alter_system(sql, directory, &configuration.settings).await,
        };
        if written.is_err() && configuration.passfile.is_some() {
            write_passfile(directory, old_passfile.as_deref(), owner)?;
        }
        written?;
        let names_passfile = |setting: &Setting| setting.value().contains(PASSFILE_NAME);
        if configuration.passfile.is_none()
            && !configuration.settings.iter().any(names_passfile)
            && let Err(error) = write_passfile(directory, None, owner)
        {
            // the standby is pointed there already, and does not read it
            tracing::warn!("a password file that nobody needs any more is left: {error}");
        }
        Ok(())
    }

    /// Waits until the new primary shows it. `None` when the standby does not run.
    async fn wait(&mut self, upstream: &SystemIdentity) -> Result<Option<StreamingEvidence>, FollowError> {
        let StandbyAccess::Running { sql: standby, .. } = &mut self.standby else { return Ok(None) };
        let FollowRequest { slot, timeout, application_name, .. } = self.request;
        let seen = match (slot, &mut self.sql) {
            (Some(slot), sql) => {
                wait_until_streaming(&mut self.replication, sql.as_ref(), slot, *timeout).await
            }
            (None, Some(sql)) => streaming::wait_until_seen(sql, application_name, *timeout).await,
            (None, None) => return Err(FollowError::CannotSee),
        };
        if let Some(evidence) = seen.map_err(FollowError::AskWhetherStreaming)? {
            return Ok(Some(evidence));
        }
        let found = recovery(standby).await?;
        Err(FollowError::NotStreaming {
            seconds: timeout.as_secs(),
            replayed_lsn: found.replayed_lsn.unwrap_or(Lsn::INVALID),
            timeline: upstream.timeline,
        })
    }
}

/// How far a standby's WAL goes that is a part of the new primary's history.
#[derive(Debug, Clone, Copy)]
struct Position {
    timeline: TimelineId,
    lsn: Lsn,
}

/// The timeline that the standby receives or replays: as a walsender says it, where one is to be had, for the control file
/// is late.
async fn timeline_of(settings: &Settings, found: &Recovery) -> Option<TimelineId> {
    let identified = match open(settings, Purpose::LogicalReplication).await {
        Ok(mut connection) => connection.identify_system().await.ok().map(|system| system.timeline),
        Err(_) => None,
    };
    identified.max(found.timeline)
}

/// Where the standby ends, once it has replayed what it has received. Half a record at the end, beyond the limit, does
/// no harm: it is discarded. A whole one does, whether or not it was replayed yet.
async fn settle(
    sql: &Sql,
    history: &TimelineHistory,
    timeline: TimelineId,
    upstream: &mut (&mut Connection, Lsn),
) -> Result<Position, FollowError> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    let mut idle_at = None;
    loop {
        let found = recovery(sql).await?;
        let replayed_lsn = found.replayed_lsn.unwrap_or(Lsn::INVALID);
        let received_lsn = found.received_lsn.unwrap_or(replayed_lsn);
        let limit = fork::limit(history, timeline, upstream.1)?;
        let is_over = Instant::now() > deadline;
        let is_fixed = history.switch_point(timeline).is_some();
        if replayed_lsn > limit && (is_fixed || is_over) {
            return Err(fork::beyond(history, timeline, replayed_lsn, limit).into());
        }
        if received_lsn <= limit || idle_at == Some(replayed_lsn) && replayed_lsn <= limit {
            return Ok(Position { timeline, lsn: received_lsn.max(replayed_lsn).min(limit) });
        }
        if is_over {
            return Err(fork::beyond(history, timeline, received_lsn, limit).into());
        }
        let is_idle = is_replay_idle(sql).await? == Some(true);
        idle_at = is_idle.then_some(replayed_lsn);
        tokio::time::sleep(POLL_INTERVAL).await;
        // a standby that is followed may be behind for a moment
        upstream.1 = upstream.0.identify_system().await.map_err(FollowError::Identify)?.flush_lsn;
    }
}

impl From<Diverged> for FollowError {
    fn from(source: Diverged) -> Self {
        FollowError::Diverged(source)
    }
}

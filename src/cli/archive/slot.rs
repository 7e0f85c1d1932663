//! `--archive-slot`: a second slot, which follows the archive.
//!
//! The receiver's own slot goes on with what is durable in its directory. One that keeps WAL until it is in the archive is moved in
//! SQL, now and then, on a thread and a connection of its own: nobody streams from it, until somebody has to. So nobody but this
//! thread would notice that it is not there, as after a failover, or lost.

use std::convert::Infallible;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::connection::{ConnectError, open_sql};
use super::super::metering::reading;
use super::super::report;
use crate::archive::ArchiveWatch;
use crate::client::conninfo::Settings;
use crate::client::{ClientError, Sql};
use crate::inspect::InspectError;
use crate::inspect::slots::{ReplicationSlot, WalStatus, slots};
use crate::observe::metrics::SlotReading;
use crate::pg::{Lsn, SlotName};
use crate::wire::server_error::SqlState;

/// The thread that moves the slot.
pub(in crate::cli) struct ArchiveSlot {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// How often the slot is moved, how often it is looked at when there is no need to, and how long after an error it is tried again.
const INTERVAL: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
const ERROR_INTERVAL: Duration = Duration::from_secs(5);

/// How long the server may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the last move may take when receiving has ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

/// Why it is not known how it stands with the slot, or it stays where it is.
#[derive(Debug, thiserror::Error)]
enum MoveError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Look(#[from] InspectError),
    #[error("could not create replication slot \"{0}\"")]
    Create(SlotName, #[source] ClientError),
    #[error("could not advance replication slot \"{0}\" to {1}")]
    Advance(SlotName, Lsn, #[source] ClientError),
}

/// What a slot is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    /// It keeps what is not archived.
    Keeps,
    /// It begins behind the archive's end.
    BeginsLate,
    /// Little may be written before it is lost.
    Endangered,
    /// The server has no longer what it claims.
    Lost,
    /// It was made without claiming any WAL, which nothing but a stream could change.
    Unused,
    /// There is none.
    Missing,
}

impl Worth {
    fn of(found: Option<&ReplicationSlot>, archived: Lsn, before: Worth) -> Self {
        let Some(slot) = found else { return Worth::Missing };
        if slot.is_lost() {
            return Worth::Lost;
        }
        let Some(restart_lsn) = slot.restart_lsn else { return Worth::Unused };
        // the bound is what is held and what is left: a fifth of it, and a third before all is well again
        let share = if before == Worth::Endangered { 3 } else { 5 };
        let (held, left) = (slot.held_bytes.unwrap_or(0), slot.safe_wal_size);
        let is_little =
            left.is_some_and(|left| u64::try_from(left).unwrap_or(0) < (held / (share - 1)).max(1));
        if is_little || slot.wal_status == Some(WalStatus::Unreserved) {
            return Worth::Endangered;
        }
        if archived.is_valid() && restart_lsn > archived { Worth::BeginsLate } else { Worth::Keeps }
    }
}

impl ArchiveSlot {
    /// Moves `slot` to where the archive is, and makes it if that is wanted.
    pub(in crate::cli) fn start(
        slot: &SlotName,
        mut settings: Settings,
        watch: ArchiveWatch,
        create: bool,
        mut measured: impl FnMut(Option<SlotReading>) + Send + 'static,
    ) -> Option<Self> {
        settings.application_name = Some("pgwake archive slot".to_owned());
        let (stop, stopped) = oneshot::channel();
        let mut mover = Mover {
            slot: slot.clone(),
            settings,
            watch,
            create,
            sql: None,
            moved_to: Lsn::INVALID,
            looked_at: None,
            seen: Worth::Keeps,
            told: Worth::Keeps,
            error_told: false,
        };
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                tokio::select! {
                    never = mover.run(&mut measured) => match never {},
                    _ = stopped => {}
                }
                // what is archived by now need not be kept
                if mover.archived() > mover.moved_to {
                    let _ = tokio::time::timeout(FAREWELL_TIMEOUT, mover.follow(&mut measured)).await;
                }
            });
        };
        let spawned = std::thread::Builder::new().name("archive-slot".into()).spawn(work);
        match spawned {
            Ok(thread) => Some(ArchiveSlot { stop, thread }),
            Err(error) => {
                tracing::warn!(%error, "replication slot \"{slot}\" is not moved: could not start a thread");
                None
            }
        }
    }

    /// Moves it once more, and ends.
    pub(in crate::cli) async fn finish(self) {
        let _ = self.stop.send(());
        let thread = self.thread;
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

struct Mover {
    slot: SlotName,
    settings: Settings,
    watch: ArchiveWatch,
    create: bool,
    sql: Option<Sql>,
    moved_to: Lsn,
    /// When the server was asked for it, over this connection.
    looked_at: Option<Instant>,
    seen: Worth,
    told: Worth,
    error_told: bool,
}

impl Mover {
    async fn run(&mut self, measured: &mut impl FnMut(Option<SlotReading>)) -> Infallible {
        loop {
            let pause = match self.follow(measured).await {
                Ok(()) => {
                    self.error_told = false;
                    INTERVAL
                }
                Err(error) => {
                    (self.sql, self.looked_at) = (None, None);
                    measured(None);
                    if !std::mem::replace(&mut self.error_told, true) {
                        let error = report::one_line(&error);
                        tracing::warn!(
                            error,
                            "replication slot \"{}\" does not follow the archive; trying again",
                            self.slot
                        );
                    }
                    ERROR_INTERVAL
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn archived(&self) -> Lsn {
        self.watch.archived().map_or(Lsn::INVALID, |archived| archived.lsn)
    }

    async fn follow(&mut self, measured: &mut impl FnMut(Option<SlotReading>)) -> Result<(), MoveError> {
        let archived = self.archived();
        if archived <= self.moved_to && self.looked_at.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) {
            return Ok(());
        }
        if self.sql.is_none() {
            let mut sql = open_sql(&mut self.settings).await.map_err(ConnectError::from)?;
            sql.set_answer_timeout(Some(ANSWER_TIMEOUT));
            self.sql = Some(sql);
        }
        let Some(sql) = &self.sql else { return Ok(()) };
        let mut found = look(sql, &self.slot).await?;
        if found.is_none() && self.create {
            make(sql, &self.slot).await?;
            found = look(sql, &self.slot).await?;
        }
        let missing = SlotReading { lost: true, ..SlotReading::default() };
        measured(Some(found.as_ref().map_or(missing, reading)));
        let worth = Worth::of(found.as_ref(), archived, self.seen);
        // a slot only ever moves on, and one that is lost not even that
        let is_behind = found.and_then(|slot| slot.restart_lsn).is_some_and(|lsn| lsn < archived);
        if is_behind && worth != Worth::Lost {
            advance(sql, &self.slot, archived).await?;
        }
        (self.moved_to, self.looked_at) = (archived, Some(Instant::now()));
        self.tell(worth, archived);
        Ok(())
    }

    /// Says what has changed.
    fn tell(&mut self, worth: Worth, archived: Lsn) {
        // one that was just made begins late until the archive is there, which it mostly is at the next look
        let passes = worth == Worth::BeginsLate && self.seen != worth;
        self.seen = worth;
        if passes || std::mem::replace(&mut self.told, worth) == worth {
            return;
        }
        let slot = &self.slot;
        match worth {
            Worth::Keeps => tracing::info!("replication slot \"{slot}\" keeps what is not archived"),
            Worth::BeginsLate => tracing::warn!(
                "replication slot \"{slot}\" begins behind the end of the archive, {archived}: what is between them is not kept by it"
            ),
            Worth::Endangered => tracing::warn!(
                "replication slot \"{slot}\" is about to be lost: the archive is behind, and max_slot_wal_keep_size nearly used up"
            ),
            Worth::Lost => tracing::warn!(
                "replication slot \"{slot}\" is lost: the server keeps no WAL until it is archived; drop it, and --create-slot makes it again"
            ),
            Worth::Unused => tracing::warn!(
                "replication slot \"{slot}\" was made without reserving WAL, and keeps none; drop it, and --create-slot makes it again"
            ),
            Worth::Missing => tracing::warn!(
                "the server does not have replication slot \"{slot}\", and keeps no WAL until it is archived; --create-slot makes it"
            ),
        }
    }
}

async fn look(sql: &Sql, slot: &SlotName) -> Result<Option<ReplicationSlot>, InspectError> {
    Ok(slots(sql).await?.into_iter().find(|found| found.name == slot.as_str()))
}

async fn advance(sql: &Sql, slot: &SlotName, to: Lsn) -> Result<(), MoveError> {
    let question = "SELECT pg_catalog.pg_replication_slot_advance($1::name, $2::pg_catalog.pg_lsn)::text";
    match sql.rows(question, &[slot.as_str(), &to.to_string()]).await {
        Ok(_) => Ok(()),
        Err(error) => Err(MoveError::Advance(slot.clone(), to, error)),
    }
}

/// Makes the slot, unless it is there.
async fn make(sql: &Sql, slot: &SlotName) -> Result<(), MoveError> {
    let question =
        "SELECT slot_name::text FROM pg_catalog.pg_create_physical_replication_slot($1::name, true)";
    match sql.rows(question, &[slot.as_str()]).await {
        Ok(_) => {
            tracing::info!("created replication slot \"{slot}\", which keeps WAL until it is archived");
            Ok(())
        }
        Err(error) if error.sqlstate() == Some(SqlState::DUPLICATE_OBJECT) => Ok(()),
        Err(error) => Err(MoveError::Create(slot.clone(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_worth_what_it_keeps() {
        let slot = ReplicationSlot {
            restart_lsn: Some(Lsn::new(1000)),
            held_bytes: Some(400),
            wal_status: Some(WalStatus::Extended),
            ..ReplicationSlot::default()
        };
        let left = |safe_wal_size| ReplicationSlot { safe_wal_size: Some(safe_wal_size), ..slot.clone() };
        let status = |status| ReplicationSlot { wal_status: Some(status), ..slot.clone() };
        let invalidated = Some("idle_timeout".to_owned());
        for (found, archived, before, worth) in [
            (Some(slot.clone()), 1000, Worth::Keeps, Worth::Keeps),
            (Some(slot.clone()), 999, Worth::Keeps, Worth::BeginsLate),
            // nothing is archived yet
            (Some(slot.clone()), 0, Worth::Keeps, Worth::Keeps),
            (None, 1000, Worth::Keeps, Worth::Missing),
            (Some(left(100)), 1000, Worth::Keeps, Worth::Keeps),
            (Some(left(99)), 1000, Worth::Keeps, Worth::Endangered),
            (Some(left(199)), 1000, Worth::Endangered, Worth::Endangered),
            (Some(left(200)), 1000, Worth::Endangered, Worth::Keeps),
            (Some(left(-1)), 1000, Worth::Keeps, Worth::Endangered),
            (Some(ReplicationSlot { held_bytes: Some(0), ..left(0) }), 1000, Worth::Keeps, Worth::Endangered),
            (Some(status(WalStatus::Unreserved)), 1000, Worth::Keeps, Worth::Endangered),
            (Some(status(WalStatus::Lost)), 1000, Worth::Keeps, Worth::Lost),
            (
                Some(ReplicationSlot { restart_lsn: None, ..status(WalStatus::Lost) }),
                1000,
                Worth::Keeps,
                Worth::Lost,
            ),
            (
                Some(ReplicationSlot { invalidation_reason: invalidated, ..slot.clone() }),
                1000,
                Worth::Keeps,
                Worth::Lost,
            ),
            (Some(ReplicationSlot { restart_lsn: None, ..slot.clone() }), 1000, Worth::Keeps, Worth::Unused),
        ] {
            assert_eq!(Worth::of(found.as_ref(), Lsn::new(archived), before), worth, "{found:?} {archived}");
        }
    }
}

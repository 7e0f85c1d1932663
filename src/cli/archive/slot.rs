//! `--archive-slot`: a second slot, which follows the archive.
//!
//! The receiver's own slot goes on with what is durable in its directory. One that keeps WAL until it is in the archive is moved in
//! SQL, now and then, on a thread and a connection of its own: nobody streams from it, until somebody has to.

use std::convert::Infallible;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::super::connection::{ConnectError, open_sql};
use super::super::report;
use crate::archive::ArchiveWatch;
use crate::client::conninfo::Settings;
use crate::client::{ClientError, Sql};
use crate::pg::{Lsn, SlotName};
use crate::wire::server_error::SqlState;

/// The thread that moves the slot.
pub(in crate::cli) struct ArchiveSlot {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// How often the slot is moved, and how long after an error it is tried again.
const INTERVAL: Duration = Duration::from_secs(2);
const ERROR_INTERVAL: Duration = Duration::from_secs(20);

/// How long the server may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the last move may take when receiving has ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

/// Why the slot stays where it is.
#[derive(Debug, thiserror::Error)]
enum MoveError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("could not create replication slot \"{0}\"")]
    Create(SlotName, #[source] ClientError),
    #[error("could not advance replication slot \"{0}\" to {1}")]
    Advance(SlotName, Lsn, #[source] ClientError),
}

impl ArchiveSlot {
    /// Moves `slot` to where the archive is, and makes it if that is wanted.
    pub(in crate::cli) fn start(
        slot: &SlotName,
        mut settings: Settings,
        watch: ArchiveWatch,
        create: bool,
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
            told: false,
        };
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                tokio::select! {
                    never = mover.run() => match never {},
                    _ = stopped => {}
                }
                // what is archived by now need not be kept
                let _ = tokio::time::timeout(FAREWELL_TIMEOUT, mover.follow()).await;
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
    told: bool,
}

impl Mover {
    async fn run(&mut self) -> Infallible {
        loop {
            let pause = match self.follow().await {
                Ok(()) => {
                    self.told = false;
                    INTERVAL
                }
                Err(error) => {
                    self.sql = None;
                    if !std::mem::replace(&mut self.told, true) {
                        let error = report::one_line(&error);
                        tracing::warn!(
                            error,
                            "WAL is kept on the server though it is in the archive; trying again"
                        );
                    }
                    ERROR_INTERVAL
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn follow(&mut self) -> Result<(), MoveError> {
        let archived = self.watch.archived().map_or(Lsn::INVALID, |archived| archived.lsn);
        let is_new = self.sql.is_none() && self.create && !self.moved_to.is_valid();
        if archived <= self.moved_to && !is_new {
            return Ok(());
        }
        if self.sql.is_none() {
            let mut sql = open_sql(&mut self.settings).await.map_err(ConnectError::from)?;
            sql.set_answer_timeout(Some(ANSWER_TIMEOUT));
            self.sql = Some(sql);
        }
        let Some(sql) = &self.sql else { return Ok(()) };
        let slot = self.slot.as_str();
        if is_new {
            make(sql, &self.slot).await?;
        }
        if !archived.is_valid() {
            return Ok(());
        }
        let question = "SELECT pg_catalog.pg_replication_slot_advance($1::name, $2::pg_catalog.pg_lsn)::text";
        match sql.rows(question, &[slot, &archived.to_string()]).await {
            Ok(_) => {}
            // it is further on already: it was made, or moved by somebody else, behind the archive's end
            Err(error) if error.sqlstate() == Some(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => {
                tracing::debug!(%error, "slot \"{slot}\" stays where it is");
            }
            Err(error) => return Err(MoveError::Advance(self.slot.clone(), archived, error)),
        }
        self.moved_to = archived;
        Ok(())
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

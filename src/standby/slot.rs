//! A run's slot on the primary: made, given back, and taken over from a run that was interrupted.

use std::time::{Duration, Instant};

use super::error::CreateError;
use super::journal::Journal;
use crate::ErrorClass;
use crate::client::conninfo::Settings;
use crate::client::{ClientError, Connection, Purpose, Sql, open};
use crate::pg::{Lsn, SlotName};
use crate::wire::command::DropWhenActive;
use crate::wire::server_error::SqlState;

/// How long a failed run tries to drop its slot: the server may be away for a moment, or not have noticed yet that the
/// WAL stream is over.
const DROP_TIMEOUT: Duration = Duration::from_secs(20);

/// How long it waits between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Whether a slot that is to be dropped is known to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// The server has said so: if it is not there, this is another server.
    Certain,
    /// It was asked for, and there was no answer.
    Possible,
}

/// Where a slot holds WAL, as far as it can be learnt.
pub(super) async fn restart_lsn(
    replication: &mut Connection,
    sql: Option<&Sql>,
    slot: &SlotName,
) -> Result<Option<Lsn>, ClientError> {
    if replication.version().has_read_replication_slot() {
        return Ok(replication.read_slot(slot).await?.and_then(|state| state.restart_lsn));
    }
    let Some(sql) = sql else { return Ok(None) };
    let question = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = $1";
    match sql.rows(question, &[slot.as_str()]).await?.first() {
        Some(row) => row.get(0),
        None => Ok(None),
    }
}

/// Drops the slot of a run that failed, on new connections: the old ones are in the middle of something.
pub(super) async fn drop_own(
    settings: &Settings,
    slot: &SlotName,
    presence: Presence,
) -> Result<(), CreateError> {
    let deadline = Instant::now() + DROP_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let attempt = tokio::time::timeout(left, async {
            let mut connection = open(settings, Purpose::PhysicalReplication).await?;
            let dropped = match presence {
                Presence::Certain => connection.drop_slot(slot, DropWhenActive::Wait).await,
                Presence::Possible => drop_if_there(&mut connection, slot).await,
            };
            dropped.map_err(|source| CreateError::DropSlot { slot: slot.clone(), source })
        });
        match attempt.await {
            Err(_) => return Err(CreateError::DropSlotTimeout { slot: slot.clone() }),
            Ok(Err(error)) if is_transient(&error) && Instant::now() + RETRY_INTERVAL < deadline => {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            Ok(outcome) => return outcome,
        }
    }
}

fn is_transient(error: &CreateError) -> bool {
    let class = match error {
        CreateError::Connect(error) => error.class(),
        error => error.class(),
    };
    class == ErrorClass::Transient
}

/// Drops the slot that an interrupted run made, unless somebody has used it, or made it anew, since.
pub(super) async fn drop_leftover(
    replication: &mut Connection,
    sql: Option<&Sql>,
    journal: &Journal,
) -> Result<(), CreateError> {
    let Some(slot) = journal.slot_name() else { return Ok(()) };
    let failed = |source| CreateError::DropSlot { slot: slot.clone(), source };
    let system = replication.identify_system().await.map_err(failed)?;
    if journal.system_identifier != system.system_identifier.to_string() {
        tracing::warn!(
            "replication slot \"{slot}\" of the interrupted run is on another cluster ({}): drop it there",
            journal.system_identifier
        );
        return Ok(());
    }
    let found = restart_lsn(replication, sql, &slot).await.map_err(failed)?;
    if let (Some(made_at), Some(found)) = (journal.slot_restart_lsn(), found)
        && made_at != found
    {
        tracing::warn!(
            "replication slot \"{slot}\" of the interrupted run has been used since (it was at {made_at}, and is at \
             {found}): it was left alone; drop it if nobody needs it"
        );
        return Ok(());
    }
    let dropped = tokio::time::timeout(DROP_TIMEOUT, drop_if_there(replication, &slot)).await;
    match dropped {
        Err(_) => Err(CreateError::DropSlotTimeout { slot }),
        Ok(outcome) => outcome.map_err(failed),
    }
}

async fn drop_if_there(connection: &mut Connection, slot: &SlotName) -> Result<(), ClientError> {
    match connection.drop_slot(slot, DropWhenActive::Wait).await {
        Err(error) if error.sqlstate() == Some(SqlState::UNDEFINED_OBJECT) => Ok(()),
        other => other,
    }
}

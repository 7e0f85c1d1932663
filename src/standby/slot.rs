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

/// What can be learnt of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It is not there.
    Nothing,
    /// It is, and holds WAL from there on; `None`: it holds none.
    Holding(Option<Lsn>),
    /// Before 15 it takes SQL to see it, which this role may not use.
    Unseen,
}

async fn find(
    replication: &mut Connection,
    sql: Option<&Sql>,
    slot: &SlotName,
) -> Result<Found, ClientError> {
    if replication.version().has_read_replication_slot() {
        let state = replication.read_slot(slot).await?;
        return Ok(state.map_or(Found::Nothing, |state| Found::Holding(state.restart_lsn)));
    }
    let Some(sql) = sql else { return Ok(Found::Unseen) };
    let question = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = $1";
    match sql.rows(question, &[slot.as_str()]).await?.first() {
        Some(row) => Ok(Found::Holding(row.get(0)?)),
        None => Ok(Found::Nothing),
    }
}

/// Where a slot holds WAL, as far as it can be learnt.
pub(super) async fn restart_lsn(
    replication: &mut Connection,
    sql: Option<&Sql>,
    slot: &SlotName,
) -> Result<Option<Lsn>, ClientError> {
    Ok(match find(replication, sql, slot).await? {
        Found::Holding(restart_lsn) => restart_lsn,
        Found::Nothing | Found::Unseen => None,
    })
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
    let found = find(replication, sql, &slot).await.map_err(failed)?;
    if let Err(doubt) = is_unused(journal, found) {
        tracing::warn!(
            "replication slot \"{slot}\" of the interrupted run was left alone: {doubt}; drop it if nobody needs it"
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

/// Why a slot of an interrupted run's may be somebody else's by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Doubt {
    #[error("it has been used since (it was at {made_at}, and is at {found})")]
    Used { made_at: Lsn, found: Lsn },
    #[error("it holds WAL from {found} on, and whether that is where the run had made it is not known")]
    Elsewhere { found: Lsn },
    #[error("it holds no WAL, and the run had made it so that it did")]
    Empty,
    #[error("this role may not see whether it has been used since")]
    Unseen,
}

/// Whether the slot is as the interrupted run made it. That run may have ended before it could write down where the slot
/// was: then it knows only where the server's WAL ended before, and a slot that is used is beyond that.
fn is_unused(journal: &Journal, found: Found) -> Result<(), Doubt> {
    match (found, journal.slot_restart_lsn(), journal.slot_before_lsn()) {
        (Found::Nothing, ..) => Ok(()),
        (Found::Unseen, ..) => Err(Doubt::Unseen),
        (Found::Holding(None), ..) => Err(Doubt::Empty),
        (Found::Holding(Some(found)), Some(made_at), _) if made_at == found => Ok(()),
        (Found::Holding(Some(found)), Some(made_at), _) => Err(Doubt::Used { made_at, found }),
        (Found::Holding(Some(found)), None, Some(before)) if found <= before => Ok(()),
        (Found::Holding(Some(found)), None, _) => Err(Doubt::Elsewhere { found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_taken_away_only_where_nobody_can_have_used_it() {
        let lsn = |lsn: u64| Lsn::new(lsn);
        let journal = |made_at: Option<u64>, before: Option<u64>| Journal {
            slot_restart_lsn: made_at.map(|at| lsn(at).to_string()),
            slot_before_lsn: before.map(|at| lsn(at).to_string()),
            ..Journal::default()
        };
        let at = |at: u64| Found::Holding(Some(lsn(at)));
        for (made_at, before, found, outcome) in [
            (Some(5), Some(7), at(5), Ok(())),
            (Some(5), Some(7), at(6), Err(Doubt::Used { made_at: lsn(5), found: lsn(6) })),
            // moved back is used, too
            (Some(5), Some(7), at(4), Err(Doubt::Used { made_at: lsn(5), found: lsn(4) })),
            // ended before it was written down
            (None, Some(7), at(6), Ok(())),
            (None, Some(7), at(7), Ok(())),
            (None, Some(7), at(8), Err(Doubt::Elsewhere { found: lsn(8) })),
            (None, None, at(8), Err(Doubt::Elsewhere { found: lsn(8) })),
            (Some(5), Some(7), Found::Holding(None), Err(Doubt::Empty)),
            (Some(5), Some(7), Found::Unseen, Err(Doubt::Unseen)),
            (None, None, Found::Nothing, Ok(())),
        ] {
            assert_eq!(
                is_unused(&journal(made_at, before), found),
                outcome,
                "{made_at:?} {before:?} {found:?}"
            );
        }
    }
}

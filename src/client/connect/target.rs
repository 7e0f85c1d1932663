//! `target_session_attrs`: whether a server is the kind that was asked for.
//!
//! Answers to the state `CONNECTION_CHECK_TARGET` of `PQconnectPoll` in libpq's `fe-connect.c`. Servers from 14 report
//! what is needed by themselves. Older ones are asked: `SHOW` works on a walsender too, but `SELECT` does not, so
//! `primary` and `standby` cannot be told on a physical replication connection to them; neither can libpq.

use super::startup::Session;
use super::{AttemptError, WrongServer};
use crate::client::conninfo::TargetSessionAttrs;

const IS_READ_ONLY: &str = "SHOW transaction_read_only";
const IS_IN_RECOVERY: &str = "SELECT pg_catalog.pg_is_in_recovery()";

/// Checks a session against what was asked for; `prefer-standby` is the caller's to take apart.
pub(super) async fn check(session: &mut Session, wanted: TargetSessionAttrs) -> Result<(), AttemptError> {
    let wrong = match wanted {
        TargetSessionAttrs::Any => None,
        TargetSessionAttrs::ReadWrite => is_read_only(session).await?.then_some(WrongServer::ReadOnly),
        TargetSessionAttrs::ReadOnly => (!is_read_only(session).await?).then_some(WrongServer::ReadWrite),
        TargetSessionAttrs::Primary => is_standby(session).await?.then_some(WrongServer::Standby),
        TargetSessionAttrs::Standby | TargetSessionAttrs::PreferStandby => {
            (!is_standby(session).await?).then_some(WrongServer::Primary)
        }
    };
    wrong.map_or(Ok(()), |wrong| Err(AttemptError::WrongServer(wrong)))
}

async fn is_read_only(session: &mut Session) -> Result<bool, AttemptError> {
    match (reported(session, "default_transaction_read_only"), reported(session, "in_hot_standby")) {
        (Some(read_only), Some(standby)) => Ok(read_only || standby),
        _ => ask(session, IS_READ_ONLY, "on").await,
    }
}

async fn is_standby(session: &mut Session) -> Result<bool, AttemptError> {
    match reported(session, "in_hot_standby") {
        Some(standby) => Ok(standby),
        None => ask(session, IS_IN_RECOVERY, "t").await,
    }
}

fn reported(session: &Session, name: &str) -> Option<bool> {
    session.parameters.get(name).map(|value| value == "on")
}

async fn ask(session: &mut Session, query: &'static str, yes: &str) -> Result<bool, AttemptError> {
    match session.ask(query).await? {
        Ok(answer) => Ok(answer == yes),
        Err(error) => Err(AttemptError::SessionQuery { query, answer: error.to_string() }),
    }
}

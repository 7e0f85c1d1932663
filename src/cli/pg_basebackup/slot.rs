//! The slot of a run that failed: a slot that nobody uses holds WAL back until the server's disk is full.

use std::time::Duration;

use crate::cli::pg_tool::Invocation;
use crate::cli::pg_tool::connection::{libpq_text, with_causes};
use crate::client::conninfo::Settings;
use crate::client::{Purpose, open};
use crate::pg::SlotName;
use crate::wire::command::DropWhenActive;

/// How long it is tried: the server may not have noticed yet that the stream is over.
const DROP_TIMEOUT: Duration = Duration::from_secs(20);

/// Drops what `-C` has made, on a connection of its own, and says so.
pub(super) async fn drop_own(tool: &Invocation, settings: &Settings, slot: &SlotName) {
    tool.info(format!("dropping replication slot \"{slot}\""));
    let attempt = async {
        let connection = open(settings, Purpose::PhysicalReplication).await;
        let mut connection = connection.map_err(|error| with_causes(&error))?;
        let dropped = connection.drop_slot(slot, DropWhenActive::Wait).await;
        dropped.map_err(|error| libpq_text(&error))
    };
    let reason = match tokio::time::timeout(DROP_TIMEOUT, attempt).await {
        Ok(Ok(())) => return,
        Ok(Err(reason)) => reason,
        Err(_) => format!("no answer for {} seconds", DROP_TIMEOUT.as_secs()),
    };
    let _ = tool.error(format!("could not drop replication slot \"{slot}\": {reason}"));
    tool.hint("The slot holds WAL back on the server: drop it there.");
}

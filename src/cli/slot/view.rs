//! Slots as people see them: a table, and what to be warned of.

use std::time::Duration;

use super::super::grid::Grid;
use super::super::human::{bytes, duration, printable};
use super::super::table::Column;
use crate::inspect::server::ServerState;
use crate::inspect::slots::{ReplicationSlot, SlotUser, WalStatus};
use crate::pg::SlotName;
use crate::wire::command::quote_identifier;

/// The longest name that is shown in full.
const MAX_NAME_LEN: usize = 63;

/// A slot that nobody has used for so long, and that holds WAL, is forgotten.
const FORGOTTEN_AFTER: f64 = 86_400.0;

/// What is left of a slot's bound when it is close: this part of it.
const CLOSE_TO_BOUND: f64 = 0.2;

/// A table of slots without rows.
pub(in crate::cli) fn new_grid() -> Grid {
    Grid::new(&[
        Column::Text("SLOT"),
        Column::Text("TYPE"),
        Column::Text("ACTIVE"),
        Column::Number("HOLDS"),
        Column::Text("STATUS"),
        Column::Number("SAFE"),
        Column::Text("RESTART LSN"),
        Column::Text("INACTIVE SINCE"),
        Column::Text("USED BY"),
        Column::Text("ON"),
    ])
}

/// Adds a slot; `on` is the server that it is on, where there are several.
pub(in crate::cli) fn push(grid: &mut Grid, slot: &ReplicationSlot, on: &str) {
    let temporary = if slot.temporary { " (temporary)" } else { "" };
    let safe = |size: i64| bytes(u64::try_from(size).unwrap_or_default());
    grid.row([
        printable(&slot.name, MAX_NAME_LEN),
        printable(&slot.slot_type, 16) + temporary,
        if slot.active { "yes" } else { "no" }.to_owned(),
        slot.held_bytes.map(bytes).unwrap_or_default(),
        slot.wal_status.map_or_else(String::new, |status| status.as_str().to_owned()),
        slot.safe_wal_size.map(safe).unwrap_or_default(),
        slot.restart_lsn.map(|lsn| lsn.to_string()).unwrap_or_default(),
        inactive_since(slot),
        slot.used_by.as_ref().map(user).unwrap_or_default(),
        on.to_owned(),
    ]);
}

fn inactive_since(slot: &ReplicationSlot) -> String {
    let Some(since) = &slot.inactive_since else { return String::new() };
    // to the second
    let since = printable(since.split('.').next().unwrap_or_default(), 32);
    match slot.inactive_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(age) => format!("{since}Z ({})", duration(age)),
        None => since + "Z",
    }
}

/// Who uses a slot, as far as it can be seen.
pub(in crate::cli) fn user(user: &SlotUser) -> String {
    let name = user.application_name.as_deref().filter(|name| !name.is_empty());
    let name = name.map(|name| format!("{}, ", printable(name, MAX_NAME_LEN))).unwrap_or_default();
    let address = user.address.as_deref().map(|address| format!(" from {}", printable(address, 64)));
    format!("{name}process {}{}", user.pid, address.unwrap_or_default())
}

/// What an operator should hear of a slot, and what to do.
pub(in crate::cli) fn warning(slot: &ReplicationSlot, server: &ServerState) -> Option<String> {
    let name = printable(&slot.name, MAX_NAME_LEN);
    let held = slot.held_bytes.map(bytes).unwrap_or_default();
    let is_invalid = slot.invalidation_reason.is_some() || slot.wal_status == Some(WalStatus::Lost);
    if is_invalid {
        let why = match &slot.invalidation_reason {
            Some(reason) => format!("invalidated ({})", printable(reason, 64)),
            None => "lost".to_owned(),
        };
        return Some(format!(
            "slot \"{name}\" is {why}: what used it cannot go on with it, and has to be made anew. {}",
            drop_it(slot)
        ));
    }
    let bound = match server.max_slot_wal_keep_size {
        Some(bound) => format!("max_slot_wal_keep_size is {}", bytes(bound)),
        None => "the server's bound is reached".to_owned(),
    };
    let whose = if slot.active { "what uses it is too slow" } else { "nobody uses it" };
    if slot.wal_status == Some(WalStatus::Unreserved) {
        return Some(format!(
            "slot \"{name}\" is about to be lost: it claims {held} of WAL, {bound}, and the next checkpoint may remove it; \
             {whose}. {}",
            remedy(slot)
        ));
    }
    if let (Some(safe), Some(bound_bytes)) = (slot.safe_wal_size, server.max_slot_wal_keep_size)
        && (safe as f64) < bound_bytes as f64 * CLOSE_TO_BOUND
        && slot.wal_status == Some(WalStatus::Extended)
    {
        let safe = bytes(u64::try_from(safe).unwrap_or_default());
        return Some(format!(
            "slot \"{name}\" is lost after {safe} more of WAL ({bound}); {whose}. {}",
            remedy(slot)
        ));
    }
    forgotten(slot, server, &name, &held)
}

/// A slot that nobody uses, and that costs something.
fn forgotten(slot: &ReplicationSlot, server: &ServerState, name: &str, held: &str) -> Option<String> {
    // a copy of a primary's slot is never in use, and a slot without WAL costs nothing
    if slot.active || slot.synced || slot.restart_lsn.is_none() {
        return None;
    }
    let since = slot.inactive_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let since = since.map(|since| format!(" for {}", duration(since))).unwrap_or_default();
    let consequence = match server.max_slot_wal_keep_size {
        None => "nothing bounds that, and the disk fills".to_owned(),
        Some(bound) => format!("up to {}, then it is lost", bytes(bound)),
    };
    if slot.wal_status == Some(WalStatus::Extended) {
        return Some(format!(
            "slot \"{name}\" has been used by nobody{since} and makes the server keep {held} of WAL: {consequence}. {}",
            remedy(slot)
        ));
    }
    let inactive = slot.inactive_seconds?;
    if let Some(timeout) = server.idle_replication_slot_timeout
        && inactive > timeout * (1.0 - CLOSE_TO_BOUND)
    {
        return Some(format!(
            "slot \"{name}\" has been used by nobody{since}, and the server invalidates it soon \
             (idle_replication_slot_timeout). {}",
            remedy(slot)
        ));
    }
    (inactive > FORGOTTEN_AFTER).then(|| {
        format!(
            "slot \"{name}\" has been used by nobody{since} and holds {held} of WAL: {consequence}. {}",
            remedy(slot)
        )
    })
}

fn remedy(slot: &ReplicationSlot) -> String {
    match slot.active {
        true => "See what holds it up, or raise max_slot_wal_keep_size".to_owned(),
        false => format!("Start what should use it. {}", drop_it(slot)),
    }
}

/// Only a name that is one goes into a line for a shell.
fn drop_it(slot: &ReplicationSlot) -> String {
    slot.name
        .parse::<SlotName>()
        .map_or_else(|_| "Drop it".to_owned(), |name| format!("Drop it: pgwake slot drop {name}"))
}

/// What a role without `pg_read_all_stats` has not seen, if there was something to see.
pub(in crate::cli) fn hidden(slots: &[ReplicationSlot], server: &ServerState) -> Option<String> {
    let some_active = slots.iter().any(|slot| slot.active);
    (some_active && !server.sees_all_statistics)
        .then(|| may_not_see(server, "the addresses of what uses slots"))
}

/// A sentence about what this role may not see.
pub(in crate::cli) fn may_not_see(server: &ServerState, what: &str) -> String {
    let role = printable(&server.role, MAX_NAME_LEN);
    // a name that cannot be shown as it is would be another one's in the line
    let grantee = if role == server.role { quote_identifier(&role) } else { "…".to_owned() };
    format!("role \"{role}\" may not see {what}: GRANT pg_monitor TO {grantee};")
}

#[cfg(test)]
mod tests;

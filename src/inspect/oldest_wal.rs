//! How far back a server's WAL goes.

use super::{InspectError, ask, ask_one};
use crate::client::Sql;
use crate::pg::Lsn;

/// How far back a server's WAL goes, as far as the role may know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldestWal {
    /// The server keeps at least the WAL from here on: for its own recovery, and for slots.
    pub kept_lsn: Option<Lsn>,
    /// The names of the segments that are there, of those to come too; `None` for a role that may not see them
    /// (`pg_monitor` may).
    pub segments: Option<Vec<String>>,
}

/// The most segments that are listed: a terabyte of the usual size.
const MAX_SEGMENTS: u32 = 1 << 16;

/// Asks for it.
pub async fn oldest_wal(sql: &Sql) -> Result<OldestWal, InspectError> {
    const WHAT: &str = "the oldest WAL that it has";
    let kept = "SELECT least((SELECT redo_lsn FROM pg_control_checkpoint()), \
                (SELECT min(restart_lsn) FROM pg_replication_slots WHERE wal_status IN ('reserved', 'extended'))), \
                has_function_privilege('pg_ls_waldir()', 'EXECUTE')";
    let (kept_lsn, may_list): (_, bool) =
        ask_one(sql, WHAT, kept, |row| Ok((row.get(0)?, row.get(1)?))).await?;
    if !may_list {
        return Ok(OldestWal { kept_lsn, segments: None });
    }
    let list = format!(
        "SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{{24}}$' ORDER BY name DESC LIMIT {MAX_SEGMENTS}"
    );
    Ok(OldestWal { kept_lsn, segments: Some(ask(sql, WHAT, &list, |row| row.get(0)).await?) })
}

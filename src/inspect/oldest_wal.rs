//! How far back a server's WAL goes.

use super::{InspectError, ask};
use crate::client::Connection;
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
pub async fn oldest_wal(sql: &mut Connection) -> Result<OldestWal, InspectError> {
    const WHAT: &str = "the oldest WAL that it has";
    let kept = "SELECT least((SELECT redo_lsn FROM pg_control_checkpoint()), \
                (SELECT min(restart_lsn) FROM pg_replication_slots WHERE wal_status IN ('reserved', 'extended'))), \
                has_function_privilege('pg_ls_waldir()', 'EXECUTE')";
    let rows = ask(sql, kept, WHAT).await?;
    let row = rows.first().ok_or_else(|| InspectError::no_answer(WHAT))?;
    let (kept_lsn, may_list) = (row.lsn(0), row.is_true(1).unwrap_or_default());
    if !may_list {
        return Ok(OldestWal { kept_lsn, segments: None });
    }
    let list = format!(
        "SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{{24}}$' ORDER BY name DESC LIMIT {MAX_SEGMENTS}"
    );
    let names = ask(sql, &list, WHAT).await?;
    Ok(OldestWal { kept_lsn, segments: Some(names.iter().filter_map(|row| row.owned(0)).collect()) })
}

//! What roles and databases have set for themselves: `pg_db_role_setting`.

use super::{InspectError, ask};
use crate::client::Sql;

/// A role's, or a database's, own value of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The role; `None`: every role.
    pub role: Option<String>,
    /// The database; `None`: every database.
    pub database: Option<String>,
    /// The value, as it was written.
    pub value: String,
}

const QUESTION: &str = "\
SELECT r.rolname, d.datname, split_part(entry, '=', 2) \
FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS entry \
LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase \
WHERE split_part(entry, '=', 1) = 'synchronous_commit' ORDER BY 1 NULLS FIRST, 2 NULLS FIRST";

/// Asks who has a `synchronous_commit` of their own. Every role may see that.
pub async fn synchronous_commit_overrides(sql: &Sql) -> Result<Vec<Override>, InspectError> {
    ask(sql, "what roles and databases have set for themselves", QUESTION, |row| {
        Ok(Override { role: row.get(0)?, database: row.get(1)?, value: row.get(2)? })
    })
    .await
}

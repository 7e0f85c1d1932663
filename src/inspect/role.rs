//! The role that asks: what it may do, and where the server sees it come from.

use std::net::IpAddr;

use super::{Answer, InspectError, ask};
use crate::client::Connection;

/// A role, as the server knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Whether it is a superuser.
    pub superuser: bool,
    /// Whether it has the REPLICATION attribute.
    pub replication: bool,
    /// Every role that it is a member of, itself included.
    pub member_of: Vec<String>,
    /// Where the server sees it come from; `None`: a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether it may see what others do (`pg_read_all_stats`).
    pub sees_activity: bool,
    /// Whether it may read the rules of `pg_hba.conf`.
    pub sees_rules: bool,
    /// How the server keeps its password; `None` where it may not know.
    pub password: Option<StoredPassword>,
}

/// How a server keeps a role's password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredPassword {
    /// There is none.
    Missing,
    /// As an MD5 hash, which SCRAM cannot be spoken with.
    Md5,
    /// For SCRAM.
    Scram,
}

impl Role {
    /// Whether it may replicate.
    pub fn may_replicate(&self) -> bool {
        self.superuser || self.replication
    }
}

const TEXT: &str = "\
WITH RECURSIVE member (oid) AS (
  SELECT oid FROM pg_catalog.pg_roles WHERE rolname = session_user
  UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN member ON m.member = member.oid
)
SELECT r.rolname, r.rolsuper, r.rolreplication,
  (SELECT pg_catalog.to_json(pg_catalog.array_agg(g.rolname)) FROM pg_catalog.pg_roles g JOIN member USING (oid)),
  pg_catalog.host(pg_catalog.inet_client_addr()),
  pg_catalog.pg_has_role(session_user, 'pg_read_all_stats', 'USAGE'),
  pg_catalog.has_function_privilege(session_user, 'pg_catalog.pg_hba_file_rules()', 'EXECUTE')
FROM pg_catalog.pg_roles r WHERE r.rolname = session_user";

/// Asks who we are.
pub async fn role(sql: &mut Connection) -> Result<Role, InspectError> {
    let rows = ask(sql, TEXT, "the role's rights").await?;
    let Some(row) = rows.first() else { return Ok(Role::default()) };
    let yes = |column| row.is_true(column).unwrap_or(false);
    let superuser = yes(1);
    Ok(Role {
        name: row.text(0).unwrap_or_default().to_owned(),
        superuser,
        replication: yes(2),
        member_of: row.text(3).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default(),
        address: row.get(4),
        sees_activity: yes(5),
        sees_rules: yes(6),
        password: if superuser {
            Some(stored_password(&ask(sql, PASSWORD, "how its password is kept").await?))
        } else {
            None
        },
    })
}

/// What kind of password it is, and nothing of the password.
const PASSWORD: &str = "\
SELECT CASE WHEN rolpassword LIKE 'SCRAM-SHA-256$%' THEN 'scram' WHEN rolpassword IS NOT NULL THEN 'md5' END \
FROM pg_catalog.pg_authid WHERE rolname = session_user";

fn stored_password(rows: &[Answer]) -> StoredPassword {
    match rows.first().and_then(|row| row.text(0)) {
        Some("scram") => StoredPassword::Scram,
        Some(_) => StoredPassword::Md5,
        None => StoredPassword::Missing,
    }
}

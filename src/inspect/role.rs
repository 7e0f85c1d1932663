//! The role that asks: what it may do, and where the server sees it come from.

use std::net::IpAddr;

use super::{InspectError, ask, ask_one};
use crate::client::Sql;

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

const QUESTION: &str = "\
WITH RECURSIVE member (oid) AS (
  SELECT oid FROM pg_roles WHERE rolname = session_user
  UNION SELECT m.roleid FROM pg_auth_members m JOIN member ON m.member = member.oid
)
SELECT r.rolname, r.rolsuper, r.rolreplication,
  (SELECT array_agg(g.rolname::text) FROM pg_roles g JOIN member USING (oid)), host(inet_client_addr()),
  pg_has_role(session_user, 'pg_read_all_stats', 'USAGE'),
  has_function_privilege(session_user, 'pg_catalog.pg_hba_file_rules()', 'EXECUTE')
FROM pg_roles r WHERE r.rolname = session_user";

/// Asks who we are.
pub async fn role(sql: &Sql) -> Result<Role, InspectError> {
    let rows = ask(sql, "the role's rights", QUESTION, |row| {
        let address: Option<&str> = row.get(4)?;
        Ok(Role {
            name: row.get(0)?,
            superuser: row.get(1)?,
            replication: row.get(2)?,
            member_of: row.get::<Option<Vec<String>>>(3)?.unwrap_or_default(),
            address: address.and_then(|address| address.parse().ok()),
            sees_activity: row.get(5)?,
            sees_rules: row.get(6)?,
            password: None,
        })
    });
    // a role that was renamed or dropped meanwhile is none any more
    Ok(rows.await?.into_iter().next().unwrap_or_default())
}

/// What kind of password it is, and nothing of the password.
const PASSWORD: &str = "\
SELECT CASE WHEN rolpassword LIKE 'SCRAM-SHA-256$%' THEN 'scram' WHEN rolpassword IS NOT NULL THEN 'md5' END \
FROM pg_authid WHERE rolname = session_user";

/// Asks how the server keeps our password. Only superusers may know.
pub async fn stored_password(sql: &Sql) -> Result<StoredPassword, InspectError> {
    ask_one(sql, "how its password is kept", PASSWORD, |row| {
        Ok(match row.get::<Option<&str>>(0)? {
            Some("scram") => StoredPassword::Scram,
            Some(_) => StoredPassword::Md5,
            None => StoredPassword::Missing,
        })
    })
    .await
}

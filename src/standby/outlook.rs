//! Whom commits will wait for once a standby is the primary.
//!
//! `synchronous_standby_names` is a setting of each server, and counts as soon as it takes writes: names that nobody has who
//! receives from it make every commit wait, and an empty list makes none wait any more.

use std::fmt;

use serde::Serialize;

use crate::client::Sql;
use crate::inspect::replication::{Downstream, downstreams};
use crate::inspect::sync_standbys::SyncStandbys;
use crate::inspect::{InspectError, ask_one};

/// What a standby's settings will mean for commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SynchronousOutlook {
    /// Its `synchronous_standby_names`.
    pub names: String,
    /// How many more of them have to stream from it before commits go on; `None` where this role may not see who does.
    pub missing: Option<u32>,
    /// Whether its `synchronous_commit` waits for standbys at all.
    pub waits: bool,
}

impl SynchronousOutlook {
    /// Asks for it.
    pub(super) async fn ask(sql: &Sql) -> Result<Self, InspectError> {
        const QUESTION: &str =
            "SELECT current_setting('synchronous_standby_names'), current_setting('synchronous_commit')";
        let (names, commit) = ask_one(sql, "whom its commits will wait for", QUESTION, |row| {
            Ok((row.get::<String>(0)?, row.get::<String>(1)?))
        })
        .await?;
        Ok(SynchronousOutlook::of(names, &commit, &downstreams(sql).await?))
    }

    fn of(names: String, commit: &str, downstreams: &[Downstream]) -> Self {
        let is_seen = downstreams.iter().all(|downstream| downstream.state.is_some());
        let missing = match names.parse::<SyncStandbys>() {
            _ if names.trim().is_empty() => Some(0),
            Ok(list) if is_seen => {
                let spare = list.spare(&list.standing(downstreams));
                Some(u32::try_from(spare.min(0).unsigned_abs()).unwrap_or(u32::MAX))
            }
            _ => None,
        };
        SynchronousOutlook { names, missing, waits: !matches!(commit, "off" | "local") }
    }

    /// Whether a commit waits for anybody.
    pub fn is_synchronous(&self) -> bool {
        self.waits && !self.names.trim().is_empty()
    }

    /// Whether a promotion will stop every commit.
    pub fn stops_commits(&self) -> bool {
        self.waits && self.missing.is_some_and(|missing| missing > 0)
    }
}

impl fmt::Display for SynchronousOutlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names.escape_debug();
        match self.missing {
            _ if self.names.trim().is_empty() => {
                write!(f, "no commit waits for a standby: synchronous_standby_names is empty here")
            }
            _ if !self.waits => write!(
                f,
                "no commit waits for a standby unless it asks for it: synchronous_commit is off or local here"
            ),
            Some(0) => write!(f, "commits wait for standbys: synchronous_standby_names is \"{names}\""),
            Some(missing) => {
                let has = if missing == 1 { "has" } else { "have" };
                write!(
                    f,
                    "every commit will wait: synchronous_standby_names is \"{names}\", and {missing} more of those {has} to \
                     receive from here"
                )
            }
            None => write!(
                f,
                "commits wait for standbys: synchronous_standby_names is \"{names}\", and this role may not see who of \
                 those receives from here"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Lsn;

    #[test]
    fn names_that_nobody_has_stop_commits() {
        let streaming = |name: &str| Downstream {
            application_name: name.to_owned(),
            state: Some("streaming".to_owned()),
            flush_lsn: Some(Lsn::new(1)),
            ..Downstream::default()
        };
        let (cascade, unseen) = (streaming("standby2"), Downstream { state: None, ..streaming("standby2") });
        for (names, commit, downstream, missing, stops) in [
            ("", "on", &cascade, Some(0), false),
            ("ANY 1 (standby1, pgwake)", "on", &cascade, Some(1), true),
            ("ANY 1 (standby2, pgwake)", "on", &cascade, Some(0), false),
            ("FIRST 2 (standby2, pgwake)", "remote_apply", &cascade, Some(1), true),
            ("ANY 1 (standby1, pgwake)", "local", &cascade, Some(1), false),
            ("ANY 1 (standby2)", "on", &unseen, None, false),
        ] {
            let outlook = SynchronousOutlook::of(names.to_owned(), commit, std::slice::from_ref(downstream));
            assert_eq!((outlook.missing, outlook.stops_commits()), (missing, stops), "{names} {commit}");
        }
    }
}

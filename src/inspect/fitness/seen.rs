//! All that was seen of a server, as far as this role may.

use std::net::IpAddr;

use crate::client::connect::{AttemptError, ConnectError};
use crate::client::{Connection, OpenError, Protection, Sql};
use crate::inspect::InspectError;
use crate::inspect::hba::{HbaRule, hba_rules};
use crate::inspect::overrides::{Override, synchronous_commit_overrides};
use crate::inspect::recovery::is_in_recovery;
use crate::inspect::replication::{Downstream, downstreams};
use crate::inspect::role::{Role, role, stored_password};
use crate::inspect::settings::ServerSettings;
use crate::inspect::slots::{ReplicationSlot, slots};
use crate::inspect::wal_rate::{WalRate, WalSample, average_wal_rate, wal_sample};
use crate::pg::ServerVersion;
use crate::wire::auth::AuthenticationError;
use crate::wire::server_error::SqlState;

/// All that was seen. `None` is what could not be.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The server's version.
    pub version: ServerVersion,
    /// Whether it is a standby itself.
    pub in_recovery: Option<bool>,
    /// The name that we came with.
    pub user: String,
    /// Where the server sees us come from; `None`: a Unix socket, or not known.
    pub address: Option<IpAddr>,
    /// The role that it is on the server.
    pub role: Option<Role>,
    /// The server's settings.
    pub settings: ServerSettings,
    /// What roles and databases have set `synchronous_commit` to.
    pub overrides: Option<Vec<Override>>,
    /// Who receives WAL from it, this look at it excepted.
    pub walsenders: Option<Vec<Downstream>>,
    /// Its slots, without those that are copies of a primary's: they are looked after there.
    pub slots: Option<Vec<ReplicationSlot>>,
    /// How fast it writes.
    pub wal_rate: WalRate,
    /// The first look at where its WAL ends.
    pub first_sample: Option<WalSample>,
    /// The rules that it lets anybody in by, as they are in its files now.
    pub rules: Option<Vec<HbaRule>>,
    /// How the connection is protected that was asked on.
    pub protection: Protection,
    /// What came of a physical replication connection.
    pub trial: Trial,
    /// Why there was no ordinary connection to ask on.
    pub sql_refused: Option<Refusal>,
}

/// What came of a physical replication connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// It was let in.
    LetIn,
    /// It was not.
    Refused(Refusal),
}

/// Why a connection was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of reason it is.
    pub kind: RefusalKind,
    /// The server's words, or ours.
    pub message: String,
}

/// What kind of reason it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// `pg_hba.conf` does not let it in.
    Rules,
    /// The role may not replicate.
    NotPermitted,
    /// No connection is free. The rules were not even looked at.
    Full,
    /// The password is wrong, or there is none.
    Password,
    /// Anything else.
    Other,
}

impl Refusal {
    /// Why the last server that was tried refused; `None` when it was no server that did.
    pub fn by_server(error: &OpenError) -> Option<Self> {
        let OpenError::Connect(ConnectError::PasswordNeeded { failures } | ConnectError::Failed { failures }) =
            error
        else {
            return None;
        };
        let (kind, message) = match &failures.last()?.cause {
            AttemptError::Server(error) => {
                let kind = match error.sqlstate {
                    SqlState::INVALID_AUTHORIZATION => RefusalKind::Rules,
                    SqlState::INSUFFICIENT_PRIVILEGE => RefusalKind::NotPermitted,
                    SqlState::TOO_MANY_CONNECTIONS => RefusalKind::Full,
                    SqlState::INVALID_PASSWORD => RefusalKind::Password,
                    // starting or stopping: there is nothing to be looked at
                    SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN => return None,
                    _ => RefusalKind::Other,
                };
                (kind, error.message.clone())
            }
            AttemptError::Authentication(error @ AuthenticationError::PasswordNeeded) => {
                (RefusalKind::Password, error.to_string())
            }
            cause @ AttemptError::Authentication(_) => (RefusalKind::Other, cause.to_string()),
            _ => return None,
        };
        Some(Refusal { kind, message })
    }
}

impl Seen {
    /// Asks all that can be asked in SQL, in two round trips. The trial is the caller's to make, afterwards: its own
    /// connection would count.
    pub async fn by_sql(sql: &Sql, user: &str) -> Result<Self, InspectError> {
        let (first_sample, in_recovery, role, settings, overrides, walsenders, slots, average) = tokio::try_join!(
            biased;
            allowed(wal_sample(sql)),
            is_in_recovery(sql),
            role(sql),
            ServerSettings::ask(sql),
            allowed(synchronous_commit_overrides(sql)),
            allowed(downstreams(sql)),
            allowed(slots(sql)),
            allowed(average_wal_rate(sql)),
        )?;
        let rules = async { if role.sees_rules { allowed(hba_rules(sql)).await } else { Ok(None) } };
        let password = async { if role.superuser { allowed(stored_password(sql)).await } else { Ok(None) } };
        let (rules, password) = tokio::try_join!(rules, password)?;
        let own = |slots: Vec<ReplicationSlot>| slots.into_iter().filter(|slot| !slot.synced).collect();
        Ok(Seen {
            version: sql.version(),
            in_recovery: Some(in_recovery),
            user: user.to_owned(),
            address: role.address,
            role: Some(Role { password, ..role }),
            settings,
            overrides,
            walsenders,
            slots: slots.map(own),
            wal_rate: WalRate { moment: None, average: average.flatten() },
            first_sample: first_sample.flatten(),
            rules,
            protection: sql.protection(),
            trial: Trial::LetIn,
            sql_refused: None,
        })
    }

    /// Asks what can be asked on a replication connection, where there is no other. `server_address` is where it leads:
    /// over the loopback interface we come from the same.
    pub async fn by_replication(
        replication: &mut Connection,
        user: &str,
        server_address: Option<IpAddr>,
        sql_refused: Refusal,
    ) -> Result<Self, InspectError> {
        Ok(Seen {
            version: replication.version(),
            in_recovery: replication.parameter("in_hot_standby").map(|value| value == "on"),
            user: user.to_owned(),
            address: server_address.filter(IpAddr::is_loopback),
            role: None,
            settings: ServerSettings::show(replication).await?,
            overrides: None,
            walsenders: None,
            slots: None,
            wal_rate: WalRate::default(),
            first_sample: None,
            rules: None,
            protection: replication.protection(),
            trial: Trial::LetIn,
            sql_refused: Some(sql_refused),
        })
    }

    /// Looks a second time at where WAL ends.
    pub async fn measure_wal_rate(&mut self, sql: &Sql) -> Result<(), InspectError> {
        let Some(first) = self.first_sample else { return Ok(()) };
        let second = wal_sample(sql).await?;
        self.wal_rate.moment = second.and_then(|second| first.rate_until(second));
        Ok(())
    }
}

/// What this role may not know is no error.
async fn allowed<T>(
    answer: impl Future<Output = Result<T, InspectError>>,
) -> Result<Option<T>, InspectError> {
    match answer.await {
        Err(error) if error.source.sqlstate() == Some(SqlState::INSUFFICIENT_PRIVILEGE) => Ok(None),
        other => other.map(Some),
    }
}

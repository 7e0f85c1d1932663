//! Does a standby's upstream live, and is it a primary? Asked as the standby itself would ask: by its
//! `primary_conninfo`, on a replication connection, for its role may have no other.

use std::time::Duration;

use crate::client::connect::{AttemptError, ConnectError};
use crate::client::conninfo::{
    ConnInfo, ConnInfoError, ParseConnInfoError, Secret, Settings, SystemEnvironment,
};
use crate::client::{ClientError, Connection, OpenError, Purpose, open};
use crate::pg::{Lsn, SystemIdentifier};

/// One of the hosts, and what is known of it.
#[derive(Debug)]
pub struct Sighting {
    /// Its place, for people.
    pub place: String,
    /// What is known.
    pub verdict: Verdict,
}

/// What is known of a host.
#[derive(Debug)]
pub enum Verdict {
    /// It lives, and takes writes.
    Primary {
        /// How far its WAL is flushed.
        flush_lsn: Lsn,
    },
    /// It lives, and is a standby itself.
    Standby,
    /// Another cluster answers, as where the standby is on another machine than we are.
    OtherCluster(SystemIdentifier),
    /// It lives, and will not tell.
    Answers(OpenError),
    /// It let us in, and told nothing.
    Broken(ClientError),
    /// Nothing answers.
    Silent(OpenError),
}

/// Why nobody can be asked.
#[derive(Debug, thiserror::Error)]
pub enum UnusableConninfo {
    /// It cannot be read.
    #[error("the standby's primary_conninfo cannot be read")]
    Parse(#[from] ParseConnInfoError),
    /// It says what cannot be done from here.
    #[error("the standby's primary_conninfo cannot be used from here")]
    Resolve(#[from] ConnInfoError),
}

/// How long one host may take to answer, where the standby does not say.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks every host. `system` is the standby's own cluster.
pub async fn look(
    primary_conninfo: &Secret,
    system: Option<SystemIdentifier>,
) -> Result<Vec<Sighting>, UnusableConninfo> {
    let mut conninfo = ConnInfo::parse_connection_string(primary_conninfo.expose())?;
    // not to be taken for the standby itself
    conninfo.set("application_name", "pgwake")?;
    let mut settings = Settings::resolve(&conninfo, &SystemEnvironment)?;
    settings.connect_timeout = settings.connect_timeout.or(Some(TIMEOUT));
    let mut sightings = Vec::new();
    for host in &settings.hosts {
        let verdict = match open(&settings.pinned_to(host), Purpose::PhysicalReplication).await {
            Ok(connection) => examine(connection, system).await.unwrap_or_else(Verdict::Broken),
            Err(error) if is_answer(&error) => Verdict::Answers(error),
            Err(error) => Verdict::Silent(error),
        };
        sightings.push(Sighting { place: host.place(), verdict });
    }
    Ok(sightings)
}

async fn examine(
    mut connection: Connection,
    system: Option<SystemIdentifier>,
) -> Result<Verdict, ClientError> {
    connection.set_answer_timeout(Some(TIMEOUT));
    let identity = connection.identify_system().await?;
    if system.is_some_and(|system| system != identity.system_identifier) {
        return Ok(Verdict::OtherCluster(identity.system_identifier));
    }
    let in_recovery = match connection.parameter("in_hot_standby") {
        Some(value) => value == "on",
        // up to 13; a primary that is read-only by default looks like a standby, and either lives
        None => connection.show("transaction_read_only").await? == "on",
    };
    connection.close().await;
    Ok(if in_recovery { Verdict::Standby } else { Verdict::Primary { flush_lsn: identity.flush_lsn } })
}

/// Whether a server spoke, whatever it said.
fn is_answer(error: &OpenError) -> bool {
    let OpenError::Connect(ConnectError::Failed { failures } | ConnectError::PasswordNeeded { failures }) =
        error
    else {
        return true;
    };
    failures.iter().any(|failure| {
        matches!(
            failure.cause,
            AttemptError::Server(_)
                | AttemptError::Authentication(_)
                | AttemptError::Tls(_)
                | AttemptError::NotForked { .. }
                | AttemptError::PeerMismatch { .. }
                | AttemptError::Frame(_)
                | AttemptError::Message(_)
                | AttemptError::Unexpected { .. }
                | AttemptError::Negotiation { .. }
                | AttemptError::ProtocolTooOld { .. }
        )
    })
}

//! Connecting, up to a connection that takes commands.

use super::connect::{AttemptError, ConnectError, Purpose, connect};
use super::conninfo::Settings;
use super::{ClientError, Connection};
use crate::ErrorClass;

/// Why there is no connection that takes commands.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No server let us in.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server that did is not one that can be worked with.
    #[error("cannot work with this server")]
    Greeting(#[source] ClientError),
    /// It did not let us say what names mean.
    #[error("could not set search_path on the server")]
    SearchPath(#[source] ClientError),
}

impl OpenError {
    /// Whether a password would help.
    pub fn is_password_missing(&self) -> bool {
        matches!(self, OpenError::Connect(ConnectError::PasswordNeeded { .. }))
    }

    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            OpenError::Connect(error) if error.is_transient() => ErrorClass::Transient,
            OpenError::Connect(error) => {
                let broken = |cause: &AttemptError| {
                    matches!(
                        cause,
                        AttemptError::Frame(_) | AttemptError::Message(_) | AttemptError::Unexpected { .. }
                    )
                };
                match error.failures().iter().any(|failure| broken(&failure.cause)) {
                    true => ErrorClass::Integrity,
                    false => ErrorClass::Operator,
                }
            }
            OpenError::Greeting(error) | OpenError::SearchPath(error) => error.class(),
        }
    }
}

/// Connects to the first host of the settings that will do.
///
/// In SQL names mean what `pg_catalog` says they mean: whoever owns the database could otherwise have us call what he has
/// made, with our rights (CVE-2018-1058).
pub async fn open(settings: &Settings, purpose: Purpose) -> Result<Connection, OpenError> {
    let connected = connect(settings, purpose).await?;
    let mut connection = connected.into_connection().map_err(OpenError::Greeting)?;
    if purpose == Purpose::Sql {
        let silence = settings.connect_timeout;
        connection.query_within(silence, SECURE_SEARCH_PATH, "SET").await.map_err(OpenError::SearchPath)?;
    }
    Ok(connection)
}

/// Temporary objects are looked for last, for they are anybody's too.
const SECURE_SEARCH_PATH: &str = "SET search_path = pg_catalog, pg_temp";

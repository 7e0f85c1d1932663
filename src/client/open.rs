//! Connecting, up to a connection that takes commands.

use super::connect::{AttemptError, ConnectError, Purpose, connect};
use super::conninfo::Settings;
use super::{ClientError, Connection, Sql};
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
            OpenError::Greeting(error) => error.class(),
        }
    }
}

/// Connects to the first host of the settings that will do.
pub async fn open(settings: &Settings, purpose: Purpose) -> Result<Connection, OpenError> {
    let connected = connect(settings, purpose).await?;
    connected.into_connection().map_err(OpenError::Greeting)
}

/// Connects for ordinary SQL, to the first host of the settings that will do.
pub async fn open_sql(settings: &Settings) -> Result<Sql, OpenError> {
    Sql::over(open(settings, Purpose::Sql).await?).await.map_err(OpenError::Greeting)
}

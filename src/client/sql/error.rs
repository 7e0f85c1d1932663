//! From tokio-postgres's errors to ours.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::error::{DbError, Severity};

use crate::client::ClientError;
use crate::wire::server_error::ServerError;

/// Why the connection ended. Those who wait for an answer only hear that it did.
#[derive(Debug, Clone, Default)]
pub(super) struct LastWords(Arc<Mutex<Option<ClientError>>>);

impl LastWords {
    pub(super) fn keep(&self, error: ClientError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// What an error means. The first who asks hears why the connection ended; the others, that it is closed.
    pub(super) fn explain(&self, error: tokio_postgres::Error) -> ClientError {
        let last = || self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match error.is_closed() {
            true => last().unwrap_or(ClientError::Closed),
            false => error.into(),
        }
    }
}

impl From<tokio_postgres::Error> for ClientError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(error) = error.as_db_error() {
            return ClientError::Server(Box::new(db_error(error)));
        }
        if error.is_closed() {
            return ClientError::Closed;
        }
        let Some(cause) = error.into_source() else { return ClientError::Sql(None) };
        // the bridge wraps all that is its own, so what else is an I/O error is about bytes that make no sense
        match cause.downcast::<io::Error>().map(|error| error.downcast::<ClientError>()) {
            Ok(Ok(ours)) => ours,
            Ok(Err(error)) => ClientError::Sql(Some(Box::new(error))),
            Err(cause) => ClientError::Sql(Some(cause)),
        }
    }
}

/// An ErrorResponse or a NoticeResponse, as ours.
pub(super) fn db_error(error: &DbError) -> ServerError {
    let severity = match error.parsed_severity() {
        Some(Severity::Panic) => "PANIC",
        Some(Severity::Fatal) => "FATAL",
        Some(Severity::Error) => "ERROR",
        Some(Severity::Warning) => "WARNING",
        Some(Severity::Notice) => "NOTICE",
        Some(Severity::Debug) => "DEBUG",
        Some(Severity::Info) => "INFO",
        Some(Severity::Log) => "LOG",
        None => error.severity(),
    };
    ServerError::of(severity, error.code().code(), error.message(), error.detail(), error.hint())
}

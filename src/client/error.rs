//! What can go wrong on a connection that was open.

use std::io;

use crate::error::ErrorClass;
use crate::pg::version::ParseServerVersionError;
use crate::wire::backend::BackendMessageError;
use crate::wire::frame::FrameError;
use crate::wire::frontend::EncodeError;
use crate::wire::replication::ReplicationMessageError;
use crate::wire::server_error::{ServerError, SqlState};

/// Why a command, or the stream it began, failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused, or gave up.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// Reading from the socket failed.
    #[error("could not receive data from server")]
    Receive(#[source] io::Error),
    /// Writing to the socket failed.
    #[error("could not send data to server")]
    Send(#[source] io::Error),
    /// The server's end of the connection is gone, without a word.
    #[error("server closed the connection unexpectedly")]
    Closed,
    /// An answer was awaited, and nothing came.
    #[error("server was silent for {} s", .after.as_secs_f32())]
    Silent {
        /// The bound.
        after: std::time::Duration,
    },
    /// The server ended the WAL stream because it is shutting down.
    #[error("server ended the replication stream: it is shutting down")]
    ShuttingDown,
    /// What came is not the protocol.
    #[error("lost synchronization with server")]
    Frame(#[from] FrameError),
    /// A message that cannot be read.
    #[error("invalid message from server")]
    Message(#[from] BackendMessageError),
    /// A message inside the WAL stream that cannot be read.
    #[error("invalid message in replication stream")]
    Replication(#[from] ReplicationMessageError),
    /// A message that has no place here.
    #[error("unexpected {found} message from server during {during}")]
    Unexpected {
        /// The command, or the part of its answer.
        during: &'static str,
        /// The message's name.
        found: &'static str,
    },
    /// A row or a value that the command does not answer with.
    #[error("unexpected answer to {command}: {problem}")]
    Answer {
        /// The command.
        command: &'static str,
        /// What is wrong with the answer.
        problem: &'static str,
    },
    /// An answer that tokio-postgres cannot make sense of.
    #[error("server's answer makes no sense")]
    Sql(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// An answer that is longer than any honest one.
    #[error("answer to {command} is too long")]
    AnswerTooLong {
        /// The command.
        command: &'static str,
    },
    /// The server's version has no such command.
    #[error("server version {version} does not support {command}")]
    NotSupported {
        /// The command.
        command: &'static str,
        /// The server's version.
        version: crate::pg::ServerVersion,
    },
    /// A command that cannot be put into a message.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The server did not say which version it is.
    #[error("server did not report its version")]
    NoServerVersion,
    /// The server's version cannot be read.
    #[error("server reported a version that cannot be understood")]
    ServerVersion(#[source] ParseServerVersionError),
    /// A server built with floating-point timestamps, which no supported version can be.
    #[error("integer_datetimes is off on the server")]
    FloatDatetimes,
    /// A command was sent before the answer to the last one was read: a bug in the caller.
    #[error("connection is busy with another command")]
    Busy,
}

impl ClientError {
    /// The server's own words, when it was the server that refused.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::Server(error) => Some(error),
            _ => None,
        }
    }

    /// The server's SQLSTATE, when it was the server that refused.
    pub fn sqlstate(&self) -> Option<SqlState> {
        self.server_error().map(|error| error.sqlstate)
    }

    /// What to do about it. A peer that breaks the protocol cannot be trusted with data either.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Receive(_) | Self::Send(_) | Self::Closed | Self::Silent { .. } | Self::ShuttingDown => {
                ErrorClass::Transient
            }
            Self::Server(error) => match error.sqlstate {
                sqlstate if sqlstate.may_pass() || error.is_walsender_stopping() => ErrorClass::Transient,
                SqlState::DATA_CORRUPTED => ErrorClass::Integrity,
                _ => ErrorClass::Operator,
            },
            Self::Frame(_)
            | Self::Message(_)
            | Self::Replication(_)
            | Self::Unexpected { .. }
            | Self::Answer { .. }
            | Self::Sql(_)
            | Self::AnswerTooLong { .. } => ErrorClass::Integrity,
            Self::NotSupported { .. }
            | Self::NoServerVersion
            | Self::ServerVersion(_)
            | Self::FloatDatetimes => ErrorClass::Operator,
            Self::Encode(_) | Self::Busy => ErrorClass::Bug,
        }
    }
}

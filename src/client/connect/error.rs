//! Why nobody let us in: every host's reason, in libpq's words.

use std::fmt;
use std::io;

use crate::client::conninfo::ProtocolVersion;
use crate::client::tls::TlsError;
use crate::wire::auth::AuthenticationError;
use crate::wire::backend::BackendMessageError;
use crate::wire::frame::FrameError;
use crate::wire::server_error::{ServerError, SqlState};

/// No connection, and why: one failure for each attempt, in order.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A server wants a password and there is none: ask for one, put it into the settings, try again.
    #[error("{}", Listed(failures))]
    PasswordNeeded {
        /// What was tried; the last is the server that asks.
        failures: Vec<HostFailure>,
    },
    /// Nothing worked.
    #[error("{}", Listed(failures))]
    Failed {
        /// What was tried.
        failures: Vec<HostFailure>,
    },
}

/// One attempt that failed.
#[derive(Debug)]
pub struct HostFailure {
    /// Whom we tried to reach; nobody when the name could not be resolved.
    pub peer: Option<Peer>,
    /// Why it failed.
    pub cause: AttemptError,
}

/// A server's place, as messages name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A Unix socket.
    Socket {
        /// Its path; `@` stands for the abstract namespace.
        path: String,
    },
    /// TCP.
    Tcp {
        /// The host as it was written.
        host: String,
        /// The address.
        address: String,
        /// The port.
        port: u16,
    },
}

/// Why one attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The resolver does not know the name.
    #[error("could not translate host name \"{host}\" to address: {}", plain(.source))]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
    /// A path that does not fit.
    #[error("Unix-domain socket path \"{path}\" is too long (maximum {limit} bytes)")]
    SocketPathTooLong {
        /// The path.
        path: String,
        /// The longest.
        limit: usize,
    },
    /// The socket could not be opened.
    #[error("{}\n\tIs the server running on that host and accepting TCP/IP connections?", plain(.0))]
    ConnectTcp(#[source] io::Error),
    /// The socket could not be opened.
    #[error("{}\n\tIs the server running locally and accepting connections on that socket?", plain(.0))]
    ConnectSocket(#[source] io::Error),
    /// An option of the socket could not be set.
    #[error("could not set socket option {option}: {}", plain(.source))]
    SocketOption {
        /// The option.
        option: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("timeout expired")]
    Timeout,
    /// Nobody knows who is behind the socket.
    #[error("could not get peer credentials: {}", plain(.0))]
    PeerCredentials(#[source] io::Error),
    /// Somebody else is behind the socket.
    #[error("requirepeer specifies \"{required}\", but actual peer user name is \"{actual}\"")]
    PeerMismatch {
        /// The name that was asked for.
        required: String,
        /// The name that it is.
        actual: String,
    },
    /// TLS.
    #[error("{}", with_causes(.0))]
    Tls(#[source] TlsError),
    /// Authentication, on our side.
    #[error("{}", with_causes(.0))]
    Authentication(#[source] AuthenticationError),
    /// The server refused.
    #[error("{0}")]
    Server(ServerError),
    /// The postmaster has no process for us: too many, or no memory. It says so in words that have no frame.
    #[error("{text}")]
    NotForked {
        /// What it says.
        text: String,
    },
    /// The server's end is gone, without a word.
    #[error(
        "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally\n\tbefore or while processing the request."
    )]
    Closed,
    /// The socket failed.
    #[error("could not receive data from server: {}", plain(.0))]
    Receive(#[source] io::Error),
    /// The socket failed.
    #[error("could not send data to server: {}", plain(.0))]
    Send(#[source] io::Error),
    /// What came is not the protocol.
    #[error("received invalid response from server: {0}")]
    Frame(#[source] FrameError),
    /// What came is not the protocol.
    #[error("received invalid response from server: {0}")]
    Message(#[source] BackendMessageError),
    /// A message that has no place here.
    #[error("unexpected {found} message from server during startup")]
    Unexpected {
        /// Its name.
        found: &'static str,
    },
    /// A value with a zero byte, or a message that is too long.
    #[error("could not encode a message to the server: {}", plain(.0))]
    Encode(#[source] io::Error),
    /// Protocol negotiation that makes no sense.
    #[error("received invalid protocol negotiation message: {problem}")]
    Negotiation {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The server is too old for `min_protocol_version`.
    #[error(
        "server only supports protocol version 3.{newest_minor}, but \"min_protocol_version\" was set to {min}"
    )]
    ProtocolTooOld {
        /// What the server speaks.
        newest_minor: u32,
        /// What was asked for.
        min: ProtocolVersion,
    },
    /// `target_session_attrs`: the server is not the kind that was asked for.
    #[error("{0}")]
    WrongServer(WrongServer),
    /// `target_session_attrs`: the server would not say.
    #[error("\"{query}\" failed: {answer}")]
    SessionQuery {
        /// The question.
        query: &'static str,
        /// The answer.
        answer: String,
    },
}

/// What a server is that should have been something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongServer {
    /// `read-write` was asked for.
    #[error("session is read-only")]
    ReadOnly,
    /// `read-only` was asked for.
    #[error("session is not read-only")]
    ReadWrite,
    /// `primary` was asked for.
    #[error("server is in hot standby mode")]
    Standby,
    /// `standby` was asked for.
    #[error("server is not in hot standby mode")]
    Primary,
}

impl ConnectError {
    /// Every attempt, in order.
    pub fn failures(&self) -> &[HostFailure] {
        match self {
            Self::PasswordNeeded { failures } | Self::Failed { failures } => failures,
        }
    }

    /// The last server's SQLSTATE, when it was a server that refused.
    pub fn sqlstate(&self) -> Option<SqlState> {
        match &self.failures().last()?.cause {
            AttemptError::Server(error) => Some(error.sqlstate),
            _ => None,
        }
    }

    /// Whether the same may work later: some server was away, starting, full, or not yet what was asked for.
    pub fn is_transient(&self) -> bool {
        self.failures().iter().any(|failure| failure.cause.is_transient())
    }
}

impl AttemptError {
    /// A read that failed; a reset is no more than a close in bad manners.
    pub(super) fn receive(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::ConnectionReset { Self::Closed } else { Self::Receive(error) }
    }

    /// A write that failed.
    pub(super) fn send(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Send(error),
        }
    }

    /// Whether the same may work later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::ConnectTcp(_)
            | Self::ConnectSocket(_)
            | Self::Timeout
            | Self::Closed
            | Self::NotForked { .. }
            | Self::Receive(_)
            | Self::Send(_)
            | Self::WrongServer(_) => true,
            Self::Tls(error) => matches!(error, TlsError::Io(_) | TlsError::ErrorResponse),
            Self::Server(error) => error.sqlstate.may_pass(),
            _ => false,
        }
    }
}

impl fmt::Display for HostFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.peer {
            Some(peer) => write!(f, "connection to {peer} failed: {}", self.cause),
            None => self.cause.fmt(f),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Socket { path } => write!(f, "server on socket \"{path}\""),
            Peer::Tcp { host, address, port } if host == address => {
                write!(f, "server at \"{host}\", port {port}")
            }
            Peer::Tcp { host, address, port } => write!(f, "server at \"{host}\" ({address}), port {port}"),
        }
    }
}

/// One failure on each line.
struct Listed<'a>(&'a [HostFailure]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, failure) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{failure}")?;
        }
        Ok(())
    }
}

/// The system's own words, as C programs print them.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    text.split_once(" (os error").map_or(text, |(front, _)| front).to_owned()
}

/// An error and what is behind it, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        match error.downcast_ref::<io::Error>() {
            Some(error) => text.push_str(&plain(error)),
            None => text.push_str(&error.to_string()),
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_libpqs() {
        let tcp = |host: &str| Peer::Tcp { host: host.to_owned(), address: "10.0.0.1".to_owned(), port: 1 };
        let refused = || AttemptError::ConnectTcp(io::Error::from_raw_os_error(111));
        let failures = vec![
            HostFailure { peer: Some(tcp("h")), cause: refused() },
            HostFailure { peer: Some(tcp("10.0.0.1")), cause: AttemptError::Timeout },
            HostFailure {
                peer: Some(Peer::Socket { path: "/s/.s.PGSQL.1".to_owned() }),
                cause: AttemptError::Authentication(AuthenticationError::PasswordNeeded),
            },
        ];
        assert_eq!(
            ConnectError::PasswordNeeded { failures }.to_string(),
            "connection to server at \"h\" (10.0.0.1), port 1 failed: Connection refused\n\
             \tIs the server running on that host and accepting TCP/IP connections?\n\
             connection to server at \"10.0.0.1\", port 1 failed: timeout expired\n\
             connection to server on socket \"/s/.s.PGSQL.1\" failed: fe_sendauth: no password supplied"
        );
    }
}

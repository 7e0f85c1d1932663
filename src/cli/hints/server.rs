//! Hints for what the server says, or what stands in the way to it.

use std::io;

use crate::client::ClientError;
use crate::client::connect::AttemptError;
use crate::client::tls::{CertificateProblem, TlsError};
use crate::wire::auth::AuthenticationError;
use crate::wire::server_error::{ServerError, SqlState};

/// Why a server did not let us in.
pub(super) fn attempt(error: &AttemptError) -> Option<&'static str> {
    match error {
        AttemptError::Server(error) => server(error),
        AttemptError::Authentication(AuthenticationError::PasswordNeeded) => Some(PASSWORD_HINT),
        AttemptError::ConnectTcp(error) => tcp(error),
        AttemptError::ConnectSocket(_) => Some(
            "Check the socket directory (host) and the port: on the server \"SHOW unix_socket_directories;\" tells. Over \
             the network, give the server's name with -h.",
        ),
        AttemptError::Timeout => Some(
            "Nothing answered in time: a firewall between here and there, or a server that hangs. connect_timeout says \
             how long to wait.",
        ),
        AttemptError::Resolve { .. } => {
            Some("Check the spelling of the host name, and that it resolves from here.")
        }
        AttemptError::Tls(TlsError::NotSupported) => {
            Some("Set ssl = on there, or say sslmode=prefer if the network between can be trusted.")
        }
        AttemptError::Tls(TlsError::Certificate(CertificateProblem::UnknownIssuer)) => {
            Some("Name the file of the authority that signed the server's certificate with sslrootcert.")
        }
        AttemptError::WrongServer(_) => Some(
            "target_session_attrs asks for another kind of server: name that one's host, or leave the option out.",
        ),
        AttemptError::Frame(_)
        | AttemptError::Message(_)
        | AttemptError::Unexpected { .. }
        | AttemptError::Negotiation { .. } => Some(NOT_POSTGRESQL_HINT),
        _ => None,
    }
}

fn tcp(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(
            "Nothing listens there: check host and port, and that the server runs and has listen_addresses set.",
        ),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::TimedOut => {
            Some("No way leads there: check the host, and what firewalls and routes are between.")
        }
        _ => None,
    }
}

/// For what is no answer of PostgreSQL's.
const NOT_POSTGRESQL_HINT: &str =
    "This may be no PostgreSQL server, or a pooler or balancer before one: connect to the server itself.";

/// For a password that is missing or wrong.
pub(super) const PASSWORD_HINT: &str = "Check the password: it comes from the connection string, PGPASSWORD, or the password file (~/.pgpass, mode 0600), \
     where the database of a replication connection is called \"replication\".";

pub(super) fn client(error: &ClientError) -> Option<&'static str> {
    match error {
        ClientError::Server(error) => server(error),
        ClientError::Closed | ClientError::Receive(_) | ClientError::Send(_) => Some(
            "The server may have been stopped, or something between here and there cut the connection; its log \
             says which.",
        ),
        ClientError::ShuttingDown => Some("Try again once the server is back."),
        ClientError::Frame(_)
        | ClientError::Message(_)
        | ClientError::Replication(_)
        | ClientError::Unexpected { .. }
        | ClientError::Answer { .. }
        | ClientError::AnswerTooLong { .. }
        | ClientError::NoServerVersion
        | ClientError::ServerVersion(_) => Some(NOT_POSTGRESQL_HINT),
        _ => None,
    }
}

/// By SQLSTATE first: the texts are in the server's language.
pub(super) fn server(error: &ServerError) -> Option<&'static str> {
    if error.hint.is_some() {
        // the server's own is shown with its message
        return None;
    }
    let hint = match error.sqlstate {
        SqlState::INVALID_AUTHORIZATION => {
            "Check the role's name (-U). If it is right, let it replicate from here: add a line such as \"host replication \
             ROLE ADDRESS/32 scram-sha-256\" to the server's pg_hba.conf, then run \"SELECT pg_reload_conf();\" there."
        }
        SqlState::INVALID_PASSWORD => PASSWORD_HINT,
        SqlState::INSUFFICIENT_PRIVILEGE => {
            "Let the role replicate: run \"ALTER ROLE role_name REPLICATION;\" on the server as a superuser."
        }
        SqlState::TOO_MANY_CONNECTIONS => {
            "All connections are taken: raise max_wal_senders on the server (max_connections if it is those) and restart \
             it, or stop what else is connected to it."
        }
        SqlState::CONFIGURATION_LIMIT_EXCEEDED => {
            "Drop a replication slot that nobody needs (SELECT pg_drop_replication_slot('name');), or raise \
             max_replication_slots on the server and restart it."
        }
        SqlState::UNDEFINED_OBJECT => {
            "Create the slot first, or see which there are with \"SELECT slot_name FROM pg_replication_slots;\"."
        }
        SqlState::OBJECT_IN_USE => {
            "Another standby or receiver is using the slot. Stop it, or choose another slot name."
        }
        SqlState::CANNOT_CONNECT_NOW => {
            "The server is starting, stopping or recovering: try again in a moment."
        }
        SqlState::ADMIN_SHUTDOWN => {
            "Somebody stopped the server, or ended this connection: try again once it is back."
        }
        SqlState::DATA_CORRUPTED => {
            "A page on the server does not match its checksum, and the server's log says in which file. Mend the server \
             first; pg_amcheck finds what else is damaged."
        }
        _ => return None,
    };
    Some(hint)
}

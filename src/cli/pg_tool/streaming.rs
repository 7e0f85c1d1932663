//! What goes wrong with a WAL stream, as PostgreSQL's `receivelog.c` tells it.

use super::connection::{command_failed, libpq_text, with_causes};
use crate::client::ClientError;
use crate::stream::ReceiveError;
use crate::stream::resume::ResumeError;

/// An error in the original's words, where it has some.
pub(in crate::cli) fn describe(error: &ReceiveError) -> String {
    match error {
        ReceiveError::Connect { source, .. } => with_causes(&**source),
        ReceiveError::Refused { source, .. } => describe(source),
        ReceiveError::Start { source, .. } => command_failed("START_REPLICATION", source),
        ReceiveError::Client { source: ClientError::ShuttingDown, .. } => {
            "replication stream was terminated before stop point".to_owned()
        }
        ReceiveError::Client { during: "receive WAL", source: source @ ClientError::Server(_) } => {
            format!("unexpected termination of replication stream: {}", libpq_text(source))
        }
        ReceiveError::Client { during: "receive WAL", source } => {
            format!("could not receive data from WAL stream: {}", libpq_text(source))
        }
        ReceiveError::Client { during, source } => {
            let command = match *during {
                "identify the server" => "IDENTIFY_SYSTEM",
                "read the server's wal_segment_size" => "SHOW wal_segment_size",
                "read the replication slot" => "READ_REPLICATION_SLOT",
                "fetch a timeline history" => "TIMELINE_HISTORY",
                other => other,
            };
            command_failed(command, source)
        }
        ReceiveError::Resume(ResumeError::TimelineAheadOfServer { found, .. }) => {
            format!("starting timeline {found} is not present in the server")
        }
        error => with_causes(error),
    }
}

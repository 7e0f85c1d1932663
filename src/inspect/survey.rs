//! Everything about a server's replication, in one round trip.

use super::replication::{self, BaseBackup, Downstream, WalReceiver};
use super::server::{self, ServerState};
use super::slots::{self, ReplicationSlot};
use super::{InspectError, ask_all};
use crate::client::{ClientError, Connection};

/// What a server says of its replication at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// The server itself.
    pub server: ServerState,
    /// Whom it sends WAL or base backups to.
    pub downstreams: Vec<Downstream>,
    /// What it receives WAL with, if it does.
    pub receiver: Option<WalReceiver>,
    /// The base backups that are taken of it.
    pub base_backups: Vec<BaseBackup>,
    /// Its slots.
    pub slots: Vec<ReplicationSlot>,
}

/// Asks for it all.
pub async fn survey(sql: &mut Connection) -> Result<Survey, InspectError> {
    const WHAT: &str = "the state of its replication";
    let slot_question = slots::question(sql.version());
    let questions = [
        server::QUESTION,
        replication::DOWNSTREAMS,
        replication::RECEIVER,
        replication::BASE_BACKUPS,
        &slot_question,
    ];
    let answers = ask_all(sql, &questions, WHAT).await?;
    let [server, downstreams, receiver, base_backups, slots] = &answers[..] else {
        let source = ClientError::Answer { command: "SELECT", problem: "another number of result sets" };
        return Err(InspectError { what: WHAT, source });
    };
    let Some(server) = server.first().map(ServerState::read) else {
        let source = ClientError::Answer { command: "SELECT", problem: "no row" };
        return Err(InspectError { what: WHAT, source });
    };
    Ok(Survey {
        downstreams: downstreams.iter().map(Downstream::read).collect(),
        receiver: receiver.first().map(WalReceiver::read),
        base_backups: base_backups.iter().map(BaseBackup::read).collect(),
        slots: slots.iter().map(|row| ReplicationSlot::read(row, server.lsn)).collect(),
        server,
    })
}

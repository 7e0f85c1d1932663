//! Everything about a server's replication, in one round trip.

use super::InspectError;
use super::replication::{BaseBackup, Downstream, WalReceiver, base_backups, downstreams, wal_receiver};
use super::server::{ServerState, server_state};
use super::slots::{ReplicationSlot, slots};
use crate::client::Sql;

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
pub async fn survey(sql: &Sql) -> Result<Survey, InspectError> {
    let (server, downstreams, receiver, base_backups, slots) = tokio::try_join!(
        server_state(sql),
        downstreams(sql),
        wal_receiver(sql),
        base_backups(sql),
        slots(sql)
    )?;
    Ok(Survey { server, downstreams, receiver, base_backups, slots })
}

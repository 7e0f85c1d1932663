//! The server that is followed, behind the settings that lead to it.

use super::error::ConnectFailure;
use super::upstream::Connector;
use crate::client::conninfo::{Settings, SystemEnvironment};
use crate::client::{Connection, Purpose, open};

/// Opens physical replication connections by the same settings again and again, so that no reconnect can lose what
/// they say of TLS or authentication. The password file is read anew each time.
#[derive(Debug, Clone)]
pub struct ServerConnector {
    settings: Settings,
}

impl ServerConnector {
    /// For the server that `settings` lead to.
    pub fn new(settings: Settings) -> Self {
        ServerConnector { settings }
    }
}

impl Connector for ServerConnector {
    type Upstream = Connection;

    async fn connect(&mut self) -> Result<Connection, ConnectFailure> {
        self.settings.reread_passfile(&SystemEnvironment);
        let opened = open(&self.settings, Purpose::PhysicalReplication).await;
        opened.map_err(|error| ConnectFailure { class: error.class(), source: Box::new(error) })
    }
}

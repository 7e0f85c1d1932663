//! Ordinary SQL: a connection that our connector made, handed to tokio-postgres.
//!
//! There is one conninfo, one TLS and one authentication, and they are ours: tokio-postgres is given a stream on which all
//! that is done ([`bridge`]). It brings parameters, typed columns and several questions under way at once. Its messages
//! have no bounds; the bridge has, so nothing reaches it that [`wire`] would refuse.
//!
//! [`wire`]: crate::wire

mod bridge;
mod error;
pub mod fuzzing;
mod row;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Config, NoTls, SimpleQueryMessage};

use self::bridge::{Bridge, Meter};
use self::error::{LastWords, db_error};
pub use self::row::{RawText, Row};
use super::conninfo::HostSpec;
use super::{ClientError, Connection, Protection};
use crate::pg::ServerVersion;

/// A connection for ordinary SQL. Names mean what `pg_catalog` says they mean, whatever the role's `search_path` holds.
///
/// Each question is a transaction of its own, and answered in one round trip (the first in two); questions that are awaited
/// together (`tokio::try_join!`) share that.
#[derive(Debug)]
pub struct Sql {
    client: tokio_postgres::Client,
    driver: JoinHandle<()>,
    last_words: LastWords,
    meter: Arc<Meter>,
    set_up: OnceCell<()>,
    version: ServerVersion,
    host: HostSpec,
    protection: Protection,
    answer_timeout: Option<Duration>,
}

/// What every session begins with. Whoever owns the database could otherwise have us call what he has made, with our rights
/// (CVE-2018-1058); temporary objects are looked for last, for they are anybody's too.
const SET_UP: &str = "SET search_path = pg_catalog, pg_temp; SET client_encoding = 'UTF8'; \
                      SET standard_conforming_strings = on; SET intervalstyle = 'postgres'";

/// How long saying farewell may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

impl Sql {
    /// Takes over a connection that waits for its first command.
    pub async fn over(connection: Connection) -> Result<Self, ClientError> {
        let (version, host, protection) =
            (connection.version(), connection.host().clone(), connection.protection());
        let answer_timeout = connection.answer_timeout();
        let (transport, received) = connection.into_transport()?;
        let meter = Arc::new(Meter::default());
        let bridge = Bridge::new(transport, received, Arc::clone(&meter));
        // never looked at: the bridge swallows the startup packet
        let config = Config::new().user("pgwake").clone();
        let (client, connection) = config.connect_raw(bridge, NoTls).await.map_err(ClientError::from)?;
        let last_words = LastWords::default();
        let driver = tokio::spawn(drive(connection, last_words.clone()));
        let set_up = OnceCell::new();
        Ok(Sql { client, driver, last_words, meter, set_up, version, host, protection, answer_timeout })
    }

    /// The server's version.
    pub fn version(&self) -> ServerVersion {
        self.version
    }

    /// The one of the hosts, and of its addresses, that this connection leads to.
    pub fn host(&self) -> &HostSpec {
        &self.host
    }

    /// How it is protected, and how the role proved who it is.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// How long the server may be silent while an answer is awaited; `None`, as at the beginning: for ever.
    pub fn set_answer_timeout(&mut self, timeout: Option<Duration>) {
        self.answer_timeout = timeout;
    }

    /// Asks one question, a `SELECT`; `$1` and on are texts.
    pub async fn rows(&self, question: &str, parameters: &[&str]) -> Result<Vec<Row>, ClientError> {
        let parameters: Vec<(&(dyn ToSql + Sync), Type)> =
            parameters.iter().map(|text| (text as &(dyn ToSql + Sync), Type::TEXT)).collect();
        let rows = self.bounded(self.client.query_typed(question, &parameters)).await?;
        Ok(rows.into_iter().map(Row).collect())
    }

    /// Commands that take no parameters, such as `ALTER SYSTEM`: what is put into them has to be quoted. An answer is not
    /// looked at.
    pub async fn execute(&self, commands: &str) -> Result<(), ClientError> {
        // not batch_execute: a command that answers with rows is none of its
        let answer: Vec<SimpleQueryMessage> = self.bounded(self.client.simple_query(commands)).await?;
        drop(answer);
        Ok(())
    }

    /// Says farewell. Errors are of no interest: the server notices the closed socket too.
    pub async fn close(self) {
        drop(self.client);
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, self.driver).await;
    }

    /// An answer, within our bounds, with our errors.
    async fn bounded<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, ClientError> {
        self.meter.begin_answer();
        let answer = async {
            // done before anything is asked: questions that are asked together wait for it together
            let set_up = async || self.client.simple_query(SET_UP).await.map(drop);
            self.set_up.get_or_try_init(set_up).await.map_err(|error| self.last_words.explain(error))?;
            answer.await.map_err(|error| self.last_words.explain(error))
        };
        let Some(silence) = self.answer_timeout else { return answer.await };
        tokio::select! {
            biased;
            answer = answer => answer,
            () = self.meter.silence(silence) => Err(ClientError::Silent { after: silence }),
        }
    }
}

/// Carries the connection on until it ends. What the server says on the way is logged as on every connection of ours.
async fn drive(
    mut connection: tokio_postgres::Connection<Bridge, tokio_postgres::tls::NoTlsStream>,
    last_words: LastWords,
) {
    loop {
        match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => super::connection::log_notice(&db_error(&notice)),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                // before the connection is dropped, which is what those who wait for an answer hear of
                last_words.keep(error.into());
                return;
            }
            None => return,
        }
    }
}

#[cfg(test)]
mod tests;

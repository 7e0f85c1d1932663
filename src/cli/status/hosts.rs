//! Each host of the connection string, asked by itself: one that is down holds up no other.

use std::time::Duration;

use tokio::task::JoinSet;

use super::super::connection::open_sql;
use super::super::report;
use crate::ErrorClass;
use crate::client::conninfo::{HostAddress, HostSpec, Settings, default_socket_dir};
use crate::client::{OpenError, Sql, SystemEnvironment};
use crate::inspect::{InspectError, Survey, survey};
use crate::pg::{Lsn, ServerVersion};

/// How long a server may take to let us in, and to answer, where `connect_timeout` does not say.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a host is, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The names that others may know it by: as it was written, and its address.
    pub(super) names: Vec<String>,
    pub(super) port: u16,
}

impl Endpoint {
    pub(super) fn of(host: &HostSpec) -> Self {
        let address = match &host.address {
            HostAddress::Name(name) | HostAddress::Address(name) | HostAddress::SocketDir(name) => {
                name.clone()
            }
            HostAddress::DefaultSocketDir => default_socket_dir(host.port, &SystemEnvironment).to_owned(),
        };
        let names = host.name.iter().cloned().chain([address]);
        let mut names: Vec<String> = names.collect();
        names.dedup();
        Endpoint { names, port: host.port }
    }

    /// The name that was written.
    pub(super) fn host(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// What one look at a server has shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sighting {
    pub(super) version: ServerVersion,
    pub(super) survey: Survey,
    /// Bytes of WAL a second since the look before.
    pub(super) wal_rate: Option<f64>,
}

/// Why a host could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostError {
    #[error("could not connect to the server")]
    Open(#[from] OpenError),
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error("server did not answer within {} s", .0.as_secs_f64())]
    Silent(Duration),
    #[error("server version {0} is too old: pgwake supports PostgreSQL 13 and newer")]
    TooOld(ServerVersion),
    #[error("the look at it was broken off")]
    BrokenOff,
}

impl HostError {
    pub(super) fn class(&self) -> ErrorClass {
        match self {
            HostError::Open(error) => error.class(),
            HostError::Inspect(error) => error.class(),
            HostError::Silent(_) => ErrorClass::Transient,
            HostError::TooOld(_) => ErrorClass::Operator,
            HostError::BrokenOff => ErrorClass::Bug,
        }
    }

    /// Why, in a line: which host it is, the reader knows.
    pub(super) fn reason(&self) -> String {
        let connect = match self {
            HostError::Open(OpenError::Connect(error)) => error.failures().last(),
            _ => None,
        };
        let reason = connect.map_or_else(|| report::one_line(self), |failure| failure.cause.to_string());
        reason.lines().next().unwrap_or_default().to_owned()
    }

    pub(super) fn is_password_missing(&self) -> bool {
        matches!(self, HostError::Open(error) if error.is_password_missing())
    }
}

/// What came of looking at a host.
pub(super) type Sample = Result<Sighting, HostError>;

/// A host, and the connection to it as long as that is good.
pub(super) struct Host {
    pub(super) endpoint: Endpoint,
    settings: Settings,
    connection: Option<Sql>,
    /// The server's clock, and its position then.
    last: Option<(f64, Lsn)>,
}

impl Host {
    /// One for each host of the settings.
    pub(super) fn all(settings: &Settings) -> Vec<Host> {
        let of = |spec: &HostSpec| {
            let mut settings = settings.pinned_to(spec);
            settings.connect_timeout.get_or_insert(DEFAULT_TIMEOUT);
            Host { endpoint: Endpoint::of(spec), settings, connection: None, last: None }
        };
        settings.hosts.iter().map(of).collect()
    }

    /// Looks at it, over a new connection where there is none.
    pub(super) async fn sample(&mut self) -> Sample {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => open_sql(&mut self.settings).await?,
        };
        let version = connection.version();
        if !version.is_supported() {
            return Err(HostError::TooOld(version));
        }
        let limit = self.settings.connect_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let asked = tokio::time::timeout(limit, survey(&connection)).await;
        let survey = asked.map_err(|_| HostError::Silent(limit))??;
        self.connection = Some(connection);
        let now = survey.server.clock.zip(survey.server.lsn);
        let wal_rate = self.last.zip(now).and_then(|((then, from), (now, to))| rate(now - then, from, to));
        self.last = now;
        Ok(Sighting { version, survey, wal_rate })
    }

    pub(super) async fn close(self) {
        if let Some(connection) = self.connection {
            connection.close().await;
        }
    }
}

/// Bytes a second; none over no time, or when the position went back (another server answers now).
fn rate(seconds: f64, from: Lsn, to: Lsn) -> Option<f64> {
    (seconds > 0.0 && to >= from).then(|| to.saturating_since(from) as f64 / seconds)
}

/// Looks at all hosts at once; each sample stands where its host does.
pub(super) async fn sample_all(hosts: Vec<Host>) -> (Vec<Host>, Vec<Sample>) {
    let mut looks = JoinSet::new();
    for (index, mut host) in hosts.into_iter().enumerate() {
        looks.spawn(async move {
            let sample = host.sample().await;
            (index, host, sample)
        });
    }
    let mut seen = Vec::new();
    while let Some(look) = looks.join_next().await {
        // a look ends by itself; a panic in it has said so
        seen.extend(look);
    }
    seen.sort_by_key(|(index, ..)| *index);
    seen.into_iter().map(|(_, host, sample)| (host, sample)).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_time_and_progress() {
        let lsn = Lsn::new;
        assert_eq!(rate(2.0, lsn(100), lsn(300)), Some(100.0));
        assert_eq!(rate(2.0, lsn(100), lsn(100)), Some(0.0));
        assert_eq!(rate(0.0, lsn(100), lsn(300)), None);
        assert_eq!(rate(2.0, lsn(300), lsn(100)), None);
    }

    #[test]
    fn a_host_is_known_by_its_name_and_its_address() {
        let host =
            HostSpec { name: Some("db1".into()), address: HostAddress::Address("10.0.0.1".into()), port: 6 };
        assert_eq!(Endpoint::of(&host), Endpoint { names: vec!["db1".into(), "10.0.0.1".into()], port: 6 });
        let socket =
            HostSpec { name: Some("/s".into()), address: HostAddress::SocketDir("/s".into()), port: 6 };
        assert_eq!(Endpoint::of(&socket).names, ["/s"]);
    }
}

//! Which server a command is about: a data directory on this machine, or a connection string.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::ErrorClass;
use crate::backup::confined::FileError;
use crate::cli::connection::{ConnectError, ConnectionArgs, ConnectionArgsError};
use crate::cli::exit::Exit;
use crate::cli::report;
use crate::cli::signals::Signals;
use crate::client::Sql;
use crate::client::conninfo::{ConnInfo, ParseConnInfoError, Settings, user_name_of};
use crate::standby::postmaster::{self, PostmasterAddress};

#[derive(Debug, Args)]
pub(in crate::cli) struct ServerArgs {
    /// The server's data directory on this machine: where it listens is found in postmaster.pid
    #[arg(short = 'D', long, value_name = "DIR")]
    pub(super) pgdata: Option<PathBuf>,

    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

/// Why a command about a server did not begin.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ServerError {
    #[error(transparent)]
    Args(#[from] ConnectionArgsError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("could not find the server of \"{}\"", .directory.display())]
    Find {
        directory: PathBuf,
        #[source]
        source: FileError,
    },
    #[error("no server runs on \"{}\"", .0.display())]
    NotRunning(PathBuf),
    #[error("the server on \"{}\" is starting", .0.display())]
    Starting(PathBuf),
    #[error("could not listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("interrupted by {0}")]
    Interrupted(&'static str),
}

impl ServerError {
    /// Tells of it, and says how the program ends.
    pub(super) fn report(&self, json: bool) -> Exit {
        match self {
            ServerError::Args(error) => report::usage(error, json),
            ServerError::Connect(error) => report::failure(error, error.class(), json),
            _ => report::failure(self, ErrorClass::Operator, json),
        }
    }
}

/// How long the server may be silent while a connection is made, or an answer awaited, where `connect_timeout` does not say.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// However soon a server has to let us in: a server that waits for an LSN is silent for a while.
const LEAST_SILENCE: Duration = Duration::from_secs(3);

impl ServerArgs {
    /// Where to connect. `None` when a directory was named and no server runs on it.
    pub(super) fn settings(&self) -> Result<Option<Settings>, ServerError> {
        let Some(directory) = &self.pgdata else { return Ok(Some(self.connection.settings("pgwake")?)) };
        let Some(address) = address_of(directory)? else { return Ok(None) };
        let mut conninfo = self.connection.conninfo("pgwake")?;
        lead_to(&mut conninfo, directory, &address).map_err(ConnectionArgsError::from)?;
        Ok(Some(self.connection.resolve(&conninfo)?))
    }

    /// An ordinary connection to the server, which must run.
    pub(super) async fn connect(&self) -> Result<Sql, ServerError> {
        self.connect_within(None).await
    }

    /// The same, with a server that may be silent for no longer than that, if it is less than [`ANSWER_TIMEOUT`].
    pub(super) async fn connect_within(&self, silence: Option<Duration>) -> Result<Sql, ServerError> {
        let not_running = || ServerError::NotRunning(self.pgdata.clone().unwrap_or_default());
        let mut settings = self.settings()?.ok_or_else(not_running)?;
        let told = settings.connect_timeout.unwrap_or(ANSWER_TIMEOUT);
        settings.connect_timeout = Some(silence.map_or(told, |silence| silence.min(told)));
        self.connect_with(settings).await
    }

    /// The same, by settings that are known.
    pub(super) async fn connect_with(&self, mut settings: Settings) -> Result<Sql, ServerError> {
        self.connection.ask_password_if_told(&mut settings).await.map_err(ConnectError::from)?;
        connect_sql(&self.connection, settings).await
    }
}

/// Where the server on a directory listens; `None` when none runs.
pub(super) fn address_of(directory: &Path) -> Result<Option<PostmasterAddress>, ServerError> {
    let found = postmaster::running(directory)
        .map_err(|source| ServerError::Find { directory: directory.to_owned(), source })?;
    let Some(postmaster) = found else { return Ok(None) };
    postmaster.address.map(Some).ok_or_else(|| ServerError::Starting(directory.to_owned()))
}

/// Puts the server's place into connection options, and, where nothing was said, the names that its maker has there.
pub(super) fn lead_to(
    conninfo: &mut ConnInfo,
    directory: &Path,
    address: &PostmasterAddress,
) -> Result<(), ParseConnInfoError> {
    conninfo.set("host", address.host.as_str())?;
    conninfo.set("port", address.port.to_string())?;
    // whatever the environment says of other servers
    conninfo.set("hostaddr", "")?;
    conninfo.set("target_session_attrs", "any")?;
    let is_silent =
        |keyword, variable| conninfo.value(keyword).is_none() && std::env::var_os(variable).is_none();
    let (no_user, no_database) = (is_silent("user", "PGUSER"), is_silent("dbname", "PGDATABASE"));
    let owner = std::fs::metadata(directory).ok().and_then(|metadata| user_name_of(metadata.uid()).ok()?);
    if let Some(owner) = owner.filter(|_| no_user) {
        conninfo.set("user", owner)?;
    }
    if no_database {
        conninfo.set("dbname", "postgres")?;
    }
    Ok(())
}

/// Connects for SQL; to a database that is nearly always there, where none was named and the role has none.
pub(super) async fn connect_sql(args: &ConnectionArgs, mut settings: Settings) -> Result<Sql, ServerError> {
    let silence = settings.connect_timeout.unwrap_or(ANSWER_TIMEOUT);
    settings.connect_timeout = Some(silence);
    let mut sql = args.connect_sql(&mut settings).await?;
    sql.set_answer_timeout(Some(silence.max(LEAST_SILENCE)));
    Ok(sql)
}

/// Runs a command's work until it is done or a signal comes.
pub(super) async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Result<T, ServerError> {
    let mut signals = Signals::listen().map_err(ServerError::Signals)?;
    // a prompt hears of a signal too, and says more
    tokio::select! {
        biased;
        done = work => Ok(done),
        signal = signals.received() => Err(ServerError::Interrupted(signal)),
    }
}

/// What a server said, for people: no control characters, and no more than fits a line.
pub(super) fn shown(text: &str) -> String {
    const MAX_LEN: usize = 200;
    text.chars().take(MAX_LEN).flat_map(char::escape_debug).collect()
}

//! Where to connect: libpq's options, and the password prompt.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::Args;

use super::password_source::{self, PasswordSourceError};
use super::prompt::{PromptError, prompt_for};
use crate::ErrorClass;
use crate::client::conninfo::{ConnInfo, ConnInfoError, ParseConnInfoError, Settings, SystemEnvironment};
use crate::client::{self, Connection, OpenError, Purpose, Sql, open};
use crate::wire::server_error::SqlState;

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection options")]
pub(super) struct ConnectionArgs {
    /// Connection string: "host=db1 user=rep" or postgresql://rep@db1
    ///
    /// All options of libpq are understood, and its environment variables. Where none of keepalives, keepalives_idle,
    /// keepalives_interval and keepalives_count is given, TCP keepalives begin after 60 seconds of silence and end a
    /// connection after six unanswered ones, 10 seconds apart.
    #[arg(short, long, value_name = "CONNINFO")]
    dbname: Option<String>,

    /// Server host or socket directory
    #[arg(short, long, value_name = "HOST")]
    host: Option<String>,

    /// Server port
    #[arg(short, long, value_name = "PORT")]
    port: Option<String>,

    /// Role to connect as
    #[arg(short = 'U', long, value_name = "NAME")]
    username: Option<String>,

    /// Never ask for a password
    #[arg(short = 'w', long)]
    no_password: bool,

    /// Ask for a password before connecting
    #[arg(short = 'W', long, conflicts_with = "no_password")]
    password: bool,

    /// Take the password from the first line of a file that only its owner may read
    #[arg(long, value_name = "FILE", conflicts_with = "password")]
    password_file: Option<PathBuf>,

    /// Take the password from the first line that a command prints; it is run once, by sh
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["password", "password_file"])]
    password_command: Option<String>,
}

/// Why the connection options make no sense.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionArgsError {
    #[error("invalid connection string")]
    Parse(#[from] ParseConnInfoError),
    #[error("invalid connection options")]
    Resolve(#[from] ConnInfoError),
    #[error("no password")]
    Password(#[from] PasswordSourceError),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("could not connect to the server")]
    Open(#[from] OpenError),
    #[error("could not ask for the password")]
    Prompt(#[from] PromptError),
}

impl ConnectError {
    /// What to do about it.
    pub(super) fn class(&self) -> ErrorClass {
        match self {
            ConnectError::Open(error) => error.class(),
            ConnectError::Prompt(_) => ErrorClass::Operator,
        }
    }
}

/// Databases that are nearly always there, for a role whose own name is no database.
const USUAL_DATABASES: [&str; 2] = ["postgres", "template1"];

impl ConnectionArgs {
    /// Everything that connecting needs, from these options, the environment and libpq's files.
    pub(super) fn settings(&self, application_name: &str) -> Result<Settings, ConnectionArgsError> {
        self.resolve(&self.conninfo(application_name)?)
    }

    /// These options alone.
    pub(super) fn conninfo(&self, application_name: &str) -> Result<ConnInfo, ConnectionArgsError> {
        let mut conninfo = match &self.dbname {
            Some(text) => ConnInfo::parse(text)?,
            None => ConnInfo::new(),
        };
        for (keyword, value) in [("host", &self.host), ("port", &self.port), ("user", &self.username)] {
            if let Some(value) = value {
                conninfo.set(keyword, value.as_str())?;
            }
        }
        conninfo.set("fallback_application_name", application_name)?;
        Ok(conninfo)
    }

    /// Fills options in, from the environment and libpq's files.
    pub(super) fn resolve(&self, conninfo: &ConnInfo) -> Result<Settings, ConnectionArgsError> {
        let mut settings = Settings::resolve(conninfo, &SystemEnvironment)?;
        if let Some(path) = &self.password_file {
            settings.password = Some(password_source::from_file(path)?);
        } else if let Some(command) = &self.password_command {
            settings.password = Some(password_source::from_command(command)?);
        }
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        Ok(settings)
    }

    /// Asks for the password if `-W` says so, whatever the server may want.
    pub(super) async fn ask_password_if_told(&self, settings: &mut Settings) -> Result<(), PromptError> {
        if self.password {
            settings.password = Some(prompt_for(&settings.user).await?);
        }
        Ok(())
    }

    /// Connects, and asks for the password if the server wants one that was not given.
    pub(super) async fn connect(
        &self,
        settings: &mut Settings,
        purpose: Purpose,
    ) -> Result<Connection, ConnectError> {
        match open(settings, purpose).await {
            Err(error) if error.is_password_missing() && !self.no_password => {
                match prompt_for(&settings.user).await {
                    Ok(password) => settings.password = Some(password),
                    Err(prompt) if prompt.is_without_terminal() => return Err(error.into()),
                    Err(prompt) => return Err(prompt.into()),
                }
                Ok(open(settings, purpose).await?)
            }
            other => Ok(other?),
        }
    }

    /// An ordinary connection, to the database that was named, or else to one that is there.
    pub(super) async fn connect_sql(&self, settings: &mut Settings) -> Result<Sql, ConnectError> {
        let mut others = OtherDatabases::new(settings);
        loop {
            match self.connect(settings, Purpose::Sql).await {
                Err(ConnectError::Open(error)) => others.take_next(error, settings)?,
                Ok(connection) => return Ok(Sql::over(connection).await.map_err(OpenError::Greeting)?),
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for a password that a server wants, unless that is not to be done. `false` where there is no terminal.
    pub(super) async fn ask_missing_password(&self, settings: &mut Settings) -> Result<bool, PromptError> {
        if self.no_password {
            return Ok(false);
        }
        match prompt_for(&settings.user).await {
            Ok(password) => settings.password = Some(password),
            Err(prompt) if prompt.is_without_terminal() => return Ok(false),
            Err(prompt) => return Err(prompt),
        }
        Ok(true)
    }

    /// Connects only to learn whether a password is wanted, where there is a terminal to ask for it on.
    pub(super) async fn ask_password_if_needed(&self, settings: &mut Settings) -> Result<(), ConnectError> {
        if self.no_password || settings.password.is_some() || !std::io::stdin().is_terminal() {
            return Ok(());
        }
        self.connect(settings, Purpose::PhysicalReplication).await?.close().await;
        Ok(())
    }
}

/// The same without anybody to ask for a password.
pub(super) async fn open_sql(settings: &mut Settings) -> Result<Sql, OpenError> {
    let mut others = OtherDatabases::new(settings);
    loop {
        match client::open_sql(settings).await {
            Err(error) => others.take_next(error, settings)?,
            Ok(sql) => return Ok(sql),
        }
    }
}

/// Databases that are nearly always there, for where none was named and none is called like the user, or is meant for it.
struct OtherDatabases {
    left: std::slice::Iter<'static, &'static str>,
    /// What was said of the database that was to be taken, where the rules let nobody into that.
    refused: Option<OpenError>,
}

impl OtherDatabases {
    fn new(settings: &Settings) -> Self {
        let named = settings.dbname != settings.user;
        OtherDatabases { left: if named { [].iter() } else { USUAL_DATABASES.iter() }, refused: None }
    }

    /// Another one to try, because the last one does not exist, or `pg_hba.conf` lets the role into others only. The error
    /// that is told otherwise is the first.
    fn take_next(&mut self, error: OpenError, settings: &mut Settings) -> Result<(), OpenError> {
        let sqlstate = match &error {
            OpenError::Connect(error) => error.sqlstate(),
            OpenError::Greeting(_) => None,
        };
        let is_worth_it = match sqlstate {
            Some(SqlState::INVALID_CATALOG_NAME) => true,
            // once: the server's log has each attempt
            Some(SqlState::INVALID_AUTHORIZATION) => self.refused.is_none(),
            _ => false,
        };
        let Some(database) = self.left.next().filter(|_| is_worth_it) else {
            return Err(self.refused.take().unwrap_or(error));
        };
        if sqlstate == Some(SqlState::INVALID_AUTHORIZATION) {
            self.refused = Some(error);
        }
        settings.dbname = (*database).to_owned();
        Ok(())
    }
}

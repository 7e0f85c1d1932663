//! Where to connect: libpq's options, and the password prompt.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::client::conninfo::{
    ConnInfo, ConnInfoError, ParseConnInfoError, Secret, Settings, SystemEnvironment,
};
use crate::client::{Connection, OpenError, Purpose, open};

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection options")]
pub(super) struct ConnectionArgs {
    /// Connection string: "host=… user=…" or postgresql://…
    #[arg(short, long, value_name = "CONNINFO")]
    dbname: Option<String>,

    /// Server host or socket directory
    #[arg(short, long)]
    host: Option<String>,

    /// Server port
    #[arg(short, long)]
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
}

/// Why the connection options make no sense, or could not be completed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionArgsError {
    #[error("invalid connection string")]
    Parse(#[from] ParseConnInfoError),
    #[error("invalid connection options")]
    Resolve(#[from] ConnInfoError),
    #[error("could not read a password from the terminal")]
    Prompt(#[source] io::Error),
}

impl ConnectionArgs {
    /// Everything that connecting needs, from these options, the environment and libpq's files.
    pub(super) fn settings(&self, application_name: &str) -> Result<Settings, ConnectionArgsError> {
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
        let mut settings = Settings::resolve(&conninfo, &SystemEnvironment)?;
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        if self.password {
            settings.password = Some(prompt(&question(&settings)).map_err(ConnectionArgsError::Prompt)?);
        }
        Ok(settings)
    }

    /// Connects, and asks for the password if the server wants one that was not given.
    pub(super) async fn connect(
        &self,
        settings: &mut Settings,
        purpose: Purpose,
    ) -> Result<Connection, OpenError> {
        match open(settings, purpose).await {
            Err(error) if error.is_password_missing() && !self.no_password => {
                match prompt(&question(settings)) {
                    Ok(password) => {
                        settings.password = Some(password);
                        open(settings, purpose).await
                    }
                    // there is no terminal to ask on
                    Err(_) => Err(error),
                }
            }
            other => other,
        }
    }

    /// Connects only to learn whether a password is wanted, where there is a terminal to ask for it on.
    pub(super) async fn ask_password_if_needed(&self, settings: &mut Settings) -> Result<(), OpenError> {
        if self.no_password || settings.password.is_some() || !std::io::stdin().is_terminal() {
            return Ok(());
        }
        self.connect(settings, Purpose::PhysicalReplication).await?.close().await;
        Ok(())
    }
}

fn question(settings: &Settings) -> String {
    format!("Password for user {}: ", settings.user)
}

/// The longest password read, in bytes.
const MAX_PASSWORD_LEN: usize = 1024;

/// Asks on the terminal, without echo.
pub(super) fn prompt(question: &str) -> io::Result<Secret> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    write!(terminal, "{question}")?;
    let shown = tcgetattr(&terminal)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
    let line = read_line(&mut terminal);
    tcsetattr(&terminal, OptionalActions::Flush, &shown)?;
    writeln!(terminal)?;
    Ok(Secret::new(line?))
}

fn read_line(terminal: &mut File) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < MAX_PASSWORD_LEN && terminal.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "password is not valid UTF-8"))
}

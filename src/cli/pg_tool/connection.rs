//! Connecting as PostgreSQL's tools do (`GetConnection` in `streamutil.c`).

use std::ffi::OsString;
use std::io;

use super::{Failed, Invocation};
use crate::cli::prompt::prompt_anywhere;
use crate::cli::signals::Signals;
use crate::client::conninfo::{ConnInfo, Secret, Settings, SystemEnvironment};
use crate::client::{ClientError, Connection, OpenError, Purpose, open};

/// When to ask for a password.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::cli) enum PasswordPrompt {
    /// When the server wants one.
    #[default]
    WhenAsked,
    /// `-w`.
    Never,
    /// `-W`: before the first connection.
    Always,
}

/// `-d -h -p -U -w -W`, as they were given.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct ConnectionOptions {
    pub(in crate::cli) dbname: Option<OsString>,
    pub(in crate::cli) host: Option<OsString>,
    pub(in crate::cli) port: Option<OsString>,
    pub(in crate::cli) user: Option<OsString>,
    pub(in crate::cli) prompt: PasswordPrompt,
}

impl ConnectionOptions {
    /// Opens the first connection; the settings, with the password that was asked for, are for further ones.
    pub(in crate::cli) async fn connect(&self, tool: &Invocation) -> Result<(Settings, Connection), Failed> {
        let conninfo = self.conninfo(tool)?;
        let settings = Settings::resolve(&conninfo, &SystemEnvironment);
        let mut settings = settings.map_err(|error| tool.error(with_causes(&error)))?;
        for warning in &settings.warnings {
            tool.raw(format_args!("WARNING: {warning}"));
        }
        let mut result = if self.prompt == PasswordPrompt::Always {
            settings.password = ask(tool).await?.password();
            open_after_question(tool, &settings).await?
        } else {
            open(&settings, Purpose::PhysicalReplication).await
        };
        while self.prompt != PasswordPrompt::Never
            && matches!(&result, Err(error) if error.is_password_missing())
        {
            // nobody is there to type one: the original would ask for ever
            let Asked::Line(password) = ask(tool).await? else { break };
            settings.password = password;
            result = open_after_question(tool, &settings).await?;
        }
        let mut connection = result.map_err(|error| tool.error(with_causes(&error)))?;
        show_notices(tool, &mut connection);
        Ok((settings, connection))
    }

    /// The database that was named, for `primary_conninfo`: in `-d`, or else in the environment.
    pub(in crate::cli) fn dbname(&self, settings: &Settings) -> Option<String> {
        match &self.dbname {
            // it was read before
            Some(string) => ConnInfo::parse_connection_string(&string.to_string_lossy())
                .ok()
                .and_then(|conninfo| conninfo.value("dbname").map(str::to_owned))
                .filter(|name| !name.is_empty()),
            None => settings.named_dbname().map(str::to_owned),
        }
    }

    /// What was given on the command line; `-h`, `-p` and `-U` win over `-d`.
    fn conninfo(&self, tool: &Invocation) -> Result<ConnInfo, Failed> {
        let text = |value: &OsString| value.to_string_lossy().into_owned();
        let mut conninfo = match &self.dbname {
            Some(string) => ConnInfo::parse_connection_string(&text(string))
                .map_err(|error| tool.error(with_causes(&error)))?,
            None => ConnInfo::new(),
        };
        for (keyword, value) in [("host", &self.host), ("user", &self.user), ("port", &self.port)] {
            if let Some(value) = value {
                conninfo.set(keyword, text(value)).map_err(|error| tool.error(with_causes(&error)))?;
            }
        }
        let named = conninfo.set("fallback_application_name", tool.name);
        named.map_err(|error| tool.error(with_causes(&error)))?;
        Ok(conninfo)
    }
}

/// What the server says beside its answers is shown as it is, from the startup on: libpq does that for these tools.
pub(in crate::cli) fn show_notices(tool: &Invocation, connection: &mut Connection) {
    let tool = tool.clone();
    connection.on_notice(Box::new(move |notice| tool.raw(notice)));
}

/// Opens a connection after a question: from that on signals are ours, and would do nothing while the server is silent.
async fn open_after_question(
    tool: &Invocation,
    settings: &Settings,
) -> Result<Result<Connection, OpenError>, Failed> {
    let mut signals = Signals::listen().map_err(|error| tool.error(error))?;
    tokio::select! {
        biased;
        signal = signals.received() => Err(tool.error(format!("interrupted by {signal}"))),
        result = open(settings, Purpose::PhysicalReplication) => Ok(result),
    }
}

/// What was typed.
enum Asked {
    /// A password; the empty one is none.
    Line(Option<Secret>),
    /// The input ended.
    Nothing,
}

impl Asked {
    fn password(self) -> Option<Secret> {
        if let Asked::Line(password) = self { password } else { None }
    }
}

async fn ask(tool: &Invocation) -> Result<Asked, Failed> {
    let typed = prompt_anywhere("Password: ").await.map_err(|error| tool.error(with_causes(&error)))?;
    Ok(typed.map_or(Asked::Nothing, |secret| {
        Asked::Line(Some(secret).filter(|secret| !secret.expose().is_empty()))
    }))
}

/// A server that is too old to stream from is refused, as by the original; one that is newer than any known is tried.
pub(in crate::cli) fn check_version(tool: &Invocation, connection: &Connection) -> Result<(), Failed> {
    let version = connection.version();
    if !version.can_stream_to_receivers() {
        return Err(tool.error(format!(
            "incompatible server version {version}; client does not support streaming from server versions older than 9.3"
        )));
    }
    if version.is_newer_than_tested() {
        tool.warn(format!("server version {version} is newer than any that pgwake has been tested with"));
    }
    Ok(())
}

/// The mode for new files that the server's `data_directory_mode` asks for (`RetrieveDataDirCreatePerm`).
pub(in crate::cli) async fn file_mode(tool: &Invocation, connection: &mut Connection) -> Result<u32, Failed> {
    if !connection.version().has_data_directory_mode() {
        return Ok(0o600);
    }
    let mode = connection.show("data_directory_mode").await;
    let mode = mode.map_err(|error| tool.error(command_failed("SHOW data_directory_mode", &error)))?;
    let parsed = u32::from_str_radix(&mode, 8);
    let mode = parsed.map_err(|_| tool.error(format!("group access flag could not be parsed: {mode}")))?;
    Ok(if mode & 0o070 == 0o050 { 0o640 } else { 0o600 })
}

/// A replication command that failed.
pub(in crate::cli) fn command_failed(command: &str, error: &ClientError) -> String {
    format!("could not send replication command \"{command}\": {}", libpq_text(error))
}

/// An error on an open connection in libpq's words.
pub(in crate::cli) fn libpq_text(error: &ClientError) -> String {
    let gone = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
    };
    match error {
        ClientError::Closed => CLOSED.to_owned(),
        // which of the two notices first is chance
        ClientError::Send(error) | ClientError::Receive(error) if gone(error) => CLOSED.to_owned(),
        error => with_causes(error),
    }
}

const CLOSED: &str = "server closed the connection unexpectedly\n\
     \tThis probably means the server terminated abnormally\n\
     \tbefore or while processing the request.";

/// An error and what is behind it, on one line.
pub(in crate::cli) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = match error.downcast_ref::<io::Error>() {
            Some(error) => plain(error),
            None => error.to_string(),
        };
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// The system's own words, as C programs print them.
pub(in crate::cli) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.as_str(), |(front, _)| front).to_owned()
}

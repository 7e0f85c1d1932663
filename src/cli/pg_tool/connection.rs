//! Connecting as PostgreSQL's tools do (`GetConnection` in `streamutil.c`).

use std::ffi::OsString;

use super::{Failed, Invocation};
use crate::cli::prompt::prompt;
use crate::client::conninfo::{ConnInfo, Settings, SystemEnvironment};
use crate::client::{ClientError, Connection, Purpose, open};

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
        let purpose = match conninfo.value("replication") {
            Some("database") => Purpose::LogicalReplication,
            _ => Purpose::PhysicalReplication,
        };
        let settings = Settings::resolve(&conninfo, &SystemEnvironment);
        let mut settings = settings.map_err(|error| tool.error(with_causes(&error)))?;
        for warning in &settings.warnings {
            tool.warn(warning);
        }
        if self.prompt == PasswordPrompt::Always {
            settings.password = Some(prompt("Password: ").await.map_err(|error| tool.error(error))?);
        }
        let mut result = open(&settings, purpose).await;
        let missing = matches!(&result, Err(error) if error.is_password_missing());
        if missing && self.prompt != PasswordPrompt::Never {
            settings.password = Some(prompt("Password: ").await.map_err(|error| tool.error(error))?);
            result = open(&settings, purpose).await;
        }
        match result {
            Ok(connection) => Ok((settings, connection)),
            Err(error) => Err(tool.error(with_causes(&error))),
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
    match error {
        ClientError::Closed => "server closed the connection unexpectedly\n\
             \tThis probably means the server terminated abnormally\n\
             \tbefore or while processing the request."
            .to_owned(),
        error => with_causes(error),
    }
}

/// An error and what is behind it, on one line.
pub(in crate::cli) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

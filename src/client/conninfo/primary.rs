//! `primary_conninfo`: how a standby's walreceiver finds the server that we were told to connect to.
//!
//! Answers to `GenerateRecoveryConfig` in PostgreSQL's `recovery_gen.c`. Departures: the password never goes in
//! (`passfile` names a file that holds it), options that have their default value are left out, and relative
//! paths become absolute because the server runs in its data directory.

use std::path::Path;

use super::options::{InPrimaryConninfo, OPTIONS, OptionSpec};
use super::{HostAddress, HostSpec, Settings, SslMode, keywords};

/// What the standby's own side adds.
#[derive(Debug, Clone, Copy, Default)]
pub struct PrimaryConninfoOptions<'a> {
    /// The standby's major version: its libpq refuses options that are newer than itself.
    pub major: u16,
    /// The file with the password, if there is one; else the file that was named in the options.
    pub passfile: Option<&'a Path>,
    /// The name to be known by on the primary.
    pub application_name: Option<&'a str>,
    /// The database that slot synchronisation connects to (from 17).
    pub dbname: Option<&'a str>,
}

/// The line and what could not go into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryConninfo {
    /// The keyword/value string. In a configuration file it needs quotes of its own.
    pub conninfo: String,
    /// Options that were asked for and that the standby's libpq does not know.
    pub omitted: Vec<&'static str>,
}

impl Settings {
    /// Says in one string what these settings say, for a standby's walreceiver.
    pub fn to_primary_conninfo(&self, own: &PrimaryConninfoOptions<'_>) -> PrimaryConninfo {
        let mut line = PrimaryConninfo { conninfo: String::new(), omitted: Vec::new() };
        line.push("user", &self.user);
        if let Some(passfile) = own.passfile {
            line.push("passfile", &passfile.to_string_lossy());
        } else if let Some(passfile) = self.resolved.value("passfile").filter(|path| !path.is_empty()) {
            line.push("passfile", &self.absolute(passfile));
        }
        for spec in OPTIONS {
            if let Some(value) = self.primary_value(spec) {
                if spec.since_major > own.major {
                    line.omitted.push(spec.keyword);
                } else {
                    line.push(spec.keyword, &value);
                }
            }
        }
        for (keyword, value) in [("application_name", own.application_name), ("dbname", own.dbname)] {
            if let Some(value) = value {
                line.push(keyword, value);
            }
        }
        line
    }

    /// The value of an option as the walreceiver must see it, unless the default says the same.
    fn primary_value(&self, spec: &OptionSpec) -> Option<String> {
        let value = self.resolved.value(spec.keyword).filter(|value| !value.is_empty());
        let not_default = value.filter(|&value| Some(value) != spec.default);
        match (spec.keyword, spec.in_primary_conninfo) {
            (_, InPrimaryConninfo::Left) | ("user", _) => None,
            // the standby's libpq may have another default directory
            ("host", _) if value.is_none() => self.default_host(),
            ("port", _) => value.or(spec.default).map(str::to_owned),
            // the standby's user may have another home directory
            ("sslrootcert", _) if value.is_none() && self.tls.mode >= SslMode::VerifyCa => {
                self.tls.root_file().map(|path| self.absolute(&path.to_string_lossy()))
            }
            ("sslrootcert", _) if value == Some("system") => not_default.map(str::to_owned),
            (_, InPrimaryConninfo::CopiedPath) => not_default.map(|path| self.absolute(path)),
            (_, InPrimaryConninfo::Copied) => not_default.map(str::to_owned),
        }
    }

    /// The socket's directory, when nothing was said at all.
    fn default_host(&self) -> Option<String> {
        match self.hosts.as_slice() {
            [HostSpec { address: HostAddress::DefaultSocketDir, port, .. }] => {
                Some(super::default_socket_dir(*port, &super::SystemEnvironment).to_owned())
            }
            _ => None,
        }
    }

    fn absolute(&self, path: &str) -> String {
        self.current_dir.join(path).to_string_lossy().into_owned()
    }
}

impl PrimaryConninfo {
    fn push(&mut self, keyword: &str, value: &str) {
        if !self.conninfo.is_empty() {
            self.conninfo.push(' ');
        }
        self.conninfo.push_str(keyword);
        self.conninfo.push('=');
        self.conninfo.push_str(&keywords::quote(value));
    }
}

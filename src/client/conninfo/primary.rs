//! `primary_conninfo`: how a standby's walreceiver finds the server that we were told to connect to.
//!
//! Answers to `GenerateRecoveryConfig` in PostgreSQL's `recovery_gen.c`. Departures: the password never goes in
//! (`passfile` names a file that holds it), options that have their default value are left out, and relative
//! paths become absolute because the server runs in its data directory. Files that were found in the user's home are
//! named, because the server's user has another one. What the standby's libpq is too old for is left out, or is an error
//! where the standby would be less protected without it.

use std::path::{Path, PathBuf};

use super::options::{InPrimaryConninfo, OPTIONS, OptionSpec};
use super::{Environment, HostAddress, HostSpec, Settings, SslCertMode, SslMode, keywords};

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
    /// Options that were asked for and that the standby's libpq does not know, or not with this value.
    pub omitted: Vec<&'static str>,
    files: Vec<PathBuf>,
}

/// A protection that was asked for, and that the standby's libpq cannot give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "connection option {keyword}={value} is unknown to PostgreSQL {major}, and without it the standby would be less protected"
)]
pub struct PrimaryConninfoError {
    /// The option.
    pub keyword: &'static str,
    /// Its value.
    pub value: String,
    /// The standby's major version.
    pub major: u16,
}

/// What becomes of an option that the standby's libpq may be too old for.
enum Fitted {
    Copied(String),
    Omitted,
    Needed,
}

impl Settings {
    /// Says in one string what these settings say, for a standby's walreceiver. `environment` tells which files there
    /// are.
    pub fn to_primary_conninfo(
        &self,
        own: &PrimaryConninfoOptions<'_>,
        environment: &dyn Environment,
    ) -> Result<PrimaryConninfo, PrimaryConninfoError> {
        let mut line = PrimaryConninfo { conninfo: String::new(), omitted: Vec::new(), files: Vec::new() };
        line.push("user", &self.user);
        if let Some(passfile) = own.passfile {
            line.push("passfile", &passfile.to_string_lossy());
        } else if let Some(passfile) = self.resolved.value("passfile").filter(|path| !path.is_empty()) {
            line.push_file("passfile", &self.absolute(passfile));
        }
        for spec in OPTIONS {
            let Some(value) = self.primary_value(spec, environment) else { continue };
            match fit(spec, value.clone(), own.major) {
                Fitted::Copied(value) if is_file(spec, &value) => line.push_file(spec.keyword, &value),
                Fitted::Copied(value) => line.push(spec.keyword, &value),
                Fitted::Omitted => line.omitted.push(spec.keyword),
                Fitted::Needed => {
                    let (keyword, major) = (spec.keyword, own.major);
                    return Err(PrimaryConninfoError { keyword, value, major });
                }
            }
        }
        for (keyword, value) in [("application_name", own.application_name), ("dbname", own.dbname)] {
            if let Some(value) = value {
                line.push(keyword, value);
            }
        }
        Ok(line)
    }

    /// The value of an option as the walreceiver must see it, unless the default says the same.
    fn primary_value(&self, spec: &OptionSpec, environment: &dyn Environment) -> Option<String> {
        let value = self.resolved.value(spec.keyword).filter(|value| !value.is_empty());
        let not_default = value.filter(|&value| Some(value) != spec.default);
        match (spec.keyword, spec.in_primary_conninfo) {
            (_, InPrimaryConninfo::Left) | ("user", _) => None,
            // the standby's libpq may have another default directory
            ("host", _) if value.is_none() => self.default_host(),
            ("port", _) => value.or(spec.default).map(str::to_owned),
            // the standby's user may have another home directory
            ("sslrootcert" | "sslcert" | "sslkey" | "sslcrl", _) if value.is_none() => {
                self.file_in_home(spec.keyword, environment)
            }
            ("sslrootcert", _) if value == Some("system") => not_default.map(str::to_owned),
            (_, InPrimaryConninfo::CopiedPath) => not_default.map(|path| self.absolute(path)),
            (_, InPrimaryConninfo::Copied) => not_default.map(str::to_owned),
        }
    }

    /// The file that TLS uses because it is where libpq looks when nobody names one: a root certificate turns
    /// verification on, whatever `sslmode` says.
    fn file_in_home(&self, keyword: &str, environment: &dyn Environment) -> Option<String> {
        let tls = &self.tls;
        if tls.mode == SslMode::Disable || self.hosts.iter().all(HostSpec::is_socket) {
            return None;
        }
        let exists = |path: &&Path| environment.status(path).is_ok();
        let sends_certificate = tls.certificate_mode != SslCertMode::Disable;
        let path = match keyword {
            "sslrootcert" => tls.root_file().filter(|path| tls.mode >= SslMode::VerifyCa || exists(path)),
            "sslcrl" => tls.crl.as_deref().filter(|_| tls.crl_is_default).filter(exists),
            "sslcert" => tls.certificate.as_deref().filter(|_| sends_certificate).filter(exists),
            "sslkey" => tls.key.as_deref().filter(|_| sends_certificate).filter(exists),
            _ => None,
        };
        path.map(|path| self.absolute(&path.to_string_lossy()))
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

/// What a libpq of version `major` can be told of an option.
fn fit(spec: &OptionSpec, value: String, major: u16) -> Fitted {
    let is_known = match (spec.keyword, value.as_str()) {
        ("sslrootcert", "system") => major >= 16,
        ("target_session_attrs", "any" | "read-write") => true,
        ("target_session_attrs", _) => major >= 14,
        _ => major >= spec.since_major,
    };
    match (spec.keyword, value.as_str()) {
        ("require_auth", _) if is_known && major < 18 => without_oauth(&value),
        _ if is_known => Fitted::Copied(value),
        // whom to trust, what is revoked, how the server must ask
        ("sslrootcert" | "sslcrldir" | "require_auth", _) | ("sslcertmode", "require") => Fitted::Needed,
        _ => Fitted::Omitted,
    }
}

/// `require_auth` for a libpq that has no OAuth, and so does not know the word.
fn without_oauth(value: &str) -> Fitted {
    let words = || value.split(',').filter(|word| !matches!(word.trim(), "oauth" | "!oauth"));
    match words().next() {
        Some(_) => Fitted::Copied(words().collect::<Vec<_>>().join(",")),
        None if value.contains('!') => Fitted::Omitted,
        None => Fitted::Needed,
    }
}

fn is_file(spec: &OptionSpec, value: &str) -> bool {
    spec.in_primary_conninfo == InPrimaryConninfo::CopiedPath && value != "system"
}

impl PrimaryConninfo {
    /// The files and directories that the line names, which the standby's server must be able to read; without the
    /// passfile that [`PrimaryConninfoOptions`] has named.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }

    fn push_file(&mut self, keyword: &str, path: &str) {
        self.push(keyword, path);
        self.files.push(path.into());
    }

    fn push(&mut self, keyword: &str, value: &str) {
        if !self.conninfo.is_empty() {
            self.conninfo.push(' ');
        }
        self.conninfo.push_str(keyword);
        self.conninfo.push('=');
        self.conninfo.push_str(&keywords::quote(value));
    }
}

//! Where to connect, as whom and how: what the user wrote becomes [`Settings`] once, and the rest of the program
//! has no strings to interpret.
//!
//! ```text
//! string, URI, -h -p -U ─▶ ConnInfo ─┐
//! service file ──────────────────────┤
//! PG* environment ───────────────────┼─▶ Settings ─▶ connect(), again and again
//! libpq's defaults ──────────────────┘
//! ```
//!
//! The precedence is libpq's (`conninfo_add_defaults`): what is written wins over the service file, that over the
//! environment, that over the defaults. No file and no variable is read but through an [`Environment`]. Settings
//! are kept for as long as the program runs, so a reconnect cannot lose what they say of TLS or authentication.

mod environment;
mod error;
mod hosts;
mod keywords;
mod options;
mod passfile;
mod primary;
mod recovery;
mod secret;
mod service;
mod settings;
mod uri;
mod values;

#[cfg(test)]
pub(crate) use environment::tests::FakeEnvironment;
pub(crate) use environment::user_name_of;
pub use environment::{Environment, FileStatus, SystemEnvironment};
pub use error::{ConnInfoError, ParseConnInfoError};
pub(crate) use hosts::default_socket_dir;
pub use hosts::{HostAddress, HostSpec};
pub use options::{OPTIONS, OptionSpec, Treatment};
pub use passfile::{Passfile, PassfileKey};
pub use primary::{PrimaryConninfo, PrimaryConninfoError, PrimaryConninfoOptions};
pub use secret::Secret;
pub use settings::{Keepalives, Settings, TlsRoots, TlsSettings, Warning};
pub use values::{
    LoadBalanceHosts, ProtocolVersion, SslCertMode, SslMode, SslNegotiation, TargetSessionAttrs, TlsVersion,
};

use std::collections::BTreeMap;
use std::fmt;

/// Connection options as somebody wrote them, names checked and values not yet.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnInfo {
    values: BTreeMap<&'static str, String>,
}

impl ConnInfo {
    /// No options at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what libpq's programs take with `-d`: a URI, a keyword/value string, or else the name of a database.
    ///
    /// Answers to `recognized_connection_string`.
    pub fn parse(string: &str) -> Result<Self, ParseConnInfoError> {
        let mut conninfo = ConnInfo::new();
        if uri::is_uri(string) {
            for uri::Pair { keyword, value } in uri::parse(string)? {
                conninfo.set(&keyword, value)?;
            }
        } else if string.contains('=') {
            for (keyword, value) in keywords::parse(string)? {
                conninfo.set(&keyword, value)?;
            }
        } else if !string.is_empty() {
            conninfo.set("dbname", string)?;
        }
        Ok(conninfo)
    }

    /// Reads what libpq's `PQconninfoParse` takes: a URI or a keyword/value string, and no database's name alone.
    pub fn parse_connection_string(string: &str) -> Result<Self, ParseConnInfoError> {
        if !uri::is_uri(string) {
            keywords::parse(string)?;
        }
        ConnInfo::parse(string)
    }

    /// Sets an option, over what it was before. The name must be one of libpq's.
    pub fn set(&mut self, keyword: &str, value: impl Into<String>) -> Result<(), ParseConnInfoError> {
        let mut value = value.into();
        // libpq's word for sslmode before it had one
        let keyword = match keyword {
            "requiressl" => {
                value = if value.starts_with('1') { "require" } else { "prefer" }.to_owned();
                "sslmode"
            }
            keyword => keyword,
        };
        let Some(spec) = options::find(keyword) else {
            return Err(ParseConnInfoError::InvalidOption { keyword: keyword.to_owned() });
        };
        if value.contains('\0') {
            return Err(ParseConnInfoError::ZeroByte { keyword: spec.keyword });
        }
        self.values.insert(spec.keyword, value);
        Ok(())
    }

    /// The value of an option, if it was written; the empty string is a value.
    pub fn value(&self, keyword: &str) -> Option<&str> {
        self.values.get(keyword).map(String::as_str)
    }

    /// The value of the variable that stands in for an option, if it has one and that is set.
    pub fn variable(keyword: &str, environment: &dyn Environment) -> Option<String> {
        options::find(keyword)?.variable.and_then(|name| environment.variable(name))
    }

    /// The same without some of the options.
    pub fn without(mut self, leave_out: impl Fn(&str) -> bool) -> Self {
        self.values.retain(|keyword, _| !leave_out(keyword));
        self
    }

    /// As a keyword/value string, secrets included.
    pub fn to_connection_string(&self) -> String {
        let options = self.iter().map(|(keyword, value)| format!("{keyword}={}", keywords::quote(value)));
        options.collect::<Vec<_>>().join(" ")
    }

    /// Every option that was written, by name.
    fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(&keyword, value)| (keyword, value.as_str()))
    }

    fn set_default(&mut self, spec: &'static OptionSpec, value: String) {
        self.values.entry(spec.keyword).or_insert(value);
    }
}

/// Passwords are shown as `***`.
impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(keyword, value)| match options::find(keyword) {
            Some(spec) if spec.is_secret() => (keyword, "***"),
            _ => (keyword, value),
        };
        f.debug_map().entries(self.iter().map(shown)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_string_a_uri_and_a_name_apart() {
        assert_eq!(ConnInfo::parse("host=a dbname=b").unwrap().value("dbname"), Some("b"));
        assert_eq!(ConnInfo::parse("postgres://a/b").unwrap().value("dbname"), Some("b"));
        assert_eq!(ConnInfo::parse("some name").unwrap().value("dbname"), Some("some name"));
        assert_eq!(ConnInfo::parse("").unwrap(), ConnInfo::new());
    }

    #[test]
    fn the_last_of_two_wins_and_unknown_names_are_refused() {
        assert_eq!(ConnInfo::parse("port=1 port=2").unwrap().value("port"), Some("2"));
        assert_eq!(ConnInfo::parse("requiressl=1").unwrap().value("sslmode"), Some("require"));
        assert_eq!(ConnInfo::parse("hots=a").unwrap_err().to_string(), "invalid connection option \"hots\"");
        assert_eq!(ConnInfo::parse("=a").unwrap_err().to_string(), "invalid connection option \"\"");
        assert!(ConnInfo::parse("host=a\0b").is_err());
    }

    #[test]
    fn debug_shows_no_password() {
        let conninfo = ConnInfo::parse("postgres://u:hidden@h?sslpassword=hidden").unwrap();
        let shown = format!("{conninfo:?}");
        assert!(!shown.contains("hidden") && shown.contains("***"), "{shown}");
    }
}

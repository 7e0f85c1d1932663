//! The password file: `host:port:database:user:password`, one to a line.
//!
//! Answers to `passwordFromFile` and `pwdfMatchesString` in libpq's `fe-connect.c`. A file that others can read
//! is not used.

use std::fmt;
use std::io;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::Chars;

use super::{Environment, Secret, Warning};

/// A password file as it was when it was read; empty when there is none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Passfile {
    path: PathBuf,
    lines: Vec<String>,
}

/// What a password is looked up by.
#[derive(Debug, Clone, Copy)]
pub struct PassfileKey<'a> {
    /// Names of the host: the name or directory, and `localhost` for the default socket directory.
    pub hosts: &'a [&'a str],
    /// The port.
    pub port: u16,
    /// The database; `replication` for a physical replication connection.
    pub database: &'a str,
    /// The role.
    pub user: &'a str,
}

impl Passfile {
    /// Reads the file, unless others can read it too: libpq's warning is the second part of the answer.
    pub fn read(path: &Path, environment: &dyn Environment) -> (Self, Option<Warning>) {
        let empty = |warning| (Passfile { path: path.to_owned(), lines: Vec::new() }, warning);
        let status = match environment.status(path) {
            Ok(status) => status,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return empty(None),
            Err(source) => return empty(Some(unreadable(path, &source))),
        };
        if !status.is_file {
            return empty(Some(Warning::PassfileNotPlain { path: path.to_owned() }));
        }
        if status.mode & 0o077 != 0 {
            return empty(Some(Warning::PassfileOpenToOthers { path: path.to_owned() }));
        }
        match environment.read(path) {
            Ok(text) => (Passfile::parse(path, &text), None),
            Err(source) => empty(Some(unreadable(path, &source))),
        }
    }

    fn parse(path: &Path, text: &str) -> Self {
        let used = |line: &&str| !line.is_empty() && !line.starts_with('#');
        let lines = text.lines().map(|line| line.trim_end_matches('\r')).filter(used).map(str::to_owned);
        Passfile { path: path.to_owned(), lines: lines.collect() }
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The password of the first line that matches.
    pub fn password(&self, key: &PassfileKey<'_>) -> Option<Secret> {
        self.lines.iter().find_map(|line| {
            key.hosts.iter().find_map(|host| {
                let mut chars = line.chars().peekable();
                let matches = field_matches(&mut chars, host)
                    && field_matches(&mut chars, &key.port.to_string())
                    && field_matches(&mut chars, key.database)
                    && field_matches(&mut chars, key.user);
                matches.then(|| unescape(chars))
            })
        })
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Warning {
    Warning::PassfileUnreadable { path: path.to_owned(), cause: error.to_string() }
}

/// Whether the field matches; the rest of the line is left after its colon.
fn field_matches(line: &mut Peekable<Chars<'_>>, text: &str) -> bool {
    let mut ahead = line.clone();
    if (ahead.next(), ahead.next()) == (Some('*'), Some(':')) {
        *line = ahead;
        return true;
    }
    for wanted in text.chars() {
        match line.next() {
            None | Some(':') => return false,
            Some('\\') if line.next() == Some(wanted) => {}
            Some(c) if c != '\\' && c == wanted => {}
            Some(_) => return false,
        }
    }
    line.next() == Some(':')
}

fn unescape(mut rest: Peekable<Chars<'_>>) -> Secret {
    let mut password = String::new();
    while let Some(c) = rest.next() {
        let escaped = if c == '\\' { rest.next() } else { None };
        password.push(escaped.unwrap_or(c));
    }
    Secret::new(password)
}

impl fmt::Debug for Passfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passfile").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::FakeEnvironment;
    use super::*;
    use proptest::prelude::*;

    use crate::backup::standby_files::PassfileEntry;

    fn find(text: &str, host: &str, database: &str, user: &str) -> Option<String> {
        let passfile = Passfile::parse(Path::new("/p"), text);
        let key = PassfileKey { hosts: &[host], port: 5432, database, user };
        passfile.password(&key).map(|password| password.expose().to_owned())
    }

    #[test]
    fn finds_what_libpq_finds() {
        let one = |text: &str| find(text, "h", "d", "u");
        assert_eq!(one("h:5432:d:u:pw").as_deref(), Some("pw"));
        assert_eq!(one("*:*:*:*:pw").as_deref(), Some("pw"));
        assert_eq!(
            one("# h:5432:d:u:no\n\nh:5433:d:u:no\r\nh:5432:d:u:pw\r\n*:*:*:*:no").as_deref(),
            Some("pw")
        );
        assert_eq!(one("hh:5432:d:u:pw"), None);
        assert_eq!(one("h:5432:d:"), None);
        assert_eq!(one("h:5432:d"), None);
        assert_eq!(one("h*:5432:d:u:pw"), None);
        assert_eq!(one(r"\h:5432:d:u:p\:w\\x\").as_deref(), Some(r"p:w\x\"));
        assert_eq!(one("h:5432:d:u:p:w").as_deref(), Some("p:w"));
        assert_eq!(find(r"\:\:1:5432:d:u:pw", "::1", "d", "u").as_deref(), Some("pw"));
        assert_eq!(find("h:5432:replication:u:pw", "h", "replication", "u").as_deref(), Some("pw"));
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        for (mode, used) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o610, false)] {
            let environment = FakeEnvironment::default().with_file("/p", mode, "*:*:*:*:pw");
            let (passfile, warning) = Passfile::read(Path::new("/p"), &environment);
            let key = PassfileKey { hosts: &["h"], port: 1, database: "d", user: "u" };
            assert_eq!(passfile.password(&key).is_some(), used, "{mode:o}");
            assert_eq!(warning.is_none(), used, "{mode:o}");
        }
    }

    #[test]
    fn debug_shows_no_password() {
        assert!(!format!("{:?}", Passfile::parse(Path::new("/p"), "*:*:*:*:hidden")).contains("hidden"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_found(
            host in "[a-z:\\\\*/]{1,8}", database in "[a-z:\\\\]{1,8}", user in "[a-z:\\\\]{1,8}",
            password in "[a-z:\\\\*]{1,8}",
        ) {
            prop_assume!(host != "*");
            // the lines that a standby is given
            let (port, password_text) = ("5432", password.as_str());
            let entry = PassfileEntry { host: &host, port, database: &database, user: &user, password: password_text };
            let line = String::from_utf8(entry.render().unwrap()).unwrap();
            prop_assert_eq!(find(&line, &host, &database, &user), Some(password));
        }

        #[test]
        fn no_file_panics(text in any::<String>()) {
            find(&text, "h", "d", "u");
        }
    }
}

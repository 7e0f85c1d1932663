//! A server's settings: those that replication depends on.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{InspectError, ask};
use crate::client::{Connection, Sql};
use crate::pg::ServerVersion;
use crate::wire::command::quote_string;
use crate::wire::server_error::SqlState;

/// The settings that were asked for, as far as the server has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerSettings(BTreeMap<String, Setting>);

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its value as `SHOW` writes it: with a unit, `64MB`.
    pub text: String,
    /// Where it comes from.
    pub origin: Origin,
    /// Whether the configuration holds another value that waits for a restart.
    pub pending_restart: bool,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The configuration files or the default: `ALTER SYSTEM` changes it.
    Configuration,
    /// The command line of the server, which `ALTER SYSTEM` does not change.
    CommandLine,
    /// The role, the database or this session.
    Session,
}

/// A size that may be without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// So many bytes.
    Bytes(u64),
    /// No bound: `-1`.
    Unlimited,
}

const NAMES: [&str; 16] = [
    "data_checksums",
    "full_page_writes",
    "hot_standby",
    "idle_replication_slot_timeout",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "password_encryption",
    "ssl",
    "summarize_wal",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_keep_size",
    "wal_level",
    "wal_log_hints",
    "wal_sender_timeout",
];

fn names(version: ServerVersion) -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().filter(move |name| match *name {
        "idle_replication_slot_timeout" => version.has_idle_slot_timeout(),
        "summarize_wal" => version.has_wal_summaries(),
        _ => true,
    })
}

impl ServerSettings {
    /// Asks in SQL.
    pub async fn ask(sql: &Sql) -> Result<Self, InspectError> {
        let list: Vec<String> = names(sql.version()).map(quote_string).collect();
        let question = format!(
            "SELECT name, setting || coalesce(unit, ''), source, pending_restart FROM pg_settings WHERE name IN ({})",
            list.join(", ")
        );
        let settings = ask(sql, "its settings", &question, |row| {
            let origin = match row.get(2)? {
                "command line" | "environment variable" | "override" => Origin::CommandLine,
                "client" | "session" | "user" | "database" | "database user" => Origin::Session,
                _ => Origin::Configuration,
            };
            let text: Option<String> = row.get(1)?;
            let setting = Setting { text: text.unwrap_or_default(), origin, pending_restart: row.get(3)? };
            Ok((row.get(0)?, setting))
        });
        Ok(ServerSettings(settings.await?.into_iter().collect()))
    }

    /// Asks a walsender, which takes no other question.
    pub async fn show(replication: &mut Connection) -> Result<Self, InspectError> {
        let mut settings = BTreeMap::new();
        for name in names(replication.version()) {
            match replication.show(name).await {
                Ok(text) => {
                    let setting = Setting { text, origin: Origin::Configuration, pending_restart: false };
                    settings.insert(name.to_owned(), setting);
                }
                Err(error)
                    if matches!(
                        error.sqlstate(),
                        Some(SqlState::UNDEFINED_OBJECT | SqlState::INSUFFICIENT_PRIVILEGE)
                    ) => {}
                Err(source) => return Err(InspectError { what: "its settings", source }),
            }
        }
        Ok(ServerSettings(settings))
    }

    /// These settings, from names and values: for what has been seen without a server.
    pub fn of<'a>(settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let setting = |text: &str| Setting {
            text: text.to_owned(),
            origin: Origin::Configuration,
            pending_restart: false,
        };
        ServerSettings(settings.into_iter().map(|(name, text)| (name.to_owned(), setting(text))).collect())
    }

    /// A setting; `None` where the server has none of this name.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.0.get(name)
    }

    /// Another value for a setting, or one more.
    pub fn insert(&mut self, name: &str, setting: Setting) {
        self.0.insert(name.to_owned(), setting);
    }

    /// Its value.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).map(|setting| setting.text.as_str())
    }

    /// A setting that is on or off.
    pub fn is_on(&self, name: &str) -> Option<bool> {
        self.text(name).map(|text| text == "on")
    }

    /// A number without a unit.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// A size.
    pub fn size(&self, name: &str) -> Option<Bound> {
        let (number, unit) = split(self.text(name)?)?;
        let Ok(number) = u64::try_from(number) else { return Some(Bound::Unlimited) };
        let factor = match unit {
            "B" => 1,
            "kB" => 1 << 10,
            "" | "MB" => 1 << 20,
            "GB" => 1 << 30,
            "TB" => 1 << 40,
            _ => return None,
        };
        number.checked_mul(factor).map(Bound::Bytes)
    }

    /// A time; zero is how these settings are turned off.
    pub fn time(&self, name: &str) -> Option<Duration> {
        let (number, unit) = split(self.text(name)?)?;
        let number = u64::try_from(number).ok()?;
        let milliseconds = match unit {
            "ms" => 1,
            "" | "s" => 1000,
            "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        number.checked_mul(milliseconds).map(Duration::from_millis)
    }
}

/// The number, and the unit behind it.
fn split(text: &str) -> Option<(i64, &str)> {
    let at =
        text.find(|character: char| !character.is_ascii_digit() && character != '-').unwrap_or(text.len());
    Some((text[..at].parse().ok()?, &text[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_in_both_spellings() {
        let settings = ServerSettings::of([
            ("a", "-1MB"),
            ("b", "-1"),
            ("c", "64MB"),
            ("d", "0"),
            ("e", "1GB"),
            ("f", "x"),
            ("g", "9223372036854775807TB"),
            ("h", "60000ms"),
            ("i", "1d"),
            ("j", "86400s"),
        ]);
        let sizes: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "z"].map(|name| settings.size(name)).into();
        let bytes = |bytes| Some(Bound::Bytes(bytes));
        let unlimited = Some(Bound::Unlimited);
        assert_eq!(
            sizes,
            [unlimited, unlimited, bytes(64 << 20), bytes(0), bytes(1 << 30), None, None, None]
        );
        let times = ["h", "i", "j", "d", "f", "b"].map(|name| settings.time(name).map(|time| time.as_secs()));
        assert_eq!(times, [Some(60), Some(86_400), Some(86_400), Some(0), None, None]);
    }

    #[test]
    fn a_server_is_asked_for_what_it_has() {
        let count = |major| names(ServerVersion::new(major, 0)).count();
        assert_eq!([13, 16, 17, 18, 19].map(count), [14, 14, 15, 16, 16]);
    }
}

//! What was found, why it matters, and what mends it.

use serde::Serialize;

use crate::inspect::settings::{Origin, ServerSettings};
use crate::wire::command::quote_string;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a setting's name, `role`, `slot` …
    pub check: &'static str,
    /// Which one, where there are several: a slot's name.
    pub object: Option<String>,
    /// How bad it is.
    pub level: Level,
    /// What was found, on one line.
    pub found: String,
    /// Why it matters; empty where all is well and nothing need be known.
    pub why: String,
    /// What mends it.
    pub fixes: Vec<Fix>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and may not for long.
    Warning,
    /// It does not work.
    Problem,
    /// This role may not see it.
    Unknown,
}

/// A line that mends something, exactly as it is to be typed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// Where it is typed.
    #[serde(rename = "in")]
    pub place: Place,
    /// The line.
    pub line: String,
    /// In `pg_hba.conf`: it has to come before this one, for the first that fits counts.
    pub before_line: Option<u32>,
    /// What makes the server heed it.
    pub needs: Needs,
    /// Whether it can be applied without a thought.
    pub offer: Offer,
}

/// Where a line is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Place {
    /// SQL, as a superuser.
    #[serde(rename = "sql")]
    Sql,
    /// `pg_hba.conf`.
    #[serde(rename = "pg_hba.conf")]
    Hba,
    /// The server's command line, or whatever writes that.
    #[serde(rename = "server command line")]
    CommandLine,
    /// A shell on the server.
    #[serde(rename = "shell")]
    Shell,
    /// The command or the configuration of the client.
    #[serde(rename = "connection string")]
    Client,
}

/// What makes the server heed a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Needs {
    /// Nothing: it does so at once.
    Nothing,
    /// `SELECT pg_reload_conf()`.
    Reload,
    /// A restart.
    Restart,
}

/// Whether a line can be applied without a thought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Offer {
    /// It can.
    Apply,
    /// It costs something, or only the operator knows whether it is wanted.
    Consider,
}

/// The longest text of a server's that is shown, in characters.
const MAX_SHOWN_LEN: usize = 200;

/// The longest line, in characters; role names may be 63 bytes, settings of names longer.
const MAX_LINE_LEN: usize = 1000;

impl Finding {
    /// All is well.
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Finding::new(check, Level::Ok, found.into(), "")
    }

    /// A finding of any level.
    pub(super) fn new(
        check: &'static str,
        level: Level,
        found: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        let (found, why) = (found.into(), why.into());
        Finding { check, object: None, level, found, why, fixes: Vec::new() }
    }

    /// With a remark.
    pub(super) fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// With a line that mends it.
    pub(super) fn mended_by(mut self, fix: Fix) -> Self {
        self.fixes.push(fix);
        self
    }
}

impl Fix {
    /// SQL that is heeded at once.
    pub(super) fn sql(line: impl AsRef<str>) -> Self {
        Fix::new(Place::Sql, line, Needs::Nothing)
    }

    /// Any line. Nothing that a server says can make two of it.
    pub(super) fn new(place: Place, line: impl AsRef<str>, needs: Needs) -> Self {
        let shown = one_line(line.as_ref(), MAX_LINE_LEN);
        let offer = match place {
            // a line that had to be changed to be shown does not say any more what was meant
            Place::Sql if shown == line.as_ref() => Offer::Apply,
            _ => Offer::Consider,
        };
        Fix { place, line: shown, before_line: None, needs, offer }
    }

    /// A setting. One that is given on the server's command line has to be changed there.
    pub(super) fn set(settings: &ServerSettings, name: &str, value: &str, needs: Needs) -> Self {
        let origin = settings.get(name).map(|setting| setting.origin);
        if origin == Some(Origin::CommandLine) {
            return Fix::new(Place::CommandLine, format!("{name}={value}"), Needs::Restart);
        }
        Fix::new(Place::Sql, format!("ALTER SYSTEM SET {name} = {};", quote_string(value)), needs)
    }

    /// The same, in its place in a file.
    pub(super) fn before(self, before_line: Option<u32>) -> Self {
        Fix { before_line, ..self }
    }

    /// The same, left to the operator.
    pub(super) fn left_to_operator(self) -> Self {
        Fix { offer: Offer::Consider, ..self }
    }
}

/// A server's text, fit to be shown: on one line, without control characters, of a length that somebody may read.
pub(super) fn shown(text: &str) -> String {
    one_line(text, MAX_SHOWN_LEN)
}

fn one_line(text: &str, max_len: usize) -> String {
    let mut line = String::new();
    for (count, character) in text.chars().enumerate() {
        match character {
            _ if count == max_len => {
                line.push('…');
                break;
            }
            // line separators and the marks that turn writing round do as much harm as control characters
            '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                line.extend(character.escape_unicode());
            }
            _ if character.is_control() => line.extend(character.escape_debug()),
            _ => line.push(character),
        }
    }
    line
}

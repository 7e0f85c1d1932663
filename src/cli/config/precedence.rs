//! Which entries of the file count: what is said on the command line or in the environment counts more.
//!
//! That holds for each of libpq's connection options by itself, wherever it is said: `PGHOST` wins over `host = …` and over
//! the host in `dbname = "host=…"`, and so does `-d host=…`. (In libpq's own order a service file would win over the
//! environment; a file that is meant for a command does not.)

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::file::{Entry, EntryValue, is_connection_string, option};
use crate::client::conninfo::{ConnInfo, Environment};

/// Options that say the same as a keyword of a connection string.
const KEYWORDS: [(&str, &str); 5] = [
    ("host", "host"),
    ("port", "port"),
    ("username", "user"),
    ("password-file", "password"),
    ("password-command", "password"),
];

/// The entries for the command that was typed, without those that something stronger overrides.
pub(super) fn effective(
    entries: &[Entry],
    typed: &ArgMatches,
    cli: &Command,
    environment: &dyn Environment,
) -> Vec<Entry> {
    let Some(leaf) = Leaf::find(typed, cli) else { return Vec::new() };
    let mut found: Vec<Entry> = Vec::new();
    // a section's entry counts more than one before it
    for depth in 0..=leaf.path.len() {
        let section = &leaf.path[..depth];
        for entry in entries.iter().filter(|entry| entry.section == section) {
            if option(&entry.key, leaf.command).is_some() {
                found.retain(|other| other.key != entry.key);
                found.push(entry.clone());
            }
        }
    }
    found.retain(|entry| !leaf.overrides(entry));
    let typed_conninfo = leaf.typed_conninfo();
    let is_said = |keyword: &str| {
        typed_conninfo.as_ref().is_some_and(|conninfo| says(conninfo, keyword))
            || is_set(keyword, environment)
    };
    found.retain(|entry| !KEYWORDS.iter().any(|(key, keyword)| *key == entry.key && is_said(keyword)));
    for entry in &mut found {
        if option(&entry.key, leaf.command).is_some_and(is_connection_string)
            && let EntryValue::Values(values) = &mut entry.value
        {
            for value in values {
                yield_to_environment(value, environment);
            }
        }
    }
    found
}

/// The command that was typed.
struct Leaf<'a> {
    command: &'a Command,
    path: Vec<String>,
    /// From the program's own down to the command's.
    matches: Vec<&'a ArgMatches>,
}

impl<'a> Leaf<'a> {
    fn find(typed: &'a ArgMatches, cli: &'a Command) -> Option<Self> {
        let mut leaf = Leaf { command: cli, path: Vec::new(), matches: vec![typed] };
        while let Some((name, below)) = leaf.matches.last()?.subcommand() {
            leaf.command = leaf.command.find_subcommand(name)?;
            leaf.path.push(name.to_owned());
            leaf.matches.push(below);
        }
        (!leaf.command.has_subcommands()).then_some(leaf)
    }

    fn is_typed(&self, id: &str) -> bool {
        self.matches.iter().any(|matches| {
            matches.try_contains_id(id).is_ok()
                && matches!(
                    matches.value_source(id),
                    Some(ValueSource::CommandLine | ValueSource::EnvVariable)
                )
        })
    }

    /// Whether the same was typed, or what excludes it.
    fn overrides(&self, entry: &Entry) -> bool {
        let Some(own) = option(&entry.key, self.command) else { return true };
        let excludes = |one: &clap::Arg, other: &clap::Arg| {
            self.command.get_arg_conflicts_with(one).iter().any(|arg| arg.get_id() == other.get_id())
        };
        self.command
            .get_arguments()
            .filter(|typed| self.is_typed(typed.get_id().as_str()))
            .any(|typed| typed.get_id() == own.get_id() || excludes(own, typed) || excludes(typed, own))
    }

    /// What `-d` says; nothing when that makes no sense, which is told of later.
    fn typed_conninfo(&self) -> Option<ConnInfo> {
        let options = self.command.get_arguments().filter(|option| is_connection_string(option));
        let mut typed = options.filter(|option| self.is_typed(option.get_id().as_str()));
        let id = typed.next()?.get_id().as_str();
        let matches = self.matches.last()?;
        let text = matches.try_get_one::<String>(id).ok()??;
        ConnInfo::parse(text).ok()
    }
}

/// Host and address say the same thing.
fn aliases(keyword: &str) -> &'static [&'static str] {
    match keyword {
        "host" | "hostaddr" => &["host", "hostaddr"],
        "port" => &["port"],
        "user" => &["user"],
        "password" => &["password", "passfile"],
        _ => &[],
    }
}

fn says(conninfo: &ConnInfo, keyword: &str) -> bool {
    aliases(keyword).iter().any(|keyword| conninfo.value(keyword).is_some())
}

/// A passfile in the environment says where passwords may be, not that there is one: it overrides none.
fn is_set(keyword: &str, environment: &dyn Environment) -> bool {
    let said = aliases(keyword).iter().filter(|alias| **alias != "passfile");
    said.into_iter().any(|keyword| ConnInfo::variable(keyword, environment).is_some())
}

/// Takes out of a connection string what a variable says.
fn yield_to_environment(text: &mut String, environment: &dyn Environment) {
    let Ok(conninfo) = ConnInfo::parse(text) else { return };
    let left = conninfo.clone().without(|keyword| match aliases(keyword) {
        [] => ConnInfo::variable(keyword, environment).is_some(),
        _ => is_set(keyword, environment),
    });
    if left != conninfo {
        *text = left.to_connection_string();
    }
}

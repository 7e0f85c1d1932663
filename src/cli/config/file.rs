//! The file's text, checked against the commands' definitions: all of it, also what is for other commands than the one that
//! runs, so that a slip is found before the day when it counts.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, LineError};
use crate::client::conninfo::{ConnInfo, OPTIONS};

/// The longest file, in bytes.
const MAX_FILE_LEN: u64 = 1 << 20;

/// Options that mean nothing in a file, or would lead to another one.
const COMMAND_LINE_ONLY: [&str; 3] = ["config", "help", "version"];

/// Where the options are that may stand before all sections.
const SHARED_HEADINGS: [&str; 2] = ["General options", "Connection options"];

/// An option in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The section, command by command; nothing before all sections.
    pub(super) section: Vec<String>,
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: EntryValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryValue {
    /// A flag, so many times.
    Flag(u8),
    /// An option, once for each of them.
    Values(Vec<String>),
}

impl Entry {
    /// As on the command line.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let option = format!("--{}", self.key);
        match &self.value {
            EntryValue::Flag(times) => vec![option.into(); usize::from(*times)],
            EntryValue::Values(values) => {
                values.iter().map(|value| format!("{option}={value}").into()).collect()
            }
        }
    }
}

pub(super) fn read(path: &Path, cli: &Command) -> Result<Vec<Entry>, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    // it may name a command to run
    if metadata.is_file() && metadata.mode() & 0o002 != 0 {
        return Err(ConfigError::OpenToAll { path: path.to_owned() });
    }
    let mut text = String::new();
    file.take(MAX_FILE_LEN + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE_LEN {
        return Err(ConfigError::TooLong { path: path.to_owned(), max_len: MAX_FILE_LEN });
    }
    parse(&text, cli).map_err(|(line, source)| ConfigError::Invalid { path: path.to_owned(), line, source })
}

/// The error comes with its line.
pub(super) fn parse(text: &str, cli: &Command) -> Result<Vec<Entry>, (usize, LineError)> {
    let line_of = |offset: usize| 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_of(error.span().map_or(0, |span| span.start));
        (line, LineError::Syntax(error.message().replace('\n', "; ").into()))
    })?;
    let mut entries = Vec::new();
    let reader = Reader { line_of: &line_of };
    reader.table(table.get_ref(), cli, &[], &mut entries)?;
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

struct Reader<'a> {
    line_of: &'a dyn Fn(usize) -> usize,
}

impl Reader<'_> {
    fn table(
        &self,
        table: &DeTable<'_>,
        command: &Command,
        section: &[String],
        entries: &mut Vec<Entry>,
    ) -> Result<(), (usize, LineError)> {
        for (name, value) in table {
            let line = (self.line_of)(name.span().start);
            let key = name.get_ref().to_string();
            if let DeValue::Table(below) = value.get_ref() {
                let section: Vec<String> = section.iter().cloned().chain([key.clone()]).collect();
                let Some(command) = command.find_subcommand(&key) else {
                    return Err((line, LineError::UnknownSection { section: section.join(".") }));
                };
                self.table(below, command, &section, entries)?;
                continue;
            }
            let value = entry_value(&key, value, command, section).map_err(|error| (line, error))?;
            entries.push(Entry { section: section.to_vec(), key, line, value });
        }
        Ok(())
    }
}

fn entry_value(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    command: &Command,
    section: &[String],
) -> Result<EntryValue, LineError> {
    if COMMAND_LINE_ONLY.contains(&key) {
        return Err(LineError::CommandLineOnly { key: key.to_owned() });
    }
    let value = value.get_ref();
    // whatever a command may call its options: nobody means anything else by this
    if key == "password" && !matches!(value, DeValue::Boolean(_)) {
        return Err(LineError::Secret { key: key.to_owned() });
    }
    let option = find(key, command, section)?;
    let key = || key.to_owned();
    let values = match (option.get_action(), value) {
        (ArgAction::SetTrue, DeValue::Boolean(on)) => return Ok(EntryValue::Flag(u8::from(*on))),
        (ArgAction::Count, DeValue::Boolean(on)) => return Ok(EntryValue::Flag(u8::from(*on))),
        (ArgAction::Count, DeValue::Integer(times)) => {
            let times = times.to_string().parse().map_err(|_| LineError::Flag { key: key() })?;
            return Ok(EntryValue::Flag(times));
        }
        (ArgAction::SetTrue | ArgAction::Count, _) => return Err(LineError::Flag { key: key() }),
        // its value may be left out
        (_, DeValue::Boolean(on)) if option.get_num_args().is_some_and(|range| range.min_values() == 0) => {
            return Ok(EntryValue::Flag(u8::from(*on)));
        }
        (ArgAction::Append, DeValue::Array(list)) => {
            let texts = list.iter().map(|item| text(item.get_ref()));
            texts.collect::<Option<Vec<_>>>().ok_or_else(|| LineError::Value { key: key() })?
        }
        (_, DeValue::Array(_)) => return Err(LineError::OneValue { key: key() }),
        (_, value) => vec![text(value).ok_or_else(|| LineError::Value { key: key() })?],
    };
    if let Some(keyword) = values.iter().find_map(|text| secret_in(option, text)) {
        return Err(LineError::SecretInConnectionString { key: key(), keyword });
    }
    Ok(EntryValue::Values(values))
}

/// A value as it would be typed.
fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The secret in a connection string. One that cannot be read is complained of by whoever reads it in earnest.
fn secret_in(option: &Arg, text: &str) -> Option<&'static str> {
    if !is_connection_string(option) {
        return None;
    }
    let conninfo = ConnInfo::parse(text).ok()?;
    let is_given = |keyword| conninfo.value(keyword).is_some_and(|value| !value.is_empty());
    OPTIONS.iter().filter(|spec| spec.is_secret()).map(|spec| spec.keyword).find(|keyword| is_given(keyword))
}

pub(super) fn is_connection_string(option: &Arg) -> bool {
    option.get_value_names().is_some_and(|names| names.iter().any(|name| name == "CONNINFO"))
}

/// The option of that name, of the section's command, or before all sections of any that has it.
fn find<'a>(key: &str, command: &'a Command, section: &[String]) -> Result<&'a Arg, LineError> {
    let found = if command.has_subcommands() { find_shared(key, command) } else { option(key, command) };
    found.ok_or_else(|| {
        let dashed = key.replace('_', "-");
        let known = option(&dashed, command).or_else(|| find_shared(&dashed, command));
        match section_of(key, command, section) {
            Some(section) => LineError::OutsideSection { key: key.to_owned(), section },
            None => LineError::UnknownKey {
                section: section.join("."),
                key: key.to_owned(),
                known_as: known.map(|_| dashed),
            },
        }
    })
}

/// A command's option by its long name.
pub(super) fn option<'a>(key: &str, command: &'a Command) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| argument.get_long() == Some(key) && !argument.is_hide_set())
}

/// An option that all commands have, or all that connect.
fn find_shared<'a>(key: &str, command: &'a Command) -> Option<&'a Arg> {
    let is_shared =
        |option: &&Arg| option.get_help_heading().is_some_and(|heading| SHARED_HEADINGS.contains(&heading));
    let here = option(key, command).filter(is_shared);
    here.or_else(|| command.get_subcommands().find_map(|below| find_shared(key, below)))
}

/// The first section that a key could stand in, below this one.
fn section_of(key: &str, command: &Command, section: &[String]) -> Option<String> {
    command.get_subcommands().find_map(|below| {
        let path: Vec<String> = section.iter().cloned().chain([below.get_name().to_owned()]).collect();
        let here = (!below.has_subcommands()).then(|| option(key, below)).flatten();
        here.map(|_| path.join(".")).or_else(|| section_of(key, below, &path))
    })
}

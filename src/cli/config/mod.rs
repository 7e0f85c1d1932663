//! `--config`: a TOML file for everything that the command line takes, under the same names.
//!
//! ```text
//! file ─▶ entries, checked against every command's definition ─▶ those that nothing stronger overrides ─▶ arguments ─▶ clap
//! ```
//!
//! What is in the file becomes arguments behind the real ones, `--name=value`, and clap reads all of them at once: values are
//! checked, and options that need or exclude each other are, as if everything had been typed. So there is no second
//! definition that could drift. The precedence is: command line, environment, file, default.

mod error;
mod file;
mod precedence;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, Command};

pub(super) use error::ConfigError;

use crate::client::conninfo::SystemEnvironment;
use file::Entry;

#[derive(Debug, Args)]
#[command(next_help_heading = "General options")]
pub(super) struct ConfigArgs {
    /// TOML file with options, under the same names (see the manual; none is read unless named)
    ///
    /// A command's options are in its section: [receive], [standby.create] … General and connection options may stand before
    /// all sections, for every command. Flags are true or false. What is on the command line or in the environment counts more.
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        env = "PGWAKE_CONFIG",
        hide_env_values = true,
        display_order = 899
    )]
    config: Option<PathBuf>,
}

/// The command line with what a configuration file adds to it.
pub(super) struct Arguments {
    pub(super) all: Vec<OsString>,
    /// Which of them the file has brought.
    added: Vec<Entry>,
    path: PathBuf,
}

/// Reads the configuration file, if the command line or the environment names one.
pub(super) fn arguments(real: Vec<OsString>, mut cli: Command) -> Result<Arguments, ConfigError> {
    let nothing = |real| Ok(Arguments { all: real, added: Vec::new(), path: PathBuf::new() });
    // who asks for help, or types what makes no sense, hears of that from the second reading
    let lenient = cli.clone().ignore_errors(true);
    let Ok(typed) = lenient.try_get_matches_from(&real) else { return nothing(real) };
    let Some(path) = typed.get_one::<PathBuf>("config").cloned() else { return nothing(real) };
    cli.build();
    let entries = file::read(&path, &cli)?;
    let added = precedence::effective(&entries, &typed, &cli, &SystemEnvironment);
    Ok(Arguments { all: insert(real, &added), added, path })
}

/// Puts options where clap still takes them for options.
fn insert(mut real: Vec<OsString>, added: &[Entry]) -> Vec<OsString> {
    let end = real.iter().position(|argument| argument == "--").unwrap_or(real.len());
    real.splice(end..end, added.iter().flat_map(Entry::arguments));
    real
}

impl Arguments {
    /// The line of the file that an error of clap's is about.
    pub(super) fn origin(&self, error: &clap::Error) -> Option<String> {
        let named = match error.get(ContextKind::InvalidArg)? {
            ContextValue::String(name) => vec![name.as_str()],
            ContextValue::Strings(names) => names.iter().map(String::as_str).collect(),
            _ => return None,
        };
        let is_named = |entry: &&Entry| {
            let option = format!("--{}", entry.key);
            named.iter().any(|name| name.split([' ', '[', '=']).next() == Some(&option))
        };
        let Entry { key, line, .. } = self.added.iter().find(is_named)?;
        Some(format!("\"{key}\" comes from \"{}\", line {line}.", self.path.display()))
    }
}

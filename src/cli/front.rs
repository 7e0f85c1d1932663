//! `pgwake --help`: one screen, with what people need first. The rest is listed from the commands' definitions.

use std::ffi::OsString;

use clap::{Command, CommandFactory as _, FromArgMatches as _};

use super::{Cli, pg_tool};

/// What people need first, in the order in which they do.
const FIRST: [(&str, &str); 5] = [
    ("check", "is this server fit for a standby, an archive, a witness?"),
    ("standby create", "from a connection string to a standby that streams"),
    ("receive", "WAL into a directory, durable before it is acknowledged"),
    ("status", "who follows whom, how far behind, and what holds WAL back"),
    ("standby promote", "make a standby the primary, unless the old one lives"),
];

/// What the manual's first page ends with.
pub(super) fn after_help() -> String {
    let tools = pg_tool::names().collect::<Vec<_>>().join(", ");
    format!(
        "Under the name of one of PostgreSQL's tools (a link, or `pgwake NAME`) it is that tool: {tools}.\n\n\
         Where to connect is said as to psql: -d, -h, -p and -U, the PG* variables, ~/.pgpass and service files.\n\n\
         Exit codes: 0 done, 1 failed, 2 usage, 3 data is not what it must be."
    )
}

/// The screen that is always there: a terminal's classic size.
const WIDTH: usize = 80;

/// Reads arguments, with this page for whoever asks for help without a command.
pub(super) fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let cli = Cli::command();
    let page = page(&cli);
    Cli::from_arg_matches(&cli.override_help(page).try_get_matches_from(arguments)?)
}

fn page(cli: &Command) -> String {
    let mut page = "\
pgwake follows a PostgreSQL primary: standbys that stream, WAL that is durable.

Usage: pgwake COMMAND [OPTIONS]     (pgwake COMMAND --help tells of each)

First of all:
"
    .to_owned();
    for (name, job) in FIRST {
        page.push_str(&format!("  {name:<17}{job}\n"));
    }
    let all = names(cli, "");
    let others = all.iter().filter(|name| !FIRST.iter().any(|(first, _)| first == name));
    page.push_str(&wrapped("\nAlso: ", others.map(String::as_str)));
    page.push_str(&wrapped("PostgreSQL's own, as links or commands: ", pg_tool::names()));
    page.push_str(
        "
  -v, --verbose  say more       --log-format FORMAT  log text, or json
  -q, --quiet    say less       --config FILE        options from a TOML file
  -V, --version  print version  --help               print this, or a command's

Where to connect is said as to psql: -d, -h, -p, -U, PG* variables, ~/.pgpass.
Exit codes: 0 done, 1 failed, 2 usage, 3 data is not what it must be.
",
    );
    page
}

/// Every command that does something: `standby create`.
pub(super) fn names(command: &Command, before: &str) -> Vec<String> {
    let mut all = Vec::new();
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        let name = format!("{before}{}", below.get_name());
        match below.has_subcommands() {
            true => all.extend(names(below, &format!("{name} "))),
            false => all.push(name),
        }
    }
    all
}

/// A list in as many lines as it takes.
fn wrapped<'a>(head: &str, names: impl Iterator<Item = &'a str>) -> String {
    let (mut text, mut width) = (head.to_owned(), head.trim_start().len());
    let mut separator = "";
    for name in names {
        text.push_str(separator);
        width += separator.len();
        if width + name.len() + 1 > WIDTH {
            text = text.trim_end().to_owned() + "\n  ";
            width = 2;
        }
        text.push_str(name);
        width += name.len();
        separator = ", ";
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_page_fits_a_screen_and_names_every_command() {
        let cli = Cli::command();
        let page = page(&cli);
        assert!(page.lines().count() <= 24, "{} lines:\n{page}", page.lines().count());
        assert!(page.lines().all(|line| line.len() <= WIDTH), "{page}");
        let all = names(&cli, "");
        for (name, _) in FIRST {
            assert!(all.iter().any(|known| known == name), "there is no {name}");
        }
        for name in all.iter().cloned().chain(pg_tool::names().map(str::to_owned)) {
            assert!(page.contains(&name), "{name} is not in\n{page}");
        }
        for option in cli.get_arguments().filter_map(|option| option.get_long()) {
            assert!(page.contains(&format!("--{option} ")), "--{option} is not in\n{page}");
        }
    }
}

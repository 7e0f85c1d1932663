//! `pgwake completions` and `pgwake manual`: what shells and `man` want to know, from the commands' own definitions.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use super::exit::Exit;
use super::report;
use crate::ErrorClass;

/// Print the completions for a shell
///
/// bash: pgwake completions bash > /etc/bash_completion.d/pgwake
/// zsh: pgwake completions zsh > "${fpath[1]}/_pgwake"
/// fish: pgwake completions fish > ~/.config/fish/completions/pgwake.fish
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Write a manual page for each command into a directory
///
/// pgwake manual /usr/local/share/man/man1
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ManualArgs {
    /// The directory, which exists
    directory: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("could not write manual page \"{}\"", path.display())]
struct ManualError {
    path: PathBuf,
    source: io::Error,
}

pub(super) fn completions(args: &CompletionsArgs, mut cli: Command) -> Exit {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut cli, "pgwake", &mut text);
    report::print(&String::from_utf8_lossy(&text))
}

pub(super) fn manual(args: &ManualArgs, mut cli: Command) -> Exit {
    cli.build();
    match write_pages(&cli, "pgwake", &args.directory) {
        Ok(()) => Exit::Done,
        Err(error) => report::failure(&error, ErrorClass::Operator, false),
    }
}

/// The page of a command, and those of the commands below it: `pgwake-standby-create.1`.
fn write_pages(command: &Command, name: &str, directory: &Path) -> Result<(), ManualError> {
    let path = directory.join(format!("{name}.1"));
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().display_name(name))
        .title(name.to_uppercase())
        .source(concat!("pgwake ", env!("CARGO_PKG_VERSION")))
        .manual("pgwake")
        .render(&mut page)
        .and_then(|()| fs::write(&path, page))
        .map_err(|source| ManualError { path, source })?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_pages(below, &format!("{name}-{}", below.get_name()), directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::{Cli, front, pg_tool};
    use super::*;

    #[test]
    fn every_command_has_a_page_and_is_completed() {
        let directory = tempfile::tempdir().unwrap();
        let mut cli = Cli::command();
        cli.build();
        write_pages(&cli, "pgwake", directory.path()).unwrap();
        let page = |name: &str| fs::read_to_string(directory.path().join(format!("{name}.1"))).unwrap();
        let mut completions = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Cli::command(), "pgwake", &mut completions);
        let completions = String::from_utf8(completions).unwrap();
        for name in front::names(&cli, "") {
            let name = format!("pgwake {name}");
            assert!(page(&name.replace(' ', "-")).contains("SYNOPSIS"), "{name}");
            assert!(completions.contains(&name.replace(' ', "__subcmd__")), "{name} is not completed");
        }
        for tool in pg_tool::names() {
            assert!(page("pgwake").contains(tool), "{tool}");
        }
    }
}

//! A file says what the command line says, for every option of every command, and nothing that is stronger is overridden.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory as _};

use super::super::Cli;
use super::error::LineError;
use super::file::{self, Entry};
use super::precedence::effective;
use crate::client::conninfo::FakeEnvironment;

fn cli() -> Command {
    let mut cli = Cli::command();
    cli.build();
    cli
}

/// Every command that does something, with its path.
fn leaves(command: &Command, path: &[String]) -> Vec<(Vec<String>, Command)> {
    if !command.has_subcommands() {
        return vec![(path.to_vec(), command.clone())];
    }
    let below = command.get_subcommands().flat_map(|below| {
        let path: Vec<String> = path.iter().cloned().chain([below.get_name().to_owned()]).collect();
        leaves(below, &path)
    });
    below.collect()
}

/// A value that such an option takes.
fn sample(option: &Arg) -> String {
    if let Some(possible) = option.get_possible_values().first() {
        return possible.get_name().to_owned();
    }
    let name = option.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    let sample = match name {
        "LSN" | "WHERE" => "0/3000000",
        "SECONDS" | "PORT" | "N" | "COUNT" => "5",
        "METHOD[:LEVEL]" => "gzip:3",
        "OLDDIR=NEWDIR" => "/old=/new",
        "NAME=VALUE" => "port=5433",
        "RATE" => "8M",
        "ADDR" => "127.0.0.1:9187",
        "URL" => "file:///srv/archive",
        "CONNINFO" => "host=db1",
        _ => "some",
    };
    sample.to_owned()
}

/// What was said, by option; how it was said plays no part.
fn said(arguments: &[OsString]) -> BTreeMap<String, Vec<OsString>> {
    let lenient = Cli::command().ignore_errors(true);
    let matches = lenient.try_get_matches_from(arguments).expect("arguments");
    let mut matches: &ArgMatches = &matches;
    while let Some((_, below)) = matches.subcommand() {
        matches = below;
    }
    let typed = matches
        .ids()
        .filter(|id| matches.value_source(id.as_str()) == Some(clap::parser::ValueSource::CommandLine));
    let values = |id: &clap::Id| matches.get_raw(id.as_str()).into_iter().flatten().map(Into::into).collect();
    typed.map(|id| (id.to_string(), values(id))).collect()
}

fn arguments(path: &[String], more: &[OsString]) -> Vec<OsString> {
    let path = path.iter().map(OsString::from);
    ["pgwake".into()].into_iter().chain(path).chain(more.iter().cloned()).collect()
}

/// What a file adds to a command line.
fn added(text: &str, typed: &[&str], environment: &FakeEnvironment) -> Vec<String> {
    let cli = cli();
    let entries = file::parse(text, &cli).unwrap();
    let lenient = Cli::command().ignore_errors(true);
    let typed = lenient.try_get_matches_from(["pgwake"].iter().chain(typed)).unwrap();
    let added = effective(&entries, &typed, &cli, environment);
    added.iter().flat_map(Entry::arguments).map(|argument| argument.into_string().unwrap()).collect()
}

#[test]
fn every_option_of_every_command_can_stand_in_a_file() {
    let cli = cli();
    let mut walked = 0;
    for (path, command) in leaves(&cli, &[]) {
        for option in command.get_arguments() {
            let Some(name) = option.get_long().filter(|_| !option.is_hide_set()) else { continue };
            let section = path.join(".");
            if ["config", "help", "version"].contains(&name) {
                let error = file::parse(&format!("[{section}]\n{name} = true\n"), &cli).unwrap_err();
                assert_eq!(error, (2, LineError::CommandLineOnly { key: name.to_owned() }));
                continue;
            }
            let (typed, value) = match option.get_action() {
                ArgAction::SetTrue | ArgAction::Count => (format!("--{name}"), "true".to_owned()),
                ArgAction::Set | ArgAction::Append => {
                    (format!("--{name}={}", sample(option)), format!("{:?}", sample(option)))
                }
                other => panic!("--{name} of {section} has the action {other:?}: the file must learn it"),
            };
            let entries = file::parse(&format!("[{section}]\n{name} = {value}\n"), &cli);
            let entries = entries.unwrap_or_else(|error| panic!("{section} {name}: {error:?}"));
            let from_file: Vec<OsString> = entries.iter().flat_map(Entry::arguments).collect();
            let expected = said(&arguments(&path, &[typed.clone().into()]));
            assert_eq!(said(&arguments(&path, &from_file)), expected, "{section} {typed}");
            assert!(
                expected.contains_key(option.get_id().as_str()),
                "{section} {typed}: the sample is not taken"
            );
            walked += 1;
        }
    }
    assert!(walked > 100, "{walked}");
}

#[test]
fn the_command_line_counts_more_than_the_environment_and_that_more_than_the_file() {
    let none = FakeEnvironment::default();
    let file = "quiet = true\nhost = \"file\"\n[receive]\ndirectory = \"/wal\"\nslot = \"file\"\nno-loop = true\nport = 5433\n";
    let all = ["--quiet", "--host=file", "--directory=/wal", "--slot=file", "--no-loop", "--port=5433"];
    assert_eq!(added(file, &["receive"], &none), all);
    assert_eq!(
        added(file, &["receive", "-S", "x", "-h", "y", "-p1", "-v"], &none),
        ["--directory=/wal", "--no-loop"]
    );
    assert_eq!(
        added(file, &["-v", "receive", "-d", "host=a port=1"], &none)[..2],
        ["--directory=/wal", "--slot=file"]
    );
    let set = FakeEnvironment::default().with_variable("PGHOSTADDR", "1").with_variable("PGPORT", "2");
    assert_eq!(added(file, &["receive"], &set), ["--quiet", "--directory=/wal", "--slot=file", "--no-loop"]);
    // what is for other commands
    assert_eq!(added(file, &["status"], &none), ["--quiet", "--host=file"]);
    assert_eq!(added(file, &["manual"], &none), ["--quiet"]);
}

#[test]
fn a_connection_string_yields_to_the_environment_word_by_word() {
    let file = "dbname = \"host=file port=5433 user=rep sslmode=require\"\n";
    let set = FakeEnvironment::default().with_variable("PGUSER", "x").with_variable("PGSSLMODE", "disable");
    assert_eq!(added(file, &["status"], &set), ["--dbname=host=file port=5433"]);
    assert_eq!(added(file, &["status", "-d", "host=b"], &set), Vec::<String>::new());
    let file = "dbname = \"postgresql://rep@file:1/db\"\n";
    assert_eq!(
        added(file, &["status"], &FakeEnvironment::default()),
        ["--dbname=postgresql://rep@file:1/db"]
    );
    let set = FakeEnvironment::default().with_variable("PGPASSWORD", "x");
    assert!(added("password-file = \"f\"\n", &["status"], &set).is_empty());
    let set = FakeEnvironment::default().with_variable("PGPASSFILE", "x");
    assert_eq!(added("password-file = \"f\"\n", &["status"], &set), ["--password-file=f"]);
    assert!(added("password-file = \"f\"\n", &["status", "-d", "passfile=y"], &set).is_empty());
    assert!(added("password-command = \"c\"\n", &["status", "-W"], &FakeEnvironment::default()).is_empty());
}

#[test]
fn a_section_counts_more_than_what_stands_before_all_sections() {
    let file = "host = \"all\"\nverbose = 2\n[slot]\nhost = \"slots\"\n[slot.list]\nverbose = true\n[standby.create]\nset = [\"a=1\", \"b=2\"]\n";
    let none = FakeEnvironment::default();
    assert_eq!(added(file, &["slot", "list"], &none), ["--host=slots", "--verbose"]);
    assert_eq!(added(file, &["slot", "drop"], &none), ["--verbose", "--verbose", "--host=slots"]);
    assert_eq!(added(file, &["standby", "create"], &none)[3..], ["--set=a=1", "--set=b=2"]);
    let typed = ["standby", "create", "--set", "c=3"];
    assert_eq!(
        added(file, &typed, &none),
        ["--host=all", "--verbose", "--verbose"],
        "a list is replaced whole"
    );
    // its value may be left out
    assert_eq!(added("[status]\nwatch = true\n", &["status"], &none), ["--watch"]);
    assert_eq!(added("[status]\nwatch = 5\n", &["status"], &none), ["--watch=5"]);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let cli = cli();
    let cases = [
        ("slot = \"a\"", 1, "\"slot\" stands outside of its command's section"),
        ("[receive]\n\nslott = \"a\"", 3, "unknown key \"slott\": \"pgwake receive\" has no option --slott"),
        ("hots = \"a\"", 1, "unknown key \"hots\": \"pgwake\" has no option --hots"),
        ("[receive]\nno-loop = \"yes\"", 2, "\"no-loop\" is a flag: true or false"),
        ("[receive]\nslot = true", 2, "\"slot\" takes a value: a string or a number"),
        ("[receive]\nslot = [\"a\"]", 2, "\"slot\" takes one value, not a list"),
        ("[receve]\n", 1, "no command has the name of section [receve]"),
        ("[standby.make]\n", 1, "no command has the name of section [standby.make]"),
        ("config = \"other\"", 1, "\"config\" is said on the command line only"),
        ("[receive]\nslot = \"a\"\nslot = \"b\"", 3, "duplicate key"),
        ("[receive\n", 1, ""),
        ("password = \"hunter2\"", 1, "\"password\" holds a password, which does not belong into this file"),
        ("[receive]\npassword = [\"hunter2\"]", 2, "\"password\" holds a password"),
        (
            "dbname = \"host=a password=hunter2\"",
            1,
            "\"dbname\" holds the secret connection option \"password\"",
        ),
        (
            "[status]\ndbname = \"postgresql://u:hunter2@h\"",
            2,
            "\"dbname\" holds the secret connection option",
        ),
        (
            "dbname = \"host=a sslpassword=hunter2\"",
            1,
            "\"dbname\" holds the secret connection option \"sslpassword\"",
        ),
        ("password = hunter2", 1, ""),
    ];
    for (text, line, told) in cases {
        let (found, error) = file::parse(text, &cli).unwrap_err();
        assert!(found == line && error.to_string().starts_with(told), "{text}: line {found}, {error}");
        let all = format!("{error} {error:?} {:?}", error.hint());
        assert!(!all.contains("hunter2"), "{all}");
    }
    let (_, error) = file::parse("[receive]\nstatus_interval = 5", &cli).unwrap_err();
    assert_eq!(error.hint().unwrap(), "It is written status-interval.");
}

/// What is shown to people as a file is one.
#[test]
fn examples_are_taken() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let unit = read("contrib/pgwake-receive@.service");
    let example = |line: &str| line.strip_prefix("#   ").map(str::to_owned);
    let mut examples = vec![unit.lines().filter_map(example).collect::<Vec<_>>().join("\n")];
    for document in ["README.md", "docs/configuration.md"] {
        let text = read(document);
        let blocks = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        examples.extend(blocks.map(str::to_owned));
    }
    assert!(examples.len() >= 2, "{examples:?}");
    for example in examples {
        let entries = file::parse(&example, &cli()).unwrap_or_else(|error| panic!("{error:?}: {example}"));
        assert!(!entries.is_empty(), "{example}");
    }
}

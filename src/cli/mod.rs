//! The command line: one file a command. Exit codes, hints and printing live here and nowhere else.

mod archive;
mod bench;
mod check;
mod config;
mod connection;
mod exit;
mod front;
mod generate;
mod grid;
mod hints;
mod human;
mod logging;
mod metering;
mod outcome;
mod password_source;
mod pg_basebackup;
mod pg_combinebackup;
mod pg_receivewal;
mod pg_tool;
mod pg_verifybackup;
mod prompt;
mod receive;
mod report;
mod service;
mod signals;
mod slot;
mod standby;
mod standby_create;
mod status;
mod storing;
mod table;
mod values;
mod verify;
mod wal_verify;
mod width;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::handover::{self, Handover};

pub use exit::Exit;

/// Follows a PostgreSQL primary in its wake: standbys that start and stream, and a durable WAL receiver.
#[derive(Debug, Parser)]
#[command(name = "pgwake", version, disable_help_flag = true, disable_version_flag = true)]
#[command(disable_help_subcommand = true, max_term_width = 110)]
#[command(after_help = front::after_help())]
struct Cli {
    #[command(flatten)]
    config: config::ConfigArgs,

    #[command(flatten)]
    logging: logging::LoggingArgs,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help, global = true, display_order = 903)]
    #[arg(help_heading = "General options")]
    help: Option<bool>,

    /// Print version
    #[arg(short = 'V', long, action = clap::ArgAction::Version, display_order = 904)]
    #[arg(help_heading = "General options")]
    version: Option<bool>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make standbys, look at them, promote them, point them elsewhere
    #[command(subcommand)]
    Standby(StandbyCommand),
    Receive(Box<receive::ReceiveArgs>),
    Verify(verify::VerifyArgs),
    Check(Box<check::CheckArgs>),
    Status(Box<status::StatusArgs>),
    /// Look after replication slots
    #[command(subcommand)]
    Slot(SlotCommand),
    /// Look after received WAL
    #[command(subcommand)]
    Wal(WalCommand),
    /// Measure what a server can send and what a disk acknowledges, and keep nothing
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    Backup(Box<archive::BackupArgs>),
    List(archive::ListArgs),
    Restore(Box<archive::RestoreArgs>),
    Prune(archive::PruneArgs),
    Completions(generate::CompletionsArgs),
    Manual(generate::ManualArgs),
}

#[derive(Debug, Subcommand)]
enum StandbyCommand {
    Create(Box<standby_create::CreateArgs>),
    Status(standby::status::StatusArgs),
    Promote(standby::promote::PromoteArgs),
    Follow(Box<standby::follow::FollowArgs>),
    Wait(standby::wait::WaitArgs),
}

#[derive(Debug, Subcommand)]
enum SlotCommand {
    List(slot::ListArgs),
    Create(slot::CreateArgs),
    Drop(slot::DropArgs),
}

#[derive(Debug, Subcommand)]
enum WalCommand {
    /// Check received WAL, in a directory or an archive: every file, every record, every timeline
    Verify(wal_verify::VerifyArgs),
    Fetch(archive::FetchArgs),
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    if let Some(code) = pg_tool::main(std::env::args_os()) {
        return code;
    }
    let arguments = match config::arguments(std::env::args_os().collect(), Cli::command()) {
        Ok(arguments) => arguments,
        Err(error) => {
            let typed: Vec<_> = std::env::args_os().collect();
            logging::init_as_typed(&typed);
            return refused(report::usage(&error, typed.iter().any(|argument| argument == "--json")), &typed);
        }
    };
    let cli = match front::parse(&arguments.all) {
        Ok(cli) => cli,
        // help and version are answers, not errors
        Err(answer) if !answer.use_stderr() => return report::printed(answer.print()).into(),
        Err(error) => {
            logging::init_as_typed(&arguments.all);
            let json = arguments.all.iter().any(|argument| argument == "--json");
            let exit = report::unreadable_arguments(&error, arguments.origin(&error), json);
            return refused(exit, &arguments.all);
        }
    };
    logging::init(&cli.logging);
    match cli.command {
        Command::Standby(StandbyCommand::Create(args)) => standby_create::run(*args).into(),
        Command::Check(args) => check::run(&args).into(),
        Command::Standby(StandbyCommand::Status(args)) => standby::status::run(&args).into(),
        Command::Standby(StandbyCommand::Promote(args)) => standby::promote::run(&args).into(),
        Command::Standby(StandbyCommand::Follow(args)) => standby::follow::run(*args).into(),
        Command::Standby(StandbyCommand::Wait(args)) => standby::wait::run(&args).into(),
        Command::Receive(args) => receive::run(&args).into(),
        Command::Verify(args) => verify::run(&args).into(),
        Command::Status(args) => status::run(&args).into(),
        Command::Slot(SlotCommand::List(args)) => slot::run_list(&args).into(),
        Command::Slot(SlotCommand::Create(args)) => slot::run_create(&args).into(),
        Command::Slot(SlotCommand::Drop(args)) => slot::run_drop(&args).into(),
        Command::Wal(WalCommand::Verify(args)) => wal_verify::run(&args).into(),
        Command::Bench(bench::BenchCommand::Wal(args)) => bench::wal::run(&args).into(),
        Command::Bench(bench::BenchCommand::Backup(args)) => bench::backup::run(*args).into(),
        Command::Wal(WalCommand::Fetch(args)) => archive::run_fetch(&args),
        Command::Backup(args) => archive::run_backup(&args).into(),
        Command::Restore(args) => archive::run_restore(*args).into(),
        Command::Prune(args) => archive::run_prune(&args).into(),
        Command::List(args) => archive::run_list(&args).into(),
        Command::Completions(args) => generate::completions(&args, Cli::command()).into(),
        Command::Manual(args) => generate::manual(&args, Cli::command()).into(),
    }
}

/// A server that recovers takes usage errors of its restore_command for the end of the log.
fn refused(exit: Exit, typed: &[OsString]) -> ExitCode {
    let mut words = typed.iter();
    // options may stand between the two
    let fetches = words.any(|word| word == "wal") && words.any(|word| word == "fetch");
    if fetches { archive::FAULT.into() } else { exit.into() }
}

/// Runs a command's future to its end, and waits for no thread that it leaves behind: after an interruption that may be
/// `pg_ctl`, the resolver, or somebody who does not type a password.
fn block_on<F: Future<Output = Exit>>(json: bool, command: F) -> Exit {
    run_on(json, |runtime| Ok(runtime.block_on(command)))
}

/// The same for a command that leaves quick syncs to the thread that runs it.
fn block_on_handing_over<F: Future<Output = Exit> + Send>(
    json: bool,
    handover: &Handover,
    command: F,
) -> Exit {
    run_on(json, |runtime| handover::block_on(runtime, handover, command))
}

fn run_on(json: bool, run: impl FnOnce(&Runtime) -> std::io::Result<Exit>) -> Exit {
    let ran = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        let exit = run(&runtime);
        runtime.shutdown_background();
        exit
    });
    ran.unwrap_or_else(|error| report::failure(&error, crate::ErrorClass::Operator, json))
}

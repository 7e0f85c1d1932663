//! The command line: one file a command. Exit codes, hints and printing live here and nowhere else.

mod connection;
mod exit;
mod hints;
mod logging;
mod pg_receivewal;
mod pg_tool;
mod receive;
mod report;
mod signals;
mod standby_create;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::Exit;

/// Follows a PostgreSQL primary in its wake: standbys that start and stream, and a durable WAL receiver.
#[derive(Debug, Parser)]
#[command(name = "pgwake", version, disable_help_flag = true, max_term_width = 110)]
#[command(after_help = "\
Connection options are libpq's: a URI or keyword/value string with -d, or -h, -p and -U; the PG* environment,
~/.pgpass and service files count too. Exit codes: 0 done, 1 failed, 2 usage, 3 integrity.")]
struct Cli {
    #[command(flatten)]
    logging: logging::LoggingArgs,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help, global = true)]
    help: Option<bool>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make standbys
    #[command(subcommand)]
    Standby(StandbyCommand),
    /// Receive WAL into a directory, durably, and tell the primary how far
    Receive(Box<receive::ReceiveArgs>),
}

#[derive(Debug, Subcommand)]
enum StandbyCommand {
    /// Clone a running primary into a standby that streams from it
    Create(Box<standby_create::CreateArgs>),
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    if let Some(code) = pg_tool::main(std::env::args_os()) {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // help and version are answers, not errors; a closed pipe is nobody's concern
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    logging::init(&cli.logging);
    match cli.command {
        Command::Standby(StandbyCommand::Create(args)) => standby_create::run(*args).into(),
        Command::Receive(args) => receive::run(&args).into(),
    }
}

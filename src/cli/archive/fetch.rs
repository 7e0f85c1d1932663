//! `pgwake wal fetch`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::super::{block_on, report};
use super::ArchiveArgs;
use crate::archive::{ArchiveStore, AtGap, Fetched, fetch};
use crate::cli::Exit;

/// Get a file of the log out of an archive, for restore_command
///
/// A segment, or a timeline's history. Of a segment that the archive does not have as a whole it gives what is there,
/// and zeros behind that: recovery ends with the last byte that was archived. The file is durable, and under its name
/// only when it is whole.
///
/// What is missing before later WAL is a fault, unless the server has it itself or is a standby: it must not end recovery in
/// the middle of the log.
///
/// Ends with exit code 1 when the archive has no such file, and with 200 when something is wrong, so that a server stops
/// instead of taking a store that is away for the end of the log.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: restore_command = 'pgwake wal fetch --archive s3://wal/db1 %f %p'")]
pub(in crate::cli) struct FetchArgs {
    /// The file's name; the server puts it where %f stands
    #[arg(value_name = "NAME")]
    name: String,

    /// Where it goes; the server puts it where %p stands
    #[arg(value_name = "PATH")]
    path: PathBuf,

    /// Take a gap in the archive for the end of the log, to recover up to there
    #[arg(long)]
    end_at_gap: bool,

    #[command(flatten)]
    archive: ArchiveArgs,
}

/// The exit code of what is no answer to whether the file is there. A server that recovers takes every code up to 125
/// for "there is none".
pub(in crate::cli) const FAULT: u8 = 200;

/// Runs the command.
pub(in crate::cli) fn run(args: &FetchArgs) -> ExitCode {
    // a panic would end with 101, which is one of the codes for "there is none"
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| get(args))).unwrap_or(ExitCode::from(FAULT))
}

fn get(args: &FetchArgs) -> ExitCode {
    let mut found = Fetched::Nothing;
    let exit = block_on(false, async {
        let fetched = async {
            let store = ArchiveStore::open(&args.archive.archive)?;
            let at_gap = if args.end_at_gap { AtGap::End } else { AtGap::Fail };
            fetch(&store, &args.name, &args.path, at_gap).await
        };
        match fetched.await {
            Ok(fetched) => {
                found = fetched;
                Exit::Done
            }
            Err(error) => report::failure(&error, error.class(), false),
        }
    });
    match (exit, found) {
        (Exit::Done, Fetched::Nothing) => ExitCode::FAILURE,
        (Exit::Done, Fetched::Partial { end_lsn }) => {
            tracing::info!("\"{}\" is in the archive up to {end_lsn}", args.name);
            ExitCode::SUCCESS
        }
        (Exit::Done, _) => ExitCode::SUCCESS,
        _ => ExitCode::from(FAULT),
    }
}

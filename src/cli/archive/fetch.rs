//! `pgwake wal fetch`.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::Args;

use super::super::{block_on, report};
use super::ArchiveArgs;
use crate::ErrorClass;
use crate::archive::{Access, ArchiveError, AskingServer, AtGap, Fetched, Prefetched, fetch, prefetch};
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
/// Ends with exit code 1 when the archive has no such file, or a server that asks has as much of it itself, and with 200 when
/// something is wrong, so that a server stops instead of taking a store that is away for the end of the log. A standby would
/// shut down: as long as there is a standby.signal and no recovery.signal, a store that cannot be read is a warning and exit
/// code 1, and it asks its primary. What is damaged, or is not this cluster's, is 200 for a standby too.
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

    /// How many segments to fetch ahead for a server that recovers
    ///
    /// They wait in a directory beside PATH, which is removed 20 seconds after the last of them was asked for. 0: none.
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u8).range(..=64))]
    prefetch: u8,

    /// This is the process that fetches ahead
    #[arg(long, hide = true)]
    ahead: bool,
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
            let address = args.archive.archive.to_string();
            let prefetched = Prefetched::beside(&args.path, &address).filter(|_| args.prefetch > 0);
            if let Some(prefetched) = prefetched.as_ref().filter(|_| args.ahead) {
                prefetch::run(&args.archive.open(Access::Read)?, prefetched, args.prefetch.into()).await?;
                return Ok(Fetched::Segment);
            }
            if let Some(prefetched) = &prefetched
                && prefetched.take(&args.name, &args.path)?
            {
                fetch_ahead(prefetched, &args.name);
                return Ok(Fetched::Segment);
            }
            let at_gap = if args.end_at_gap { AtGap::End } else { AtGap::Fail };
            let fetched = fetch(&args.archive.open(Access::Read)?, &args.name, &args.path, at_gap).await?;
            if let (Some(prefetched), Fetched::Segment) = (&prefetched, fetched) {
                fetch_ahead(prefetched, &args.name);
            }
            Ok(fetched)
        };
        let fetched: Result<Fetched, ArchiveError> = fetched.await;
        match fetched {
            Ok(fetched) => {
                found = fetched;
                Exit::Done
            }
            // it goes on with its primary, and asks here again
            Err(error) if may_be_asked_again(&error) && AskingServer::beside(&args.path).is_standby() => {
                tracing::warn!("{}", report::one_line(&error));
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

/// Not so what the archive has wrong: to pass it over could end in another history.
fn may_be_asked_again(error: &ArchiveError) -> bool {
    matches!(error.class(), ErrorClass::Transient | ErrorClass::Operator)
}

/// Leaves somebody behind who fetches what is asked for next, unless there is one. What cannot be fetched ahead is fetched
/// when it is asked for.
fn fetch_ahead(prefetched: &Prefetched, name: &str) {
    if !prefetched.wants_server(name) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = Command::new(program);
    // a group of its own: the server ends this command's, not that one
    command.args(std::env::args_os().skip(1)).arg("--ahead").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Err(error) = command.spawn() {
        tracing::debug!(%error, "nothing is fetched ahead");
    }
}

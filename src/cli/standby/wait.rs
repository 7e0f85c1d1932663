//! `pgwake standby wait`.

use std::time::Duration;

use clap::Args;

use super::server::{ServerArgs, ServerError, unless_interrupted};
use crate::ErrorClass;
use crate::cli::exit::Exit;
use crate::cli::{human, report};
use crate::pg::Lsn;
use crate::standby::wait::{Reached, WaitError, wait};

/// Wait until a standby has replayed an LSN, so that what was written before can be read there
///
/// On a primary it waits until its own WAL is flushed up to there. Ends with exit code 0 when the LSN is reached, and
/// with 1 when time is over. docs/read-your-writes.md tells how applications do the same.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: lsn=$(psql -d \"host=db1\" -Atc \"SELECT pg_current_wal_lsn()\")
         pgwake standby wait -d \"host=db2\" --lsn \"$lsn\" --timeout 10

JSON: lsn, in_recovery, reached_lsn, seconds.")]
pub(in crate::cli) struct WaitArgs {
    /// The LSN, as servers print it: 16/B374D848
    #[arg(long, value_name = "LSN")]
    lsn: Lsn,

    /// How long to wait; 0 asks once [default: for ever]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,

    #[command(flatten)]
    server: ServerArgs,

    /// Print the result as JSON
    #[arg(help_heading = "More options", long)]
    json: bool,
}

/// How much longer than the wait itself the server may be silent: who waits for 2 seconds wants to know within 3.
const GRACE: Duration = Duration::from_secs(1);

/// Why there is no waiting any more.
#[derive(Debug, thiserror::Error)]
#[error("interrupted by {signal} while waiting for {lsn}")]
struct Interrupted {
    signal: &'static str,
    lsn: Lsn,
}

/// A number of seconds that may have a fraction.
pub(in crate::cli) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "out of range".to_owned())
}

/// Runs the command.
pub(in crate::cli) fn run(args: &WaitArgs) -> Exit {
    crate::cli::block_on(args.json, async {
        match unless_interrupted(connect_and_wait(args)).await {
            Ok(Ok(Ok(reached))) => finish(&reached, args.json),
            Ok(Ok(Err(error))) => report::failure(&error, error.class(), args.json),
            Err(ServerError::Interrupted(signal)) => {
                let error = Interrupted { signal, lsn: args.lsn };
                report::failure(&error, ErrorClass::Operator, args.json)
            }
            Ok(Err(error)) | Err(error) => error.report(args.json),
        }
    })
}

async fn connect_and_wait(args: &WaitArgs) -> Result<Result<Reached, WaitError>, ServerError> {
    let sql = args.server.connect_within(args.timeout.map(|timeout| timeout + GRACE)).await?;
    let reached = wait(&sql, args.lsn, args.timeout).await;
    if reached.is_ok() {
        sql.close().await;
    }
    Ok(reached)
}

fn finish(reached: &Reached, json: bool) -> Exit {
    if json {
        report::print_json(reached)
    } else {
        let verb = if reached.in_recovery { "replayed" } else { "flushed (this is a primary)" };
        let took = human::duration(Duration::from_secs_f64(reached.seconds));
        report::print(&format!("{} is {verb}, after {took}\n", reached.lsn))
    }
}

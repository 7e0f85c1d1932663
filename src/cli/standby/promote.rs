//! `pgwake standby promote`.

use std::time::Duration;

use clap::Args;

use super::server::{ServerArgs, ServerError, unless_interrupted};
use super::wait::parse_seconds;
use crate::ErrorClass;
use crate::cli::exit::Exit;
use crate::cli::{human, report};
use crate::standby::promote::{Objections, PromoteError, PromoteRequest, Promoted, promote};

/// Make a standby the primary, unless the old one still lives
///
/// Asks every host of the standby's primary_conninfo, from here and as the standby would, whether it lives and takes
/// writes; looks what was received and not replayed, and whether replay is paused. Refuses, with the reason, where
/// something speaks against it; warns where synchronous_standby_names will make every commit wait. Then promotes, and waits
/// until the server takes writes. All WAL that was received is replayed first.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: pgwake standby promote -D /srv/pg/standby

JSON: timeline, old_timeline, switch_lsn, unreplayed_bytes, seconds,
synchronous (names, missing, waits).")]
pub(in crate::cli) struct PromoteArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// Promote whatever speaks against it, and warn
    #[arg(help_heading = "More options", long)]
    force: bool,

    /// How long to wait until the server takes writes
    #[arg(help_heading = "More options", long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "60")]
    timeout: Duration,

    /// Print the result as JSON
    #[arg(help_heading = "More options", long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("interrupted by {0}; a promotion that was begun goes on in the server")]
struct Interrupted(&'static str);

/// Runs the command.
pub(in crate::cli) fn run(args: &PromoteArgs) -> Exit {
    crate::cli::block_on(args.json, async {
        match unless_interrupted(connect_and_promote(args)).await {
            Ok(Ok(Ok(promoted))) => finish(&promoted, args.json),
            Ok(Ok(Err(error))) => report::failure(&error, error.class(), args.json),
            Err(ServerError::Interrupted(signal)) => {
                report::failure(&Interrupted(signal), ErrorClass::Operator, args.json)
            }
            Ok(Err(error)) | Err(error) => error.report(args.json),
        }
    })
}

async fn connect_and_promote(args: &PromoteArgs) -> Result<Result<Promoted, PromoteError>, ServerError> {
    let sql = args.server.connect().await?;
    let objections = if args.force { Objections::Override } else { Objections::Heed };
    Ok(promote(&sql, PromoteRequest { objections, timeout: args.timeout }).await)
}

fn finish(promoted: &Promoted, json: bool) -> Exit {
    if json {
        return report::print_json(promoted);
    }
    let number = |timeline: Option<_>| timeline.map_or("unknown".to_owned(), |it| format!("{it}"));
    let took = human::duration(Duration::from_secs_f64(promoted.seconds));
    let mut text =
        format!("promoted: this is the primary, on timeline {}, after {took}\n", number(promoted.timeline));
    if let Some(lsn) = promoted.switch_lsn {
        text += &format!("  it left timeline {} at {lsn}", number(promoted.old_timeline));
        text += &match promoted.unreplayed_bytes {
            0 => "\n".to_owned(),
            bytes => format!(", after replaying {} more\n", human::bytes(bytes)),
        };
    }
    if let Some(outlook) = &promoted.synchronous {
        text += &format!("  {outlook}\n");
        if outlook.stops_commits() {
            text += "    SQL: ALTER SYSTEM SET synchronous_standby_names = '...'; SELECT pg_reload_conf();\n";
        }
    }
    text += "  point other standbys here with: pgwake standby follow -D DIR -d CONNINFO\n";
    report::print(&text)
}

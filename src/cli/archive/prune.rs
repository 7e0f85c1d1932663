//! `pgwake prune`.

use std::time::{Duration, SystemTime};

use clap::Args;

use super::super::signals::Signals;
use super::super::{block_on, human, report};
use super::ArchiveArgs;
use crate::ErrorClass;
use crate::archive::Access;
use crate::cli::Exit;
use crate::repository::RepositoryError;
use crate::repository::prune::{Plan, PruneError, Retention, plan, remove};

/// Remove backups that are no longer wanted, and WAL that no backup needs
///
/// What is kept keeps all that it needs: the backups that an incremental one builds upon, and WAL from the first backup on that stays, or
/// is being taken. At least one backup always stays. A backup counts for the timelines that it leads to: on the newest one what is asked for is kept, on
/// others what is as recent as that. What is left of broken-off backups goes, too, when nothing was put there for a day.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: pgwake prune --archive s3://wal/db1 --keep-window 14d --dry-run")]
pub(in crate::cli) struct PruneArgs {
    #[command(flatten)]
    archive: ArchiveArgs,

    /// Keep what it takes to restore any moment from so long ago until now: 12h, 14d, 4w
    #[arg(long, value_name = "TIME", value_parser = parse_period, required_unless_present = "keep_count")]
    keep_window: Option<Duration>,

    /// Keep so many of the newest full backups, and the incremental ones upon them
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    keep_count: Option<u32>,

    /// How long nothing must have been put into an unfinished backup for it to count as broken off; an hour at least
    ///
    /// A backup that waits, for a store or for its WAL, puts nothing there.
    #[arg(long, value_name = "TIME", value_parser = parse_leftover_age, default_value = "1d")]
    leftover_age: Duration,

    /// Say what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("could not listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("interrupted by {0}; what was not removed yet is still whole, or a leftover")]
    Interrupted(&'static str),
}

/// `90s`, `30m`, `12h`, `14d`, `4w`.
fn parse_period(text: &str) -> Result<Duration, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400), ('w', 604_800)];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(*unit)?.parse().ok()?;
        number.checked_mul(*seconds)
    });
    parsed
        .filter(|seconds| *seconds <= 100 * 366 * 86_400)
        .map(Duration::from_secs)
        .ok_or_else(|| "must be a number with s, m, h, d or w behind it".to_owned())
}

/// Shorter spans pass while a backup waits for a store that is away, and for the WAL that it needs.
const MIN_LEFTOVER_AGE: Duration = Duration::from_secs(3600);

fn parse_leftover_age(text: &str) -> Result<Duration, String> {
    let age = parse_period(text)?;
    if age < MIN_LEFTOVER_AGE {
        return Err("must be 1h or longer".to_owned());
    }
    Ok(age)
}

/// Runs the command.
pub(in crate::cli) fn run(args: &PruneArgs) -> Exit {
    block_on(args.json, async {
        let mut signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(error) => return report::failure(&RunError::Signals(error), ErrorClass::Operator, args.json),
        };
        tokio::select! {
            biased;
            signal = signals.received() => {
                report::failure(&RunError::Interrupted(signal), ErrorClass::Operator, args.json)
            }
            exit = prune(args) => exit,
        }
    })
}

async fn prune(args: &PruneArgs) -> Exit {
    let retention =
        Retention { count: args.keep_count, window: args.keep_window, leftover_age: args.leftover_age };
    let pruned = async {
        let store = args.archive.open(Access::Read).map_err(RepositoryError::from)?;
        let plan = plan(&store, retention, SystemTime::now()).await?;
        if !args.dry_run {
            remove(&store, &plan, |_| {}).await?;
        }
        Ok::<_, PruneError>(plan)
    };
    match pruned.await {
        Ok(plan) if args.json => report::print_json(&json(&plan, args.dry_run)),
        Ok(plan) => report::print(&text(&plan, args.dry_run)),
        Err(error) => report::failure(&error, class(&error), args.json),
    }
}

fn class(error: &PruneError) -> ErrorClass {
    match error {
        PruneError::Repository(error) => error.class(),
        PruneError::Unreadable(_) => ErrorClass::Integrity,
        PruneError::NoRetention => ErrorClass::Operator,
    }
}

fn json(plan: &Plan, is_dry: bool) -> serde_json::Value {
    serde_json::json!({
        "dry_run": is_dry,
        "kept_backups": plan.kept,
        "removed_backups": plan.backups,
        "removed_leftovers": plan.leftovers,
        "removed_wal_objects": plan.wal.len(),
        "removed_backup_objects": plan.object_count,
        "removed_backup_bytes": plan.stored_len,
        "wal_from_lsn": plan.wal_from,
    })
}

fn text(plan: &Plan, is_dry: bool) -> String {
    let mut text = if is_dry { "nothing was removed:\n" } else { "" }.to_owned();
    let removed = if is_dry { "would be removed" } else { "removed" };
    for name in &plan.backups {
        text.push_str(&format!("backup {name} {removed}\n"));
    }
    for name in &plan.leftovers {
        text.push_str(&format!("what is left of backup {name} {removed}\n"));
    }
    let size = human::bytes(plan.stored_len);
    text.push_str(&format!(
        "{} objects of backups ({size}) and {} of WAL {removed}; {} backups stay",
        plan.object_count,
        plan.wal.len(),
        plan.kept.len()
    ));
    match plan.wal_from {
        Some(lsn) => text.push_str(&format!(", and WAL from {lsn} on\n")),
        None => text.push_str(", and all WAL\n"),
    }
    if let Some(name) = &plan.awaited {
        text.push_str(&format!(
            "backup {name} is being taken, and has not begun to copy: until then all WAL stays\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_have_units() {
        for (text, seconds) in
            [("90s", 90), ("30m", 1800), ("12h", 43_200), ("14d", 1_209_600), ("1w", 604_800)]
        {
            assert_eq!(parse_period(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "7", "d", "1.5d", "-1d", "1y", "99999999999999999999d", "999999d"] {
            assert!(parse_period(text).is_err(), "{text}");
        }
        assert_eq!(parse_leftover_age("60m"), Ok(Duration::from_secs(3600)));
        assert!(parse_leftover_age("59m").is_err() && parse_leftover_age("").is_err());
    }
}

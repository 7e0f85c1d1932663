//! `pgwake slot create` and `pgwake slot drop`.
//!
//! Both are replication commands, so that a role that may replicate, and nothing else, can give them. What they cannot
//! tell (where a new slot begins before 15, who uses a slot) is asked in SQL where the role may have that too.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::super::connection::{ConnectError, ConnectionArgs, ConnectionArgsError};
use super::super::exit::Exit;
use super::super::prompt::PromptError;
use super::super::signals::Signals;
use super::super::{block_on, report};
use super::view;
use crate::ErrorClass;
use crate::client::conninfo::Settings;
use crate::client::{ClientError, Connection, Purpose, Sql, open_sql};
use crate::inspect::slots::{ReplicationSlot, slots};
use crate::pg::{Lsn, SlotName};
use crate::wire::command::{DropWhenActive, SlotPersistence, WalReservation};
use crate::wire::server_error::SqlState;

/// How long a server may be silent before it is taken for one that hangs.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a slot that is waited for is looked at, at first and at the most.
const WAIT_INTERVALS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// Make a physical replication slot, which holds WAL from now on
///
/// The role needs REPLICATION, and nothing else.
#[derive(Debug, Args)]
#[command(after_help = "\
--json prints one object: slot, reserved (whether it holds WAL), and restart_lsn (the oldest WAL it holds; null where \
that cannot be asked for).")]
pub(in crate::cli) struct CreateArgs {
    /// The slot's name: lower-case letters, digits and _
    #[arg(value_name = "NAME")]
    name: SlotName,

    /// Hold WAL from the first use on, not from now on
    #[arg(long)]
    no_reserve: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Drop a replication slot; one that is in use only with --wait
///
/// The role needs REPLICATION, and nothing else. A slot that is dropped holds no WAL any more: what used it cannot go on
/// from there.
#[derive(Debug, Args)]
#[command(after_help = "\
--json prints one object: slot, and dropped (true). Failures are objects with error.")]
pub(in crate::cli) struct DropArgs {
    /// The slot's name
    #[arg(value_name = "NAME")]
    name: SlotName,

    /// Wait until nobody uses it; with --wait=SECONDS no longer than that
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, value_parser = parse_wait)]
    #[arg(default_missing_value = "0")]
    wait: Option<Wait>,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// How long to wait; `None` for as long as it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wait(Option<Duration>);

/// The longest wait that can be asked for, in seconds: a year.
const MAX_WAIT: f64 = 366.0 * 86_400.0;

fn parse_wait(text: &str) -> Result<Wait, String> {
    match text.parse::<f64>() {
        Ok(0.0) => Ok(Wait(None)),
        Ok(seconds) if (0.0..=MAX_WAIT).contains(&seconds) => {
            Ok(Wait(Some(Duration::from_secs_f64(seconds))))
        }
        _ => Err("must be a number of seconds (0: as long as it takes)".to_owned()),
    }
}

/// Why a slot was not made, or not dropped.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum SlotError {
    #[error(transparent)]
    Arguments(#[from] ConnectionArgsError),
    #[error(transparent)]
    Prompt(#[from] PromptError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("could not create replication slot \"{slot}\"")]
    Create {
        slot: SlotName,
        #[source]
        source: ClientError,
    },
    #[error("could not drop replication slot \"{slot}\"")]
    Drop {
        slot: SlotName,
        #[source]
        source: ClientError,
    },
    #[error("replication slot \"{slot}\" is in use{}, and was not dropped", by(.user.as_deref()))]
    InUse {
        slot: SlotName,
        /// Who uses it, as far as the role may see, and fit to be printed.
        user: Option<String>,
        #[source]
        source: ClientError,
    },
    #[error(
        "replication slot \"{slot}\" was still in use after {} s{}, and was not dropped", .after.as_secs_f64(),
        by(.user.as_deref())
    )]
    StillInUse { slot: SlotName, user: Option<String>, after: Duration },
    #[error("interrupted by {signal} before replication slot \"{slot}\" was dropped")]
    Interrupted { slot: SlotName, signal: &'static str },
    #[error("could not listen for signals")]
    Signals(#[source] std::io::Error),
}

fn by(user: Option<&str>) -> String {
    user.map(|user| format!(" by {user}")).unwrap_or_default()
}

impl SlotError {
    fn class(&self) -> ErrorClass {
        match self {
            SlotError::Connect(error) => error.class(),
            SlotError::Create { source, .. } | SlotError::Drop { source, .. } => source.class(),
            _ => ErrorClass::Operator,
        }
    }
}

fn fail(error: &SlotError, json: bool) -> Exit {
    match error {
        SlotError::Arguments(error) => report::usage(error, json),
        error => report::failure(error, error.class(), json),
    }
}

/// Runs `pgwake slot create`.
pub(in crate::cli) fn run_create(args: &CreateArgs) -> Exit {
    block_on(args.json, async {
        let slot = &args.name;
        match create(args).await {
            Ok(restart_lsn) if args.json => report::print_json(&serde_json::json!({
                "slot": slot, "reserved": !args.no_reserve, "restart_lsn": restart_lsn,
            })),
            Ok(restart_lsn) => {
                let from = match restart_lsn {
                    Some(lsn) => lsn.to_string(),
                    None if args.no_reserve => "its first use".to_owned(),
                    None => "now".to_owned(),
                };
                report::print(&format!("created slot \"{slot}\", which holds WAL from {from} on\n"))
            }
            Err(error) => fail(&error, args.json),
        }
    })
}

async fn create(args: &CreateArgs) -> Result<Option<Lsn>, SlotError> {
    let (mut replication, settings) = connect(&args.connection).await?;
    let slot = &args.name;
    let reservation = if args.no_reserve { WalReservation::FirstUse } else { WalReservation::Immediate };
    let created = replication.create_physical_slot(slot, SlotPersistence::Permanent, reservation).await;
    created.map_err(|source| SlotError::Create { slot: slot.clone(), source })?;
    // it is made: what cannot be told of it is no failure
    let restart_lsn = if args.no_reserve {
        None
    } else if replication.version().has_read_replication_slot() {
        replication.read_slot(slot).await.ok().flatten().and_then(|state| state.restart_lsn)
    } else {
        find(sql(&settings, &replication).await.as_ref(), slot).await.and_then(|found| found.restart_lsn)
    };
    replication.close().await;
    Ok(restart_lsn)
}

/// Runs `pgwake slot drop`.
pub(in crate::cli) fn run_drop(args: &DropArgs) -> Exit {
    block_on(args.json, async {
        let dropped = async {
            let mut signals = Signals::listen().map_err(SlotError::Signals)?;
            tokio::select! {
                biased;
                signal = signals.received() => {
                    Err(SlotError::Interrupted { slot: args.name.clone(), signal })
                }
                dropped = drop_slot(args) => dropped,
            }
        };
        match dropped.await {
            Ok(()) if args.json => {
                report::print_json(&serde_json::json!({ "slot": args.name, "dropped": true }))
            }
            Ok(()) => report::print(&format!("dropped slot \"{}\"\n", args.name)),
            Err(error) => fail(&error, args.json),
        }
    })
}

/// Drops the slot. The server is never told to wait: it would go on, and drop the slot in the end, after this program
/// was interrupted.
async fn drop_slot(args: &DropArgs) -> Result<(), SlotError> {
    let (mut replication, settings) = connect(&args.connection).await?;
    let slot = &args.name;
    let begin = Instant::now();
    let mut interval = WAIT_INTERVALS.0;
    let mut asking: Option<Option<Sql>> = None;
    loop {
        let source = match replication.drop_slot(slot, DropWhenActive::Fail).await {
            Ok(()) => {
                replication.close().await;
                return Ok(());
            }
            Err(error) if error.sqlstate() == Some(SqlState::OBJECT_IN_USE) => error,
            Err(source) => return Err(SlotError::Drop { slot: slot.clone(), source }),
        };
        let sql = match &mut asking {
            Some(sql) => sql,
            none => none.insert(sql(&settings, &replication).await),
        };
        let found = find(sql.as_ref(), slot).await;
        let mut user = found.and_then(|found| found.used_by).map(|user| view::user(&user));
        let Some(Wait(bound)) = args.wait else {
            return Err(SlotError::InUse { slot: slot.clone(), user, source });
        };
        if interval == WAIT_INTERVALS.0 {
            tracing::info!(
                "waiting until replication slot \"{slot}\" is free: it is in use{}",
                by(user.as_deref())
            );
        }
        // looking is quieter than trying, which the server's log shows as an error each time
        loop {
            let left = bound.map(|bound| bound.saturating_sub(begin.elapsed()));
            if left == Some(Duration::ZERO) {
                let after = bound.unwrap_or_default();
                return Err(SlotError::StillInUse { slot: slot.clone(), user, after });
            }
            tokio::time::sleep(left.map_or(interval, |left| left.min(interval))).await;
            interval = (interval * 2).min(WAIT_INTERVALS.1);
            match find(sql.as_ref(), slot).await {
                Some(found) if found.active => user = found.used_by.as_ref().map(view::user),
                _ => break,
            }
        }
    }
}

/// A replication connection, and the settings that lead to the same server again.
async fn connect(args: &ConnectionArgs) -> Result<(Connection, Settings), SlotError> {
    let mut settings = args.settings("pgwake slot")?;
    settings.connect_timeout = settings.connect_timeout.or(Some(ANSWER_TIMEOUT));
    args.ask_password_if_told(&mut settings).await?;
    let mut replication = args.connect(&mut settings, Purpose::PhysicalReplication).await?;
    replication.set_answer_timeout(settings.connect_timeout);
    Ok((replication, settings))
}

/// A connection for SQL to the same server, where the role may have one.
async fn sql(settings: &Settings, replication: &Connection) -> Option<Sql> {
    let settings = settings.pinned_to(replication.host());
    let silence = settings.connect_timeout.unwrap_or(ANSWER_TIMEOUT);
    let opened = tokio::time::timeout(silence, open_sql(&settings)).await;
    let mut sql = opened.ok()?.ok()?;
    sql.set_answer_timeout(Some(silence));
    Some(sql)
}

async fn find(sql: Option<&Sql>, slot: &SlotName) -> Option<ReplicationSlot> {
    let found = slots(sql?).await.ok()?;
    found.into_iter().find(|found| found.name == slot.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_has_a_bound_or_none() {
        assert_eq!(parse_wait("0"), Ok(Wait(None)));
        assert_eq!(parse_wait("2.5"), Ok(Wait(Some(Duration::from_millis(2500)))));
        for text in ["-1", "nan", "inf", "1e99", "x", ""] {
            assert!(parse_wait(text).is_err(), "{text}");
        }
    }
}

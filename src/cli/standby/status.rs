//! `pgwake standby status`.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::server::{ServerArgs, ServerError, shown, unless_interrupted};
use crate::cli::exit::Exit;
use crate::cli::{human, report};
use crate::client::conninfo::{ConnInfo, Secret};
use crate::inspect::InspectError;
use crate::inspect::recovery::{Recovery, ReplayPause, recovery};
use crate::pg::ClusterState;
use crate::standby::state::{StateError, StoppedState, read_stopped};

/// Show what a standby has received and replayed, and from whom
///
/// Of a data directory on which no server runs it says what its files say. On a primary it says that it is one.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: pgwake standby status -D /srv/pg/standby

JSON: running, in_recovery, system_identifier, timeline, received_lsn,
replayed_lsn, flush_lsn (a primary's), replay_lag_bytes, replay_lag_seconds,
last_transaction_at, replay (\"on\", \"pause requested\", \"paused\"), receiver
(null, or state, silence_seconds, upstream_lsn), upstream, slot; of a stopped
directory besides: state, version, redo_lsn.")]
pub(in crate::cli) struct StatusArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// Print it as JSON
    #[arg(help_heading = "More options", long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error(transparent)]
    State(#[from] StateError),
}

/// What there is to tell of.
enum Found {
    Running(Box<Recovery>),
    Stopped(Box<StoppedState>),
}

/// Runs the command.
pub(in crate::cli) fn run(args: &StatusArgs) -> Exit {
    crate::cli::block_on(args.json, async {
        let found = unless_interrupted(look(args)).await.map_err(StatusError::from).and_then(|found| found);
        match found {
            Ok(found) if args.json => report::print_json(&found.to_json()),
            Ok(found) => report::print(&found.to_text()),
            Err(StatusError::Server(error)) => error.report(args.json),
            Err(StatusError::Inspect(error)) => report::failure(&error, error.class(), args.json),
            Err(StatusError::State(error)) => report::failure(&error, error.class(), args.json),
        }
    })
}

async fn look(args: &StatusArgs) -> Result<Found, StatusError> {
    let Some(settings) = args.server.settings()? else {
        let directory = args.server.pgdata.as_deref().unwrap_or(".".as_ref());
        return Ok(Found::Stopped(Box::new(read_stopped(directory)?)));
    };
    let sql = args.server.connect_with(settings).await?;
    let found = recovery(&sql).await?;
    sql.close().await;
    Ok(Found::Running(Box::new(found)))
}

impl Found {
    fn to_json(&self) -> Value {
        match self {
            Found::Running(recovery) => running_json(recovery),
            Found::Stopped(state) => stopped_json(state),
        }
    }

    fn to_text(&self) -> String {
        let lines = match self {
            Found::Running(recovery) if recovery.in_recovery => standby_lines(recovery),
            Found::Running(recovery) => primary_lines(recovery),
            Found::Stopped(state) => stopped_lines(state),
        };
        let mut text = String::new();
        for (name, value) in lines {
            let _ = writeln!(text, "{name:<18}{value}");
        }
        text
    }
}

type Lines = Vec<(&'static str, String)>;

fn standby_lines(found: &Recovery) -> Lines {
    let mut lines = vec![("in recovery", "yes".to_owned())];
    let receiver = match &found.receiver {
        None => "not running".to_owned(),
        Some(receiver) => {
            let state =
                receiver.status.as_deref().map_or("running (this role may not see more)".into(), shown);
            match receiver.silence_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
                Some(silence) => format!("{state}, heard of {} ago", human::duration(silence)),
                None => state,
            }
        }
    };
    lines.push(("timeline", or_unknown(found.timeline)));
    lines.push(("WAL receiver", receiver));
    lines.push(("upstream", upstream(found).unwrap_or_else(|| unseen(found))));
    lines.push(("slot", slot(found).map_or("none".into(), |slot| shown(&slot))));
    lines.push(("received", or_unknown(found.received_lsn)));
    lines.push(("replayed", or_unknown(found.replayed_lsn)));
    let lag = match (found.replay_lag_bytes(), found.replay_lag()) {
        (Some(0), Some(Duration::ZERO)) => "none".to_owned(),
        (Some(bytes), Some(time)) => format!("{}, {}", human::bytes(bytes), human::duration(time)),
        (Some(bytes), None) => human::bytes(bytes),
        _ => "unknown".to_owned(),
    };
    lines.push(("replay lag", lag));
    if let Some(transaction) = &found.last_transaction {
        let (at, age) = (shown(&transaction.ended_at), human::duration(transaction.age));
        lines.push(("last transaction", format!("{at}, {age} ago")));
    }
    lines.push(("replay", found.pause.map_or("unknown", replay).to_owned()));
    lines
}

fn primary_lines(found: &Recovery) -> Lines {
    vec![
        ("in recovery", "no: this is a primary".to_owned()),
        ("timeline", or_unknown(found.timeline)),
        ("flushed", or_unknown(found.flush_lsn)),
    ]
}

fn stopped_lines(found: &StoppedState) -> Lines {
    let control = &found.control;
    let kind = if found.is_standby { "a standby" } else { "no standby: it has no standby.signal" };
    let address = found.primary_conninfo.as_ref().and_then(address);
    vec![
        ("server", format!("not running; its directory is that of {kind}")),
        ("version", found.major.to_string()),
        ("last state", state(control.state).to_owned()),
        ("system", control.system_identifier.to_string()),
        ("timeline", found.wal_end.timeline.to_string()),
        ("upstream", address.unwrap_or_else(|| "not set in its directory".to_owned())),
        ("slot", found.slot.as_deref().map_or("none".to_owned(), shown)),
        ("recovery begins", control.redo_lsn.to_string()),
        ("replayed at least", control.min_recovery_lsn.map_or("unknown".to_owned(), |lsn| lsn.to_string())),
        ("received", found.wal_end.lsn.to_string()),
    ]
}

fn running_json(found: &Recovery) -> Value {
    let receiver = found.receiver.as_ref().map(|receiver| {
        json!({
            "state": receiver.status,
            "silence_seconds": receiver.silence_seconds,
            "upstream_lsn": receiver.upstream_lsn,
        })
    });
    json!({
        "running": true,
        "in_recovery": found.in_recovery,
        "system_identifier": found.system_identifier,
        "timeline": found.timeline,
        "received_lsn": found.received_lsn,
        "replayed_lsn": found.replayed_lsn,
        "flush_lsn": found.flush_lsn,
        "replay_lag_bytes": found.replay_lag_bytes(),
        "replay_lag_seconds": found.replay_lag().map(|lag| lag.as_secs_f64()),
        "last_transaction_at": found.last_transaction.as_ref().map(|transaction| &transaction.ended_at),
        "replay": found.pause.map(replay),
        "receiver": receiver,
        "upstream": upstream(found),
        "slot": slot(found),
    })
}

fn stopped_json(found: &StoppedState) -> Value {
    json!({
        "running": false,
        "in_recovery": found.is_standby,
        "system_identifier": found.control.system_identifier,
        "timeline": found.wal_end.timeline,
        "received_lsn": found.wal_end.lsn,
        "replayed_lsn": found.control.min_recovery_lsn,
        "upstream": found.primary_conninfo.as_ref().and_then(address),
        "slot": found.slot,
        "state": found.control.state,
        "version": found.major,
        "redo_lsn": found.control.redo_lsn,
    })
}

/// Where the WAL comes from: by the WAL receiver, or else by the settings.
pub(super) fn upstream(found: &Recovery) -> Option<String> {
    let connected = found.receiver.as_ref().and_then(|receiver| {
        let (host, port) = (receiver.host.as_deref()?, receiver.port?);
        Some(format!("{}:{port}", shown(host)))
    });
    connected.or_else(|| found.primary_conninfo.as_ref().and_then(address))
}

fn unseen(found: &Recovery) -> String {
    let is_hidden = found.receiver.as_ref().is_some_and(|receiver| receiver.status.is_none());
    if is_hidden { "this role may not see it" } else { "none that this role can see" }.to_owned()
}

/// The slot in use, or the one that would be.
fn slot(found: &Recovery) -> Option<String> {
    let in_use = found.receiver.as_ref().and_then(|receiver| receiver.slot.clone());
    in_use.or_else(|| found.slot.clone())
}

/// The hosts of a connection string, which may hold a password: nothing else of it is shown.
pub(super) fn address(conninfo: &Secret) -> Option<String> {
    let conninfo = ConnInfo::parse(conninfo.expose()).ok()?;
    let host = conninfo.value("host").or(conninfo.value("hostaddr")).unwrap_or("local socket");
    let port = conninfo.value("port").unwrap_or("5432");
    Some(format!("{}:{}", shown(host), shown(port)))
}

fn replay(pause: ReplayPause) -> &'static str {
    match pause {
        ReplayPause::None => "on",
        ReplayPause::Requested => "pause requested",
        ReplayPause::Paused => "paused",
    }
}

fn state(state: ClusterState) -> &'static str {
    match state {
        ClusterState::ShutDown => "shut down, as a primary",
        ClusterState::ShutDownInRecovery => "shut down in recovery",
        ClusterState::InRecovery => "in recovery: it was cut off",
        ClusterState::InProduction => "in production, as a primary: it was cut off",
        ClusterState::Between => "between two states: it was cut off",
    }
}

fn or_unknown(value: Option<impl ToString>) -> String {
    value.map_or("unknown".to_owned(), |value| value.to_string())
}

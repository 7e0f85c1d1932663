//! `pgwake standby follow`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::super::connection::open_sql;
use super::server::{
    ANSWER_TIMEOUT, ServerError, address_of, connect_sql, lead_to, shown, unless_interrupted,
};
use super::status::{address, upstream};
use super::wait::parse_seconds;
use crate::ErrorClass;
use crate::cli::connection::{ConnectError, ConnectionArgs, ConnectionArgsError};
use crate::cli::exit::Exit;
use crate::cli::report;
use crate::cli::values::parse_application_name;
use crate::client::conninfo::{ConnInfo, Secret, Settings};
use crate::client::{Purpose, Sql};
use crate::inspect::InspectError;
use crate::inspect::recovery::recovery;
use crate::pg::SlotName;
use crate::standby::follow::{FollowConnections, FollowRequest, Followed, StandbyAccess, follow};
use crate::standby::follow_error::FollowError;
use crate::standby::preflight::ExistingSlot;
use crate::standby::state::{StateError, read_stopped};
use crate::standby::streaming::StreamingEvidence;

/// Point a standby at a new primary, after a failover
///
/// Checks that it is the same cluster, that the standby's WAL is a part of the new primary's history, and that the new
/// primary still has what the standby needs. Makes a slot there, writes primary_conninfo and primary_slot_name (with
/// ALTER SYSTEM where the standby runs, into postgresql.auto.conf where it does not), reloads, and waits until the new
/// primary shows it streaming. The connection options are the new primary's.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: pgwake standby follow -D /srv/pg/standby2 -d \"host=db2 user=rep\"

JSON: upstream, timeline, old_timeline, slot, slot_created, running,
streaming, seconds, old_upstream, old_slot.")]
pub(in crate::cli) struct FollowArgs {
    /// The standby's data directory
    #[arg(short = 'D', long, value_name = "DIR")]
    pgdata: PathBuf,

    /// The slot to make for it on the new primary [default: named as the one it has]
    #[arg(short = 'S', long, value_name = "NAME")]
    slot: Option<SlotName>,

    /// Take the slot if it exists there already, and is not in use
    #[arg(long)]
    use_existing_slot: bool,

    /// Make and use no slot: the new primary may remove WAL that the standby needs
    #[arg(long, conflicts_with_all = ["slot", "use_existing_slot"])]
    no_slot: bool,

    #[command(flatten)]
    connection: ConnectionArgs,

    /// How to connect to the standby itself, such as "user=admin" [default: postmaster.pid says
    /// where, as the owner of DIR]
    #[arg(help_heading = "More options", long, value_name = "CONNINFO")]
    standby: Option<String>,

    /// Name of the standby in pg_stat_replication [default: as before, or the slot's]
    #[arg(help_heading = "More options", long, value_name = "NAME", value_parser = parse_application_name)]
    application_name: Option<String>,

    /// How long to wait until it streams
    #[arg(help_heading = "More options", long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "60")]
    timeout: Duration,

    /// Print the result as JSON
    #[arg(help_heading = "More options", long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Follow(Box<FollowError>),
    #[error("could not find data directory \"{}\"", .0.display())]
    Directory(PathBuf, #[source] std::io::Error),
    #[error("the standby has no replication slot now, and none was named")]
    NoSlotNamed,
    #[error(
        "interrupted by {0}; what was done by then stays: a slot on the new primary, the standby's configuration"
    )]
    Interrupted(&'static str),
}

impl From<FollowError> for RunError {
    fn from(error: FollowError) -> Self {
        RunError::Follow(Box::new(error))
    }
}

impl From<StateError> for RunError {
    fn from(error: StateError) -> Self {
        FollowError::from(error).into()
    }
}

impl From<InspectError> for RunError {
    fn from(error: InspectError) -> Self {
        FollowError::from(error).into()
    }
}

/// The standby before anything was changed.
struct Before {
    primary_conninfo: Option<Secret>,
    upstream: Option<String>,
    slot: Option<String>,
}

/// Runs the command.
pub(in crate::cli) fn run(args: FollowArgs) -> Exit {
    let json = args.json;
    crate::cli::block_on(json, async {
        let done = match unless_interrupted(Box::pin(drive(args))).await {
            Ok(done) => done,
            Err(ServerError::Interrupted(signal)) => Err(RunError::Interrupted(signal)),
            Err(error) => Err(error.into()),
        };
        match done {
            Ok(done) => finish(&done, json),
            Err(RunError::Server(error)) => error.report(json),
            Err(RunError::Follow(error)) => report::failure(&*error, error.class(), json),
            Err(error @ RunError::NoSlotNamed) => report::usage(&error, json),
            Err(error) => report::failure(&error, ErrorClass::Operator, json),
        }
    })
}

/// What was done, and what the standby had before.
struct Done {
    followed: Followed,
    directory: PathBuf,
    old_upstream: Option<String>,
    old_slot: Option<String>,
}

async fn drive(args: FollowArgs) -> Result<Done, RunError> {
    let directory = std::fs::canonicalize(&args.pgdata)
        .map_err(|source| RunError::Directory(args.pgdata.clone(), source))?;
    let mut settings = args.connection.settings("pgwake").map_err(ServerError::from)?;
    let (access, before) = look(&args, &directory).await?;
    let slot = match (&args.slot, &before.slot) {
        _ if args.no_slot => None,
        (Some(slot), _) => Some(slot.clone()),
        (None, Some(slot)) => Some(slot.parse().map_err(|_| RunError::NoSlotNamed)?),
        (None, None) => return Err(RunError::NoSlotNamed),
    };
    let connect = |error| ServerError::from(ConnectError::from(error));
    args.connection.ask_password_if_told(&mut settings).await.map_err(connect)?;
    settings.connect_timeout = settings.connect_timeout.or(Some(ANSWER_TIMEOUT));
    let mut replication = args
        .connection
        .connect(&mut settings, Purpose::PhysicalReplication)
        .await
        .map_err(ServerError::from)?;
    replication.set_answer_timeout(settings.connect_timeout);
    let sql = ordinary(&settings.pinned_to(replication.host())).await;
    let old_name = before.primary_conninfo.as_ref().and_then(application_name);
    let request = FollowRequest {
        application_name: args
            .application_name
            .or(old_name)
            .or_else(|| slot.as_ref().map(ToString::to_string))
            .unwrap_or_else(|| "walreceiver".to_owned()),
        existing_slot: if args.use_existing_slot { ExistingSlot::Use } else { ExistingSlot::Refuse },
        directory,
        settings,
        slot,
        timeout: args.timeout,
    };
    let connections = FollowConnections { replication, sql, standby: access };
    let followed = follow(&request, connections).await?;
    Ok(Done { followed, directory: request.directory, old_upstream: before.upstream, old_slot: before.slot })
}

/// Connects to the standby, or reads its directory.
async fn look(args: &FollowArgs, directory: &std::path::Path) -> Result<(StandbyAccess, Before), RunError> {
    let Some(address_now) = address_of(directory)? else {
        let state = read_stopped(directory)?;
        let before = Before {
            upstream: state.primary_conninfo.as_ref().and_then(address),
            primary_conninfo: state.primary_conninfo.clone(),
            slot: state.slot.clone(),
        };
        return Ok((StandbyAccess::Stopped(Box::new(state)), before));
    };
    let usage = |error| ServerError::from(ConnectionArgsError::from(error));
    let mut conninfo = ConnInfo::parse(args.standby.as_deref().unwrap_or_default()).map_err(usage)?;
    lead_to(&mut conninfo, directory, &address_now).map_err(usage)?;
    let settings = args.connection.resolve(&conninfo).map_err(ServerError::from)?;
    let sql = connect_sql(&args.connection, settings.clone()).await?;
    let found = recovery(&sql).await?;
    let before =
        Before { upstream: upstream(&found), primary_conninfo: found.primary_conninfo, slot: found.slot };
    Ok((StandbyAccess::Running { sql: Box::new(sql), settings: Box::new(settings) }, before))
}

fn application_name(primary_conninfo: &Secret) -> Option<String> {
    let conninfo = ConnInfo::parse(primary_conninfo.expose()).ok()?;
    conninfo.value("application_name").filter(|name| !name.is_empty()).map(str::to_owned)
}

/// An ordinary connection to the new primary, where the role may have one.
async fn ordinary(settings: &Settings) -> Option<Sql> {
    match open_sql(&mut settings.clone()).await {
        Ok(mut sql) => {
            sql.set_answer_timeout(settings.connect_timeout);
            Some(sql)
        }
        Err(error) => {
            tracing::debug!("no ordinary connection to the new primary: {error}");
            None
        }
    }
}

fn finish(done: &Done, json: bool) -> Exit {
    let Done { followed, directory, old_upstream, old_slot } = done;
    if json {
        let mut value = json!(followed);
        value["old_upstream"] = json!(old_upstream);
        value["old_slot"] = json!(old_slot);
        return report::print_json(&value);
    }
    let mut text = format!(
        "the standby in \"{}\" follows {}, on timeline {}\n",
        directory.display(),
        followed.upstream.join(", "),
        followed.timeline
    );
    let _ = match (&followed.slot, followed.slot_created) {
        (Some(slot), true) => writeln!(text, "  replication slot \"{slot}\" was made there"),
        (Some(slot), false) => writeln!(text, "  it uses replication slot \"{slot}\", which was there"),
        (None, _) => writeln!(text, "  it uses no replication slot"),
    };
    let _ = match followed.streaming {
        Some(StreamingEvidence::Streaming) => writeln!(text, "  the new primary shows it streaming"),
        Some(StreamingEvidence::SlotInUse) => {
            writeln!(text, "  the new primary shows its slot in use (this role may not see more)")
        }
        None => {
            writeln!(text, "  it does not run; start it with: pg_ctl start -D \"{}\"", directory.display())
        }
    };
    if let Some(slot) = old_slot {
        let (slot, place) = (shown(slot), old_upstream.as_deref().unwrap_or("the old primary"));
        let _ = writeln!(
            text,
            "  slot \"{slot}\" on {place} still holds WAL back, if that server lives:\n    \
             SELECT pg_drop_replication_slot('{slot}');"
        );
    }
    report::print(&text)
}

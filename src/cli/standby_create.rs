//! `pgwake standby create`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::connection::{ConnectError, ConnectionArgs, ConnectionArgsError, open_sql};
use super::exit::Exit;
use super::outcome;
use super::report;
use super::signals::Signals;
use super::values::{MappingArg, parse_application_name, parse_label, parse_rate};
use crate::ErrorClass;
use crate::backup::standby_files::Setting;
use crate::client::conninfo::Settings;
use crate::client::{Connection, Purpose, Sql};
use crate::observe::progress::{CopyProgress, ProgressDisplay, ProgressMode};
use crate::pg::ChecksumAlgorithm;
use crate::pg::SlotName;
use crate::standby::create::{CreateRequest, StartRequest, create, dry_run};
use crate::standby::error::CreateError;
use crate::standby::preflight::ExistingSlot;
use crate::wire::command::CheckpointMode;

/// Clone a running primary into a standby that streams from it
///
/// Makes a slot on the primary, copies the data directory and the WAL written meanwhile, checks every file against the
/// backup manifest, and writes standby.signal, primary_conninfo and primary_slot_name. The directory appears when it is
/// whole and durable, or not at all.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: pgwake standby create -d \"host=db1 user=rep\" -D /srv/pg/standby \\
           --slot standby1 --start")]
pub(super) struct CreateArgs {
    /// The standby's data directory: must not exist, or be empty
    #[arg(short = 'D', long, value_name = "DIR")]
    pgdata: PathBuf,

    /// Name of the replication slot to make for it on the primary
    #[arg(short = 'S', long, value_name = "NAME")]
    slot: SlotName,

    /// Start the standby, and wait until the primary shows it streaming
    #[arg(long)]
    start: bool,

    /// Setting for the standby, such as port=5433 (repeatable)
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = Setting::parse)]
    settings: Vec<Setting>,

    /// Look whether it can be done, and make nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    connection: ConnectionArgs,

    /// Take the slot if it exists already, and is not in use
    #[arg(help_heading = "More options", long)]
    use_existing_slot: bool,

    /// Put the tablespace in OLDDIR into NEWDIR ("\=" for "=" in a path; repeatable)
    #[arg(
        help_heading = "More options",
        short = 'T',
        long = "tablespace-mapping",
        value_name = "OLDDIR=NEWDIR"
    )]
    tablespace_mappings: Vec<MappingArg>,

    /// Keep pg_wal in this directory, and link to it
    #[arg(help_heading = "More options", long, value_name = "DIR")]
    waldir: Option<PathBuf>,

    /// How fast the primary makes the checkpoint that comes first
    #[arg(help_heading = "More options", short, long, value_name = "SPEED", value_enum, default_value_t = CheckpointArg::Fast)]
    checkpoint: CheckpointArg,

    /// Copy at most this much a second: 32k to 1024M
    #[arg(help_heading = "More options", short = 'r', long, value_name = "RATE", value_parser = parse_rate)]
    max_rate: Option<u32>,

    /// Label of the base backup
    #[arg(help_heading = "More options", short, long, value_name = "TEXT", hide_default_value = true, default_value = "pgwake standby create", value_parser = parse_label)]
    label: String,

    /// Name of the standby in pg_stat_replication [default: the slot's]
    #[arg(help_heading = "More options", long, value_name = "NAME", value_parser = parse_application_name)]
    application_name: Option<String>,

    /// Checksum that the primary sends for each file
    #[arg(help_heading = "More options", long, value_name = "ALGORITHM", value_enum, default_value_t = ChecksumsArg::Crc32c, ignore_case = true)]
    manifest_checksums: ChecksumsArg,

    /// Where pg_ctl and postgres are [default: the usual places]
    #[arg(help_heading = "More options", long, value_name = "DIR", requires = "start")]
    bindir: Option<PathBuf>,

    /// How long --start may wait
    #[arg(
        help_heading = "More options",
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        requires = "start"
    )]
    start_timeout: u32,

    /// Print the result as JSON, and no progress
    #[arg(help_heading = "More options", long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CheckpointArg {
    Fast,
    Spread,
}

impl From<CheckpointArg> for CheckpointMode {
    fn from(argument: CheckpointArg) -> Self {
        match argument {
            CheckpointArg::Fast => CheckpointMode::Fast,
            CheckpointArg::Spread => CheckpointMode::Spread,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ChecksumsArg {
    None,
    Crc32c,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// What was typed, and cannot be meant.
#[derive(Debug, thiserror::Error)]
enum ArgsError {
    #[error(transparent)]
    Connection(#[from] ConnectionArgsError),
    #[error("tablespace directory \"{}\" is not absolute", .0.display())]
    RelativeTablespace(PathBuf),
    #[error("WAL directory \"{}\" is not absolute", .0.display())]
    RelativeWalDirectory(PathBuf),
    #[error("could not listen for signals")]
    Signals(#[source] std::io::Error),
}

/// Runs the command.
pub(super) fn run(args: CreateArgs) -> Exit {
    let json = args.json;
    let (request, connection) = match args.into_request() {
        Ok(parts) => parts,
        Err(error) => return report::usage(&error, json),
    };
    super::block_on(json, drive(request, connection, json))
}

/// What was asked for beside the request itself.
struct Driver {
    connection: ConnectionArgs,
    dry_run: bool,
}

async fn drive(mut request: CreateRequest, driver: Driver, json: bool) -> Exit {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return report::failure(&ArgsError::Signals(error), ErrorClass::Operator, json),
    };
    // a prompt hears of a signal too, and says more
    let connected = tokio::select! {
        biased;
        connected = open_connections(&driver.connection, &mut request.settings) => connected,
        signal = signals.received() => return interrupted(signal, json),
    };
    let (mut replication, sql) = match connected {
        Ok(connections) => connections,
        Err(error) => return report::failure(&error, error.class(), json),
    };
    if driver.dry_run {
        let looked = tokio::select! {
            looked = dry_run(&request, &mut replication, sql.as_ref()) => looked,
            signal = signals.received() => return interrupted(signal, json),
        };
        return match looked {
            Ok(found) => finish(&outcome::DryRun::new(&request, &found), json),
            Err(error) => report::failure(&error, error.class(), json),
        };
    }
    let progress = Arc::new(CopyProgress::default());
    let mode = if json { ProgressMode::Hidden } else { ProgressMode::Automatic };
    let display = ProgressDisplay::start(Arc::clone(&progress), mode);
    let created = create(request, replication, sql, progress, signals.received()).await;
    drop(display);
    match created {
        Ok(created) => finish(&outcome::Created::new(&created), json),
        Err(error) => report::failure(&error, error.class(), json),
    }
}

fn finish(outcome: &(impl std::fmt::Display + serde::Serialize), json: bool) -> Exit {
    if json { report::print_json(outcome) } else { report::print(&outcome.to_string()) }
}

/// Before anything was made.
fn interrupted(signal: &'static str, json: bool) -> Exit {
    let error = CreateError::Interrupted(signal);
    report::failure(&error, error.class(), json)
}
/// How long the server may be silent while a connection is made, or where it has nothing to wait for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The replication connection must be had; an ordinary one sees more, but not every role may have one.
async fn open_connections(
    args: &ConnectionArgs,
    settings: &mut Settings,
) -> Result<(Connection, Option<Sql>), ConnectError> {
    args.ask_password_if_told(settings).await?;
    settings.connect_timeout = settings.connect_timeout.or(Some(ANSWER_TIMEOUT));
    let mut replication = args.connect(settings, Purpose::PhysicalReplication).await?;
    replication.set_answer_timeout(Some(ANSWER_TIMEOUT));
    let mut pinned = settings.pinned_to(replication.host());
    let sql = ordinary(&mut pinned).await;
    // the one that was let into: it is asked again whether the standby streams
    settings.dbname = pinned.dbname;
    Ok((replication, sql))
}

/// An ordinary connection, where the role may have one.
async fn ordinary(settings: &mut Settings) -> Option<Sql> {
    match open_sql(settings).await {
        Ok(mut sql) => {
            sql.set_answer_timeout(Some(ANSWER_TIMEOUT));
            Some(sql)
        }
        Err(error) => {
            tracing::info!("no ordinary connection to the server, so less can be checked beforehand");
            tracing::debug!("the reason: {error}");
            None
        }
    }
}

impl CreateArgs {
    fn into_request(self) -> Result<(CreateRequest, Driver), ArgsError> {
        let settings = self.connection.settings("pgwake")?;
        let mut tablespace_mappings = Vec::new();
        for MappingArg(mapping) in self.tablespace_mappings {
            for path in [&mapping.from, &mapping.to] {
                if !path.is_absolute() {
                    return Err(ArgsError::RelativeTablespace(path.clone()));
                }
            }
            tablespace_mappings.push(mapping);
        }
        if let Some(directory) = self.waldir.as_ref().filter(|directory| !directory.is_absolute()) {
            return Err(ArgsError::RelativeWalDirectory(directory.clone()));
        }
        let start = self.start.then(|| StartRequest {
            programs: self.bindir,
            timeout: Duration::from_secs(self.start_timeout.into()),
        });
        let request = CreateRequest {
            settings,
            directory: self.pgdata,
            existing_slot: if self.use_existing_slot { ExistingSlot::Use } else { ExistingSlot::Refuse },
            tablespace_mappings,
            wal_directory: self.waldir,
            checkpoint: self.checkpoint.into(),
            max_rate_kb: self.max_rate,
            label: self.label,
            application_name: self.application_name.unwrap_or_else(|| self.slot.to_string()),
            slot: self.slot,
            manifest_checksums: match self.manifest_checksums {
                ChecksumsArg::None => ChecksumAlgorithm::None,
                ChecksumsArg::Crc32c => ChecksumAlgorithm::Crc32c,
                ChecksumsArg::Sha224 => ChecksumAlgorithm::Sha224,
                ChecksumsArg::Sha256 => ChecksumAlgorithm::Sha256,
                ChecksumsArg::Sha384 => ChecksumAlgorithm::Sha384,
                ChecksumsArg::Sha512 => ChecksumAlgorithm::Sha512,
            },
            standby_settings: self.settings,
            start,
        };
        Ok((request, Driver { connection: self.connection, dry_run: self.dry_run }))
    }
}

//! `pgwake standby create`.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::connection::{ConnectionArgs, ConnectionArgsError};
use super::exit::Exit;
use super::report;
use super::signals::Signals;
use crate::ErrorClass;
use crate::backup::standby_files::Setting;
use crate::client::conninfo::Settings;
use crate::client::{Connection, OpenError, Purpose};
use crate::observe::progress::{CopyProgress, ProgressDisplay, ProgressMode};
use crate::pg::SlotName;
use crate::standby::create::{CreateRequest, Created, StartRequest, TablespaceMapping, create, dry_run};
use crate::standby::error::CreateError;
use crate::standby::preflight::{ExistingSlot, Preflight};
use crate::standby::streaming::StreamingEvidence;
use crate::wire::command::{CheckpointMode, ManifestChecksums};

/// Clone a running primary into a standby that streams from it
///
/// Makes a slot on the primary, copies the data directory and the WAL written meanwhile, checks every file against the
/// backup manifest, and writes standby.signal, primary_conninfo and primary_slot_name. The directory appears when it is
/// whole and durable, or not at all.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    connection: ConnectionArgs,

    /// The standby's data directory: must not exist, or be empty
    #[arg(short = 'D', long, value_name = "DIR")]
    pgdata: PathBuf,

    /// The replication slot to make on the primary, for the standby to stream from
    #[arg(short = 'S', long, value_name = "NAME")]
    slot: SlotName,

    /// Take the slot if it exists already, and is not in use
    #[arg(long)]
    use_existing_slot: bool,

    /// Put the tablespace at OLDDIR on the primary into NEWDIR here (repeatable; "\=" stands for "=" in a path)
    #[arg(short = 'T', long = "tablespace-mapping", value_name = "OLDDIR=NEWDIR")]
    tablespace_mappings: Vec<MappingArg>,

    /// Keep pg_wal in this directory, and link to it
    #[arg(long, value_name = "DIR")]
    waldir: Option<PathBuf>,

    /// How the primary makes the checkpoint that the copy begins with
    #[arg(short, long, value_enum, default_value_t = CheckpointArg::Fast)]
    checkpoint: CheckpointArg,

    /// Copy at most this much a second: 32k to 1024M
    #[arg(short = 'r', long, value_name = "RATE", value_parser = parse_rate)]
    max_rate: Option<u32>,

    /// The backup's label
    #[arg(short, long, default_value = "pgwake standby create")]
    label: String,

    /// The name by which the primary knows the standby (in pg_stat_replication, synchronous_standby_names) [default: the slot's]
    #[arg(long, value_name = "NAME")]
    application_name: Option<String>,

    /// The checksum of each file in the manifest
    #[arg(long, value_enum, default_value_t = ChecksumsArg::Crc32c, ignore_case = true)]
    manifest_checksums: ChecksumsArg,

    /// A setting for the standby's postgresql.auto.conf, such as port=5433 (repeatable)
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = Setting::parse)]
    settings: Vec<Setting>,

    /// Start the standby, and wait until the primary shows it streaming
    #[arg(long)]
    start: bool,

    /// Where the server programs of the primary's major version are [default: the usual places]
    #[arg(long, value_name = "DIR", requires = "start")]
    bindir: Option<PathBuf>,

    /// How long --start may wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "start")]
    start_timeout: u32,

    /// Only look whether it could be done
    #[arg(long)]
    dry_run: bool,

    /// Print the result as JSON, and no progress
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckpointArg {
    Fast,
    Spread,
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
        Err(error) => return report::usage(&error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::failure(&error, ErrorClass::Operator, json),
    };
    runtime.block_on(drive(request, connection, json))
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
    let connected = tokio::select! {
        signal = signals.received() => Err(CreateError::Interrupted(signal)),
        connected = open_connections(&driver.connection, &mut request.settings) => connected.map_err(CreateError::from),
    };
    let (mut replication, mut sql) = match connected {
        Ok(connections) => connections,
        Err(error) => return report::failure(&error, error.class(), json),
    };
    if driver.dry_run {
        return match dry_run(&request, &mut replication, sql.as_mut()).await {
            Ok(found) => print_dry_run(&request, &found, json),
            Err(error) => report::failure(&error, error.class(), json),
        };
    }
    let progress = Arc::new(CopyProgress::default());
    let mode = if json { ProgressMode::Hidden } else { ProgressMode::Automatic };
    let display = ProgressDisplay::start(Arc::clone(&progress), mode);
    let created = create(request, replication, sql, progress, signals.received()).await;
    drop(display);
    match created {
        Ok(created) => print_created(&created, json),
        Err(error) => report::failure(&error, error.class(), json),
    }
}

/// How long the server may be silent while a connection is made, or where it has nothing to wait for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The replication connection must be had; an ordinary one sees more, but not every role may have one.
async fn open_connections(
    args: &ConnectionArgs,
    settings: &mut Settings,
) -> Result<(Connection, Option<Connection>), OpenError> {
    settings.connect_timeout = settings.connect_timeout.or(Some(ANSWER_TIMEOUT));
    let mut replication = args.connect(settings, Purpose::PhysicalReplication).await?;
    replication.set_answer_timeout(Some(ANSWER_TIMEOUT));
    let sql = match crate::client::open(&settings.pinned_to(replication.host()), Purpose::Sql).await {
        Ok(mut sql) => {
            sql.set_answer_timeout(Some(ANSWER_TIMEOUT));
            Some(sql)
        }
        Err(error) => {
            tracing::debug!("no ordinary connection, so some things cannot be checked beforehand: {error}");
            None
        }
    };
    Ok((replication, sql))
}

fn print_created(created: &Created, json: bool) -> Exit {
    if json {
        report::print_json(created);
        return Exit::Done;
    }
    println!(
        "standby created in \"{}\": {} files, {} MB, {:.1} s",
        created.directory.display(),
        created.file_count,
        created.byte_count >> 20,
        created.seconds
    );
    println!(
        "  timeline {}, backup from {} to {}, replication slot \"{}\"",
        created.timeline, created.start_lsn, created.end_lsn, created.slot
    );
    match created.streaming {
        Some(StreamingEvidence::Streaming) => println!("  started; the primary shows it streaming"),
        Some(StreamingEvidence::SlotInUse) => {
            println!("  started; the primary shows its slot in use (this role may not see more)");
        }
        None => println!("  start it with: pg_ctl start -D \"{}\"", created.directory.display()),
    }
    Exit::Done
}

fn print_dry_run(request: &CreateRequest, found: &Preflight, json: bool) -> Exit {
    let size_mb = found.size.map(|bytes| bytes >> 20);
    if json {
        report::print_json(&serde_json::json!({
            "directory": request.directory,
            "slot": request.slot,
            "slot_exists": found.slot_exists,
            "server_version": found.version.to_string(),
            "system_identifier": found.system.system_identifier,
            "timeline": found.system.timeline,
            "wal_segment_size": found.segment_size.as_u64(),
            "size": found.size,
        }));
        return Exit::Done;
    }
    println!("nothing stands against it (nothing was made):");
    println!(
        "  server {}, system {}, timeline {}",
        found.version, found.system.system_identifier, found.system.timeline
    );
    match size_mb {
        Some(size) => println!("  {size} MB to copy into \"{}\"", request.directory.display()),
        None => {
            println!("  to copy into \"{}\"; this role may not see the size", request.directory.display());
        }
    }
    let verb = if found.slot_exists { "use" } else { "create" };
    println!("  would {verb} replication slot \"{}\"", request.slot);
    Exit::Done
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
            checkpoint: match self.checkpoint {
                CheckpointArg::Fast => CheckpointMode::Fast,
                CheckpointArg::Spread => CheckpointMode::Spread,
            },
            max_rate_kb: self.max_rate,
            label: self.label,
            application_name: self.application_name.unwrap_or_else(|| self.slot.to_string()),
            slot: self.slot,
            manifest_checksums: match self.manifest_checksums {
                ChecksumsArg::None => ManifestChecksums::None,
                ChecksumsArg::Crc32c => ManifestChecksums::Crc32c,
                ChecksumsArg::Sha224 => ManifestChecksums::Sha224,
                ChecksumsArg::Sha256 => ManifestChecksums::Sha256,
                ChecksumsArg::Sha384 => ManifestChecksums::Sha384,
                ChecksumsArg::Sha512 => ManifestChecksums::Sha512,
            },
            standby_settings: self.settings,
            start,
        };
        Ok((request, Driver { connection: self.connection, dry_run: self.dry_run }))
    }
}

/// `OLDDIR=NEWDIR`.
#[derive(Debug, Clone)]
struct MappingArg(TablespaceMapping);

#[derive(Debug, thiserror::Error)]
#[error("must be OLDDIR=NEWDIR, with \"\\=\" for \"=\" in a path")]
struct MappingSyntax;

impl FromStr for MappingArg {
    type Err = MappingSyntax;

    fn from_str(text: &str) -> Result<Self, MappingSyntax> {
        let mut parts = vec![String::new()];
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\\' if characters.peek() == Some(&'=') => {
                    parts.iter_mut().last().ok_or(MappingSyntax)?.extend(characters.next());
                }
                '=' => parts.push(String::new()),
                other => parts.iter_mut().last().ok_or(MappingSyntax)?.push(other),
            }
        }
        match <[String; 2]>::try_from(parts) {
            Ok([from, to]) if !from.is_empty() && !to.is_empty() => {
                Ok(MappingArg(TablespaceMapping { from: from.into(), to: to.into() }))
            }
            _ => Err(MappingSyntax),
        }
    }
}

/// A number of kB, or of MB with `M` behind it, as `pg_basebackup --max-rate` takes it.
fn parse_rate(text: &str) -> Result<u32, String> {
    let (number, factor) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1.0),
        Some(b'M') => (&text[..text.len() - 1], 1024.0),
        _ => (text, 1.0),
    };
    let rate =
        number.parse::<f64>().map_err(|_| "not a number, or a unit other than k and M".to_owned())? * factor;
    if (32.0..=1_048_576.0).contains(&rate) {
        Ok(rate as u32)
    } else {
        Err("must be between 32k and 1024M".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_may_hold_an_escaped_equals_sign() {
        let MappingArg(mapping) = r"/a\=b=/c".parse().unwrap();
        assert_eq!((mapping.from, mapping.to), (PathBuf::from("/a=b"), PathBuf::from("/c")));
        for text in ["", "/a", "=/b", "/a=", "/a=/b=/c"] {
            assert!(text.parse::<MappingArg>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn rates_are_pg_basebackups() {
        for (text, rate) in
            [("32", Ok(32)), ("64k", Ok(64)), ("1M", Ok(1024)), ("1.5M", Ok(1536)), ("1024M", Ok(1 << 20))]
        {
            assert_eq!(parse_rate(text), rate, "{text}");
        }
        for text in ["31", "1025M", "1G", "", "k", "M", "nan"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}

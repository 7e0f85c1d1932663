//! `pgwake backup`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::super::connection::{ConnectionArgs, ConnectionArgsError, open_sql};
use super::super::signals::Signals;
use super::super::standby_create::CheckpointArg;
use super::super::values::{parse_duration, parse_label, parse_rate};
use super::super::{block_on, human, report};
use super::ArchiveArgs;
use crate::ErrorClass;
use crate::archive::{Access, ArchiveStore};
use crate::cli::Exit;
use crate::client::Purpose;
use crate::observe::progress::{CopyProgress, ProgressDisplay, ProgressMode};
use crate::pg::ChecksumAlgorithm;
use crate::repository::{BackupKind, TakeError, TakeRequest, Taken, WalChoice, WalPlace, take};

/// Take a base backup straight into an archive, without a copy on this machine
///
/// Compressed on threads of its own, and every file checked against the backup manifest as it passes by. A backup is listed when all of it is in the
/// archive, and the WAL that makes it consistent too: pgwake receive --archive puts that there, or the backup carries
/// it along. What is broken off is listed nowhere; pgwake prune removes what is left of it.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: pgwake backup --archive s3://wal/db1 -d \"host=db1 user=rep\"")]
pub(in crate::cli) struct BackupArgs {
    #[command(flatten)]
    archive: ArchiveArgs,

    /// Take only what changed since the latest backup in the archive (PostgreSQL 17, with summarize_wal = on)
    #[arg(long)]
    incremental: bool,

    #[command(flatten)]
    connection: ConnectionArgs,

    /// Where the WAL goes that makes the backup consistent
    #[arg(help_heading = "More options", long, value_name = "WHERE", value_enum, default_value_t = WalArg::Auto)]
    wal: WalArg,

    /// How long the archive may get nothing of that WAL before the backup fails
    #[arg(help_heading = "More options", long, value_name = "SECONDS", value_parser = parse_duration, default_value = "60")]
    wal_timeout: Duration,

    /// How hard Zstandard tries: 1 is fastest, 19 makes least
    #[arg(help_heading = "More options", short = 'Z', long, value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,

    /// How fast the server makes the checkpoint that comes first
    #[arg(help_heading = "More options", short, long, value_name = "SPEED", value_enum, default_value_t = CheckpointArg::Fast)]
    checkpoint: CheckpointArg,

    /// Take at most this much a second: 32k to 1024M
    #[arg(help_heading = "More options", short = 'r', long, value_name = "RATE", value_parser = parse_rate)]
    max_rate: Option<u32>,

    /// Label of the backup
    #[arg(help_heading = "More options", short, long, value_name = "TEXT", default_value = "pgwake backup", hide_default_value = true, value_parser = parse_label)]
    label: String,

    /// Checksum that the server sends for each file
    #[arg(help_heading = "More options", long, value_name = "ALGORITHM", value_enum, default_value_t = ChecksumsArg::Crc32c, ignore_case = true)]
    manifest_checksums: ChecksumsArg,

    /// Print the result as JSON, and no progress
    #[arg(help_heading = "More options", long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WalArg {
    /// Into the archive where somebody archives there now, else into the backup
    Auto,
    /// Into the archive: the backup waits until it is there
    Archive,
    /// Into the backup, which is then enough for itself
    Include,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ChecksumsArg {
    Crc32c,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// What keeps the command from beginning.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error(transparent)]
    Connection(#[from] ConnectionArgsError),
    #[error("could not listen for signals")]
    Signals(#[source] std::io::Error),
}

/// How long the server may be silent while a connection is made.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the command.
pub(in crate::cli) fn run(args: &BackupArgs) -> Exit {
    block_on(args.json, drive(args))
}

async fn drive(args: &BackupArgs) -> Exit {
    let json = args.json;
    let mut settings = match args.connection.settings("pgwake backup") {
        Ok(settings) => settings,
        Err(error) => return report::usage(&SetupError::from(error), json),
    };
    let store = match args.archive.open(Access::Write) {
        Ok(store) => store,
        Err(error) => return report::failure(&error, error.class(), json),
    };
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return report::failure(&SetupError::Signals(error), ErrorClass::Operator, json),
    };
    settings.connect_timeout = settings.connect_timeout.or(Some(ANSWER_TIMEOUT));
    let connecting = async {
        args.connection.ask_password_if_told(&mut settings).await?;
        let mut replication = args.connection.connect(&mut settings, Purpose::PhysicalReplication).await?;
        replication.set_answer_timeout(Some(ANSWER_TIMEOUT));
        // only its clock is asked for
        let sql = open_sql(&mut settings.pinned_to(replication.host())).await.ok();
        Ok::<_, super::super::connection::ConnectError>((replication, sql))
    };
    let connected = tokio::select! {
        biased;
        connected = connecting => connected,
        signal = signals.received() => {
            return report::failure(&TakeError::Interrupted(signal), ErrorClass::Operator, json);
        }
    };
    let (replication, sql) = match connected {
        Ok(connections) => connections,
        Err(error) => return report::failure(&error, error.class(), json),
    };
    let progress = Arc::new(CopyProgress::default());
    let mode = if json { ProgressMode::Hidden } else { ProgressMode::Automatic };
    let display = ProgressDisplay::start(Arc::clone(&progress), mode);
    let taken = take(args.request(store), replication, sql, progress, signals.received()).await;
    drop(display);
    match taken {
        Ok(taken) if json => report::print_json(&Outcome::new(&taken)),
        Ok(taken) => report::print(&Outcome::new(&taken).to_string()),
        Err(error) => report::failure(&error, error.class(), json),
    }
}

impl BackupArgs {
    fn request(&self, store: ArchiveStore) -> TakeRequest {
        TakeRequest {
            store,
            label: self.label.clone(),
            kind: if self.incremental { BackupKind::Incremental } else { BackupKind::Full },
            wal: match self.wal {
                WalArg::Auto => WalChoice::Automatic,
                WalArg::Archive => WalChoice::Archive,
                WalArg::Include => WalChoice::Include,
            },
            wal_timeout: self.wal_timeout,
            checkpoint: self.checkpoint.into(),
            max_rate_kb: self.max_rate,
            manifest_checksums: match self.manifest_checksums {
                ChecksumsArg::Crc32c => ChecksumAlgorithm::Crc32c,
                ChecksumsArg::Sha224 => ChecksumAlgorithm::Sha224,
                ChecksumsArg::Sha256 => ChecksumAlgorithm::Sha256,
                ChecksumsArg::Sha384 => ChecksumAlgorithm::Sha384,
                ChecksumsArg::Sha512 => ChecksumAlgorithm::Sha512,
            },
            level: self.level,
        }
    }
}

/// What was taken.
#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    backup: serde_json::Value,
    seconds: f64,
    #[serde(skip)]
    text: String,
}

impl Outcome {
    fn new(taken: &Taken) -> Self {
        let record = &taken.record;
        let kind = match &record.parent {
            None => "full".to_owned(),
            Some(parent) => format!("incremental to {parent}"),
        };
        let wal = match record.wal {
            WalPlace::Archive => "the archive has its WAL",
            WalPlace::Included => "it carries its WAL",
        };
        let (stored, content) = (human::bytes(record.stored_len()), human::bytes(record.byte_count));
        let text = format!(
            "backup {} taken: {} files, {content}, {stored} in the archive, {:.1} s\n  {kind}; timeline {}, from {} to \
             {}; {wal}\n",
            record.name,
            record.file_count,
            taken.seconds,
            record.stop.timeline,
            record.start.lsn,
            record.stop.lsn
        );
        Outcome { backup: super::list::backup_json(record), seconds: taken.seconds, text }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

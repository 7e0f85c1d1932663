//! `pgwake restore`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::super::connection::{ConnectionArgs, ConnectionArgsError};
use super::super::signals::Signals;
use super::super::values::{MappingArg, parse_application_name};
use super::super::{block_on, human, report};
use super::ArchiveArgs;
use crate::ErrorClass;
use crate::archive::{Access, ArchiveStore, AtGap};
use crate::backup::standby_files::Setting;
use crate::cli::Exit;
use crate::observe::progress::{CopyProgress, ProgressDisplay, ProgressMode};
use crate::pg::{Lsn, SlotName, TimelineId, Timestamp};
use crate::repository::BackupName;
use crate::repository::restore::{
    RecoveryTarget, RestoreError, RestoreRequest, Restored, Role, StandbyRole, Started, TargetAction,
    TimelineTarget, restore, select,
};
use crate::standby::create::StartRequest;

/// Restore a cluster from an archive: to its end, to a position, a moment or a restore point
///
/// Chooses the backup, gets and checks its files, combines a chain of incremental ones, and writes what makes the server
/// recover: recovery.signal, restore_command and the target. The directory appears when it is whole and durable, or not
/// at all. What cannot be had is refused before anything is made.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples: pgwake restore --archive s3://wal/db1 -D /srv/pg/data --start
          pgwake restore --archive s3://wal/db1 -D /srv/pg/data --target-time \"2026-11-26 13:45:00+01\"
          pgwake restore --archive s3://wal/db1 -D /srv/pg/replica --standby -d \"host=db1 user=rep\" --start")]
pub(in crate::cli) struct RestoreArgs {
    #[command(flatten)]
    archive: ArchiveArgs,

    /// The data directory: must not exist, or be empty
    #[arg(short = 'D', long, value_name = "DIR")]
    pgdata: PathBuf,

    /// Up to this position of the log
    #[arg(help_heading = "Target", long, value_name = "LSN", group = "target")]
    target_lsn: Option<Lsn>,

    /// Up to this moment, such as "2026-11-26 13:45:00+01"
    #[arg(help_heading = "Target", long, value_name = "TIME", group = "target", value_parser = parse_time)]
    target_time: Option<Timestamp>,

    /// Up to this restore point (pg_create_restore_point)
    #[arg(help_heading = "Target", long, value_name = "NAME", group = "target", value_parser = parse_restore_point)]
    target_name: Option<String>,

    /// Along this timeline: a number, "latest" or "current" (the backup's own)
    #[arg(help_heading = "Target", long, value_name = "TIMELINE", default_value = "latest", value_parser = parse_timeline)]
    target_timeline: TimelineTarget,

    /// Up to where WAL is missing, though there is more behind it
    #[arg(help_heading = "Target", long, conflicts_with_all = ["target", "standby"])]
    end_at_gap: bool,

    /// What the server does when it is there
    #[arg(help_heading = "Target", long, value_name = "ACTION", value_enum, default_value_t = ActionArg::Pause)]
    target_action: ActionArg,

    /// Which backup; the latest that leads to the target, unless said
    #[arg(help_heading = "Target", long, value_name = "NAME")]
    backup: Option<BackupName>,

    /// Make a standby of it, that streams from the primary which the connection options name
    #[arg(long, conflicts_with = "target")]
    standby: bool,

    /// The replication slot that the standby streams from
    #[arg(short = 'S', long, value_name = "NAME", requires = "standby")]
    slot: Option<SlotName>,

    /// Start the server, and wait until recovery has ended, or a standby answers
    #[arg(long)]
    start: bool,

    /// Setting for the server, such as port=5433 (repeatable)
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = Setting::parse)]
    settings: Vec<Setting>,

    /// Look whether it can be done, and make nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    connection: ConnectionArgs,

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

    /// Name of the standby in pg_stat_replication [default: the slot's]
    #[arg(help_heading = "More options", long, value_name = "NAME", requires = "standby", value_parser = parse_application_name)]
    application_name: Option<String>,

    /// Where pg_ctl and postgres are [default: the usual places]
    #[arg(help_heading = "More options", long, value_name = "DIR", requires = "start")]
    bindir: Option<PathBuf>,

    /// How long --start may wait
    #[arg(
        help_heading = "More options",
        long,
        value_name = "SECONDS",
        default_value_t = 3600,
        requires = "start"
    )]
    start_timeout: u32,

    /// Print the result as JSON, and no progress
    #[arg(help_heading = "More options", long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ActionArg {
    /// Wait to be looked at; pg_wal_replay_resume() makes it a primary
    Pause,
    /// Become a primary
    Promote,
    /// Shut down
    Shutdown,
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

fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|error: crate::pg::ParseTimestampError| error.to_string())
}

/// The server takes no longer name.
fn parse_restore_point(text: &str) -> Result<String, String> {
    match text.len() {
        1..=63 => Ok(text.to_owned()),
        _ => Err("must have 1 to 63 bytes".to_owned()),
    }
}

fn parse_timeline(text: &str) -> Result<TimelineTarget, String> {
    match text {
        "latest" => Ok(TimelineTarget::Latest),
        "current" => Ok(TimelineTarget::Current),
        number => match number.parse::<TimelineId>() {
            Ok(timeline) => Ok(TimelineTarget::Id(timeline)),
            Err(_) => Err("must be a number, \"latest\" or \"current\"".to_owned()),
        },
    }
}

/// Runs the command.
pub(in crate::cli) fn run(args: RestoreArgs) -> Exit {
    let (json, is_dry) = (args.json, args.dry_run);
    let store = match args.archive.open(Access::Read) {
        Ok(store) => store,
        Err(error) => return report::failure(&error, error.class(), json),
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return report::failure(&RestoreError::Program(error), ErrorClass::Operator, json),
    };
    let request = match args.into_request(store, program) {
        Ok(request) => request,
        Err(error) => return report::usage(&error, json),
    };
    block_on(json, drive(request, is_dry, json))
}

async fn drive(request: RestoreRequest, is_dry: bool, json: bool) -> Exit {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return report::failure(&ArgsError::Signals(error), ErrorClass::Operator, json),
    };
    if is_dry {
        let selected = tokio::select! {
            biased;
            signal = signals.received() => Err(RestoreError::Interrupted(signal)),
            selected = select(&request) => selected.map_err(RestoreError::from),
        };
        return match selected {
            Ok(selection) => {
                let restored =
                    Restored { directory: request.directory, selection, seconds: 0.0, started: None };
                let head = "nothing stands against it (nothing was made):\n";
                finish(&restored, json, head, "")
            }
            Err(error) => report::failure(&error, error.class(), json),
        };
    }
    let progress = Arc::new(CopyProgress::default());
    let mode = if json { ProgressMode::Hidden } else { ProgressMode::Automatic };
    let display = ProgressDisplay::start(Arc::clone(&progress), mode);
    let tail = tail(&request);
    let restored = restore(request, progress, signals.received()).await;
    drop(display);
    match restored {
        Ok(restored) => {
            let (directory, seconds) = (restored.directory.display(), restored.seconds);
            let head = format!("restored to \"{directory}\" in {seconds:.1} s\n");
            finish(&restored, json, &head, tail)
        }
        Err(error) => report::failure(&error, error.class(), json),
    }
}

/// What a server that pauses has to be told.
fn tail(request: &RestoreRequest) -> &'static str {
    let pauses = request.target != RecoveryTarget::Latest
        && request.action == TargetAction::Pause
        && matches!(request.role, Role::Primary);
    if pauses {
        "  it pauses at its target: look whether it is the right one, then \"SELECT pg_wal_replay_resume();\" makes it a \
         primary\n"
    } else {
        ""
    }
}

fn finish(restored: &Restored, json: bool, head: &str, tail: &str) -> Exit {
    let Restored { directory, selection, seconds, started } = restored;
    let record = selection.record();
    if json {
        let chain: Vec<_> = selection.chain.iter().map(|record| &record.name).collect();
        return report::print_json(&serde_json::json!({
            "directory": directory.to_string_lossy(),
            "backups": chain,
            "system_identifier": record.system_identifier,
            "timeline": selection.history.timeline(),
            "consistent_lsn": record.stop.lsn,
            "consistent_time": record.stop.at,
            "archive_end_lsn": selection.reached_lsn,
            "files": record.file_count,
            "bytes": record.byte_count,
            "seconds": seconds,
            "started": started,
        }));
    }
    let mut text = head.to_owned();
    text.push_str(&format!(
        "  backup {}, {}; consistent at {} ({}), timeline {}, the archive ends at {}\n",
        record.name,
        human::bytes(record.byte_count),
        record.stop.lsn,
        record.stop.at,
        selection.history.timeline(),
        selection.reached_lsn
    ));
    if let [others @ .., _] = &selection.chain[..]
        && !others.is_empty()
    {
        let names: Vec<_> = others.iter().map(|record| record.name.as_str()).collect();
        text.push_str(&format!("  built upon {}\n", names.join(", ")));
    }
    text.push_str(&match started {
        Some(Started::Primary) => "  started; recovery has ended, and it is a primary\n".to_owned(),
        Some(Started::Recovering) => "  started; it answers, and goes on recovering\n".to_owned(),
        Some(Started::ShutDown) => "  started; it got to its target and shut down\n".to_owned(),
        None if head.starts_with("nothing") => String::new(),
        None => format!("  start it with: pg_ctl start -D \"{}\"\n", directory.display()),
    });
    text.push_str(tail);
    report::print(&text)
}

impl RestoreArgs {
    fn into_request(self, store: ArchiveStore, program: PathBuf) -> Result<RestoreRequest, ArgsError> {
        let role = if self.standby {
            let application_name = self.application_name.or(self.slot.as_ref().map(ToString::to_string));
            let settings = self.connection.settings("walreceiver")?;
            Role::Standby(Box::new(StandbyRole { settings, slot: self.slot, application_name }))
        } else {
            Role::Primary
        };
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
        let target = match (self.target_lsn, self.target_time, self.target_name) {
            (Some(lsn), _, _) => RecoveryTarget::Lsn(lsn),
            (_, Some(time), _) => RecoveryTarget::Time(time),
            (_, _, Some(name)) => RecoveryTarget::Name(name),
            _ => RecoveryTarget::Latest,
        };
        Ok(RestoreRequest {
            store,
            archive_url: self.archive.archive.whole().to_owned(),
            fetch_options: self.archive.encryption_words(),
            program,
            directory: self.pgdata,
            backup: self.backup,
            target,
            timeline: self.target_timeline,
            at_gap: if self.end_at_gap { AtGap::End } else { AtGap::Fail },
            action: match self.target_action {
                ActionArg::Pause => TargetAction::Pause,
                ActionArg::Promote => TargetAction::Promote,
                ActionArg::Shutdown => TargetAction::Shutdown,
            },
            role,
            tablespace_mappings,
            wal_directory: self.waldir,
            settings: self.settings,
            start: self.start.then(|| StartRequest {
                programs: self.bindir,
                timeout: Duration::from_secs(self.start_timeout.into()),
            }),
        })
    }
}

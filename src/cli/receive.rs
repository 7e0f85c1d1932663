//! `pgwake receive`.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;

use super::archive::{self, ArchiveSlot, finish_archive, open_archive};
use super::connection::{ConnectError, ConnectionArgs};
use super::exit::Exit;
use super::metering::{Meter, MeteringArgs};
use super::pg_tool::compression::{CompressionSpec, CompressionSpecError};
use super::report;
use super::service;
use super::signals::Signals;
use super::storing::Storing;
use crate::ErrorClass;
use crate::archive::{Access, ArchiveError, ArchiveUrl, Gaps, TakeOver, UploadOptions};
use crate::client::conninfo::Settings;
use crate::client::{ClientError, Purpose, open};
use crate::compression::Compression;
use crate::handover::Handover;
use crate::pg::{Lsn, SlotName};
use crate::sink::RecordCheck;
use crate::stream::{
    Backoff, FlushMeaning, MissingSlot, Progress, ReceiveError, ReceiveOptions, Reconnect, Refusal,
    ServerConnector, StartChoice, StreamOptions,
};
use crate::wire::command::{DropWhenActive, SlotPersistence, WalReservation};
use crate::wire::server_error::SqlState;

/// Receive WAL into a directory, durably, and tell the primary how far
///
/// Writes segments as the primary does, the one in progress with .partial behind its name, and timeline histories.
/// Checks every WAL page header and record checksum first, and ends with exit code 3 when one is wrong.
/// Reports as written what the operating system has, as flushed what is durable here, and as applied what is in the
/// archive, if there is one. Goes on after the loss of the connection, and after a failover on the new timeline. Ends with
/// exit code 0 when a signal stops it.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: pgwake receive -d \"host=db1 user=rep\" -D /srv/wal \\
           --slot archive1 --create-slot")]
pub(super) struct ReceiveArgs {
    /// Where the WAL goes; made if it does not exist
    #[arg(short = 'D', long, value_name = "DIR")]
    directory: PathBuf,

    /// Replication slot, which keeps WAL on the primary until it is durable here
    #[arg(short = 'S', long, value_name = "NAME")]
    slot: Option<SlotName>,

    /// Make the slot if it does not exist; after a failover on the new primary, too
    ///
    /// There it is made only if the server still has the WAL that comes next: receiving goes on without a hole, or ends.
    #[arg(long, requires = "slot")]
    create_slot: bool,

    /// Where an empty directory begins without a slot: "current", or an LSN
    #[arg(long, value_name = "WHERE", value_parser = parse_start)]
    start: Option<StartChoice>,

    #[command(flatten)]
    connection: ConnectionArgs,

    /// Put WAL up to this archive, too, and report it as applied when it is there
    ///
    /// s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIR. With pgwake in
    /// synchronous_standby_names, synchronous_commit = remote_apply then waits for the archive. Receiving never waits
    /// for it: what the archive does not have yet is kept in the directory.
    #[arg(help_heading = "Archive", long, value_name = "URL", value_parser = archive::parse_url)]
    #[arg(conflicts_with = "compress")]
    archive: Option<ArchiveUrl>,

    /// How old WAL may get before it is on its way to the archive; 0 for as soon as it is durable
    ///
    /// Each part is an object, and a request that the store may charge for. Where commits wait for the archive, say 0.
    #[arg(help_heading = "Archive", long, value_name = "SECONDS", value_parser = archive::parse_delay)]
    #[arg(default_value = "1s", requires = "archive")]
    archive_delay: Duration,

    /// How long another receiver waits before it takes the archive of one that it does not hear of
    ///
    /// One receiver at a time writes to an archive. It says three times within this that it lives, and stops archiving when it
    /// could not; a second one refuses to start meanwhile.
    #[arg(help_heading = "Archive", long, value_name = "SECONDS", value_parser = archive::parse_lease)]
    #[arg(default_value = "30s", requires = "archive")]
    archive_lease: Duration,

    /// Go on archiving behind a gap that neither the archive nor the directory can fill
    ///
    /// Take a base backup then: a restore cannot go past the gap.
    #[arg(help_heading = "More options", long, requires = "archive")]
    accept_archive_gap: bool,

    /// Take the archive from the receiver that has it, though it lives: that one ends
    #[arg(help_heading = "Archive", long, requires = "archive")]
    take_over: bool,

    /// Report as flushed only what is in the archive, too: where this machine's disk is not to be trusted
    ///
    /// synchronous_commit = on then waits for the archive as remote_apply does, and the slot keeps WAL until it is there. So does
    /// a primary that is told to shut down: for a store that is away it waits a minute.
    #[arg(help_heading = "Archive", long, requires = "archive")]
    require_archive: bool,

    /// A second slot on the primary that keeps WAL until it is in the archive
    ///
    /// Whoever loses this machine goes on from that slot. It is moved in SQL, for which the role has to be able to connect to a
    /// database; --create-slot makes it where it does not exist, after a failover on the new primary, too. The log says when it
    /// is missing, lost or about to be.
    #[arg(help_heading = "Archive", long, value_name = "NAME", requires = "archive")]
    archive_slot: Option<SlotName>,

    /// Receive no more while so much WAL is in the directory and not in the archive: 512MB, 20GB
    ///
    /// The slot keeps the rest on the primary, and commits that wait for this receiver wait. There is a warning at 50 %, 80 %
    /// and 95 %, without this option at these shares of the disk.
    #[arg(help_heading = "Archive", long, value_name = "SIZE", value_parser = archive::parse_size)]
    #[arg(requires = "archive")]
    spool_limit: Option<u64>,

    /// Remove segments from the directory that are in the archive, but keep the latest of them, up to so much
    ///
    /// Only whole segments that are in the archive as such are removed, and never the last two.
    #[arg(help_heading = "Archive", long, value_name = "SIZE", value_parser = archive::parse_size)]
    #[arg(requires = "archive")]
    keep_local: Option<u64>,

    #[command(flatten)]
    encryption: archive::EncryptionArgs,

    /// Store segments compressed: gzip[:1-9], lz4 (which has one level) or zstd[:1-22]
    ///
    /// A segment that was begun in another format is finished in that one. Timeline histories are always plain.
    #[arg(help_heading = "More options", short = 'Z', long, value_name = "METHOD[:LEVEL]", value_parser = parse_compression)]
    compress: Option<Compression>,

    /// Stop when everything before this LSN is durable
    #[arg(help_heading = "More options", short = 'E', long, value_name = "LSN")]
    endpos: Option<Lsn>,

    /// Fail when the connection is lost or the disk is full, instead of trying again
    #[arg(help_heading = "More options", short = 'n', long)]
    no_loop: bool,

    /// Tell the primary how far at least this often (0: when there is news)
    #[arg(help_heading = "More options", short, long, value_name = "SECONDS", default_value_t = 10)]
    status_interval: u32,

    /// Take a primary for lost that is silent for so long (0: never)
    #[arg(help_heading = "More options", long, value_name = "SECONDS", default_value_t = 60)]
    receive_timeout: u32,

    #[command(flatten)]
    metering: MeteringArgs,

    /// Write WAL without checking page headers and record checksums first
    #[arg(help_heading = "More options", long)]
    no_verify_records: bool,

    /// Print the outcome as JSON
    #[arg(help_heading = "More options", long)]
    json: bool,
}

/// What failed before anything was received.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("could not create replication slot \"{slot}\"")]
    CreateSlot { slot: SlotName, source: ClientError },
    #[error("could not ask the server where its WAL ends")]
    Identify(#[source] ClientError),
    #[error("could not drop replication slot \"{slot}\"")]
    DropSlot { slot: SlotName, source: ClientError },
    #[error("could not create directory \"{}\"", .path.display())]
    CreateDirectory { path: PathBuf, source: std::io::Error },
    #[error("could not set up the program")]
    Setup(#[source] std::io::Error),
    #[error("could not begin to archive")]
    Archive(#[from] ArchiveError),
}

impl SetupError {
    fn class(&self) -> ErrorClass {
        match self {
            SetupError::Connect(error) => error.class(),
            SetupError::CreateSlot { source, .. }
            | SetupError::Identify(source)
            | SetupError::DropSlot { source, .. } => source.class(),
            SetupError::Archive(error) => error.class(),
            SetupError::CreateDirectory { .. } | SetupError::Setup(_) => ErrorClass::Operator,
        }
    }
}

/// Runs the command.
pub(super) fn run(args: &ReceiveArgs) -> Exit {
    let settings = match args.connection.settings("pgwake") {
        Ok(settings) => settings,
        Err(error) => return report::usage(&error, args.json),
    };
    let handover = Handover::default();
    super::block_on_handing_over(args.json, &handover, drive(args, settings, &handover))
}

async fn drive(args: &ReceiveArgs, mut settings: Settings, handover: &Handover) -> Exit {
    let mut signals = match Signals::listen_as_service() {
        Ok(signals) => signals,
        Err(error) => return report::failure(&SetupError::Setup(error), ErrorClass::Operator, args.json),
    };
    let meter = Meter::start(&args.metering, Duration::from_secs(args.receive_timeout.into()));
    let mut meter = match meter {
        Ok(meter) => meter,
        Err(error) => return report::failure(&error, ErrorClass::Operator, args.json),
    };
    service::ready();
    // a server that lets nobody in and says nothing must not be waited for any longer than one that streams
    settings.connect_timeout = settings.connect_timeout.or(args.silence());
    // a prompt hears of a signal too, and takes it for a failure
    let prepared = tokio::select! {
        biased;
        prepared = prepare(args, &mut settings, &meter) => prepared,
        _signal = signals.received() => return Exit::Done,
    };
    let made = match prepared {
        Ok(made) => made,
        Err(error) => {
            meter.failed(error.class());
            return report::failure(&error, error.class(), args.json);
        }
    };
    let opening = async {
        let Some(url) = &args.archive else { return Ok(None) };
        let store = args.encryption.open(url, Access::Write)?;
        open_archive(store, url, args.upload_options(), &args.directory).await.map(Some)
    };
    let opened = tokio::select! {
        biased;
        opened = opening => opened,
        _signal = signals.received() => return Exit::Done,
    };
    let uploader = match opened {
        Ok(uploader) => uploader,
        Err(error) => {
            let class = error.class();
            meter.failed(class);
            if let Some(made) = made {
                made.drop_again().await;
            }
            return report::failure(&SetupError::Archive(error), class, args.json);
        }
    };
    meter.watch_slot(&settings, args.slot.as_ref());
    let archive_slot = args.archive_slot.as_ref().zip(uploader.as_ref());
    let archive_slot = archive_slot.and_then(|(slot, uploader)| {
        let measured = meter.archive_slot();
        ArchiveSlot::start(slot, settings.clone(), uploader.watch(), args.create_slot, measured)
    });
    if let Some(uploader) = &uploader {
        meter.watch_archive(uploader.watch());
    }
    let (sender, progress) = watch::channel(Progress::default());
    let mut connector = ServerConnector::new(settings);
    let shutdown = async {
        let signal = signals.received().await;
        tracing::info!("received {signal}, stopping");
        meter.stopping();
        service::stopping();
    };
    let options = args.options(made.as_ref());
    let storing = Storing {
        options: &options,
        directory: &args.directory,
        compression: args.compress.unwrap_or_default(),
        archive: uploader.as_ref(),
        meter: &meter,
        progress: &sender,
        handover,
    };
    let received = tokio::select! {
        received = storing.run(&mut connector, shutdown) => received,
        never = service::keep_telling(progress.clone()) => match never {},
    };
    let progress = *progress.borrow();
    // what came before a failure is worth as much
    let archived = finish_archive(uploader).await;
    if let Some(slot) = archive_slot {
        slot.finish().await;
    }
    match received {
        Ok(_) => match archived {
            Ok(()) => print_outcome(&progress, args.endpos, args.json),
            Err(error) => {
                let class = error.class();
                report::failure(&SetupError::Archive(error), class, args.json)
            }
        },
        Err(error) => {
            meter.failed(error.class());
            let in_vain =
                |made: &MadeSlot| progress.timeline.is_none() || (made.is_only_server && is_hole(&error));
            if let Some(made) = made.filter(in_vain) {
                made.drop_again().await;
            }
            fail(&error, args.json)
        }
    }
}

/// A slot that this run has made.
struct MadeSlot {
    name: SlotName,
    /// The server that has it.
    settings: Settings,
    /// Where the server's WAL ended just before: all from here on is wanted.
    before_lsn: Lsn,
    /// There is no other: where there is, that one may be the one without the WAL, and the slot still hold it here.
    is_only_server: bool,
}

/// How long the server may take to drop a slot that was made in vain.
const DROP_SLOT_TIMEOUT: Duration = Duration::from_secs(20);

impl MadeSlot {
    /// Nothing was ever streamed: the slot would hold WAL back that nobody fetches.
    async fn drop_again(self) {
        let slot = &self.name;
        let dropped = async {
            let mut connection =
                open(&self.settings, Purpose::PhysicalReplication).await.map_err(ConnectError::from)?;
            let dropped = connection.drop_slot(slot, DropWhenActive::Fail).await;
            dropped.map_err(|source| SetupError::DropSlot { slot: slot.clone(), source })
        };
        match tokio::time::timeout(DROP_SLOT_TIMEOUT, dropped).await {
            Ok(Ok(())) => tracing::info!("dropped replication slot \"{slot}\" again: nothing was received"),
            Ok(Err(error)) => {
                let error = report::one_line(&error);
                tracing::warn!(
                    error,
                    "replication slot \"{slot}\" is left on the server, and holds WAL back there"
                );
            }
            Err(_) => {
                tracing::warn!("replication slot \"{slot}\" is left on the server, and holds WAL back there");
            }
        }
    }
}

/// A slot that was made after the WAL was gone helps nobody.
fn is_hole(error: &ReceiveError) -> bool {
    matches!(error, ReceiveError::Refused { refusal: Refusal::WalRemoved(_), .. })
}

fn fail(error: &ReceiveError, json: bool) -> Exit {
    report::failure(error, error.class(), json)
}

/// What is done once, before the first stream, and again until a server that cannot be had is there.
async fn prepare(
    args: &ReceiveArgs,
    settings: &mut Settings,
    meter: &Meter,
) -> Result<Option<MadeSlot>, SetupError> {
    create_directory(&args.directory)
        .map_err(|source| SetupError::CreateDirectory { path: args.directory.clone(), source })?;
    args.connection.ask_password_if_told(settings).await.map_err(ConnectError::from)?;
    let limits = ReceiveOptions::default();
    let mut backoff = Backoff::new(limits.first_wait, limits.longest_wait, fastrand::u64(..));
    loop {
        match prepare_once(args, settings).await {
            Err(error) if error.class() == ErrorClass::Transient && !args.no_loop => {
                let wait = backoff.next_wait();
                meter.count_error(error.class());
                tracing::warn!(error = report::one_line(&error), ?wait, "no connection; trying again");
                tokio::time::sleep(wait).await;
            }
            result => return result,
        }
    }
}

/// The password is asked for, the slot made.
async fn prepare_once(args: &ReceiveArgs, settings: &mut Settings) -> Result<Option<MadeSlot>, SetupError> {
    let Some(slot) = args.slot.as_ref().filter(|_| args.create_slot) else {
        return match args.connection.ask_password_if_needed(settings).await {
            // receiving tries again for as long as it takes
            Err(error) if error.class() != ErrorClass::Transient || args.no_loop => Err(error.into()),
            _ => Ok(None),
        };
    };
    let mut connection = args.connection.connect(settings, Purpose::PhysicalReplication).await?;
    connection.set_answer_timeout(args.silence());
    let before_lsn = connection.identify_system().await.map_err(SetupError::Identify)?.flush_lsn;
    let is_only_server = settings.hosts.len() == 1;
    let settings = settings.pinned_to(connection.host());
    let created =
        connection.create_physical_slot(slot, SlotPersistence::Permanent, WalReservation::Immediate).await;
    connection.close().await;
    match created {
        Ok(()) => {
            tracing::info!("created replication slot \"{slot}\"");
            Ok(Some(MadeSlot { name: slot.clone(), settings, before_lsn, is_only_server }))
        }
        Err(error) if error.sqlstate() == Some(SqlState::DUPLICATE_OBJECT) => Ok(None),
        Err(source) => Err(SetupError::CreateSlot { slot: slot.clone(), source }),
    }
}

/// Makes it durably, for its owner alone, unless it is there.
fn create_directory(directory: &Path) -> std::io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
            std::fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        }
    }
}

fn print_outcome(progress: &Progress, stop_lsn: Option<Lsn>, json: bool) -> Exit {
    // a stop position is exact: beyond it is only what began beyond it
    let began_beyond = stop_lsn.filter(|stop_lsn| progress.received_lsn > *stop_lsn);
    let warning = began_beyond.map(|stop_lsn| {
        format!(
            "nothing was received: the end position {stop_lsn} lies before {}, where receiving would have begun",
            progress.received_lsn
        )
    });
    if let Some(warning) = &warning {
        tracing::warn!("{warning}; WAL before that is here only if it was in the directory already");
    }
    if json {
        return report::print_json(&serde_json::json!({
            "timeline": progress.timeline,
            "received_lsn": progress.received_lsn,
            "flush_lsn": progress.flush_lsn,
            "warning": warning,
        }));
    }
    if let (Some(timeline), None) = (progress.timeline, warning) {
        tracing::info!("stopped at {} on timeline {timeline}; all of it is durable", progress.flush_lsn);
    }
    Exit::Done
}

impl ReceiveArgs {
    /// The longest silence of the primary's; `None`: any.
    fn silence(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.receive_timeout.into())).filter(|silence| !silence.is_zero())
    }

    fn upload_options(&self) -> UploadOptions {
        UploadOptions {
            delay: self.archive_delay,
            lease: self.archive_lease,
            gaps: if self.accept_archive_gap { Gaps::Accept } else { Gaps::Refuse },
            take_over: if self.take_over { TakeOver::Now } else { TakeOver::Never },
            spool_limit: self.spool_limit,
            keep_len: self.keep_local,
        }
    }

    /// A server before version 15 cannot tell where a slot begins. One that was made here begins, by the segment, no
    /// later than where the server's WAL ended before.
    fn options(&self, made: Option<&MadeSlot>) -> ReceiveOptions {
        let made = made.map(|made| StartChoice::At(made.before_lsn));
        ReceiveOptions {
            stream: StreamOptions {
                slot: self.slot.clone(),
                missing_slot: if self.create_slot { MissingSlot::Create } else { MissingSlot::Refuse },
                status_interval: Duration::from_secs(self.status_interval.into()),
                receive_timeout: Duration::from_secs(self.receive_timeout.into()),
                flush_meaning: if self.require_archive {
                    FlushMeaning::Archived
                } else {
                    FlushMeaning::Durable
                },
                record_check: if self.no_verify_records { RecordCheck::Off } else { RecordCheck::On },
                ..StreamOptions::default()
            },
            start: self.start.or(made).unwrap_or_default(),
            stop_lsn: self.endpos,
            reconnect: if self.no_loop { Reconnect::Never } else { Reconnect::Always },
            seed: fastrand::u64(..),
            ..ReceiveOptions::default()
        }
    }
}

fn parse_compression(text: &str) -> Result<Compression, CompressionSpecError> {
    CompressionSpec::parse(text).map(CompressionSpec::compression)
}

fn parse_start(text: &str) -> Result<StartChoice, String> {
    match text {
        "current" => Ok(StartChoice::Current),
        lsn => lsn
            .parse()
            .map(StartChoice::At)
            .map_err(|_| "neither \"current\" nor an LSN such as 0/3000000".to_owned()),
    }
}

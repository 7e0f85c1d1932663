//! The backup itself (`BaseBackup`): commands, archives, WAL, and what is said of them.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::directories::{self, Made};
use super::options::{Destination, Options, WalMethod};
use super::progress::{ProgressReport, Urgency};
use super::recovery::standby_files;
use super::sink::{BackupSink, Beginning, Whole};
use super::slot::OwnSlot;
use super::wal::{WalBeside, WalFailure, WalRequest};
use crate::backup::tablespace_map::MapEscapes;
use crate::backup::{
    Announced, ArchiveEnd, ArchiveEvent, ArchiveName, ArchiveStream, ArchiveStreamError, BackupError,
    DirectoryModes, ManifestRequest, StandbyFiles, SyncMethod, TablespacePlace, TablespaceTarget, WalMembers,
};
use crate::cli::pg_tool::connection::{check_version, command_failed, libpq_text, plain, with_causes};
use crate::cli::pg_tool::{Failed, Invocation};
use crate::client::conninfo::Settings;
use crate::client::{
    BackupEnd, BackupStage, BackupStep, BaseBackupStream, ClientError, Connection, Tablespace,
    UploadManifestError,
};
use crate::compression::CompressionMethod;
use crate::pg::version::BaseBackupSyntax;
use crate::pg::{Lsn, ServerVersion};
use crate::standby::copy::archive_names;
use crate::stream::BackgroundReceive;
use crate::wire::command::{BaseBackup, ManifestOptions};
use crate::wire::server_error::SqlState;

/// What a run works with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session<'a> {
    pub(super) tool: &'a Invocation,
    pub(super) options: &'a Options,
    /// They lead to the server that the backup comes from.
    pub(super) settings: &'a Settings,
    /// What was given, all hosts included: what a standby is told.
    pub(super) named: &'a Settings,
    pub(super) modes: DirectoryModes,
}

/// What of a run has to be looked after when it is broken off.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// A step that goes on whatever happens.
    pub(super) blocking: Option<JoinHandle<()>>,
    /// The WAL's stream, as long as it is being begun.
    pub(super) starting: Option<BackgroundReceive>,
    /// A slot that outlives the connection that makes it.
    pub(super) slot: Option<OwnSlot>,
}

impl Run {
    /// Stops what is under way, so that nothing more is made or written. Afterwards it is known, if it can be, whether
    /// the server has made a slot.
    pub(super) async fn stop(&mut self) {
        // a step that cannot be interrupted: nothing may be written to what is taken away
        if let Some(step) = self.blocking.take() {
            let _ = step.await;
        }
        if let Some(slot) = &mut self.slot {
            slot.wait_for_answer().await;
        }
        self.starting = None;
    }
}

impl Session<'_> {
    /// Takes the backup.
    pub(super) async fn back_up(
        &self,
        connection: &mut Connection,
        made: &mut Made,
        run: &mut Run,
    ) -> Result<(), Failed> {
        let Session { tool, options, .. } = *self;
        let version = connection.version();
        check_version(tool, connection)?;
        let standby = match &options.destination {
            Destination::Server(_) => None,
            _ => standby_files(tool, options, self.named, connection)?,
        };
        let identity = connection.identify_system().await;
        let identity = identity.map_err(|error| tool.error(command_failed("IDENTIFY_SYSTEM", &error)))?;
        self.upload_manifest(connection).await?;
        self.check_abilities(version)?;
        let settings = self.settings.clone();
        let mut progress = ProgressReport::new(options.show_progress, options.verbose);
        self.say("initiating base backup, waiting for checkpoint to complete");
        progress.waiting_for_checkpoint();
        let request = self.request(version);
        let opening = connection.open_base_backup(&request).await;
        let opening = opening.map_err(|error| self.failed("could not initiate base backup", &error))?;
        let start = opening.start();
        self.say("checkpoint completed");
        let has_wal = options.wal != WalMethod::None;
        if has_wal {
            let (lsn, timeline) = (shown(start.lsn, version), start.timeline);
            self.say(&format!("write-ahead log start point: {lsn} on timeline {timeline}"));
        }
        let stream = opening.tablespaces().await;
        let mut stream = stream.map_err(|error| self.failed("could not get backup header", &error))?;
        let count = stream.tablespaces().len();
        let sizes = stream.tablespaces().iter().filter_map(|tablespace| tablespace.size_kb);
        progress.expect(count, sizes.fold(0, u64::saturating_add));
        let beginning = self.beginning(version, stream.tablespaces(), standby, made)?;
        if matches!(options.destination, Destination::Stdout { .. }) && count > 1 {
            let text = format!("can only write single tablespace to stdout, database has {count}");
            return Err(tool.error(text));
        }
        let sink = BackupSink::open(options, beginning).map_err(|error| self.backup_error(&error))?;
        if matches!(sink, BackupSink::Plain(_)) {
            stream.place_content();
        }
        let mut wal = None;
        if let WalMethod::Stream(plan) = &options.wal {
            self.say("starting background WAL receiver");
            let system_identifier = identity.system_identifier;
            let modes = self.modes;
            let request = WalRequest { tool, options, settings, version, modes, system_identifier, start };
            wal = Some(WalBeside::start(request, plan, run).await?);
        }
        let copy = Copy { session: *self, version, progress, tablespace: 0, copies: 0, stream, sink, wal };
        let (end, sink, wal) = copy.run(made).await?;
        let mut archive = None;
        if let Some(wal) = wal {
            self.say("waiting for background process to finish streaming ...");
            archive = wal.finish(tool, end).await?;
        }
        let changed_parents = std::mem::take(&mut made.changed_parents);
        self.conclude(sink, archive, changed_parents, run).await
    }

    /// From what has come to a backup.
    async fn conclude(
        &self,
        sink: BackupSink,
        archive: Option<crate::backup::WalArchive>,
        changed_parents: Vec<PathBuf>,
        run: &mut Run,
    ) -> Result<(), Failed> {
        let options = self.options;
        let complete = move || -> Result<Whole, BackupError> {
            let mut whole = sink.complete()?;
            if let Some(archive) = archive {
                whole.add_wal(archive)?;
            }
            Ok(whole)
        };
        let mut whole = self.blocking(run, complete).await?;
        let to_files = options.destination.directory().is_some();
        if options.sync != SyncMethod::None && !matches!(options.destination, Destination::Server(_)) {
            self.say("syncing data to disk ...");
            let sync = move || {
                whole.sync()?;
                directories::sync_all(&changed_parents)?;
                Ok(whole)
            };
            whole = self.blocking(run, sync).await?;
        }
        if to_files && options.manifest.is_some() {
            self.say("renaming backup_manifest.tmp to backup_manifest");
        }
        for tablespace in self.blocking(run, move || whole.publish()).await? {
            self.tool.warn(format!(
                "tablespace {} was created meanwhile: recovery will create it, in the directory \"{}\"",
                tablespace.oid,
                tablespace.location.escape_ascii()
            ));
        }
        // nothing that was made is to be taken back now
        run.slot = None;
        self.say("base backup completed");
        Ok(())
    }

    /// Runs a step that blocks, and cannot be broken off.
    async fn blocking<T: Send + 'static>(
        &self,
        run: &mut Run,
        step: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
    ) -> Result<T, Failed> {
        let (sender, result) = oneshot::channel();
        run.blocking = Some(tokio::task::spawn_blocking(move || {
            // nobody waits for the result of a run that was broken off
            let _ = sender.send(step());
        }));
        // a panic has been printed
        let result = result.await.map_err(|_| Failed)?;
        run.blocking = None;
        result.map_err(|error| self.backup_error(&error))
    }

    /// What is asked for, and this server cannot do.
    fn check_abilities(&self, version: ServerVersion) -> Result<(), Failed> {
        let has_options = version.base_backup_syntax() == BaseBackupSyntax::Options;
        if matches!(self.options.destination, Destination::Server(_)) {
            if !has_options {
                return Err(self.tool.error("backup targets are not supported by this server version"));
            }
            if self.options.write_recovery_conf {
                let text = "recovery configuration cannot be written when a backup target is used";
                return Err(self.tool.error(text));
            }
        }
        if self.options.server_compression.is_some() && !has_options {
            return Err(self.tool.error("server does not support server-side compression"));
        }
        Ok(())
    }

    async fn upload_manifest(&self, connection: &mut Connection) -> Result<(), Failed> {
        let (tool, Some(path)) = (self.tool, &self.options.incremental) else { return Ok(()) };
        if !connection.version().has_incremental_backup() {
            return Err(tool.error("server does not support incremental backup"));
        }
        let shown = path.display();
        let file = File::open(path);
        let mut file =
            file.map_err(|error| tool.error(format!("could not open file \"{shown}\": {}", plain(&error))))?;
        connection.upload_manifest(|piece| file.read(piece)).await.map_err(|error| {
            tool.error(match &error {
                UploadManifestError::Read(error) => {
                    format!("could not read file \"{shown}\": {}", plain(error))
                }
                UploadManifestError::Client(error) => {
                    format!("could not upload manifest: {}", libpq_text(error))
                }
            })
        })
    }

    fn request(&self, version: ServerVersion) -> BaseBackup {
        let options = self.options;
        let target = match &options.destination {
            Destination::Server(target) => Some(target.clone()),
            _ => None,
        };
        BaseBackup {
            label: options.label.clone(),
            estimate_size: options.estimate_size,
            checkpoint: options.checkpoint,
            include_wal: options.wal == WalMethod::Fetch,
            wait_for_archive: options.wal == WalMethod::None,
            max_rate_kb: options.max_rate_kb,
            tablespace_map: !matches!(options.destination, Destination::Plain { .. }),
            verify_checksums: options.verify_checksums,
            manifest: self.manifest(version),
            incremental: options.incremental.is_some(),
            target,
            compression: options.server_compression.clone(),
        }
    }

    /// Servers before 13 have none.
    fn manifest(&self, version: ServerVersion) -> Option<ManifestOptions> {
        self.options.manifest.clone().filter(|_| version.has_backup_manifest())
    }

    fn beginning(
        &self,
        version: ServerVersion,
        tablespaces: &[Tablespace],
        standby: Option<StandbyFiles>,
        made: &mut Made,
    ) -> Result<Beginning, Failed> {
        let targets = match &self.options.destination {
            Destination::Plain { mapping, .. } => {
                let mut targets = Vec::new();
                for Tablespace { oid, location, .. } in tablespaces {
                    let (Some(oid), Some(location)) = (*oid, location) else { continue };
                    let place = if location.starts_with(b"/") {
                        let path = mapping.map(location);
                        let changed = &mut made.changed_parents;
                        directories::check_or_create(self.tool, &path, self.modes, changed)?;
                        made.has_tablespaces = true;
                        TablespacePlace::Directory(path)
                    } else {
                        TablespacePlace::InPlace
                    };
                    targets.push(TablespaceTarget { oid, location: location.to_vec(), place });
                }
                targets
            }
            _ => Vec::new(),
        };
        let escapes = match version.escapes_backslashes_in_map() {
            true => MapEscapes::Backslashes,
            false => MapEscapes::LineBreaks,
        };
        let announced = tablespaces
            .iter()
            .filter_map(|Tablespace { oid, location, .. }| Some(((*oid)?, location.as_ref()?.to_vec())));
        Ok(Beginning {
            modes: self.modes,
            archive_end: match version.base_backup_syntax() {
                BaseBackupSyntax::Options => ArchiveEnd::Terminated,
                BaseBackupSyntax::Keywords => ArchiveEnd::Unterminated,
            },
            standby,
            wal_members: match self.options.wal {
                WalMethod::Fetch => WalMembers::Accepted,
                WalMethod::None | WalMethod::Stream(_) => WalMembers::Refused,
            },
            tablespaces: targets,
            announced: Announced { tablespaces: announced.collect(), escapes },
            archive_count: tablespaces.len(),
            manifest: self.manifest(version),
        })
    }

    /// What only `-v` tells.
    fn say(&self, text: &str) {
        if self.options.verbose {
            self.tool.info(text);
        }
    }

    fn failed(&self, what: &str, error: &ClientError) -> Failed {
        self.tool.error(format!("{what}: {}", libpq_text(error)))
    }

    fn backup_error(&self, error: &BackupError) -> Failed {
        self.tool.error(with_causes(error))
    }
}

/// The copy: archives on one connection, WAL on another.
struct Copy<'a> {
    session: Session<'a>,
    version: ServerVersion,
    progress: ProgressReport,
    /// How many tablespaces are complete.
    tablespace: usize,
    /// How many copies have begun.
    copies: usize,
    stream: BaseBackupStream<'a>,
    sink: BackupSink,
    wal: Option<WalBeside>,
}

impl Copy<'_> {
    /// Receives everything, up to the server's word that it was all.
    async fn run(mut self, made: &mut Made) -> Result<(BackupEnd, BackupSink, Option<WalBeside>), Failed> {
        let mut archives = self.archives();
        let end = loop {
            let step = tokio::select! {
                biased;
                failure = ended(&mut self.wal) => {
                    failure.say(self.session.tool);
                    return Err(self.session.tool.error("background process terminated unexpectedly"));
                }
                step = self.stream.next() => step,
            };
            match step.map_err(|error| self.interrupted(&error, made))? {
                BackupStep::CopyBegin => {
                    self.copies += 1;
                    if let Some(event) = archives.begin_copy().map_err(|error| self.disorder(&error))? {
                        self.handle(event)?;
                    }
                }
                BackupStep::CopyData(payload) => {
                    let event = archives.decode(payload).map_err(|error| self.disorder(&error))?;
                    self.handle(event)?;
                }
                BackupStep::CopyEnd => self.copy_ended(),
                BackupStep::EndPosition(end) => self.told_end(&archives, end)?,
                BackupStep::Completed(end) => break end,
            }
        };
        Ok((end, self.sink, self.wal))
    }

    fn archives(&self) -> ArchiveStream {
        if self.version.base_backup_syntax() == BaseBackupSyntax::Options {
            return ArchiveStream::tagged();
        }
        let manifest = match self.session.manifest(self.version) {
            Some(_) => ManifestRequest::Requested,
            None => ManifestRequest::NotRequested,
        };
        ArchiveStream::untagged(archive_names(self.stream.tablespaces()), manifest)
    }

    fn handle(&mut self, event: ArchiveEvent) -> Result<(), Failed> {
        match &event {
            ArchiveEvent::ArchiveBegin(archive) => {
                self.refuse_compressed(archive)?;
                self.tablespace += 1;
            }
            ArchiveEvent::ArchiveData(data) if self.is_untagged() => {
                self.progress.add_done(data.len() as u64);
                self.report(Urgency::Sometimes);
            }
            ArchiveEvent::Progress { bytes } => {
                self.progress.set_done(*bytes);
                self.report(Urgency::Now);
            }
            _ => {}
        }
        self.sink.handle(event).map_err(|error| self.session.backup_error(&error))
    }

    fn refuse_compressed(&self, archive: &ArchiveName) -> Result<(), Failed> {
        let Session { tool, options, .. } = self.session;
        let is_compressed = CompressionMethod::split_name(&archive.file_name).1 != CompressionMethod::None;
        let to_stdout = matches!(options.destination, Destination::Stdout { .. });
        if is_compressed && to_stdout && options.manifest.is_some() {
            let failed = tool.error("cannot inject manifest into a compressed tar file");
            tool.hint(
                "Use client-side compression, send the output to a directory rather than standard output, or use \
                 --no-manifest.",
            );
            return Err(failed);
        }
        Ok(())
    }

    fn copy_ended(&mut self) {
        if self.is_untagged() && self.copies <= self.stream.tablespaces().len() {
            self.report(Urgency::Now);
        }
    }

    fn told_end(&mut self, archives: &ArchiveStream, end: BackupEnd) -> Result<(), Failed> {
        archives.finish().map_err(|error| self.disorder(&error))?;
        let count = self.stream.tablespaces().len();
        self.progress.report(count, None, Urgency::Finished);
        if self.session.options.wal != WalMethod::None {
            let lsn = shown(end.lsn, self.version);
            self.session.say(&format!("write-ahead log end point: {lsn}"));
        }
        Ok(())
    }

    /// The one that is being received is not complete.
    fn report(&mut self, urgency: Urgency) {
        let file = if self.progress.names_files() { self.sink.current_file() } else { None };
        self.progress.report(self.tablespace.saturating_sub(1), file.as_deref().map(Path::new), urgency);
    }

    fn is_untagged(&self) -> bool {
        self.version.base_backup_syntax() == BaseBackupSyntax::Keywords
    }

    /// The server, or the connection, has failed.
    fn interrupted(&self, error: &ClientError, made: &mut Made) -> Failed {
        let session = self.session;
        let copies_left = self.is_untagged()
            && self.copies
                < self.stream.tablespaces().len() + usize::from(session.manifest(self.version).is_some());
        match self.stream.stage() {
            BackupStage::BeforeEnd if !copies_left => session.failed("backup failed", error),
            BackupStage::BeforeCopy | BackupStage::BeforeEnd => {
                session.failed("could not get COPY data stream", error)
            }
            BackupStage::Copy => session.failed("could not read COPY data", error),
            BackupStage::BeforeCompletion if error.sqlstate() == Some(SqlState::DATA_CORRUPTED) => {
                made.checksum_failed = true;
                session.tool.error("checksum error occurred")
            }
            BackupStage::BeforeCompletion => session.failed("final receive failed", error),
        }
    }

    fn disorder(&self, error: &ArchiveStreamError) -> Failed {
        self.session.tool.error(match error {
            ArchiveStreamError::ArchiveName(name) => {
                format!("invalid archive name: \"{}\"", name.escape_ascii())
            }
            error => error.to_string(),
        })
    }
}

async fn ended(wal: &mut Option<WalBeside>) -> WalFailure {
    match wal {
        Some(wal) => wal.ended().await,
        None => std::future::pending().await,
    }
}

/// As by the original of the server's version.
fn shown(lsn: Lsn, version: ServerVersion) -> String {
    if !version.pads_lsns() {
        return lsn.to_string();
    }
    format!("{:X}/{:08X}", lsn.as_u64() >> 32, lsn.as_u64() as u32)
}

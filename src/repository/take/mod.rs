//! `BASE_BACKUP`, straight into an archive: nothing is kept on this machine.
//!
//! Every file is checked against the manifest as it passes by, and the backup is listed when all of it is there and the
//! archive has the WAL that makes it consistent, or the backup carries that itself.

mod error;
mod parent;
mod wal;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

pub use error::TakeError;
pub use wal::WalChoice;

use super::keys;
use super::listing;
use super::name::BackupName;
use super::piece_writer::{PieceWriter, put};
use super::record::{BackupPoint, BackupRecord, StreamContent, WalPlace};
use super::start;
use super::sums;
use crate::archive::{ArchiveStore, ClusterIdentity};
use crate::backup::{
    ArchiveEnd, ArchiveEvent, ArchiveStream, BackupInspector, DirectoryModes, IncludedWal, InspectedBackup,
    ManifestRequest, WalRange,
};
use crate::client::{BackupEnd, BackupStart, BackupStep, ClientError, Connection, Sql, SystemIdentity};
use crate::observe::progress::CopyProgress;
use crate::pg::version::BaseBackupSyntax;
use crate::pg::{ChecksumAlgorithm, Timestamp, WalSegmentSize};
use crate::standby::copy::archive_names;
use crate::wire::command::{BaseBackup, CheckpointMode, ManifestOptions};

/// What backup to take, and how.
#[derive(Debug, Clone)]
pub struct TakeRequest {
    /// Where it goes.
    pub store: ArchiveStore,
    /// What it is called, by the user.
    pub label: String,
    /// Whether it contains everything, or what changed since the latest one.
    pub kind: BackupKind,
    /// Where its WAL shall be.
    pub wal: WalChoice,
    /// For how long the archive may get nothing of that WAL.
    pub wal_timeout: Duration,
    /// How the checkpoint at the start is spread.
    pub checkpoint: CheckpointMode,
    /// An upper bound for the rate, in kB/s.
    pub max_rate_kb: Option<u32>,
    /// The manifest's checksums.
    pub manifest_checksums: ChecksumAlgorithm,
    /// How hard Zstandard tries, 1 to 19.
    pub level: i32,
}

/// Whether a backup contains everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupKind {
    /// Everything.
    Full,
    /// What changed since the latest one (17).
    Incremental,
}

/// A backup that was taken.
#[derive(Debug, Clone)]
pub struct Taken {
    /// What is known of it.
    pub record: BackupRecord,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Takes a backup.
///
/// `replication` is a physical replication connection, `sql` an ordinary one to the same server where the role may have
/// it: for its clock. When `interrupted` completes, its result names the reason.
pub async fn take(
    request: TakeRequest,
    replication: Connection,
    sql: Option<Sql>,
    progress: Arc<CopyProgress>,
    interrupted: impl Future<Output = &'static str>,
) -> Result<Taken, TakeError> {
    let began = Instant::now();
    tokio::select! {
        biased;
        signal = interrupted => Err(TakeError::Interrupted(signal)),
        taken = run(&request, replication, sql, &progress) => {
            Ok(Taken { record: taken?, seconds: began.elapsed().as_secs_f64() })
        }
    }
}

/// What was asked of the server before anything is made.
struct Server {
    system: SystemIdentity,
    segment_size: WalSegmentSize,
    modes: DirectoryModes,
    /// Its clock's lead over ours, in microseconds.
    clock_lead: i64,
}

impl Server {
    fn now(&self) -> Timestamp {
        let here = Timestamp::of(SystemTime::now()).unix_micros();
        Timestamp::from_unix_micros(here.saturating_add(self.clock_lead))
    }
}

async fn run(
    request: &TakeRequest,
    mut replication: Connection,
    sql: Option<Sql>,
    progress: &CopyProgress,
) -> Result<BackupRecord, TakeError> {
    progress.set_phase("looking at the server and the archive");
    let server = ask(&mut replication, sql).await?;
    let version = replication.version();
    let store = &request.store;
    store.check_conditions().await?;
    let identity = ClusterIdentity {
        system_identifier: server.system.system_identifier,
        segment_size: server.segment_size,
        major: version.major(),
    };
    identity.claim(store).await?;
    let name = BackupName::new(server.now(), fastrand::u32(..));
    let parent = match request.kind {
        BackupKind::Full => None,
        BackupKind::Incremental => Some(parent::find(&mut replication, store).await?),
    };
    let parent_name = parent.as_ref().map(|parent| parent.name.clone());
    let wal = wal::decide(request.wal, store, &server.system, server.segment_size).await?;
    put(store, &keys::begun_key(&name), begun(&name, parent_name.as_ref())).await?;
    if let Some(parent) = &parent {
        progress.set_phase("handing the last manifest to the server");
        parent::upload_manifest(&mut replication, store, parent).await?;
    }
    progress.set_phase("waiting for a checkpoint on the server");
    let started_at = server.now();
    let streamed = stream(request, &mut replication, name.clone(), wal, identity, progress).await?;
    let stopped_at = server.now();
    replication.close().await;
    let Streamed { start, end, inspected, writer } = streamed;
    check_identity(&server.system, &inspected, start, end)?;
    progress.set_phase("putting up the rest");
    let (streams, sums) = writer.finish().await?;
    put(store, &keys::sums_key(&name), sums.clone()).await?;
    let wal_ranges = inspected.manifest.wal_ranges;
    if wal == WalPlace::Archive {
        progress.set_phase("waiting until the archive has the WAL");
        wal::wait(store, server.segment_size, &wal_ranges, request.wal_timeout, progress).await?;
        // once more from the start: somebody may have removed some of it meanwhile
        wal::check(store, server.segment_size, &wal_ranges).await?;
    }
    if let Some(parent) = parent_name.clone()
        && listing::read_record(store, &parent).await?.is_none()
    {
        return Err(TakeError::ParentGone(parent));
    }
    let record = BackupRecord {
        parent: parent_name,
        label: request.label.clone(),
        system_identifier: server.system.system_identifier,
        server_version: version,
        start: BackupPoint { timeline: start.timeline, lsn: start.lsn, at: started_at },
        stop: BackupPoint { timeline: end.timeline, lsn: end.lsn, at: stopped_at },
        wal,
        wal_ranges,
        manifest_checksums: request.manifest_checksums,
        modes: server.modes,
        streams,
        file_count: inspected.manifest.file_count,
        byte_count: inspected.manifest.total_size,
        sums: sums::sum(&sums),
        name,
    };
    check_objects(store, &record).await?;
    // now it is a backup
    let key = keys::record_key(&record.name);
    put(store, &key, record.encode()).await?;
    // what removes leftovers takes this object away, and then looks for the record: one of the two of us finds out
    let begun_key = keys::begun_key(&record.name);
    if !store.exists(&begun_key).await? {
        store.remove(&key).await?;
        return Err(TakeError::ObjectGone(begun_key));
    }
    Ok(record)
}

/// All that was put up has to be there still: when nothing came for long, somebody may have taken it for broken off.
async fn check_objects(store: &ArchiveStore, record: &BackupRecord) -> Result<(), TakeError> {
    let prefix = keys::data_prefix(&record.name);
    let listed = store.list(&prefix).await?;
    let is_there = |key: &str| listed.binary_search_by(|object| object.key.as_str().cmp(key)).is_ok();
    let name = &record.name;
    let others = [keys::begun_key(name), keys::start_key(name), keys::sums_key(name)];
    let pieces = record.streams.iter().flat_map(|stream| {
        let stream_name = stream.content.stream_name();
        let piece = move |number| keys::piece_name(&stream_name, number);
        (1..=stream.piece_count).map(piece).map(|piece| format!("{prefix}{piece}"))
    });
    match others.into_iter().chain(pieces).find(|key| !is_there(key)) {
        Some(key) => Err(TakeError::ObjectGone(key)),
        None => Ok(()),
    }
}

async fn ask(replication: &mut Connection, sql: Option<Sql>) -> Result<Server, TakeError> {
    let query = |what| move |source| TakeError::Query { what, source };
    let version = replication.version();
    if !version.is_supported() {
        return Err(TakeError::TooOld(version));
    }
    if version.is_newer_than_tested() {
        tracing::warn!("server version {version} is newer than any that pgwake has been tested with");
    }
    let mode = replication.show("data_directory_mode").await.map_err(query("data_directory_mode"))?;
    let clock_lead = match &sql {
        // where it does not say, ours has to do
        Some(sql) => clock_lead(sql).await.unwrap_or(0),
        None => 0,
    };
    if let Some(sql) = sql {
        sql.close().await;
    }
    Ok(Server {
        system: replication.identify_system().await.map_err(query("its identity"))?,
        segment_size: replication.wal_segment_size().await.map_err(query("wal_segment_size"))?,
        modes: if mode == "0750" { DirectoryModes::GroupRead } else { DirectoryModes::OwnerOnly },
        clock_lead,
    })
}

async fn clock_lead(sql: &Sql) -> Result<i64, ClientError> {
    let question = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let rows = sql.rows(question, &[]).await?;
    let there: i64 = match rows.first() {
        Some(row) => row.get(0)?,
        None => return Ok(0),
    };
    Ok(there - Timestamp::of(SystemTime::now()).unix_micros())
}

/// The first object: from here on `prune` keeps its hands off the parent.
fn begun(name: &BackupName, parent: Option<&BackupName>) -> Bytes {
    let content = serde_json::json!({ "format": 1, "name": name, "parent": parent });
    format!("{content}\n").into()
}

/// A backup whose last message has come, and whose last pieces are on their way.
struct Streamed {
    start: BackupStart,
    end: BackupEnd,
    inspected: InspectedBackup,
    writer: PieceWriter,
}

async fn stream(
    request: &TakeRequest,
    replication: &mut Connection,
    name: BackupName,
    wal: WalPlace,
    identity: ClusterIdentity,
    progress: &CopyProgress,
) -> Result<Streamed, TakeError> {
    let version = replication.version();
    let command = BaseBackup {
        label: request.label.clone(),
        estimate_size: true,
        checkpoint: request.checkpoint,
        include_wal: wal == WalPlace::Included,
        wait_for_archive: false,
        max_rate_kb: request.max_rate_kb,
        tablespace_map: false,
        verify_checksums: true,
        manifest: Some(ManifestOptions::with_checksums(request.manifest_checksums)),
        incremental: request.kind == BackupKind::Incremental,
        target: None,
        compression: None,
    };
    let mut stream = replication.base_backup(&command).await.map_err(TakeError::Begin)?;
    let start = stream.start();
    put(&request.store, &keys::start_key(&name), start::encode(start.timeline, start.lsn)).await?;
    tracing::info!("backup {name} starts at {} on timeline {}", start.lsn, start.timeline);
    let sizes = stream.tablespaces().iter().filter_map(|tablespace| tablespace.size_kb);
    progress.set_total(sizes.fold(0, u64::saturating_add).saturating_mul(1024));
    let (mut archives, archive_end) = match version.base_backup_syntax() {
        BaseBackupSyntax::Options => (ArchiveStream::tagged(), ArchiveEnd::Terminated),
        BaseBackupSyntax::Keywords => {
            let names = archive_names(stream.tablespaces());
            (ArchiveStream::untagged(names, ManifestRequest::Requested), ArchiveEnd::Unterminated)
        }
    };
    let included = (wal == WalPlace::Included)
        .then(|| IncludedWal::new(identity.system_identifier, identity.segment_size, start.lsn));
    let mut inspector = BackupInspector::new(request.manifest_checksums, archive_end).with_wal(included);
    let mut writer = PieceWriter::new(request.store.clone(), name, request.level);
    progress.set_phase("copying");
    let end = loop {
        let event = match stream.next().await.map_err(TakeError::Receive)? {
            BackupStep::CopyBegin => archives.begin_copy()?,
            BackupStep::CopyData(payload) => Some(archives.decode(payload)?),
            BackupStep::CopyEnd | BackupStep::EndPosition(_) => None,
            BackupStep::Completed(end) => break end,
        };
        let Some(event) = event else { continue };
        match &event {
            ArchiveEvent::ArchiveBegin(archive) => {
                writer.begin(StreamContent::of_archive(&archive.content)).await?;
            }
            ArchiveEvent::ManifestBegin => writer.begin(StreamContent::Manifest).await?,
            ArchiveEvent::ArchiveData(data) | ArchiveEvent::ManifestData(data) => {
                writer.push(data.clone()).await?;
            }
            ArchiveEvent::Progress { .. } => {}
        }
        inspector.handle(event)?;
        progress.set_done(inspector.byte_count());
    };
    archives.finish()?;
    tracing::info!("the server has sent everything, up to {} on timeline {}", end.lsn, end.timeline);
    Ok(Streamed { start, end, inspected: inspector.finish()?, writer })
}

/// Everything that names the cluster or the backup's WAL must name the same.
fn check_identity(
    system: &SystemIdentity,
    inspected: &InspectedBackup,
    start: BackupStart,
    end: BackupEnd,
) -> Result<(), TakeError> {
    let expected = system.system_identifier;
    if let Some(found) = inspected.manifest.system_identifier.filter(|found| *found != expected) {
        return Err(TakeError::OtherSystem { found, expected });
    }
    let labelled = inspected.backup_label.start_lsn == start.lsn;
    let leads =
        WalRange::lead(&inspected.manifest.wal_ranges, (start.timeline, start.lsn), (end.timeline, end.lsn));
    if !labelled || end.lsn <= start.lsn || !leads {
        return Err(TakeError::ManifestRange { start_lsn: start.lsn, end_lsn: end.lsn });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::super::record::tests::example;
    use super::*;

    #[tokio::test]
    async fn a_backup_is_one_when_every_object_of_it_is_there() {
        let record = example("20261126T134500Z-3f9a1c07", None, 0x200_0028);
        let name = &record.name;
        let mut keys = vec![keys::begun_key(name), keys::start_key(name), keys::sums_key(name)];
        for stream in &record.streams {
            let piece = |number| keys::piece_name(&stream.content.stream_name(), number);
            let pieces = (1..=stream.piece_count).map(piece);
            keys.extend(pieces.map(|piece| format!("{}{piece}", keys::data_prefix(name))));
        }
        assert!(keys.len() > 5, "{keys:?}");
        let store = ArchiveStore::over(Arc::new(InMemory::new()), "db1");
        for key in &keys {
            store.create(key, Bytes::from_static(b"x")).await.unwrap();
        }
        check_objects(&store, &record).await.unwrap();
        for key in keys {
            store.remove(&key).await.unwrap();
            let gone = check_objects(&store, &record).await;
            assert!(matches!(gone, Err(TakeError::ObjectGone(found)) if found == key));
            store.create(&key, Bytes::from_static(b"x")).await.unwrap();
        }
    }
}

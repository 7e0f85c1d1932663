//! Receiving beside a base backup: from its start until its end, which is known only when it is over.
//!
//! Answers to `StartLogStreamer` in PostgreSQL's `pg_basebackup.c`: a thread of its own, because the backup's
//! thread is busy extracting, and the server must hear of us meanwhile. Departures: what was received is durable
//! when it ends, if that is wanted; the last segment's unused part is zeros, and it is marked as done, so that a server
//! that starts here does not archive it again; an error is known at once, with its cause.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::driver::{Clock, Progress, Until};
use super::error::ReceiveError;
use super::observer::LogObserver;
use super::receive::{ReceiveOutcome, open_sink};
use super::refusal::Wanted;
use super::resume::SlotHold;
use super::session::{Session, StreamFrom, StreamOptions};
use super::upstream::Connector;
use crate::FileOwner;
use crate::compression::Compression;
use crate::pg::{Lsn, SystemIdentifier, TimelineId};
use crate::sink::{Layout, Operation, RealDisk, Sink, SinkError};

/// What to receive, and where to.
#[derive(Debug, Clone)]
pub struct BackgroundRequest {
    /// What is wanted of the stream.
    pub stream: StreamOptions,
    /// The cluster that the backup is of.
    pub system_identifier: SystemIdentifier,
    /// The timeline that the backup began on.
    pub timeline: TimelineId,
    /// Where the backup began; the stream begins with that segment.
    pub start_lsn: Lsn,
    /// `pg_wal` of the new data directory; `archive_status` must be there.
    pub directory: PathBuf,
    /// What leads into it: its name, or a directory that is held open.
    pub held: PathBuf,
    /// The mode of new files.
    pub file_mode: u32,
    /// Whom new files shall belong to, when that is not who runs this.
    pub owner: Option<FileOwner>,
    /// Who sees to it that files are durable.
    pub durability: WalDurability,
    /// What the server is told.
    pub acknowledgement: WalAcknowledgement,
}

/// Who sees to it that WAL is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalDurability {
    /// The stream itself: all of it is when it ends.
    Synced,
    /// Somebody else, or nobody.
    LeftToOthers,
}

/// What a server is told of WAL that has come beside a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalAcknowledgement {
    /// Nothing: the directory goes away again when the backup fails, and a commit must not have waited for WAL in it.
    /// A slot stays where it was.
    Nothing,
    /// How far it is durable, so that a slot moves on and the server need not keep the WAL of a long backup.
    Durable,
}

/// A stream into `pg_wal` on a thread of its own. Dropping it stops it, and waits until nothing more is written.
#[derive(Debug)]
pub struct BackgroundReceive {
    until: watch::Sender<Until>,
    progress: watch::Receiver<Progress>,
    result: oneshot::Receiver<Result<ReceiveOutcome, ReceiveError>>,
    /// Dropped, it makes the thread leave everything as it is.
    abort: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl BackgroundReceive {
    /// Starts the thread, which connects through `connector`.
    pub fn start<C>(connector: C, request: BackgroundRequest) -> Result<Self, ReceiveError>
    where
        C: Connector + Send + 'static,
    {
        let path = request.directory.clone();
        let start_failed = |source| SinkError::Io { operation: Operation::StartThread, path, source };
        let (until, until_receiver) = watch::channel(Until::Failure);
        let (progress_sender, progress) = watch::channel(Progress::default());
        let (result_sender, result) = oneshot::channel();
        let (abort, aborted) = oneshot::channel();
        let thread = std::thread::Builder::new().name("wal-receive".into()).spawn(move || {
            let result = run(connector, &request, until_receiver, &progress_sender, aborted);
            if let Some(result) = result {
                // nobody listens any more when the backup was given up
                let _ = result_sender.send(result);
            }
        });
        let thread = Some(thread.map_err(start_failed)?);
        Ok(BackgroundReceive { until, progress, result, abort: Some(abort), thread })
    }

    /// How far it has got.
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// The same, to be watched.
    pub fn watch_progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Resolves when the stream has ended before [`Self::finish`], which is always an error. Cancel-safe.
    pub async fn ended(&mut self) -> ReceiveError {
        match (&mut self.result).await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) | Err(_) => SinkError::ThreadEnded.into(),
        }
    }

    /// The backup ended at `stop_lsn`: waits until all before it is durable.
    pub async fn finish(mut self, stop_lsn: Lsn) -> Result<ReceiveOutcome, ReceiveError> {
        self.until.send_replace(Until::Lsn(stop_lsn));
        match (&mut self.result).await {
            Ok(result) => result,
            Err(_) => Err(SinkError::ThreadEnded.into()),
        }
    }
}

impl Drop for BackgroundReceive {
    fn drop(&mut self) {
        self.abort = None;
        if let Some(thread) = self.thread.take() {
            // a panic of the thread was already seen as its end
            let _ = thread.join();
        }
    }
}

/// `None` when it was aborted.
fn run<C: Connector>(
    mut connector: C,
    request: &BackgroundRequest,
    until: watch::Receiver<Until>,
    progress: &watch::Sender<Progress>,
    aborted: oneshot::Receiver<()>,
) -> Option<Result<ReceiveOutcome, ReceiveError>> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            let (operation, path) = (Operation::StartThread, request.directory.clone());
            return Some(Err(SinkError::Io { operation, path, source }.into()));
        }
    };
    runtime.block_on(async {
        tokio::select! {
            biased;
            _ = aborted => None,
            result = receive(&mut connector, request, until, progress) => Some(result),
        }
    })
}

async fn receive<C: Connector>(
    connector: &mut C,
    request: &BackgroundRequest,
    until: watch::Receiver<Until>,
    progress: &watch::Sender<Progress>,
) -> Result<ReceiveOutcome, ReceiveError> {
    let mut disk = RealDisk::new(&request.directory)
        .held_at(&request.held)
        .with_file_mode(request.file_mode)
        .with_owner(request.owner);
    if request.durability == WalDurability::LeftToOthers {
        disk = disk.without_sync();
    }
    let mut sink = open_sink(disk, Layout::PgWal, request.stream.record_check, Compression::NONE)?;
    let mut upstream = connector.connect().await?;
    let mut options = request.stream.clone();
    options.slot = connector.created_slot().or(options.slot);
    let mut session = Session {
        options: &options,
        sink: &mut sink,
        until,
        progress,
        observer: &mut LogObserver,
        clock: Clock::start(),
        system_identifier: Some(request.system_identifier),
        acknowledged_lsn: Lsn::INVALID,
        slot_used: None,
        streamed: Duration::ZERO,
        made_progress: false,
    };
    let server = session.identify(&mut upstream).await?;
    session.fetch_histories(&mut upstream, request.timeline, &[]).await?;
    let from = StreamFrom {
        timeline: request.timeline,
        start_lsn: server.segment_size.segment_at(request.start_lsn).start_lsn(),
        last_on_disk: None,
        flush_floor: match request.acknowledgement {
            WalAcknowledgement::Nothing => StreamFrom::NO_FLUSH,
            WalAcknowledgement::Durable => request.start_lsn,
        },
        wanted: Wanted::Beginning,
        slot: SlotHold::Unknown,
    };
    session.stream(&mut upstream, &server, from).await?;
    sink.settle().await?;
    Ok(ReceiveOutcome::all_durable(progress))
}

#[cfg(test)]
mod tests {
    use super::super::scripted::{SEGMENT_LEN, Script, Then, unchecked};
    use super::*;
    use crate::client::ClientError;

    fn request(directory: &std::path::Path) -> BackgroundRequest {
        std::fs::create_dir(directory.join("archive_status")).unwrap();
        BackgroundRequest {
            durability: WalDurability::Synced,
            acknowledgement: WalAcknowledgement::Nothing,
            owner: None,
            stream: unchecked(),
            system_identifier: SystemIdentifier::new(1),
            timeline: TimelineId::FIRST,
            start_lsn: Lsn::new(2 * SEGMENT_LEN + 40),
            directory: directory.into(),
            held: directory.into(),
            file_mode: 0o600,
        }
    }

    fn files(directory: &std::path::Path) -> Vec<String> {
        let mut files = Vec::new();
        for directory in [directory.to_owned(), directory.join("archive_status")] {
            for entry in std::fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    let len = entry.metadata().unwrap().len();
                    files.push(format!("{} {len}", entry.file_name().into_string().unwrap()));
                }
            }
        }
        files.sort();
        files
    }

    #[tokio::test]
    async fn receives_until_the_backup_ends() {
        let directory = tempfile::tempdir().unwrap();
        let script = Script::new(9 * SEGMENT_LEN, 100_000, Then::Silence);
        let stream = BackgroundReceive::start(script, request(directory.path())).unwrap();
        let mut progress = stream.watch_progress();
        progress.wait_for(|progress| progress.flush_lsn.is_valid()).await.unwrap();
        let stop_lsn = Lsn::new(9 * SEGMENT_LEN);
        let outcome = stream.finish(stop_lsn).await.unwrap();
        assert_eq!(outcome.progress.flush_lsn, stop_lsn);

        let directory = tempfile::tempdir().unwrap();
        let script = Script::new(9 * SEGMENT_LEN, 100_000, Then::Silence);
        let stream = BackgroundReceive::start(script, request(directory.path())).unwrap();
        let stop_lsn = Lsn::new(3 * SEGMENT_LEN + 5);
        let outcome = stream.finish(stop_lsn).await.unwrap();
        assert!(outcome.progress.flush_lsn >= stop_lsn);
        assert_eq!(
            files(directory.path())[..2],
            ["000000010000000000000002 1048576", "000000010000000000000002.done 0"]
        );
    }

    #[tokio::test]
    async fn a_lost_connection_is_known_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let script = Script::new(3 * SEGMENT_LEN, 1000, Then::Close);
        let mut stream = BackgroundReceive::start(script, request(directory.path())).unwrap();
        let error = stream.ended().await;
        assert!(
            matches!(&error, ReceiveError::Client { source: ClientError::Closed, .. }),
            "{error}: {error:?}"
        );
    }

    #[tokio::test]
    async fn another_cluster_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut request = request(directory.path());
        request.system_identifier = SystemIdentifier::new(2);
        let script = Script::new(3 * SEGMENT_LEN, 1000, Then::Silence);
        let mut stream = BackgroundReceive::start(script, request).unwrap();
        let error = stream.ended().await;
        assert!(matches!(error, ReceiveError::SystemChanged { .. }), "{error}");
    }

    #[tokio::test]
    async fn nothing_is_written_after_it_was_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let script = Script::new(u64::MAX / 2, 8192, Then::Silence);
        let stream = BackgroundReceive::start(script, request(directory.path())).unwrap();
        let mut progress = stream.watch_progress();
        progress.wait_for(|progress| progress.received_lsn > Lsn::new(3 * SEGMENT_LEN)).await.unwrap();
        drop(stream);
        let before = files(directory.path());
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(files(directory.path()), before);
    }
}

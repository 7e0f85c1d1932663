//! Receiving beside a base backup: from its start until its end, which is known only when it is over.
//!
//! Answers to `StartLogStreamer` in PostgreSQL's `pg_basebackup.c`: a thread of its own, because the backup's
//! thread is busy extracting, and the server must hear of us meanwhile. Departures: what was received is durable
//! when it ends; the last segment's unused part is zeros; an error is known at once, with its cause.

use std::path::PathBuf;
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};

use super::driver::{Clock, Progress, Until};
use super::error::ReceiveError;
use super::receive::{ReceiveOutcome, open_sink};
use super::session::{Session, StreamFrom, StreamOptions};
use super::upstream::Connector;
use crate::pg::{Lsn, SystemIdentifier, TimelineId};
use crate::sink::{Layout, Operation, Sink, SinkError};

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
    /// The mode of new files.
    pub file_mode: u32,
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
    let mut sink = open_sink(&request.directory, Layout::PgWal, request.file_mode)?;
    let mut upstream = connector.connect().await?;
    let mut session = Session {
        options: &request.stream,
        sink: &mut sink,
        until,
        progress,
        clock: Clock::start(),
        system_identifier: Some(request.system_identifier),
        acknowledged_lsn: Lsn::INVALID,
        made_progress: false,
    };
    let server = session.identify(&mut upstream).await?;
    session.fetch_histories(&mut upstream, request.timeline, &[]).await?;
    let from = StreamFrom {
        timeline: request.timeline,
        start_lsn: server.segment_size.segment_at(request.start_lsn).start_lsn(),
        flush_floor: request.start_lsn,
    };
    session.stream(&mut upstream, server.segment_size, from).await?;
    sink.settle().await?;
    Ok(ReceiveOutcome { progress: *progress.borrow() })
}

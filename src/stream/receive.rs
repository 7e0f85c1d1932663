//! Receiving for as long as it is wanted, over as many connections as it takes.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;

use super::backoff::Backoff;
use super::driver::{Clock, Progress, Until};
use super::error::ReceiveError;
use super::observer::{LogObserver, Observer};
use super::resume::StartChoice;
use super::session::{Session, StreamOptions, unless_stopped};
use super::upstream::Connector;
use crate::ErrorClass;
use crate::compression::Compression;
use crate::pg::Lsn;
use crate::sink::{Layout, RealDisk, RecordCheck, SegmentWriter, Sink, SinkError, SinkLimits, SinkThread};

/// What to do when a connection is lost, or cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reconnect {
    /// Fail.
    Never,
    /// Try again, but fail when the very first connection cannot be had. Later ones are tried for as long as it
    /// takes, whatever the reason: what let us in once will do so again.
    AfterFirst,
    /// Try again.
    #[default]
    Always,
}

/// How to receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveOptions {
    /// What is wanted of each stream.
    pub stream: StreamOptions,
    /// Where an empty directory begins when no slot says it.
    pub start: StartChoice,
    /// Stop when all before this is durable.
    pub stop_lsn: Option<Lsn>,
    /// What to do when a connection is lost.
    pub reconnect: Reconnect,
    /// The first wait before a new attempt; each further one doubles it.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
    /// What the waits' randomness comes from.
    pub seed: u64,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        ReceiveOptions {
            stream: StreamOptions::default(),
            start: StartChoice::default(),
            stop_lsn: None,
            reconnect: Reconnect::default(),
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(10),
            seed: 0,
        }
    }
}

/// A stream that brings nothing counts as a success when it lasts longer than so many of the first waits.
const STEADY_WAITS: u32 = 5;

/// How far receiving got. It ended because that was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveOutcome {
    /// The last timeline and its positions.
    pub progress: Progress,
}

impl ReceiveOutcome {
    /// After the sink has settled: a stream that was to bring nothing more has flushed nothing, and yet all before
    /// it is durable.
    pub(super) fn all_durable(progress: &watch::Sender<Progress>) -> Self {
        progress.send_modify(|progress| progress.flush_lsn = progress.received_lsn);
        ReceiveOutcome { progress: *progress.borrow() }
    }
}

/// Receives into `sink` until `shutdown` resolves, the stop position is reached, or an error comes that trying
/// again does not help. What was received is durable when this returns, unless the sink itself failed.
pub async fn receive<C: Connector, K: Sink>(
    options: &ReceiveOptions,
    connector: &mut C,
    sink: &mut K,
    progress: &watch::Sender<Progress>,
    shutdown: impl Future<Output = ()>,
) -> Result<ReceiveOutcome, ReceiveError> {
    receive_observed(options, connector, sink, progress, &mut LogObserver, shutdown).await
}

/// [`receive`], with `observer` told what happens instead of the log.
pub async fn receive_observed<C: Connector, K: Sink>(
    options: &ReceiveOptions,
    connector: &mut C,
    sink: &mut K,
    progress: &watch::Sender<Progress>,
    observer: &mut dyn Observer,
    shutdown: impl Future<Output = ()>,
) -> Result<ReceiveOutcome, ReceiveError> {
    let (sender, until) = watch::channel(options.stop_lsn.map_or(Until::Failure, Until::Lsn));
    let mut work = pin!(receive_until(options, connector, sink, progress, observer, until));
    tokio::select! {
        biased;
        result = &mut work => return result,
        () = shutdown => sender.send_replace(Until::Now),
    };
    work.await
}

/// [`receive`] into a directory of the operating system: taken at once, so that a second receiver fails before
/// it connects.
pub async fn receive_into<C: Connector>(
    options: &ReceiveOptions,
    directory: &Path,
    compression: Compression,
    connector: &mut C,
    progress: &watch::Sender<Progress>,
    shutdown: impl Future<Output = ()>,
) -> Result<ReceiveOutcome, ReceiveError> {
    let disk = RealDisk::new(directory);
    let mut sink = open_sink(disk, Layout::Archive, options.stream.record_check, compression)?;
    receive(options, connector, &mut sink, progress, shutdown).await
}

/// A sink on a thread of its own, for a directory that is locked as long as it lives.
pub fn open_sink(
    disk: RealDisk,
    layout: Layout,
    record_check: RecordCheck,
    compression: Compression,
) -> Result<SinkThread<RealDisk>, SinkError> {
    let writer = SegmentWriter::open(disk, layout)?;
    let writer = writer.with_record_check(record_check).with_compression(compression);
    SinkThread::spawn(writer, SinkLimits::default())
}

async fn receive_until<C: Connector, K: Sink>(
    options: &ReceiveOptions,
    connector: &mut C,
    sink: &mut K,
    progress: &watch::Sender<Progress>,
    observer: &mut dyn Observer,
    until: watch::Receiver<Until>,
) -> Result<ReceiveOutcome, ReceiveError> {
    let mut backoff = Backoff::new(options.first_wait, options.longest_wait, options.seed);
    let mut stop = until.clone();
    let mut session = Session {
        options: &options.stream,
        sink,
        until,
        progress,
        observer,
        clock: Clock::start(),
        system_identifier: None,
        acknowledged_lsn: Lsn::INVALID,
        slot_used: None,
        streamed: Duration::ZERO,
        made_progress: false,
    };
    let mut connected_once = false;
    let mut last_wait = Duration::ZERO;
    let mut wants_room = false;
    loop {
        if std::mem::take(&mut wants_room) {
            // connected, we would only be waited for
            unless_stopped(&mut stop, room(session.sink)).await.transpose()?;
        }
        let result = match unless_stopped(&mut stop, connector.connect()).await {
            None => Ok(()),
            Some(Err(failure)) => Err(failure.into()),
            Some(Ok(mut upstream)) => {
                connected_once = true;
                session.follow(&mut upstream, options.start).await
            }
        };
        if !matches!(result, Err(ReceiveError::Sink(_))) {
            // at once, not with the next connection: the server may never come back
            session.sink.settle().await?;
            // nobody waits for the disk any more
            progress.send_modify(|progress| progress.flush_lsn = progress.received_lsn);
        }
        let Err(error) = result else { return Ok(ReceiveOutcome::all_durable(progress)) };
        let transient = error.class() == ErrorClass::Transient;
        let again = match options.reconnect {
            Reconnect::Never => false,
            Reconnect::AfterFirst => {
                connected_once && (transient || matches!(error, ReceiveError::Connect { .. }))
            }
            Reconnect::Always => transient,
        };
        if !again {
            return Err(error);
        }
        wants_room = error.is_pause();
        // a server that has no WAL to send is of use too, if it stays for longer than we were to stay away
        let steady = last_wait.max(STEADY_WAITS * options.first_wait);
        let was_steady = std::mem::take(&mut session.streamed) > steady;
        if std::mem::take(&mut session.made_progress) || was_steady {
            backoff.reset();
        }
        let wait = backoff.next_wait();
        last_wait = wait;
        session.observer.disconnected(&error, wait);
        // a wish to stop is seen at the loop's beginning
        let _ = unless_stopped(&mut stop, tokio::time::sleep(wait)).await;
    }
}

/// Waits until the sink takes more.
async fn room<K: Sink>(sink: &mut K) -> Result<(), SinkError> {
    while !sink.has_room() {
        // what it says of the last stream is not wanted any more
        sink.event().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::resume::Stray;
    use super::super::scripted::{SEGMENT_LEN, Script, Then, unchecked};
    use super::*;
    use crate::pg::TimelineId;

    fn options(stop: u64) -> ReceiveOptions {
        ReceiveOptions {
            stream: unchecked(),
            start: StartChoice::At(Lsn::new(SEGMENT_LEN)),
            stop_lsn: Some(Lsn::new(stop)),
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_millis(1),
            ..ReceiveOptions::default()
        }
    }

    async fn run(
        options: ReceiveOptions,
        directory: &Path,
        script: &Script,
    ) -> Result<ReceiveOutcome, ReceiveError> {
        let (progress, _) = watch::channel(Progress::default());
        receive_into(
            &options,
            directory,
            Compression::NONE,
            &mut script.clone(),
            &progress,
            std::future::pending(),
        )
        .await
    }

    /// The original looks after its status only when the socket is quiet. This one never is.
    #[tokio::test]
    async fn positions_are_reported_while_the_stream_never_pauses() {
        let directory = tempfile::tempdir().unwrap();
        let script = Script::new(u64::MAX / 2, 8192, Then::Silence);
        let stop = 40 * SEGMENT_LEN + 12_345;
        let outcome = run(options(stop), directory.path(), &script).await.unwrap();
        assert_eq!(outcome.progress.flush_lsn, Lsn::new(stop));
        let updates = script.updates.lock().unwrap();
        assert!(updates.len() > 30, "only {} status updates for 39 MB", updates.len());
        let flushed = updates.iter().filter(|update| update.flush_lsn.is_valid()).count();
        assert!(flushed > 2, "only {flushed} flush positions");
        assert!(updates.windows(2).all(|pair| pair[0].flush_lsn <= pair[1].flush_lsn));
        let last = std::fs::read(directory.path().join("000000010000000000000028.partial")).unwrap();
        let (wal, rest) = last.split_at(12_345);
        assert!(wal[12_300..].iter().any(|byte| *byte != 0));
        assert!(rest.iter().all(|byte| *byte == 0), "a stop position is exact");
    }

    #[tokio::test]
    async fn connections_are_lost_and_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let script = Script::new(2 * SEGMENT_LEN, 8192, Then::Close);
        let mut never = options(3 * SEGMENT_LEN);
        never.reconnect = Reconnect::Never;
        let result = run(never, directory.path(), &script).await;
        assert_eq!(result.unwrap_err().class(), ErrorClass::Transient);
        // what came before the end is there, and is gone on with
        let script = Script::new(3 * SEGMENT_LEN, 8192, Then::Close);
        let outcome = run(options(3 * SEGMENT_LEN), directory.path(), &script).await.unwrap();
        assert_eq!(outcome.progress.flush_lsn, Lsn::new(3 * SEGMENT_LEN));
        let first = script.updates.lock().unwrap()[0];
        assert_eq!(first.write_lsn, Lsn::new(2 * SEGMENT_LEN), "finished segments are not fetched again");
    }

    /// A server that dies sends its last WAL and the connection's end in one go.
    #[tokio::test]
    async fn what_came_together_with_the_end_of_the_connection_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let script = Script::new(SEGMENT_LEN + 3 * 8192, 8192, Then::Close);
        let mut never = options(3 * SEGMENT_LEN);
        never.reconnect = Reconnect::Never;
        assert!(run(never, directory.path(), &script).await.is_err());
        let file = std::fs::read(directory.path().join("000000010000000000000001.partial")).unwrap();
        let last = file.iter().rposition(|byte| *byte != 0).unwrap();
        assert_eq!((last as u64 + 1).next_multiple_of(8192), 3 * 8192);
    }

    /// How long was waited before each further attempt.
    struct Waits(watch::Sender<Vec<Duration>>);

    impl Observer for Waits {
        fn stray_found(&mut self, _: &Stray) {}
        fn wal_missing(&mut self, _: TimelineId, _: Lsn, _: Lsn) {}
        fn beginning_anew(&mut self, _: TimelineId, _: Lsn) {}
        fn stream_starting(&mut self, _: TimelineId, _: Lsn) {}
        fn segment_finished(&mut self, _: TimelineId, _: Lsn) {}
        fn timeline_switched(&mut self, _: TimelineId, _: Lsn) {}
        fn disconnected(&mut self, _: &ReceiveError, wait: Duration) {
            self.0.send_modify(|waits| waits.push(wait));
        }
    }

    /// The longest of some waits for a server that has nothing to send and then does this.
    async fn longest_wait(first_wait: Duration, then: Then) -> Duration {
        let directory = tempfile::tempdir().unwrap();
        let mut script = Script::new(SEGMENT_LEN, 8192, then);
        let options = ReceiveOptions { stop_lsn: None, first_wait, ..options(0) };
        let options = ReceiveOptions { longest_wait: 32 * first_wait, ..options };
        let disk = RealDisk::new(directory.path());
        let mut sink = open_sink(disk, Layout::Archive, RecordCheck::Off, Compression::NONE).unwrap();
        let (progress, _) = watch::channel(Progress::default());
        let (sender, mut waits) = watch::channel(Vec::new());
        let mut told = waits.clone();
        let shutdown = async move { drop(told.wait_for(|waits| waits.len() >= 12).await) };
        let mut observer = Waits(sender);
        let ended = receive_observed(&options, &mut script, &mut sink, &progress, &mut observer, shutdown);
        ended.await.unwrap();
        waits.borrow_and_update().iter().max().copied().unwrap()
    }

    #[tokio::test]
    async fn a_server_that_stays_is_come_back_to_soon_even_if_it_had_nothing_to_send() {
        let first_wait = Duration::from_millis(5);
        let soon = longest_wait(first_wait, Then::CloseAfter(STEADY_WAITS * first_wait * 2)).await;
        assert!(soon <= first_wait, "{soon:?}");
        let late = longest_wait(first_wait, Then::Close).await;
        assert!(late > 10 * first_wait, "{late:?}");
    }

    #[tokio::test]
    async fn a_second_receiver_is_refused_before_it_connects() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(directory.path());
        let _first = open_sink(disk, Layout::Archive, RecordCheck::Off, Compression::NONE).unwrap();
        let script = Script::new(2 * SEGMENT_LEN, 8192, Then::Close);
        let result = run(options(0), directory.path(), &script).await;
        assert!(matches!(result, Err(ReceiveError::Sink(SinkError::Locked { .. }))));
        assert!(script.updates.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_wish_to_stop_ends_it_with_all_durable() {
        let directory = tempfile::tempdir().unwrap();
        let mut script = Script::new(3 * SEGMENT_LEN, 8192, Then::Silence);
        let (progress, mut watched) = watch::channel(Progress::default());
        let shutdown = async {
            let reached = |progress: &Progress| progress.received_lsn == Lsn::new(3 * SEGMENT_LEN);
            drop(watched.wait_for(reached).await);
        };
        let mut options = options(0);
        options.stop_lsn = None;
        let outcome =
            receive_into(&options, directory.path(), Compression::NONE, &mut script, &progress, shutdown)
                .await;
        assert_eq!(outcome.unwrap().progress.flush_lsn, Lsn::new(3 * SEGMENT_LEN));
    }
}
